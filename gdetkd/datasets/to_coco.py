"""From what a format says to COCO JSON: every image and object is used or reported.

The readers of the formats (`coco`, `voc`, `bdd100k`) hand over samples; what can be wrong with a
box, a class or an image is the same for all of them and is checked here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdetkd.datasets.images import Picture, examine_all
from gdetkd.datasets.report import InvalidAnnotation, Report, shown

ROUNDING = 1.0  # a box may reach this many pixels out of its image

Progress = Callable[[Iterable, str], Iterable]


@dataclass
class Candidate:
    """An object as the format has it: (x, y, w, h) in pixels, class index, more COCO fields."""

    item: str
    box: tuple[float, float, float, float]
    label: int
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sample:
    """An image as the format has it.

    name: Its file, relative to the root of the data set.
    file, item: Where the annotation is, for the report.
    size: Width and height that the annotation states, if it does.
    """

    number: int
    name: str
    file: str
    item: str
    size: tuple[int, int] | None
    objects: list[Candidate]


def assemble(
    samples: Sequence[Sample],
    classes: dict[int, str],
    root: Path,
    report: Report,
    progress: Progress = lambda items, _: items,
) -> dict:
    """Check the samples against their images and give what can be used, in COCO's format.

    Args:
        samples: Images with their objects; `report.objects_in` has counted them already.
        classes: COCO's category id -> name, in the order of the labels.
        root: Folder that the samples' names are relative to.
        report: Takes every image and object that is left out, and counts what goes out.
    """
    ids = list(classes)
    images, annotations = [], []
    pictures = examine_all(os.path.join(root, sample.name) for sample in samples)
    for sample, picture in zip(progress(samples, "images"), pictures, strict=True):
        try:
            _check_size(sample, picture)
        except InvalidAnnotation as problem:
            report.leave_out(problem, sample.file, sample.item, objects=len(sample.objects))
            continue
        for kind, text in picture.remarks:
            report.remark(kind, sample.name, sample.item, text)
        width, height = sample.size or (picture.width, picture.height)
        images.append(dict(id=sample.number, file_name=sample.name, width=width, height=height))
        for candidate in sample.objects:
            try:
                check_box(candidate.box, width, height)
            except InvalidAnnotation as problem:
                report.leave_out(problem, sample.file, candidate.item, objects=1)
                continue
            if min(candidate.box[2:]) < 1:
                text = f"{_text(candidate.box)}: MMDetection trains on no box under 1 px"
                report.remark("thin box", sample.file, candidate.item, text)
            # pycocotools takes id 0 for "no match": they start from 1.
            number, category = len(annotations) + 1, ids[candidate.label]
            annotations.append(_annotation(candidate, number, sample.number, category))
    report.images_out += len(images)
    report.objects_out += len(annotations)
    categories = [dict(id=number, name=name) for number, name in classes.items()]
    return dict(images=images, annotations=annotations, categories=categories)


def _annotation(candidate: Candidate, number: int, image: int, category: int) -> dict:
    usual = dict(area=candidate.box[2] * candidate.box[3], iscrowd=0)
    ids = dict(id=number, image_id=image, category_id=category)
    return usual | candidate.more | ids | dict(bbox=list(candidate.box))


def check_box(box: Sequence[float], width: int, height: int) -> None:
    """Raise InvalidAnnotation unless (x, y, w, h) has an area in the image, up to `ROUNDING`."""
    x, y, w, h = box
    if not w > 0 or not h > 0:
        raise InvalidAnnotation("zero area", f"{_text(box)}: expected a width and height above 0")
    outside = max(-x, -y, x + w - width, y + h - height)
    if outside > ROUNDING:
        raise InvalidAnnotation("box outside", f"{_text(box)} in an image of {width} x {height}")


def finite(value: object, what: str) -> float:
    """The value as a number; raises InvalidAnnotation if it is none, NaN or infinite."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise InvalidAnnotation(
            "no number", f"{what}: expected a number, got {shown(value)}"
        ) from None
    if isinstance(value, str | bool):
        raise InvalidAnnotation("no number", f"{what}: expected a number, got {shown(value)}")
    if not math.isfinite(number):
        raise InvalidAnnotation("not finite", f"{what} is {shown(value)}")
    return number


def whole(value: object, what: str, least: int = 0) -> int:
    """The value as a whole number of 63 bits; raises InvalidAnnotation if none or below `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise InvalidAnnotation(what, f"expected a whole number from {least}, got {shown(value)}")
    return value


def inside(folder: str, name: object) -> str:
    """The path of a file below the root; raises InvalidAnnotation if the name leads elsewhere."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise InvalidAnnotation("file name", f"expected a path, got {shown(name)}")
    path = os.path.normpath(os.path.join(folder, name))
    if os.path.isabs(name) or path.split(os.sep)[0] == "..":
        raise InvalidAnnotation(
            "file name", f"expected a path inside the data set, got {shown(name)}"
        )
    return path


def load_json(path: Path) -> Any:
    """The content of a JSON file; raises InvalidAnnotation if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except OSError as error:
        raise InvalidAnnotation("unreadable", f"cannot be opened: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidAnnotation("no JSON", f"{type(error).__name__}: {error}") from error


def _check_size(sample: Sample, picture: Picture | InvalidAnnotation) -> None:
    if isinstance(picture, InvalidAnnotation):
        raise InvalidAnnotation(picture.kind, f"{sample.name}: {picture.text}")
    found = (picture.width, picture.height)
    turned = any(kind == "turned image" for kind, _ in picture.remarks)
    if sample.size not in (None, found) and not (turned and sample.size == found[::-1]):
        raise InvalidAnnotation(
            "image size",
            f"{sample.name}: the annotation says {_pair(sample.size)}, the file {_pair(found)}",
        )


def _pair(size: tuple[int, int]) -> str:
    return f"{shown(size[0])} x {shown(size[1])}"


def _text(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
