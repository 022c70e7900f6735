"""Detections on COCO's test-dev2017, packed as its server takes them.

The rules (https://cocodataset.org/#upload and #format-results): a zip with nothing but
`detections_test-dev2017_NAME_results.json`; in it a list of `{image_id, category_id, bbox, score}`
with COCO's own ids, boxes [x, y, width, height] in pixels of the original image, recommended to be
rounded to a tenth; at most 100 detections of an image count.
"""

from __future__ import annotations

import copy
import json
import os
import re
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from gdetkd.detectors.mmdet.building import is_type
from gdetkd.evaluation.coco_results import detection_fault
from gdetkd.evaluation.testing import test
from gdetkd.ops.atomic_write import atomic_write

ANNOTATIONS, IMAGES = "annotations/image_info_test-dev2017.json", "test2017/"
PER_IMAGE = 100
NAME = re.compile(r"detections_test-dev2017_(.+)_results")
FETCH = """\
fetch from http://images.cocodataset.org
  zips/test2017.zip (6.6 GB)                      -> {root}test2017/
  annotations/image_info_test2017.zip (1 MB)      -> {root}annotations/"""


def submit(config: Config, checkpoint: str, out: str | os.PathLike) -> int:
    """Detect on test-dev2017 and write the zip; gives the number of detections in it.

    Args:
        config: Of a detector of COCO's 80 classes; its test set says where COCO lies.
        checkpoint: Its weights.
        out: The zip. The part of its name before `.zip` names the algorithm.

    Raises:
        FileNotFoundError: test-dev2017 is not there; the message says what to fetch.
        ValueError: The detections break a rule of the server.
    """
    root = test_dev_root(config)
    known = json.loads((root / ANNOTATIONS).read_text())
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "results")
        test(_on_test_dev(config, root, prefix), checkpoint)
        detections = json.loads(Path(f"{prefix}.bbox.json").read_text())
    detections = tidy(detections)
    check(detections, known)
    write(detections, Path(out))
    return len(detections)


def test_dev_root(config: Config) -> Path:
    """The folder of COCO that the config's test set names; raises if test-dev2017 is not there."""
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    root = dataset.get("data_root")
    if not root:
        raise ValueError(
            "--submission: expected a config whose test_dataloader.dataset.data_root is COCO's "
            f"folder, got {root!r}"
        )
    for path, there in ((ANNOTATIONS, os.path.isfile), (IMAGES, os.path.isdir)):
        if not there(Path(root) / path):
            where = FETCH.format(root=os.path.join(root, ""))
            raise FileNotFoundError(f"--submission: there is no {Path(root) / path}; {where}")
    return Path(root)


def tidy(detections: Sequence[dict]) -> list[dict]:
    """The best 100 of every image, boxes rounded to a tenth of a pixel, scores to 5 digits.

    Boxes that have no width or height after rounding are left out.
    """
    images = defaultdict(list)
    for detection in detections:
        box = [round(value, 1) for value in detection["bbox"]]
        if box[2] > 0 and box[3] > 0:
            score = round(detection["score"], 5)
            images[detection["image_id"]].append(dict(detection, bbox=box, score=score))
    best = []
    for found in images.values():
        best += sorted(found, key=lambda detection: -detection["score"])[:PER_IMAGE]
    return best


def check(detections: object, known: dict) -> None:
    """Raise ValueError at the first detection that the server would refuse.

    Args:
        detections: What the JSON file holds.
        known: COCO's `image_info_test-dev2017.json`.
    """
    if not isinstance(detections, list) or not detections:
        raise ValueError("submission: expected a list of detections, got none")
    images = {image["id"] for image in known["images"]}
    categories = {category["id"] for category in known["categories"]}
    counts: dict[int, int] = defaultdict(int)
    for place, detection in enumerate(detections):
        fault = detection_fault(detection, images, categories)
        if fault is None and len(detection) > 4:
            fault = f"expected image_id, category_id, bbox, score alone, got {sorted(detection)}"
        if fault is None and min(detection["bbox"][2:]) <= 0:
            fault = f"expected a bbox with a width and a height, got {detection['bbox']}"
        if fault is None:
            counts[detection["image_id"]] += 1
            if counts[detection["image_id"]] > PER_IMAGE:
                fault = f"more than {PER_IMAGE} of image {detection['image_id']}"
        if fault is not None:
            raise ValueError(f"submission, detection {place}: {fault}")


def write(detections: list[dict], out: Path) -> None:
    """The zip with the one JSON file, under the name that the server asks for."""
    match = NAME.fullmatch(out.stem)
    name = re.sub(r"[^A-Za-z0-9-]+", "-", match[1] if match else out.stem).strip("-") or "gdetkd"
    with (
        atomic_write(out) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(
            f"detections_test-dev2017_{name}_results.json",
            json.dumps(detections, separators=(",", ":")),
        )


def _on_test_dev(config: Config, root: Path, prefix: str) -> Config:
    """The config with test-dev2017 as its test set, and files instead of a score."""
    config = copy.deepcopy(config)
    dataset = config.test_dataloader.dataset
    if not is_type(dataset, "CocoDataset"):
        raise ValueError(f"--submission: expected a CocoDataset to test on, got {dataset.type}")
    dataset.data_root, dataset.ann_file = str(root), ANNOTATIONS
    dataset.data_prefix = dict(img=IMAGES)
    # There are no annotations to load.
    dataset.pipeline = [step for step in dataset.pipeline if not is_type(step, "LoadAnnotations")]
    config.test_evaluator = dict(
        type="CocoMetric",
        metric="bbox",
        ann_file=str(root / ANNOTATIONS),
        format_only=True,
        outfile_prefix=prefix,
    )
    return config
