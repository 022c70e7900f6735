"""What `gdetkd data` writes: COCO JSON, a summary, a dataset config and a sheet of samples."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from gdetkd.datasets.contact_sheet import SIDE, contact_sheet, fit
from gdetkd.datasets.report import Report
from gdetkd.datasets.samples import Layout
from gdetkd.ops.atomic_write import atomic_write

REPORT, SUMMARY, SHEET, CONFIG = "report.txt", "dataset.json", "contact_sheet.jpg", "dataset.py"
SHOWN = 24  # images on the contact sheet
CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "_base_"
_CONFIG = """\
# {count} classes, checked and converted by `gdetkd data`; to inherit from in a config of yours:
#   _base_ = ["mmdet::_base_/models/faster-rcnn_r50_fpn.py", "{path}",
#             "mmdet::_base_/schedules/schedule_1x.py", "mmdet::_base_/default_runtime.py"]
#   model = dict(roi_head=dict(bbox_head=dict(num_classes={count})))
_base_ = {base!r}
metainfo = dict(classes={classes!r})
"""
_DATALOADER = """\
{stage}_dataloader = dict(
    dataset=dict(
        data_root="",
        ann_file={annotations!r},
        data_prefix=dict(img={images!r}),
        metainfo=metainfo,
    )
)
"""


def write_dataset(
    form: Layout,
    root: Path,
    out: Path,
    contents: Mapping[str, dict],
    stages: Mapping[str, str],
    report: Report,
    originals: bool,
    release: bool,
) -> dict:
    """Write everything but the report, and give what `dataset.json` holds.

    Args:
        form: The layout that was read.
        root: The data set; `out/images` becomes a link to it.
        out: Folder to write to.
        contents: Split -> what is to be used, in COCO's format.
        stages: "train", "val", "test" -> split.
        report: Its counts go into the summary.
        originals: Whether the layout's own annotation files are used where they are.
        release: Whether these are the release's classes, evaluated by its own rules.
    """
    link = out / "images"
    if os.path.islink(link):
        os.unlink(link)
    os.symlink(os.path.realpath(root), link)
    splits = {}
    for split, content in contents.items():
        if originals:
            file, folder = form.files(split)
            place, images = root / file, root / folder
        else:
            place, images = out / "annotations" / f"{_file_name(split, len(splits))}.json", link
            place.parent.mkdir(exist_ok=True)
            _write(place, json.dumps(content, separators=(",", ":"), allow_nan=False))
        splits[split] = dict(
            annotations=os.path.abspath(place),
            images=os.path.abspath(images) + os.sep,
            count=len(content["images"]),
            objects=_histogram(content),
        )
    names = [entry["name"] for entry in next(iter(contents.values()))["categories"]]
    summary = dict(
        layout=form.name,
        root=os.path.abspath(root),
        classes=names,
        splits=splits,
        stages=dict(stages),
        left_out=dict(images=report.images_in - report.images_out, objects=report.objects_reported),
    )
    sheet = contact_sheet(_samples(root, contents))
    cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tofile(out / SHEET)
    base = CONFIGS / form.config if release and form.config else None
    reads_file = base is None or form.metric_reads_file
    _write(out / CONFIG, _config_text(summary, base, out / CONFIG, reads_file))
    _write(out / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def _file_name(split: str, number: int) -> str:
    """A split's name as a file may have it."""
    name = re.sub(r"[^\w.-]+", "_", split)
    return name if name == split and name.strip(".") else f"{name}_{number}"


def _config_text(summary: dict, base: Path | None, path: Path, reads_file: bool) -> str:
    """A config of data alone: what loads each stage, and what evaluates it."""
    text = _CONFIG.format(
        count=len(summary["classes"]),
        path=os.path.abspath(path),
        base=str(base or "mmdet::_base_/datasets/coco_detection.py"),
        classes=tuple(summary["classes"]),
    )
    for stage, split in summary["stages"].items():
        text += _DATALOADER.format(stage=stage, **summary["splits"][split])
        if stage != "train" and reads_file:
            text += (
                f"{stage}_evaluator = dict(ann_file={summary['splits'][split]['annotations']!r})\n"
            )
    return text


def _histogram(content: dict) -> dict[str, int]:
    counts = Counter(annotation["category_id"] for annotation in content["annotations"])
    return {entry["name"]: counts[entry["id"]] for entry in content["categories"]}


DRAWN = 2**26  # pixels of an image on the sheet at most: OpenCV takes up to 8 bytes for each


def _samples(root: Path, contents: Mapping[str, dict]) -> list:
    """Images spread evenly over the splits, with their boxes."""
    samples = []
    for content in contents.values():
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        images = content["images"]
        step = max(1, len(images) * len(contents) // SHOWN)
        chosen = {image["id"]: [] for image in images[::step][: max(1, SHOWN // len(contents))]}
        for annotation in content["annotations"]:
            if annotation["image_id"] in chosen:
                entry = (annotation["bbox"], names[annotation["category_id"]])
                chosen[annotation["image_id"]].append(entry)
        for image in images:
            if image["id"] in chosen and image["width"] * image["height"] <= DRAWN:
                encoded = np.fromfile(root / image["file_name"], np.uint8)
                pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
                if pixels is not None:  # shrunk at once: a single one may have half a gigabyte
                    samples.append(fit(pixels, chosen[image["id"]], SIDE))
    return samples


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
