"""The config of a distillation, composed from a teacher, a student and a folder of data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config, ConfigDict

from gdetkd.engine.locations import find_config

# Not the paper's, which does not say them, but ours.
CONTRASTIVE = dict(weight=0.5, temperature=0.07, dim=128, queue_capacity=72 * 1024, iou=0.5)
IMITATION = dict(weight=1.0)
# Of a pair with two stages; a dense student learns features and contrast.
PREDICTIONS = dict(classification=dict(weight=1.0), regression=dict(weight=1.0))
_HEADER = """\
# {student} learns from {teacher}.
# Written by `gdetkd distill`, yours to edit: weights are in model.distill. Then
#   gdetkd train {path} [--gpus N] [--plan]
"""


def compose(teacher: str, student: str, data: Path, checkpoint: str | None = None) -> Config:
    """A whole config, which stands on no other file but the teacher's.

    Args:
        teacher: Its config: a file, `gdetkd::NAME` or `mmdet::NAME`.
        student: As the teacher; its schedule, pipelines and evaluation are the run's.
        data: COCO 2017 as unpacked, the digits, or what `gdetkd data` has prepared.
        checkpoint: The teacher's weights: a file, URL or `gdetkd::NAME`; by default those that
            MMDetection's zoo has for a teacher of that name.

    Raises:
        FileNotFoundError: No such config or data.
        ValueError: A config is no detector's, or there are no weights for the teacher.
    """
    config = Config.fromfile(find_config(student))
    for name, loaded in ((student, config), (teacher, Config.fromfile(find_config(teacher)))):
        if not isinstance(loaded.get("model"), dict) or "type" not in loaded.model:
            raise ValueError(f"{name}: expected a detector's config, got one without a model")
    if str(config.model.type).endswith("DistilledDetector"):
        raise ValueError(
            f"{student}: expected a plain detector as the student, got a distilled one"
        )
    weights = checkpoint or zoo_weights(teacher)
    if weights is None:
        raise ValueError(f"{teacher}: its weights are not known here; give them as --checkpoint")
    use_data(config, data)
    components = dict(contrastive=dict(CONTRASTIVE), imitation=dict(IMITATION))
    if "roi_head" in config.model:
        components |= {name: dict(settings) for name, settings in PREDICTIONS.items()}
    config.model = ConfigDict(
        type="DistilledDetector",
        student=config.model,
        teacher=dict(config=_portable(teacher), checkpoint=weights),
        distill=components,
    )
    imports = (config.get("custom_imports") or {}).get("imports", [])
    config.custom_imports = dict(imports=[*imports, "gdetkd.detectors"])
    hooks = [hook for hook in config.get("custom_hooks") or [] if hook["type"] not in _HOOKS]
    config.custom_hooks = [*hooks, *(dict(type=name) for name in _HOOKS)]
    return config


_HOOKS = ("SafeCheckpointHook", "DistillationHook")


def write_config(config: Config, path: Path, teacher: str, student: str) -> None:
    """Write it as a Python file with a word on its use; raises ValueError if there is one."""
    if path.exists():
        raise ValueError(f"{path} is there already; train it, or choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    header = _HEADER.format(student=student, teacher=teacher, path=path)
    path.write_text(header + config.pretty_text)


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
        FileNotFoundError: The folder is none of those that `compose` takes.
    """
    root, summary = f"{data}/", data / "dataset.json"
    for stage in ("train", "val", "test"):
        config[f"{stage}_dataloader"].dataset.data_root = root
    truth = "annotations/instances_val2017.json"
    if summary.is_file():
        truth = _use_prepared(config, json.loads(summary.read_text()))
    elif (data / "annotations" / "instances_train2017.json").is_file():
        _use_split(config, "instances_train2017", "train2017", "instances_val2017", "val2017")
    elif (data / "manifest.json").is_file() and (data / "annotations" / "train.json").is_file():
        _use_split(config, "train", "train", "val", "val")
        _use_classes(config, tuple("0123456789"))
        truth = "annotations/val.json"
    else:
        raise FileNotFoundError(
            f"--data {data}: expected COCO 2017 as unpacked, with "
            "annotations/instances_train2017.json, the digits, with manifest.json, or what "
            "`gdetkd data` has prepared, with dataset.json"
        )
    for stage in ("val", "test"):
        for metric in _metrics(config.get(f"{stage}_evaluator")):
            if "ann_file" in metric:
                metric.ann_file = root + truth


def _use_prepared(config: Config, summary: dict[str, Any]) -> str:
    """Give the annotation file to validate on."""
    from gdetkd.datasets.prepare import config_options

    options = {k: v for k, v in config_options(summary).items() if "evaluator" not in k}
    config.merge_from_dict({k: v for k, v in options.items() if "metainfo" not in k})
    _use_classes(config, tuple(summary["classes"]))
    return options["val_dataloader.dataset.ann_file"]


def _use_split(config: Config, train: str, train_images: str, val: str, val_images: str) -> None:
    for stage, file, images in (
        ("train", train, train_images), ("val", val, val_images), ("test", val, val_images),
    ):  # fmt: skip
        dataset = config[f"{stage}_dataloader"].dataset
        dataset.ann_file = f"annotations/{file}.json"
        dataset.data_prefix = dict(img=f"{images}/")


def _use_classes(config: Config, classes: tuple[str, ...]) -> None:
    for stage in ("train", "val", "test"):
        config[f"{stage}_dataloader"].dataset.metainfo = dict(classes=classes)
    for head in _with_classes(config.model):
        head.num_classes = len(classes)


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
    """A file by its whole path: the composed config may be moved and used from anywhere."""
    return name if "::" in name else str(Path(find_config(name)).resolve())
