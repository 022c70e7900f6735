"""One XML file in VOC's format, and whatever tools make of it: everything in it is counted."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.samples import Candidate, Sample
from gdetkd.datasets.values import IGNORED, flag, in_unit_range, number_in

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def load_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file; tags are in small letters and without a namespace.

    Raises:
        InvalidAnnotation: It cannot be read.
    """
    try:
        tree = ElementTree.parse(path).getroot()
    except OSError as error:
        raise InvalidAnnotation("unreadable", f"cannot be opened: {error.strerror}") from error
    except (ElementTree.ParseError, LookupError, ValueError, RecursionError) as error:
        text = f"{error}; its objects cannot be counted"
        raise InvalidAnnotation("no XML", text) from error
    for element in tree.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2].strip().lower()
    return tree


def fill(sample: Sample, tree: ElementTree.Element, report: Report, zero_based: bool) -> bool:
    """Put the file's size and objects into the sample; False if the image cannot be used.

    Counts every object wherever it is in the file, and every box that is in no object.
    """
    objects, strays = list(tree.iter("object")), list(_outside(tree, "bndbox", "object"))
    boxes = [max(1, len(_boxes(entry))) for entry in objects]
    report.objects_in += sum(boxes) + len(strays)
    try:
        if tree.tag != "annotation" and len(tree.findall(".//annotation")) != 1:
            raise InvalidAnnotation("layout", f"expected one <annotation>, got <{shown(tree.tag)}>")
        size = tree.find(".//size")
        if size is not None:
            sample.size = tuple(_side(size, key) for key in ("width", "height"))
    except InvalidAnnotation as problem:
        report.leave_out(problem, sample.file, sample.item, objects=sum(boxes) + len(strays))
        return False
    for place, (entry, count) in enumerate(zip(objects, boxes, strict=True), start=1):
        item = f"object {place}"
        if count > 1:
            text = f"{count} boxes in one object: each is taken as an object of its class"
            report.remark("several boxes", sample.file, item, text)
        try:
            sample.objects += _candidates(entry, item, zero_based, sample, report)
        except InvalidAnnotation as problem:
            report.leave_out(problem, sample.file, item, objects=count)
    for place in range(1, len(strays) + 1):
        problem = InvalidAnnotation("stray box", "a <bndbox> that is in no <object> has no class")
        report.leave_out(problem, sample.file, f"box {place}", objects=1)
    return True


def _outside(tree: ElementTree.Element, tag: str, *other: str) -> Iterator[ElementTree.Element]:
    """Elements of a tag that are in none of the other tags."""
    for element in tree:
        if element.tag == tag:
            yield element
        elif element.tag not in other:
            yield from _outside(element, tag, *other)


def _boxes(entry: ElementTree.Element) -> list[ElementTree.Element]:
    """An object's own boxes, also wrapped ones, without those of its parts."""
    return list(_outside(entry, "bndbox", "object", "part"))


def _candidates(
    entry: ElementTree.Element, item: str, zero_based: bool, sample: Sample, report: Report
) -> Iterator[Candidate]:
    """The object's boxes; one that is wrong is reported, the others of the object are kept."""
    names = {(name.text or "").strip() for name in entry.findall("name")}
    if len(names) > 1:
        text = f"two names in one object: {', '.join(map(shown, sorted(names)))}"
        raise InvalidAnnotation("ambiguous class", text)
    name = names.pop() if names else ""
    if not name:
        raise InvalidAnnotation("unknown class", "there is no <name>")
    difficult = int(flag(entry.findtext("difficult"), "difficult"))
    ignored = flag(entry.findtext("ignore"), "ignore")
    if ignored and not difficult:
        report.remark("ignored object", sample.file, item, IGNORED)
    boxes = _boxes(entry)
    if not boxes:
        raise InvalidAnnotation("no box", "there is no <bndbox>")
    found = []
    for place, box in enumerate(boxes, start=1):
        title = item if len(boxes) == 1 else f"{item}, box {place}"
        try:
            corners = _corners(box)
        except InvalidAnnotation as problem:
            if len(boxes) == 1:
                raise
            report.leave_out(problem, sample.file, title, objects=1)
            continue
        xmin, ymin, xmax, ymax = (int(value) for value in corners)
        first = 0 if zero_based else 1
        more = dict(iscrowd=int(ignored or difficult), difficult=difficult)
        place_in = (
            float(xmin - first),
            float(ymin - first),
            float(xmax - xmin),
            float(ymax - ymin),
        )
        found.append(Candidate(title, place_in, name, more, unit_range=in_unit_range(corners)))
    return found


def _corners(box: ElementTree.Element) -> list[float]:
    for key in CORNERS:
        if len(texts := {(found.text or "").strip() for found in box.findall(key)}) > 1:
            text = f"several values of {key}: {', '.join(map(shown, sorted(texts)))}"
            raise InvalidAnnotation("ambiguous box", text)
    values = [number_in(box.findtext(key), key) for key in CORNERS]
    for key, value in zip(CORNERS, values, strict=True):
        if abs(value) >= 2**31:
            raise InvalidAnnotation("not finite", f"{key} is {value:g}")
    return values


def _side(size: ElementTree.Element, key: str) -> int:
    value = number_in(size.findtext(key), key)
    if not 1 <= value < 2**31:
        raise InvalidAnnotation("image size", f"{key}: expected at least 1, got {value:g}")
    return int(value)
