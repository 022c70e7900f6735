"""Verify a data set, convert it to COCO JSON, and say what there is: `gdetkd data` but for digits.

The originals are never touched: everything goes to a folder of its own,
`annotations/SPLIT.json`, `images` (a link to the root), `dataset.json` (what there is and where),
`contact_sheet.jpg` and `report.txt`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gdetkd.datasets import bdd100k, coco, voc
from gdetkd.datasets import custom as own
from gdetkd.datasets.contact_sheet import contact_sheet
from gdetkd.datasets.report import InvalidAnnotation, Report
from gdetkd.datasets.to_coco import Progress, assemble
from gdetkd.ops.atomic_write import atomic_write

REPORT, SUMMARY, SHEET = "report.txt", "dataset.json", "contact_sheet.jpg"
SHOWN = 24  # images on the contact sheet


@dataclass(frozen=True)
class Layout:
    """A format: how it is read, with classes of one's own or not, and what to fetch where."""

    read: Callable
    read_classes: Callable | None
    fetch: str


LAYOUTS = {
    "coco": Layout(coco.read_release, own.read_own_coco, coco.FETCH),
    "voc07": Layout(voc.read_release, own.read_own_voc, voc.FETCH),
    "bdd100k": Layout(bdd100k.read_release, None, bdd100k.FETCH),
    "own": Layout(own.read_own, own.read_own, own.FETCH),
}


@dataclass
class Prepared:
    """What became of a data set.

    report: Every problem and the counts.
    summary: What `dataset.json` holds; None where nothing was written.
    """

    report: Report
    summary: dict | None


def prepare(
    layout: str,
    root: str | os.PathLike,
    out: str | os.PathLike,
    on_error: str = "strict",
    classes: Sequence[str] | None = None,
    progress: Progress = lambda items, _: items,
) -> Prepared:
    """Verify the data set at `root` and write what training needs to `out`.

    Args:
        layout: One of `LAYOUTS`.
        root: Where the data set lies, as its archives unpack.
        out: Where the converted annotations go; not inside the root.
        on_error: "strict": where anything cannot be used, write the report alone. "skip": leave
            out what cannot be used.
        classes: Names of one's own classes, in the order of the labels; by default the format's.
        progress: Called as ``progress(items, description)``, gives the items back.

    Raises:
        FileNotFoundError: There is no such data set; the message says what to fetch.
        ValueError: The arguments contradict each other.
    """
    form, root, out = LAYOUTS[layout], Path(root), Path(out)
    _check_arguments(layout, root, out, on_error, classes)
    report = Report()
    read = form.read_classes if classes else form.read
    splits = read(root, classes, report) if classes else read(root, report)
    if not splits:
        fetch = (own.FETCH if classes else form.fetch).format(root=root)
        raise FileNotFoundError(f"{root}: expected a data set, found none; fetch {fetch}")
    contents = {}
    for split, (samples, names) in splits.items():
        content = assemble(samples, names, root, report, progress)
        if content["images"]:
            contents[split] = content
        else:
            report.leave_out(
                InvalidAnnotation("empty split", "it has no image that can be used"), split
            )
    out.mkdir(parents=True, exist_ok=True)
    report.write(out / REPORT)
    if (on_error == "strict" and report.bad) or not contents:
        return Prepared(report, None)
    # COCO's own files are used where they are, unless something had to be left out of them.
    untouched = layout == "coco" and not classes and not report.bad
    summary = _write(layout, root, out, contents, report, untouched)
    return Prepared(report, summary)


def config_options(summary: dict) -> dict[str, object]:
    """What a config of MMDetection needs to use a prepared data set, as `--cfg-options`.

    Where there is one split alone, it is validated on what it is trained on; `one_split` says so.
    """
    splits = summary["splits"]
    train, val = _stages(splits)
    options: dict[str, object] = {}
    for stage, split in (("train", train), ("val", val), ("test", val)):
        dataset = f"{stage}_dataloader.dataset."
        options[dataset + "ann_file"] = splits[split]["annotations"]
        options[dataset + "data_prefix.img"] = splits[split]["images"]
        options[dataset + "metainfo.classes"] = tuple(summary["classes"])
        if stage != "train" and summary["layout"] != "voc07":  # VOCMetric reads no file
            options[f"{stage}_evaluator.ann_file"] = splits[split]["annotations"]
    return options


def one_split(summary: dict) -> str | None:
    """A warning where the split to validate on is the one to train on; None where it is not."""
    train, val = _stages(summary["splits"])
    if train != val:
        return None
    return (
        f"Warning: there is no split to validate on beside {train!r}: AP will be that of the "
        "images trained on. A split whose name starts with 'val' or 'test' would be taken."
    )


def _stages(splits: Mapping[str, object]) -> tuple[str, str]:
    """The splits to train and to validate on, by their names."""
    train = next((name for name in splits if name.startswith("train")), next(iter(splits)))
    return train, next((name for name in splits if name.startswith(("val", "test"))), train)


def _check_arguments(layout, root, out, on_error, classes) -> None:
    if on_error not in ("strict", "skip"):
        raise ValueError(f"on_error: expected 'strict' or 'skip', got {on_error!r}")
    if classes is not None and (len(set(classes)) != len(classes) or not all(classes)):
        raise ValueError(f"classes: expected different names, got {list(classes)}")
    if layout == "own" and not classes:
        raise ValueError("own data: expected --classes NAME,NAME,... in the order of the labels")
    if classes and LAYOUTS[layout].read_classes is None:
        raise ValueError(f"{layout} has classes of its own; leave out --classes")
    if not root.is_dir():
        fetch = LAYOUTS[layout].fetch.format(root=root)
        raise FileNotFoundError(f"{root}: expected a folder, there is none; fetch {fetch}")
    inner, outer = os.path.realpath(out), os.path.realpath(root)
    if os.path.commonpath([inner, outer]) == outer:
        raise ValueError(f"{out}: expected a folder outside of the data set {root}")


def _write(layout, root, out, contents, report, untouched) -> dict:
    link = out / "images"
    if os.path.islink(link):
        os.unlink(link)
    os.symlink(os.path.realpath(root), link)
    splits = {}
    for split, content in contents.items():
        if untouched:
            place = root / "annotations" / f"instances_{split}.json"
            images = root / split
        else:
            place, images = out / "annotations" / f"{split}.json", link
            with atomic_write(place) as file:
                text = json.dumps(content, separators=(",", ":"), allow_nan=False)
                file.write(text.encode())
        splits[split] = dict(
            annotations=os.path.abspath(place),
            images=os.path.abspath(images) + os.sep,
            count=len(content["images"]),
            objects=_histogram(content),
        )
    names = [entry["name"] for entry in next(iter(contents.values()))["categories"]]
    summary = dict(
        layout=layout,
        root=os.path.abspath(root),
        classes=names,
        splits=splits,
        left_out=dict(images=report.images_in - report.images_out, objects=report.objects_reported),
    )
    sheet = contact_sheet(_samples(root, contents))
    cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tofile(out / SHEET)
    with atomic_write(out / SUMMARY) as file:
        file.write(json.dumps(summary, indent=2).encode() + b"\n")
    return summary


def _histogram(content: dict) -> dict[str, int]:
    counts = Counter(annotation["category_id"] for annotation in content["annotations"])
    return {entry["name"]: counts[entry["id"]] for entry in content["categories"]}


def _samples(root: Path, contents: dict) -> list:
    """Images spread evenly over the splits, with their boxes."""
    samples = []
    for content in contents.values():
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        images = content["images"]
        step = max(1, len(images) * len(contents) // SHOWN)
        chosen = {image["id"]: [] for image in images[::step][: SHOWN // len(contents)]}
        for annotation in content["annotations"]:
            if annotation["image_id"] in chosen:
                entry = (annotation["bbox"], names[annotation["category_id"]])
                chosen[annotation["image_id"]].append(entry)
        for image in images:
            if image["id"] in chosen:
                pixels = np.fromfile(root / image["file_name"], np.uint8)
                samples.append((cv2.imdecode(pixels, cv2.IMREAD_COLOR), chosen[image["id"]]))
    return [(image, boxes) for image, boxes in samples if image is not None]
