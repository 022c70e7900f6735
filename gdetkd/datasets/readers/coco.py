"""COCO's layout: reading its JSON, and what the 2017 release consists of."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from gdetkd.datasets.archives import check_archive
from gdetkd.datasets.coco_files import annotation_files, json_files, mentions_boxes
from gdetkd.datasets.coco_json import is_flat, read_coco
from gdetkd.datasets.report import InvalidAnnotation
from gdetkd.datasets.samples import Layout, RawDataset, Request, register_layout
from gdetkd.datasets.splits import role

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
FETCH = """\
from http://images.cocodataset.org, unpacked below {root}:
  zips/train2017.zip                      -> {root}/train2017/         19.3 GB
  zips/val2017.zip                        -> {root}/val2017/            0.8 GB
  annotations/annotations_trainval2017.zip -> {root}/annotations/        0.25 GB"""


def read_release(request: Request) -> RawDataset:
    """The samples of each split of the 2017 release."""
    root, report = request.root, request.report
    found = RawDataset()
    for split in SPLITS:
        file = _release_file(split)
        if not os.path.isfile(root / file):
            report.leave_out(InvalidAnnotation("missing split", "there is no such file"), file)
            continue
        samples, _ = read_coco(root, file, split, split, report, flat=FLAT)
        found.splits[split] = samples
        if len(samples) != IMAGES[split]:
            text = f"{len(samples)} images, the release has {IMAGES[split]}: part of it?"
            report.remark("another count", file, "", text)
    check_archive(root, [_release_file(split) for split in found.splits], report)
    return found


def _release_file(split: str) -> str:
    return f"annotations/instances_{split}.json"


def differs(root: Path, split: str, content: dict) -> str | None:
    """Why the file of a split cannot serve as it is, given what the checks made of it.

    pycocotools reads UTF-8 only and needs `area` and `iscrowd`; MMDetection takes its labels from
    the order of the categories; an annotation with id 0 matches nothing.
    """
    try:
        raw = json.loads((root / _release_file(split)).read_bytes().decode("utf-8"))
    except ValueError:
        return "it is not in UTF-8, or starts with a byte order mark"
    if [(c.get("id"), c.get("name")) for c in raw["categories"]] != list(CLASSES.items()):
        return "its categories are not the release's 80 in their order"
    if [_image_key(entry, split) for entry in raw["images"]] != [
        _image_key(entry) for entry in content["images"]
    ]:
        return "names or sizes of images are not those of the files"
    checked = {entry["id"]: entry for entry in content["annotations"]}
    for entry in raw["annotations"]:
        number = entry.get("id")
        other = checked.pop(number, None)
        if other is None and number in FLAT and is_flat(entry):
            continue
        keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
        for key in keys:
            if other is None or key not in entry or entry[key] != other[key]:
                return f"{key} of annotation {number} is missing or not as checked"
        if entry.get("segmentation") and "segmentation" not in other:
            return f"the mask of annotation {number} was left out"
        if entry.get("ignore"):
            return f"annotation {number} has the key ignore, which evaluation passes over"
    return None


def _image_key(entry: dict, folder: str = "") -> tuple:
    name = os.path.join(folder, entry["file_name"])
    return entry["id"], name, entry.get("width"), entry.get("height")


def read(request: Request) -> RawDataset:
    """Every split of data in COCO's layout, with the user's classes."""
    found = RawDataset(names=[])
    files = annotation_files(request.root, request.report)
    counts = Counter(split for split, _, _ in files)
    for split, file, folder in files:
        if counts[split] > 1:  # several files: whether they belong together is not said
            split = os.path.splitext(file)[0]
        before = len(request.report.problems)
        samples, names = read_coco(request.root, file, folder, split, request.report)
        whole = any(p.bad and not p.item for p in request.report.problems[before:])
        if samples or role(split) or not whole:  # else a broken file that is for no split, reported
            found.splits[split] = samples
        found.names += [name for name in names if name not in found.names]
    return found


def finds(root: Path) -> str | None:
    """Whether a JSON file lies in annotations/, or one elsewhere has COCO's lists with boxes."""
    files = [file for _, file in json_files(root)[0]]
    for file in files:
        if file.lower().startswith("annotations") or mentions_boxes(root / file):
            return f"{len(files)} JSON files, such as {file}"
    return None


register_layout(
    Layout(
        "coco",
        "Verify COCO 2017, or own data in its layout.",
        FETCH,
        read=read,
        read_release=read_release,
        classes=CLASSES,
        finds=finds,
        root="data/coco",
        differs=differs,
        files=lambda split: (_release_file(split), split),
    )
)
