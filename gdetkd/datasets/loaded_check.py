"""Data sets of other kinds than MMDetection's reader of COCO, checked by what they load themselves.

`XMLDataset`, `VOCDataset`, `OpenImagesDataset` or one of your own: whatever loads its entries as
MMEngine's `BaseDataset` does and gives images their `instances`, as MMDetection wants them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence

from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset

from gdetkd.datasets.report import InvalidAnnotation, listing
from gdetkd.datasets.sampled_pictures import check_pictures
from gdetkd.datasets.values import in_unit_range
from gdetkd.datasets.voc_xml import load_xml
from gdetkd.ops.console import say

FULL_INITS = (BaseDataset.full_init, BaseDetDataset.full_init)
READ = 200  # XML files whose class names are read for a message


def check_loaded(stage: str, dataset: Mapping, measured: bool) -> tuple[str, ...] | None:
    """Load the entries of a data set, check them, and give its class names, if it has any.

    Args:
        stage: "train", "val" or "test", for messages.
        dataset: Its config. One that cannot be checked is said in a line.
        measured: Whether its objects are needed.

    Raises:
        FileNotFoundError, ValueError: It cannot be loaded, nothing is left of it, labels have no
            class, boxes are no corners in pixels, or pictures are not as stated.
    """
    kind = dataset["type"]
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    name = getattr(kind, "__name__", str(dataset["type"]))
    if not (isinstance(kind, type) and issubclass(kind, BaseDataset)):
        return _unchecked(stage, name, "it is none that MMEngine's BaseDataset is the base of")
    try:
        built = DATASETS.build(dict(dataset, lazy_init=True))
        if kind.full_init not in FULL_INITS:
            return _unchecked(stage, name, "it loads its entries in a way of its own (full_init)")
        built.data_list = entries = built.load_data_list()
        left = built.filter_data()
    except Exception as error:  # whatever the reader stumbles over, training would as well
        if isinstance(error, TypeError) and "lazy_init" in str(error):
            return _unchecked(stage, name, "its __init__ does not take lazy_init")
        text = f"{stage} data: {name} cannot load its entries: {type(error).__name__}: {error}"
        raise (FileNotFoundError if isinstance(error, OSError) else ValueError)(text) from error
    names = built.metainfo.get("classes")
    names = tuple(names) if isinstance(names, list | tuple) else None
    if not all(isinstance(e, Mapping) and "instances" in e and "img_path" in e for e in entries):
        _unchecked(stage, name, "entries without img_path and instances are there")
        return names
    where = f"{stage} data, {name} of {dataset.get('ann_file') or dataset.get('data_root') or '?'}"
    if measured:
        _check_entries(where, stage, entries, left, names)
    if dataset.get("backend_args"):
        _unchecked(stage, name, "its pictures are read by backend_args")
    else:
        pictures = [(entry["img_path"], _size(entry)) for entry in left]
        check_pictures(where, pictures, dataset.get("pipeline") or ())
    return names


def _unchecked(stage: str, name: str, why: str) -> None:
    say(f"{stage} data: not checked before the first step ({name}): {why}.")


def _size(entry: Mapping) -> tuple[int, int] | None:
    return (entry["width"], entry["height"]) if {"width", "height"} <= entry.keys() else None


def _check_entries(
    where: str, stage: str, entries: Sequence, left: Sequence, names: tuple[str, ...] | None
) -> None:
    """Labels, boxes, and whether anything is left to train on or to measure."""
    objects = [instance for entry in left for instance in entry["instances"]]
    good = [instance for instance in objects if not instance.get("ignore_flag")]
    labels = Counter(instance.get("bbox_label") for instance in good)
    if names and (strange := [n for n in labels if n is None or not 0 <= n < len(names)]):
        raise ValueError(
            f"{where}: expected labels from 0 to {len(names) - 1}, of {listing(names)}, got "
            f"{listing(strange)}"
        )
    boxes = [[*map(float, instance["bbox"])] for instance in good]
    backward = sum(box[2] < box[0] or box[3] < box[1] for box in boxes)
    if backward:
        raise ValueError(
            f"{where}: {backward} of {len(boxes)} boxes end before they begin: expected bbox as "
            "x1, y1, x2, y2; are these x, y, width, height?"
        )
    flat = all(box[2] == box[0] or box[3] == box[1] or in_unit_range(box) for box in boxes)
    if boxes and not flat:
        return
    causes = []
    if boxes:
        causes.append(f"all {len(boxes)} boxes are under a pixel: fractions where pixels are "
                      "expected?")  # fmt: skip
    elif objects:
        causes.append(f"all {len(objects)} objects are ignored")
    else:
        empty = sum(not entry["instances"] for entry in entries)
        causes.append(f"{empty} without objects of the config's classes, {listing(names or ())}")
        if there := _names_in_files(entries):
            causes[-1] += f"; the annotations have {listing(there)}"
        if small := sum(bool(entry["instances"]) for entry in entries):
            causes.append(f"{small} left out by filter_cfg")
    what = "to train on" if stage == "train" else "to measure"
    raise ValueError(
        f"{where}: nothing {what}: 0 of {len(entries)} images left; {'; '.join(causes)}"
    )


def _names_in_files(entries: Sequence[Mapping]) -> list[str]:
    """Class names in the XML files of the first entries, if they are from such files."""
    names: Counter[str] = Counter()
    for path in [entry["xml_path"] for entry in entries[:READ] if "xml_path" in entry]:
        with contextlib.suppress(InvalidAnnotation):
            names.update(found.findtext("name") for found in load_xml(path).iter("object"))
    return [name for name, _ in names.most_common()]
