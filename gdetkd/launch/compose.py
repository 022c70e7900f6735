"""The config of a distillation, composed from a teacher, a student and a folder of data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from mmdet.datasets import CocoDataset
from mmengine.config import Config, ConfigDict

from gdetkd.checkpoints.hub import find_checkpoint, find_config
from gdetkd.datasets.config_check import leaves
from gdetkd.detectors.mmdet.building import is_type, type_name
from gdetkd.detectors.mmdet.config_errors import read_config

BASE = "gdetkd::_base_/gdetkd.py"  # components, weights and hooks of the configs of full size
# The paper's K = 80 x 1024 is ten gathered batches, of which one is the current batch.
BATCHES = 9
BOXES = 512  # per image, for a dense student
COCO = CocoDataset.METAINFO["classes"]
_HEADER = """\
# {student} learns from {teacher}.
# Written by `gdetkd distill`, yours to edit: weights are in model.components. Then
#   gdetkd train {path} [--gpus N] [--plan]
"""


def compose(
    teacher: str, student: str, data: Path, checkpoint: str | None = None, gpus: int = 1
) -> Config:
    """A complete config, which depends on no other file but the teacher's.

    Components and weights are those of the full-size configs. The queue has room for as many
    batches as the paper's.

    Args:
        teacher: Its config: a file, `gdetkd::NAME` or `mmdet::NAME`.
        student: Its config; schedule, pipelines and evaluation are taken from it.
        data: COCO 2017 as unpacked, the digits, or what `gdetkd data` has prepared.
        checkpoint: The teacher's weights: a file, URL or `gdetkd::NAME`; by default those that
            MMDetection's zoo has for a teacher of that name.
        gpus: Processes of the training, whose proposals share the queue.

    Raises:
        FileNotFoundError: No such config or data.
        ValueError: A config is not a detector's, or no weights of the teacher are known.
    """
    config = _by_name(read_config(student))
    for name, loaded in ((student, config), (teacher, read_config(teacher))):
        if not isinstance(loaded.get("model"), dict) or "type" not in loaded.model:
            raise ValueError(f"{name}: expected the config of a detector, got one without a model")
    if "train_dataloader" not in config:
        raise ValueError(f"{student}: expected a config with a train_dataloader, got none")
    if is_type(config.model, "DistilledDetector"):
        raise ValueError(
            f"{student}: expected a plain detector as the student, got a distilled one"
        )
    weights = checkpoint or zoo_weights(teacher)
    if weights is None:
        raise ValueError(
            f"{teacher}: MMDetection's zoo lists no weights for it; name a file or URL as "
            "--checkpoint"
        )
    if not weights.startswith(("http://", "https://")):
        find_checkpoint(weights)  # before anything is written
    use_data(config, data)
    base = read_config(BASE)
    # A Sparse R-CNN's boxes are those of its queries, sampled as a dense detector's.
    dense = config.model.get("roi_head", {}).get("type", "SparseRoIHead") == "SparseRoIHead"
    components = base.dense_components if dense else base.two_stage_components
    boxes = BOXES if dense else proposals(config.model)
    images = gpus * config.train_dataloader.batch_size
    components.contrastive.queue_capacity = BATCHES * images * boxes
    config.model = ConfigDict(
        type="DistilledDetector",
        student=config.model,
        teacher=dict(config=_portable(teacher), checkpoint=weights),
        components=components,
        **(dict(student_adapter=dict(boxes_per_image=BOXES)) if dense else {}),
    )
    imports = (config.get("custom_imports") or {}).get("imports", [])
    config.custom_imports = dict(imports=[*imports, *base.custom_imports.imports])
    added = {type_name(hook) for hook in base.custom_hooks}
    hooks = [hook for hook in config.get("custom_hooks") or [] if type_name(hook) not in added]
    config.custom_hooks = [*hooks, *base.custom_hooks]
    return config


def _by_name(config: Config) -> Config:
    """A pure-Python ("lazy") config as one of text, whose types are names instead of classes.

    A class of OpenMMLab goes by its registered name: by its path, MMEngine cannot find all of them.
    """
    if not Config._is_lazy_import(config.filename):
        return config

    def named(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(named, value))
        if not isinstance(value, dict):
            return value
        value = {key: named(item) for key, item in value.items()}
        kind = value.get("type")
        if isinstance(kind, str) and kind.split(".")[0] in ("mmdet", "mmcv", "mmengine"):
            value["type"] = kind.split(".")[-1]
        return value

    content = {"default_scope": "mmdet", **config.to_dict()}
    return Config(named(content), filename=config.filename)


def proposals(model: ConfigDict) -> int:
    """Proposals per image that a two-stage student samples."""
    stages = model.train_cfg.rcnn
    return (stages[0] if isinstance(stages, list) else stages).sampler.num


def write_config(config: Config, path: Path, teacher: str, student: str) -> None:
    """Write the config as a Python file whose header says how to use it.

    Raises:
        ValueError: `path` is not a `.py`, or a file with other content is there: perhaps edited.
    """
    if path.suffix != ".py":
        raise ValueError(f"--out: expected the name of a Python file (.py), got {path}")
    text = _HEADER.format(student=student, teacher=teacher, path=path) + config.pretty_text
    if path.exists():
        if path.read_text() == text:
            return
        raise ValueError(
            f"{path} exists and differs from the config composed now; `gdetkd train {path}` trains "
            "it as it is, another --out keeps both"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def zoo_weights(teacher: str) -> str | None:
    """The URL at which MMDetection keeps a config's weights, or the shipped digits teacher."""
    if teacher == "gdetkd::digits/faster_rcnn_r34_teacher.py":
        return "gdetkd::digits_faster_rcnn_r34.pth"
    path = Path(find_config(teacher))
    index = path.parent / "metafile.yml"
    if not index.is_file():
        return None
    models = yaml.safe_load(index.read_text())
    models = models["Models"] if isinstance(models, dict) else models
    return next((m.get("Weights") for m in models if m["Name"] == path.stem), None)


def use_data(config: Config, data: Path) -> None:
    """Point a config's data sets, evaluators and heads to a folder of data.

    Raises:
        FileNotFoundError: The folder has none of the layouts that `compose` takes.
    """
    root, summary = f"{data}/", data / "dataset.json"
    for _, dataset in _datasets(config):
        dataset.data_root = root
    ann_files = dict.fromkeys(("val", "test"), "annotations/instances_val2017.json")
    if summary.is_file():
        ann_files = _use_prepared(config, json.loads(summary.read_text()))
    elif (data / "annotations" / "instances_train2017.json").is_file():
        _use_split(config, "instances_train2017", "train2017", "instances_val2017", "val2017")
        # A student for other data; a semantic head beside COCO's heads keeps its number of classes.
        if all(head.num_classes != len(COCO) for head in _with_classes(config.model)):
            _use_classes(config, COCO)
    elif (data / "manifest.json").is_file() and (data / "annotations" / "train.json").is_file():
        _use_split(config, "train", "train", "val", "val")
        _use_classes(config, tuple("0123456789"))
        ann_files = dict.fromkeys(ann_files, "annotations/val.json")
    else:
        raise FileNotFoundError(
            f"--data {data}: expected COCO 2017 as unpacked, with "
            "annotations/instances_train2017.json, the digits, with manifest.json, or what "
            "`gdetkd data` has prepared, with dataset.json"
        )
    for stage, ann_file in ann_files.items():
        for metric in _metrics(config.get(f"{stage}_evaluator")):
            if "ann_file" in metric:
                metric.ann_file = str(data / ann_file)  # for prepared data it is an absolute path


def _use_prepared(config: Config, summary: dict[str, Any]) -> dict[str, str]:
    """Apply the summary of `gdetkd data`; return the annotation files to validate and test on."""
    from gdetkd.datasets.prepare import config_options, one_split

    if warning := one_split(summary):
        print(warning, flush=True)
    options = config_options(summary)
    for stage, dataset in _datasets(config):
        place = f"{stage}_dataloader.dataset."
        dataset.ann_file = options[place + "ann_file"]
        dataset.data_prefix = dict(img=options[place + "data_prefix.img"])
    _use_classes(config, tuple(summary["classes"]))
    return {s: str(options[f"{s}_dataloader.dataset.ann_file"]) for s in ("val", "test")}


def _use_split(config: Config, train: str, train_images: str, val: str, val_images: str) -> None:
    for stage, dataset in _datasets(config):
        file, images = (train, train_images) if stage == "train" else (val, val_images)
        dataset.ann_file = f"annotations/{file}.json"
        dataset.data_prefix = dict(img=f"{images}/")


def _use_classes(config: Config, classes: tuple[str, ...]) -> None:
    for _, dataset in _datasets(config):
        dataset.metainfo = dict(classes=classes)
    for head in _with_classes(config.model):
        head.num_classes = len(classes)


def _datasets(config: Config) -> Iterator[tuple[str, ConfigDict]]:
    """The config's data sets with their stages, without wrappers that repeat or join them."""
    for stage in ("train", "val", "test"):
        if f"{stage}_dataloader" in config:
            yield from ((stage, leaf) for leaf in leaves(config[f"{stage}_dataloader"].dataset))


def _with_classes(node: Any) -> Iterator[ConfigDict]:
    """Every part of a model's config that has `num_classes`."""
    if isinstance(node, dict):
        if "num_classes" in node:
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _with_classes(part)


def _metrics(evaluator: Any) -> list[ConfigDict]:
    return evaluator if isinstance(evaluator, list) else [evaluator or ConfigDict()]


def _portable(name: str) -> str:
    """A file by its absolute path: the composed config may be moved and used from anywhere."""
    return name if "::" in name else str(Path(find_config(name)).resolve())
