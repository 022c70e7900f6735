"""BDD100K's labels: the detection JSON of 2018 and det_20, in BDD100K's ten classes.

Both releases list frames with labels; a label's `box2d` holds x1, y1, x2, y2 in pixels from 0, the
last ones included: as in the authors' own conversion (scalabel's `box2d_to_bbox`, used by
https://github.com/bdd100k/bdd100k), a box of COCO is [x1, y1, x2 - x1 + 1, y2 - y1 + 1]. The
release of 2018 also holds lanes and drivable areas, which are no objects, and names four classes
otherwise. As in that conversion, crowds are `iscrowd`, and so are ignored objects and the uncertain
classes of det_20:
neither trained on nor counted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gdetkd.datasets.repeated_ids import RepeatedIds
from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.samples import Candidate, Layout, RawDataset, Request, Sample, register_layout
from gdetkd.datasets.values import finite, flag, in_unit_range, inside, load_json

CLASSES = (
    "pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    "traffic light", "traffic sign",
)  # fmt: skip
OTHER_NAMES = {
    "person": "pedestrian",
    "bike": "bicycle",
    "motor": "motorcycle",
    "caravan": "car",
    "van": "car",
}
UNCERTAIN = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
NO_OBJECTS = ("lane", "drivable area")
SPLITS = ("train", "val")
RELEASES = {
    "det_20": "labels/det_20/det_{}.json",
    "2018": "labels/bdd100k_labels_images_{}.json",
}
IMAGES = {"train": 69_863, "val": 10_000}  # labeled ones, of 70,000 and 10,000
FETCH = """\
from https://bdd-data.berkeley.edu (free account), unpacked so that there are:
  {root}/images/100k/train/  70,000 images  \\ "100K Images", 5.3 GB
  {root}/images/100k/val/    10,000 images  /
  {root}/labels/det_20/det_train.json, det_val.json                 "Detection 2020 Labels"
  or {root}/labels/bdd100k_labels_images_train.json, ..._val.json   the labels of 2018"""


def read_release(request: Request) -> RawDataset:
    """train and val of whichever label release is there, det_20 before that of 2018."""
    root, report = request.root, request.report
    there = [
        pattern
        for pattern in RELEASES.values()
        if any(os.path.isfile(root / pattern.format(split)) for split in SPLITS)
    ]
    pattern = there[0] if there else RELEASES["det_20"]
    for other in there[1:]:
        text = f"passed over: {pattern.format('*')} is there, too"
        report.remark("other content", other.format("*"), "", text)
    found = RawDataset()
    for split in SPLITS:
        file = pattern.format(split)
        if not os.path.isfile(root / file):
            report.leave_out(InvalidAnnotation("missing split", "there is no such file"), file)
            continue
        folder = os.path.join("images", "100k", split)
        samples = read_bdd100k(root, file, folder, report)
        found.splits[split] = samples
        if len(samples) != IMAGES[split]:
            text = f"{len(samples)} images, the release has {IMAGES[split]}: part of it?"
            report.remark("another count", file, "", text)
    return found


def read_bdd100k(root: Path, file: str, folder: str, report: Report) -> list[Sample]:
    """Read a label file of either release; paths are relative to the root."""
    try:
        frames = load_json(root / file)
        if isinstance(frames, dict) and "frames" in frames:  # Scalabel's newer wrapping
            frames = frames["frames"]
        if not isinstance(frames, list):
            raise InvalidAnnotation("layout", f"expected a list of frames, got {shown(frames)}")
    except InvalidAnnotation as problem:
        report.leave_out(problem, file)
        return []
    report.images_in += len(frames)
    samples: list[Sample] = []
    for place, frame in enumerate(frames, start=1):
        item = f"frame {place}"
        labels: list = []
        try:
            if not isinstance(frame, dict):
                raise InvalidAnnotation("layout", f"expected an object, got {shown(frame)}")
            labels = _objects(frame)
            report.objects_in += len(labels)
            name = inside(folder, frame.get("name"))
            item = f"image {frame['name']}"
        except InvalidAnnotation as problem:
            report.leave_out(problem, file, item, objects=len(labels))
            continue
        sample = Sample(place, name, file, item, None)
        samples.append(sample)
        repeated = RepeatedIds(labels)
        for number, label in enumerate(labels, start=1):
            try:
                repeated.check(number - 1, label)
                sample.objects.append(_candidate(label, f"{item}, label {number}"))
            except InvalidAnnotation as problem:
                report.leave_out(problem, file, f"{item}, label {number}", objects=1)
    return samples


def _objects(frame: dict) -> list:
    """The labels of a frame that are boxes of objects, or ought to be."""
    labels = frame.get("labels")
    if labels is None:
        return []
    if not isinstance(labels, list):
        raise InvalidAnnotation("layout", f"expected a list of labels, got {shown(labels)}")
    return [
        label
        for label in labels
        if not (isinstance(label, dict) and label.get("category") in NO_OBJECTS)
    ]


def _candidate(label: Any, item: str) -> Candidate:
    if not isinstance(label, dict):
        raise InvalidAnnotation("layout", f"expected an object, got {shown(label)}")
    category = label.get("category")
    if not isinstance(category, str):
        raise InvalidAnnotation("unknown class", shown(category))
    name = OTHER_NAMES.get(category) or UNCERTAIN.get(category) or category
    box = label.get("box2d")
    if not isinstance(box, dict):
        raise InvalidAnnotation("no box", f"expected box2d with x1, y1, x2, y2, got {shown(box)}")
    x1, y1, x2, y2 = (finite(box.get(key), key) for key in ("x1", "y1", "x2", "y2"))
    if x2 < x1 or y2 < y1:
        text = f"[{x1:g}, {y1:g}] to [{x2:g}, {y2:g}]: expected the second to be right and below"
        raise InvalidAnnotation("zero area", text)
    attributes = label.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    marks = [flag(attributes.get(key), key) for key in ("crowd", "ignored")]
    marks.append(flag(label.get("ignore"), "ignore"))
    more = dict(iscrowd=int(any(marks) or category in UNCERTAIN))
    box = (x1, y1, x2 - x1 + 1, y2 - y1 + 1)
    return Candidate(item, box, name, more, unit_range=in_unit_range((x1, y1, x2, y2)))


register_layout(
    Layout(
        "bdd100k",
        "Verify and convert BDD100K, either release of labels.",
        FETCH,
        read_release=read_release,
        classes=dict(enumerate(CLASSES, start=1)),
        root="data/bdd100k",
        config="bdd100k.py",
    )
)
