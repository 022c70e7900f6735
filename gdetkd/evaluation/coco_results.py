"""COCO's files of annotations and of results, read and checked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_json(source: str | os.PathLike, what: str) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON in UTF-8.
    """
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{what}: expected a JSON file, there is no {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{what}: expected JSON in {path}: {error}") from error


def check_truth(truth: Any, classes: Sequence[str] | None, where: str) -> dict[str, list]:
    """COCO annotations of the named classes alone, with `area` and `iscrowd` filled in.

    Raises:
        ValueError: It is not in COCO's format, has no object to find, or lacks one of the classes.
    """
    keys = ("images", "annotations", "categories")
    if not isinstance(truth, Mapping) or not all(isinstance(truth.get(k), list) for k in keys):
        raise ValueError(
            f"{where}: expected COCO annotations with images, annotations and categories, got "
            f"{_kind(truth)}"
        )
    try:
        names = {each["name"]: each["id"] for each in truth["categories"]}
        images = {each["id"] for each in truth["images"]}
        missing = [name for name in classes or () if name not in names]
        if missing:
            raise ValueError(
                f"{where}: expected the category {missing[0]!r} of the config, got {sorted(names)}"
            )
        categories = {names[name] for name in classes} if classes else set(names.values())
        annotations = [
            dict(a, area=a.get("area", a["bbox"][2] * a["bbox"][3]), iscrowd=a.get("iscrowd", 0))
            for a in truth["annotations"]
            if a["category_id"] in categories and a["image_id"] in images
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{where}: expected id of every image, id and name of every category, image_id, "
            f"category_id and bbox of every annotation, got {type(error).__name__}: {error}; "
            "`gdetkd data coco` checks such a file"
        ) from error
    if not any(not a["iscrowd"] for a in annotations):
        raise ValueError(f"{where}: expected objects to find, got none of these classes")
    kept = [each for each in truth["categories"] if each["id"] in categories]
    return dict(images=truth["images"], annotations=annotations, categories=kept)


def check_detections(detections: Any, truth: Mapping[str, list], where: str) -> list[dict]:
    """Detections in COCO's result format of a truth's images and classes.

    Raises:
        ValueError: Their form is another, or the first detection that does not fit, with its place.
    """
    if not isinstance(detections, list):
        raise ValueError(
            f"{where}: expected a list of detections (image_id, category_id, bbox, score), got "
            f"{_kind(detections)}; `gdetkd test --detections FILE.json` writes one"
        )
    images = {each["id"] for each in truth["images"]}
    categories = {each["id"] for each in truth["categories"]}
    for place, each in enumerate(detections):
        fault = detection_fault(each, images, categories)
        if fault:
            raise ValueError(f"{where}, detection {place}: {fault}")
    return detections


def detection_fault(detection: Any, images: set[int], categories: set[int]) -> str | None:
    """What is wrong with one detection; None if nothing is."""
    needed = ("image_id", "category_id", "bbox", "score")
    if not isinstance(detection, Mapping) or any(key not in detection for key in needed):
        return f"expected {', '.join(needed)}, got {_kind(detection)}"
    for key, ids in (("image_id", images), ("category_id", categories)):
        if type(detection[key]) is not int or detection[key] not in ids:
            return f"{key} {detection[key]!r} is none of the annotations'"
    box, score = detection["bbox"], detection["score"]
    numbers = [*box, score] if isinstance(box, list) and len(box) == 4 else [None]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers) or min(box[2:]) < 0:
        return f"expected bbox [x, y, width, height] and score, got {box}, {score}"
    return None


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"the keys {sorted(map(str, value))[:6]}"
    return f"a {type(value).__name__}"
