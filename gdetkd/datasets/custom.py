"""A data set of your own, in COCO's or VOC's layout, with classes of your own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gdetkd.datasets.coco import read_coco
from gdetkd.datasets.report import InvalidAnnotation, Report
from gdetkd.datasets.to_coco import Sample, load_json
from gdetkd.datasets.voc import read_voc

SETS = ("train", "val", "trainval", "test")
FETCH = """\
one of these layouts:
  COCO  {root}/annotations/SPLIT.json  (or instances_SPLIT.json), images in {root}/SPLIT/,
        {root}/images/SPLIT/, {root}/images/ or {root}/
  VOC   {root}/Annotations/NAME.xml, {root}/JPEGImages/NAME.jpg and, for splits,
        {root}/ImageSets/Main/SPLIT.txt"""

Splits = dict[str, tuple[list[Sample], dict[int, str]]]


def read_own(root: Path, classes: Sequence[str], report: Report) -> Splits:
    """Every split that is there; COCO's layout is recognised by the folder `annotations`."""
    if os.path.isdir(root / "annotations"):
        return read_own_coco(root, classes, report)
    return read_own_voc(root, classes, report)


def read_own_coco(root: Path, classes: Sequence[str], report: Report) -> Splits:
    """A split per file in annotations/; of instances_*.json only, where there are such files."""
    try:
        names = sorted(n for n in os.listdir(root / "annotations") if n.endswith(".json"))
    except OSError:
        names = []
    names = [name for name in names if name.startswith("instances_")] or names
    splits = {}
    for name in names:
        split = name.removesuffix(".json").removeprefix("instances_")
        file = os.path.join("annotations", name)
        folder = _image_folder(root, file, split)
        samples = read_coco(root, file, folder, classes, report)
        splits[split] = samples, dict(enumerate(classes, start=1))
    return splits


def read_own_voc(root: Path, classes: Sequence[str], report: Report) -> Splits:
    """A split per train, val, trainval and test.txt in ImageSets/Main; all files without any."""
    folder = "VOC2007" if os.path.isdir(root / "VOC2007" / "Annotations") else ""
    if not os.path.isdir(root / folder / "Annotations"):
        return {}
    lists = {split: os.path.join(folder, "ImageSets", "Main", f"{split}.txt") for split in SETS}
    lists = {split: file for split, file in lists.items() if os.path.isfile(root / file)}
    return {
        split: (read_voc(root, folder, file, classes, report), dict(enumerate(classes, start=1)))
        for split, file in (lists or {"all": None}).items()
    }


def _image_folder(root: Path, file: str, split: str) -> str:
    """The folder in which the file's first image lies; where none has it, the first there is."""
    folders = [split, os.path.join("images", split), "images", "JPEGImages", "."]
    try:
        first = load_json(root / file)["images"][0]["file_name"]
        for folder in folders:
            if os.path.lexists(root / folder / first):
                return folder
    except (InvalidAnnotation, OSError, ValueError, TypeError, LookupError):
        pass  # what is wrong with the file, its reader reports
    return next(folder for folder in folders if os.path.isdir(root / folder))
