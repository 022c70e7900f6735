"""COCO's JSON format: images, annotations and categories, each reported or turned into samples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gdetkd.datasets.image_index import ImageIndex
from gdetkd.datasets.repeated_ids import RepeatedIds
from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.samples import Candidate, Sample
from gdetkd.datasets.values import (
    IGNORED,
    class_name,
    finite,
    flag,
    id_key,
    in_unit_range,
    load_json,
    whole,
)

TABLES = ("images", "annotations", "categories")


def read_coco(
    root: Path, file: str, folder: str, split: str, report: Report, flat: set[int] = frozenset()
) -> tuple[list[Sample], list[str]]:
    """Read an annotation file in COCO's format: its samples, and its classes in their ids' order.

    Args:
        root: Root of the data set.
        file: The annotation file, relative to the root.
        folder: Folder of its images, relative to the root.
        split: Its name; images of another split are never taken for those of this one.
        report: Takes what cannot be used; counts images and objects of the file.
        flat: Ids of boxes without an area that are known: left out, with a remark only.
    """
    try:
        images, annotations, categories = tables(load_json(root / file))
    except InvalidAnnotation as problem:
        report.leave_out(problem, file)
        return [], []
    report.images_in += len(images)
    report.objects_in += len(annotations)
    index = ImageIndex(root)

    def sample(entry: dict, key: int | str, number: int) -> Sample:
        name = index.find(entry.get("file_name"), (folder, ""), split)
        return Sample(number, name, file, _item("image", key), _size(entry))

    samples = _Table("image", images, sample, report, file)
    index.report_elsewhere(file, report)
    names = _Table("category", categories, lambda entry, *_: class_name(entry.get("name")),
                   report, file)  # fmt: skip
    repeated = RepeatedIds(annotations)
    for place, entry in enumerate(annotations):
        item = f"annotation at place {place}"
        try:
            if not isinstance(entry, dict):
                raise InvalidAnnotation("layout", f"expected an object, got {shown(entry)}")
            number = id_key(entry.get("id"))
            if number is None and entry.get("id") is not None:
                raise InvalidAnnotation(
                    "id", f"expected a number or a text, got {shown(entry['id'])}"
                )
            item = item if number is None else _item("annotation", number)
            repeated.check(place, entry)
            sample = samples.find(entry, "image_id")
            name = names.find(entry, "category_id") if sample else None
            if sample is None or name is None:
                continue  # counted once, where its image or else its category is reported
            if number in flat and is_flat(entry):
                report.remark("zero area", file, item, "known in the release; left out", objects=1)
                continue
            sample.objects.append(_candidate(entry, number, item, name, sample, report))
        except InvalidAnnotation as problem:
            report.leave_out(problem, file, item, objects=1)
    for table in (samples, names):
        table.report_gone(report, file)
    _remark_numbering(samples, names, annotations, report, file)
    unsized = sum(sample.size is None for sample in samples.values.values())
    if unsized:
        text = f"{unsized} images without width and height: those of the files are taken"
        report.remark("image size", file, "", text)
    _remark_shared_names(names.values, file, report)
    order = names.values if names.renumbered else sorted(names.values)
    return list(samples.values.values()), [names.values[number] for number in order]


def _item(what: str, key: int | str) -> str:
    return f"{what} {key if type(key) is int else shown(key)}"


def _is_number(key: object) -> bool:
    """Whether an id can be written as it is: pycocotools and MMDetection want whole numbers."""
    return type(key) is int and 0 <= key < 2**63


def _remark_numbering(
    samples: _Table, names: _Table, annotations: list, report: Report, file: str
) -> None:
    ids = [entry.get("id") for entry in annotations if isinstance(entry, dict)]
    texts = sum(i is None or not _is_number(key := id_key(i)) and key is not None for i in ids)
    counts = dict(images=samples.renumbered, categories=names.renumbered, annotations=texts)
    if any(counts.values()):
        text = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        text += " have no whole number from 0 as their id: such ids are replaced by numbers"
        report.remark("new ids", file, "", text)


def tables(content: Any) -> tuple[list, list, list]:
    """Images, annotations and categories; raises InvalidAnnotation where one is no list."""
    if not isinstance(content, dict):
        raise InvalidAnnotation(
            "layout", f"expected an object with images and annotations, got {shown(content)}"
        )
    for key in TABLES:
        if not isinstance(content.get(key), list):
            raise InvalidAnnotation(
                "layout", f"expected a list of {key}, got {shown(content.get(key))}"
            )
    return tuple(content[key] for key in TABLES)


class _Table:
    """What ids stand for. One id for several things stands for none: its objects are reported.

    renumbered: How many ids are no whole numbers from 0; if any is none, all get new numbers.
    """

    def __init__(self, what: str, entries: list, read: Callable, report: Report, file: str) -> None:
        self.what, self.values = what, {}
        self.gone: dict[Any, InvalidAnnotation] = {}
        self.objects: Counter = Counter()
        groups: dict[Any, list] = defaultdict(list)
        for place, entry in enumerate(entries):
            if isinstance(entry, dict) and (key := id_key(entry.get("id"))) is not None:
                groups[key].append(entry)
                continue
            got = f"id {shown(entry.get('id'))}" if isinstance(entry, dict) else shown(entry)
            text = f"expected an object whose id is a number or a text, got {got}"
            report.leave_out(InvalidAnnotation("id", text), file, f"{what} at place {place}")
        self.renumbered = sum(not _is_number(key) for key in groups)
        for place, (key, group) in enumerate(groups.items(), start=1):
            try:
                entry = _only(group, key, what)
                self.values[key] = read(entry, key, place if self.renumbered else key)
            except InvalidAnnotation as problem:
                self.gone[key] = problem
                continue
            for _ in group[1:]:
                problem = InvalidAnnotation(
                    "duplicate id",
                    f"is there already, with the same {'content' if what == 'image' else 'name'}",
                )
                report.leave_out(problem, file, _item(what, key))

    def find(self, entry: dict, key: str) -> Any:
        """What the id in an annotation stands for; None if that is reported as a whole."""
        number = id_key(entry.get(key))
        if number in self.gone:
            self.objects[number] += 1
            return None
        if number not in self.values:
            kind = "unknown image" if self.what == "image" else "unknown class"
            text = f"{key} {shown(entry.get(key))} is in none of the file's entries"
            raise InvalidAnnotation(kind, text)
        return self.values[number]

    def report_gone(self, report: Report, file: str) -> None:
        """One line per id that stands for nothing, with the objects that it takes along."""
        for key, problem in self.gone.items():
            report.leave_out(problem, file, _item(self.what, key), objects=self.objects[key])


def _only(group: list[dict], key: int | str, what: str) -> dict:
    title = "file_name" if what == "image" else "name"
    same = (lambda entry: entry) if what == "image" else (lambda entry: entry.get(title))
    if all(same(entry) == same(group[0]) for entry in group):
        return group[0]
    names = ", ".join(shown(entry.get(title)) for entry in group[:3])
    text = f"id {shown(key)} stands for {len(group)} of them ({names}): all are left out"
    raise InvalidAnnotation("ambiguous id", text)


def _size(entry: dict) -> tuple[int, int] | None:
    if entry.get("width") is None and entry.get("height") is None:
        return None
    return _side(entry, "width"), _side(entry, "height")


def _side(entry: dict, key: str) -> int:
    number = id_key(entry.get(key))  # 640.0 and "640" are 640
    return whole(entry.get(key) if number is None else number, key, least=1)


def _candidate(
    entry: dict, number: int | str | None, item: str, name: str, sample: Sample, report: Report
) -> Candidate:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise InvalidAnnotation("no box", f"expected bbox [x, y, width, height], got {shown(box)}")
    x, y, w, h = (finite(value, key) for value, key in zip(box, "xywh", strict=True))
    crowd = flag(entry.get("iscrowd"), "iscrowd")
    more: dict[str, Any] = dict(iscrowd=int(crowd))
    if not crowd and flag(entry.get("ignore"), "ignore"):
        more["iscrowd"] = 1
        report.remark("ignored object", sample.file, item, IGNORED)
    unit = in_unit_range((x, y, w, h))
    if entry.get("area") is not None and not unit:
        try:
            more["area"] = _area(entry["area"])
        except InvalidAnnotation as problem:
            report.remark("area", sample.file, item, f"{problem.text}; that of the box is taken")
    if entry.get("segmentation"):
        try:
            more["segmentation"] = _segmentation(entry["segmentation"], sample.size, (x, y, w, h))
        except InvalidAnnotation as problem:
            text = f"{problem.text}; the mask is left out, the box is kept"
            report.remark("segmentation", sample.file, item, text)
    number = number if _is_number(number) else None
    return Candidate(item, (x, y, w, h), name, more, number, unit_range=unit)


def _area(value: Any) -> float:
    area = finite(value, "area")
    if area <= 0:
        raise InvalidAnnotation("area", f"area {shown(value)}: expected more than 0")
    return area


def _segmentation(value: Any, size: tuple[int, int] | None, box: Sequence[float]) -> Any:
    if isinstance(value, dict):
        counts = value.get("counts")
        counts = _run_lengths(counts) if isinstance(counts, str) else counts
        known = size is not None and value.get("size") == list(size[::-1])
        if known and isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts):
            if sum(counts) == size[0] * size[1]:
                return value
    elif isinstance(value, list) and all(isinstance(polygon, list) for polygon in value):
        if all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in value):
            for polygon in value:
                for coordinate in polygon:
                    finite(coordinate, "segmentation")
            for axis, name in enumerate("xy"):
                places = [place for polygon in value for place in polygon[axis::2]]
                low, high = min(places), max(places)
                if low > box[axis] + box[axis + 2] + 1 or high < box[axis] - 1:
                    text = f"the polygon has {name} from {low:g} to {high:g}, beside its box"
                    raise InvalidAnnotation("segmentation", text)
            return value
    raise InvalidAnnotation(
        "segmentation", f"expected polygons or run lengths of the image, got {shown(value)}"
    )


def _run_lengths(text: str) -> list[int] | None:
    """Run lengths out of COCO's compressed form, which pycocotools reads without any check.

    A character holds five bits of a number, and a sixth if more follow; from the fourth run on, the
    number is the difference to the last but one.
    """
    counts: list[int] = []
    value = shift = 0
    for code in text.encode("utf-8", "replace"):
        bits = code - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts


def _remark_shared_names(names: Mapping[int, str], file: str, report: Report) -> None:
    for name, count in Counter(names.values()).items():
        if count > 1:
            text = f"{count} categories are named {shown(name)}: they are one class"
            report.remark("shared name", file, "", text)


def is_flat(entry: dict) -> bool:
    box = entry.get("bbox")
    return isinstance(box, list) and len(box) == 4 and any(value == 0 for value in box[2:])
