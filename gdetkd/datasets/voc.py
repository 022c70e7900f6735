"""PASCAL VOC's layout: ImageSets/Main/*.txt, Annotations/*.xml and JPEGImages/.

Coordinates are handled as MMDetection's VOCDataset and the devkit do: VOC counts pixels from 1 and
includes the last one, so 1 is taken off all four and fractions are cut off. A box of COCO then
spans [xmin - 1, ymin - 1] to [xmax - 1, ymax - 1]; its width lacks the pixel that the devkit, and
VOCMetric with it, add again (`xmax - xmin + 1`) when they compute an IoU. Objects marked
`difficult` become `iscrowd`: neither trained on nor counted, by VOCMetric and pycocotools alike.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.to_coco import Candidate, Sample, finite, inside

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
SPLITS = {"trainval07": "trainval", "test2007": "test"}
# Images of VOC2007, http://host.robots.ox.ac.uk/pascal/VOC/voc2007/dbstats.html
IMAGES = {"trainval07": 5_011, "test2007": 4_952}
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG")
FETCH = """\
from http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, both unpacked into the same folder {root}:
  VOCtrainval_06-Nov-2007.tar  460 MB  MD5 c52e279531787c972589f7e41ab4ae64
  VOCtest_06-Nov-2007.tar      451 MB  MD5 b6e924de25625d8de591ea690078ad9f
  -> {root}/VOC2007/{{Annotations,ImageSets,JPEGImages}}/"""

Splits = dict[str, tuple[list[Sample], dict[int, str]]]


def read_release(root: Path, report: Report) -> Splits:
    """trainval07 and test2007 of VOCdevkit/ (or of the VOC2007/ in it), with the 20 classes."""
    folder = "VOC2007" if os.path.isdir(root / "VOC2007") else ""
    classes = dict(enumerate(CLASSES, start=1))
    splits: Splits = {}
    for split, name in SPLITS.items():
        file = os.path.join(folder, "ImageSets", "Main", f"{name}.txt")
        if not os.path.isfile(root / file):
            report.leave_out(InvalidAnnotation("missing split", "there is no such file"), file)
            continue
        samples = read_voc(root, folder, file, CLASSES, report)
        splits[split] = samples, classes
        if len(samples) != IMAGES[split]:
            text = f"{len(samples)} images, the release has {IMAGES[split]}: part of it?"
            report.remark("another count", file, "", text)
    return splits


def read_voc(
    root: Path, folder: str, file: str | None, classes: Sequence[str], report: Report
) -> list[Sample]:
    """Read one image set of VOC's layout.

    Args:
        root: Root of the data set.
        folder: Folder of Annotations/ and JPEGImages/, relative to the root; "" for the root.
        file: The image set: a text file, relative to the root, with the name of an image a line.
            None: every file in Annotations/.
        classes: Names of the classes; an object's label is the place of its class here.
        report: Takes what cannot be used; counts images and objects.
    """
    try:
        names = _listed(root, file) if file else _all_names(root / folder / "Annotations")
    except InvalidAnnotation as problem:
        report.leave_out(problem, file or os.path.join(folder, "Annotations"))
        return []
    report.images_in += len(names)
    samples: dict[str, Sample] = {}
    for place, name in enumerate(names, start=1):
        where = os.path.join(folder, "Annotations", f"{name}.xml")
        try:
            where = inside(os.path.join(folder, "Annotations"), f"{name}.xml")
            if name in samples:
                problem = InvalidAnnotation("duplicate id", f"image {shown(name)} is listed twice")
                report.leave_out(problem, file or where, f"line {place}")
                continue
            tree = _tree(root / where)
        except InvalidAnnotation as problem:
            report.leave_out(problem, where, f"image {name}")
            continue
        samples[name] = Sample(place, _image(root, folder, name), where, f"image {name}", None, [])
        if not _fill(samples[name], tree, classes, report):
            del samples[name]
    return list(samples.values())


def _listed(root: Path, file: str) -> list[str]:
    try:
        text = (root / file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidAnnotation("unreadable", f"cannot be opened: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidAnnotation("unreadable", f"expected UTF-8: {error}") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def _all_names(folder: Path) -> list[str]:
    try:
        return sorted(name[:-4] for name in os.listdir(folder) if name.endswith(".xml"))
    except OSError as error:
        raise InvalidAnnotation("unreadable", f"cannot be listed: {error.strerror}") from error


def _image(root: Path, folder: str, name: str) -> str:
    """The image of that name, with whichever suffix it has; .jpg if there is none at all."""
    paths = [os.path.join(folder, "JPEGImages", name + suffix) for suffix in SUFFIXES]
    return next((path for path in paths if os.path.lexists(root / path)), paths[0])


def _tree(path: Path) -> ElementTree.Element:
    try:
        tree = ElementTree.parse(path).getroot()
    except OSError as error:
        raise InvalidAnnotation("unreadable", f"cannot be opened: {error.strerror}") from error
    except (ElementTree.ParseError, LookupError, ValueError, RecursionError) as error:
        text = f"{error}; its objects cannot be counted"
        raise InvalidAnnotation("no XML", text) from error
    if tree.tag != "annotation":
        raise InvalidAnnotation("layout", f"expected <annotation>, got <{shown(tree.tag)}>")
    return tree


def _fill(sample: Sample, tree: ElementTree.Element, classes: Sequence[str], report) -> bool:
    """Put the file's size and objects into the sample; False if the image cannot be used."""
    objects = tree.findall("object")
    report.objects_in += len(objects)
    size = tree.find("size")
    if size is not None:
        try:
            sample.size = tuple(_pixels(size, key, least=1) for key in ("width", "height"))
        except InvalidAnnotation as problem:
            report.leave_out(problem, sample.file, sample.item, objects=len(objects))
            return False
    for place, entry in enumerate(objects, start=1):
        item = f"object {place}"
        try:
            sample.objects.append(_candidate(entry, item, classes))
        except InvalidAnnotation as problem:
            report.leave_out(problem, sample.file, item, objects=1)
    return True


def _candidate(entry: ElementTree.Element, item: str, classes: Sequence[str]) -> Candidate:
    name = (entry.findtext("name") or "").strip()
    if name not in classes:
        raise InvalidAnnotation("unknown class", shown(name))
    box = entry.find("bndbox")
    if box is None:
        raise InvalidAnnotation("no box", "there is no <bndbox>")
    xmin, ymin, xmax, ymax = (_pixels(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    difficult = (entry.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise InvalidAnnotation("difficult", f"expected 0 or 1, got {shown(difficult)}")
    flag = int(difficult)
    return Candidate(
        item,
        (float(xmin - 1), float(ymin - 1), float(xmax - xmin), float(ymax - ymin)),
        classes.index(name),
        dict(iscrowd=flag, difficult=flag),
    )


def _pixels(parent: ElementTree.Element, key: str, least: int | None = None) -> int:
    """The whole number in a child element, fractions cut off."""
    text = parent.findtext(key)
    try:
        number = int(finite(float(text or ""), key))
    except InvalidAnnotation:
        raise
    except ValueError:
        raise InvalidAnnotation(
            "no number", f"{key}: expected a number, got {shown(text)}"
        ) from None
    if abs(number) >= 2**31:
        raise InvalidAnnotation("not finite", f"{key} is {shown(text)}")
    if least is not None and number < least:
        raise InvalidAnnotation(
            "image size", f"{key}: expected at least {least}, got {shown(text)}"
        )
    return number
