"""Data against a config, before the first step: names, counts and a sample of pictures.

MMDetection takes the labels from the order of the file's categories, whatever the order of the
config's names, and ends in "need at least one array to concatenate" where no image is left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from gdetkd.datasets.loaded_check import check_loaded
from gdetkd.datasets.report import listing, shown
from gdetkd.datasets.sampled_pictures import ADVICE, check_pictures
from gdetkd.datasets.values import in_unit_range


def check_data(config: Mapping, stages: Sequence[str] = ("train", "val")) -> None:
    """Check what the stages of a config read; what cannot be checked is said in a line.

    Raises:
        FileNotFoundError: An annotation file or pictures of the sample are not there.
        ValueError: Names, order or number of classes differ, nothing is left to train on or to
            measure, or a picture has another size than stated. File and cause are named.
    """
    files: dict[str, dict] = {}
    for stage in stages:
        loader = config.get(f"{stage}_dataloader")
        metrics = _metrics(config.get(f"{stage}_evaluator")) if stage != "train" else []
        # Detections that are only written down, for a server to measure, need no annotations.
        measured = not metrics or not all(metric.get("format_only") for metric in metrics)
        for dataset in leaves(loader["dataset"]) if loader else ():
            if _is_coco(dataset):
                _check_dataset(stage, dataset, config, files, measured)
                continue
            if (dataset.get("metainfo") or {}).get("classes") is not None:
                class_names(stage, dataset)
            if names := check_loaded(stage, dataset, measured):
                _check_heads(stage, config.get("model"), names)


def leaves(dataset: Mapping) -> Iterator[Mapping]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset; itself without."""
    parts = dataset.get("datasets") or ([dataset["dataset"]] if "dataset" in dataset else [])
    if not parts:
        yield dataset
    for part in parts:
        yield from leaves(part)


def _is_coco(dataset: Mapping) -> bool:
    """Whether MMDetection's own reader of COCO's format reads it, from this machine's files."""
    kind = dataset.get("type")
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    plain = isinstance(kind, type) and issubclass(kind, CocoDataset)
    local = not dataset.get("backend_args") and str(dataset.get("ann_file", "")).endswith(".json")
    return plain and local and kind.load_data_list is CocoDataset.load_data_list


def _check_dataset(
    stage: str, dataset: Mapping, config: Mapping, files: dict[str, dict], measured: bool
) -> None:
    path = _join(dataset.get("data_root"), dataset["ann_file"])
    content = _load(stage, path, files, labeled=measured)
    names = class_names(stage, dataset)
    wanted = _check_names(stage, path, content, names)
    _check_heads(stage, config.get("model"), names)
    if measured:
        _check_counts(stage, path, content, wanted, dataset)
    if stage != "train" and measured:
        _check_evaluator(stage, config.get(f"{stage}_evaluator"), path, content, files)
    prefix = _join(dataset.get("data_root"), (dataset.get("data_prefix") or {}).get("img", ""))
    pictures = [
        (os.path.join(prefix, entry["file_name"]), (entry["width"], entry["height"]))
        for entry in content["images"]
    ]
    check_pictures(f"{stage} data, {path}", pictures, dataset.get("pipeline") or ())


def _join(root: str | None, path: str) -> str:
    return path if not root or os.path.isabs(path) else os.path.join(root, path)


def _metrics(evaluator: Any) -> list[Mapping]:
    return [*evaluator] if isinstance(evaluator, list | tuple) else [evaluator or {}]


def _load(stage: str, path: str, files: dict[str, dict], labeled: bool = True) -> dict:
    if path in files:
        return files[path]
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{stage} data: expected the annotation file {path}, there is none")
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        text = f"expected JSON in plain UTF-8, as pycocotools reads it: {error}; {ADVICE}"
        raise ValueError(f"{stage} data, {path}: {text}") from error
    if isinstance(content, dict) and not labeled:
        content.setdefault("annotations", [])
    tables = ("images", "annotations", "categories")
    if not isinstance(content, dict) or any(type(content.get(key)) is not list for key in tables):
        raise ValueError(f"{stage} data, {path}: expected lists of {', '.join(tables)}; {ADVICE}")
    required = dict(
        images=("id", "file_name", "width", "height"),
        annotations=("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
        categories=("id", "name"),
    )
    for table, keys in required.items():
        for key in keys:
            count = sum(key not in entry for entry in content[table])
            if count:
                text = f"{count} of {len(content[table])} {table} have no {key}; {ADVICE}"
                raise ValueError(f"{stage} data, {path}: {text}")
    files[path] = content
    return content


def class_names(stage: str, dataset: Mapping) -> tuple[str, ...]:
    """The names of a data set's classes, in the order of the labels, by its config."""
    kind = dataset["type"]
    default = getattr(DATASETS.get(kind) if isinstance(kind, str) else kind, "METAINFO", {})
    names = (dataset.get("metainfo") or {}).get("classes", default.get("classes"))
    if isinstance(names, str) and os.path.isfile(names):
        names = [line.strip() for line in Path(names).read_text().splitlines() if line.strip()]
    if isinstance(names, str) or not all(isinstance(name, str) for name in names or [0]):
        comma = "; a tuple of one name needs a comma" if isinstance(names, str) else ""
        raise ValueError(
            f"{stage} data: expected metainfo.classes to be class names, got {shown(names)}{comma}"
        )
    return tuple(names)


def _check_names(stage: str, path: str, content: dict, names: tuple[str, ...]) -> set[int]:
    """The ids of the categories that are wanted, which stand in the order of the names."""
    there = [entry["name"] for entry in content["categories"]]
    found = [name for name in there if name in names]
    images = len(content["images"])
    if not found:
        raise ValueError(
            f"{stage} data, {path}: 0 of {images} images left; the annotations have "
            f"{listing(there)}, the config has {listing(names)} (metainfo.classes)"
        )
    if missing := [name for name in names if name not in found]:
        raise ValueError(
            f"{stage} data, {path}: the config's {listing(missing)} are no categories of the file, "
            f"which has {listing(there)}; labels would move to other names"
        )
    if tuple(found) != names:
        place = next(i for i, name in enumerate(found) if names[i : i + 1] != (name,))
        config_name = shown(names[place]) if place < len(names) else "no class"
        raise ValueError(
            f"{stage} data, {path}: label {place} would be {shown(found[place])}, the config says "
            f"{config_name}: MMDetection takes the order of the file's categories; {ADVICE}"
        )
    return {entry["id"] for entry in content["categories"] if entry["name"] in names}


def _check_heads(stage: str, model: Mapping | None, names: tuple[str, ...]) -> None:
    model = (model or {}).get("student") or model or {}
    for part in (model, model.get("roi_head") or {}):
        heads = part.get("bbox_head") or []
        for head in heads if isinstance(heads, list | tuple) else [heads]:
            count = head.get("num_classes") if "language_model" not in model else None
            if count not in (None, len(names)):
                raise ValueError(
                    f"{stage} data: {len(names)} classes ({listing(names)}), but the model's "
                    f"bbox_head has num_classes={count}"
                )


def _check_counts(stage: str, path: str, content: dict, wanted: set[int], dataset: Mapping) -> None:
    """Whether images with boxes are left for the stage, by MMDetection's own rules."""
    images = {entry["id"]: entry for entry in content["images"]}
    objects = [a for a in content["annotations"] if a["category_id"] in wanted]
    good = [a for a in objects if not a["iscrowd"] and not a.get("ignore") and _has_area(a)]
    rules = (dataset.get("filter_cfg") or {}) if stage == "train" else {}
    least = rules.get("min_size", 0)
    large = {n for n, entry in images.items() if min(entry["width"], entry["height"]) >= least}
    if images and large & {a["image_id"] for a in good}:
        if stage != "train" and any(a["id"] == 0 for a in content["annotations"]):
            text = "an annotation has id 0, which pycocotools takes for no match"
            raise ValueError(f"{stage} data, {path}: {text}; {ADVICE}")
        return
    causes = [
        f"{len(images) - len({a['image_id'] for a in objects} & images.keys())} without objects of "
        "the config's classes",
        f"{len(images) - len(large)} with a side under {least} px (filter_cfg.min_size)",
    ]
    if objects and not good:
        causes.append(f"all {len(objects)} objects are ignored, or under a pixel")
    if objects and all(in_unit_range(a["bbox"]) for a in objects):
        causes.append("all boxes are within 0 to 1: fractions where pixels are expected")
    what = "to train on" if stage == "train" else "to measure"
    raise ValueError(
        f"{stage} data, {path}: nothing {what}: 0 of {len(images)} images left; {'; '.join(causes)}"
    )


def _has_area(annotation: Mapping) -> bool:
    return annotation["area"] > 0 and min(annotation["bbox"][2:]) >= 1


def _check_evaluator(
    stage: str, evaluator: Any, path: str, content: dict, files: dict[str, dict]
) -> None:
    for metric in _metrics(evaluator):
        other = metric.get("ann_file")
        if (
            not other
            or metric.get("backend_args")
            or os.path.realpath(other) == os.path.realpath(path)
        ):
            continue
        truth = _load(f"{stage} evaluator", other, files)
        if [c["name"] for c in truth["categories"]] != [c["name"] for c in content["categories"]]:
            raise ValueError(f"{stage} data, {path}: the evaluator's {other} has other categories")
        strange = {entry["id"] for entry in content["images"]} - {e["id"] for e in truth["images"]}
        if strange:
            raise ValueError(
                f"{stage} data, {path}: {len(strange)} of {len(content['images'])} images are not "
                f"in the evaluator's {other}"
            )
