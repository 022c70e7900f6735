"""COCO's layout and format: reading it, and what the 2017 release consists of."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.to_coco import Candidate, Sample, finite, inside, load_json, whole

# Ids of the release: 80 of 1 to 90, in the order of MMDetection's labels.
GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
NAMES = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball,
kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup,
fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut,
cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush"""
IDS = tuple(number for number in range(1, 91) if number not in GAPS)
CLASSES = dict(zip(IDS, NAMES.replace("\n", " ").split(", "), strict=True))

SPLITS = ("train2017", "val2017")
IMAGES = {
    "train2017": 118_287,
    "val2017": 5_000,
}  # of the release; arXiv 1405.0312, cocodataset.org
# Annotations of the release with a height of 0; MMDetection leaves them out as well.
# https://github.com/cocodataset/cocoapi/issues/355, https://github.com/visionml/pytracking/issues/18
FLAT = {918, 2206849}
ARCHIVE = "annotations_trainval2017.zip"
# Not published by the authors; MLPerf and others check downloads by it.
ARCHIVE_MD5 = "f4bbac642086de4f52a3fdda2de5fa2c"
FETCH = """\
from http://images.cocodataset.org, unpacked below {root}:
  zips/train2017.zip                      -> {root}/train2017/         19.3 GB
  zips/val2017.zip                        -> {root}/val2017/            0.8 GB
  annotations/annotations_trainval2017.zip -> {root}/annotations/        0.25 GB"""


def read_release(root: Path, report: Report) -> dict[str, tuple[list[Sample], dict[int, str]]]:
    """The samples of each split of the 2017 release, and its 80 classes by their ids."""
    splits = {}
    for split in SPLITS:
        file = f"annotations/instances_{split}.json"
        if not os.path.isfile(root / file):
            report.leave_out(InvalidAnnotation("missing split", "there is no such file"), file)
            continue
        samples = read_coco(root, file, split, tuple(CLASSES.values()), report, flat=FLAT)
        splits[split] = samples, CLASSES
        if len(samples) != IMAGES[split]:
            text = f"{len(samples)} images, the release has {IMAGES[split]}: part of it?"
            report.remark("another count", file, "", text)
    if os.path.isfile(root / ARCHIVE):
        _check_archive(root, splits, report)
    return splits


def read_coco(
    root: Path,
    file: str,
    folder: str,
    classes: Sequence[str],
    report: Report,
    flat: set[int] = frozenset(),
) -> list[Sample]:
    """Read an annotation file in COCO's format.

    Args:
        root: Root of the data set.
        file: The annotation file, relative to the root.
        folder: Folder of its images, relative to the root.
        classes: Names of the classes; an object's label is the place of its class here, whatever
            ids and order the file has.
        report: Takes what cannot be used; counts images and objects of the file.
        flat: Ids of boxes without an area that are known: left out, with a remark only.
    """
    try:
        content = load_json(root / file)
        images, annotations, categories = _tables(content)
    except InvalidAnnotation as problem:
        report.leave_out(problem, file)
        return []
    report.images_in += len(images)
    report.objects_in += len(annotations)
    samples = _samples(images, file, folder, report)
    labels = _labels(categories, file, classes, report)
    seen: set[int] = set()
    for place, entry in enumerate(annotations):
        item = f"annotation at place {place}"
        try:
            number, item = _identity(entry, "annotation", seen)
            sample = samples.get(_hashable(entry.get("image_id")))
            if sample is None:
                raise InvalidAnnotation("unknown image", f"image_id {shown(entry.get('image_id'))}")
            if number in flat and _is_flat(entry):
                report.remark("zero area", file, item, "known in the release; left out", objects=1)
                continue
            sample.objects.append(_candidate(entry, item, labels, sample.size))
        except InvalidAnnotation as problem:
            report.leave_out(problem, file, item, objects=1)
    return list(samples.values())


def _tables(content: Any) -> tuple[list, list, list]:
    if not isinstance(content, dict):
        raise InvalidAnnotation(
            "layout", f"expected an object with images and annotations, got {shown(content)}"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InvalidAnnotation(
                "layout", f"expected a list of {key}, got {shown(content.get(key))}"
            )
    return content["images"], content["annotations"], content["categories"]


def _samples(images: list, file: str, folder: str, report: Report) -> dict[int, Sample]:
    samples: dict[int, Sample] = {}
    for place, entry in enumerate(images):
        item = f"image at place {place}"
        try:
            number, item = _identity(entry, "image", samples)
            name = inside(folder, entry.get("file_name"))
            size = tuple(whole(entry.get(key), key, least=1) for key in ("width", "height"))
            samples[number] = Sample(number, name, file, item, size, [])
        except InvalidAnnotation as problem:
            report.leave_out(problem, file, item)
    return samples


def _labels(categories: list, file: str, classes: Sequence[str], report: Report) -> dict:
    """Category id -> label; ids of classes that are not wanted are not in it."""
    labels: dict[int, int] = {}
    for place, entry in enumerate(categories):
        item = f"category at place {place}"
        try:
            number, item = _identity(entry, "category", labels)
            if entry.get("name") in classes:
                labels[number] = classes.index(entry["name"])
        except InvalidAnnotation as problem:
            report.leave_out(problem, file, item)
    return labels


def _candidate(entry: dict, item: str, labels: dict, size: tuple[int, int]) -> Candidate:
    label = labels.get(_hashable(entry.get("category_id")))
    if label is None:
        raise InvalidAnnotation("unknown class", f"category_id {shown(entry.get('category_id'))}")
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise InvalidAnnotation("no box", f"expected bbox [x, y, width, height], got {shown(box)}")
    x, y, w, h = (finite(value, key) for value, key in zip(box, "xywh", strict=True))
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise InvalidAnnotation("iscrowd", f"expected 0 or 1, got {shown(crowd)}")
    more = dict(iscrowd=int(crowd))
    if entry.get("area") is not None:
        more["area"] = finite(entry["area"], "area")
        if more["area"] <= 0:
            raise InvalidAnnotation(
                "zero area", f"area {shown(entry['area'])}: expected more than 0"
            )
    if entry.get("segmentation"):
        more["segmentation"] = _segmentation(entry["segmentation"], size)
    return Candidate(item, (x, y, w, h), label, more)


def _segmentation(value: Any, size: tuple[int, int]) -> Any:
    if isinstance(value, dict):
        counts = value.get("counts")
        whole_counts = isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts)
        if value.get("size") == list(size[::-1]) and (isinstance(counts, str) or whole_counts):
            return value
    elif isinstance(value, list) and all(isinstance(polygon, list) for polygon in value):
        if all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in value):
            for polygon in value:
                for coordinate in polygon:
                    finite(coordinate, "segmentation")
            return value
    raise InvalidAnnotation(
        "segmentation", f"expected polygons or run lengths of the image, got {shown(value)}"
    )


def _identity(entry: Any, what: str, taken: Any) -> tuple[int, str]:
    """The id of an entry and its title; raises InvalidAnnotation without one or for a second."""
    if not isinstance(entry, dict):
        raise InvalidAnnotation("layout", f"expected an object, got {shown(entry)}")
    number = whole(entry.get("id"), "id")
    if number in taken:
        raise InvalidAnnotation(
            "duplicate id", f"{what} {number} is there already; the first is kept"
        )
    if isinstance(taken, set):
        taken.add(number)
    return number, f"{what} {number}"


def _hashable(value: Any) -> Any:
    """The value if it can be an id, else None."""
    return value if type(value) is int else None


def _is_flat(entry: dict) -> bool:
    box = entry.get("bbox")
    return isinstance(box, list) and len(box) == 4 and any(value == 0 for value in box[2:])


def _check_archive(root: Path, splits: Any, report: Report) -> None:
    """Where the archive still lies beside the tree: is it the release's, and the tree from it?"""
    with open(root / ARCHIVE, "rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != ARCHIVE_MD5:
        text = f"MD5 {digest}, the release's is {ARCHIVE_MD5}: fetch it again"
        report.leave_out(InvalidAnnotation("checksum", text), ARCHIVE)
        return
    with zipfile.ZipFile(root / ARCHIVE) as archive:
        for split in splits:
            name = f"annotations/instances_{split}.json"
            crc = 0
            with open(root / name, "rb") as file:
                while block := file.read(1 << 24):
                    crc = zlib.crc32(block, crc)
            if crc != archive.getinfo(name).CRC:
                text = f"differs from the one in {ARCHIVE}: unpack it again"
                report.leave_out(InvalidAnnotation("checksum", text), name)
