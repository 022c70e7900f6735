"""YOLO's layout: a text file per image, lines `class cx cy w h` or `class x1 y1 x2 y2 ...`.

Numbers are fractions of the image's width and height. A data.yaml names the classes and the folders
or lists of images of each split; labels lie in the folder whose path has `labels` for `images`, or
beside the images. An image without a label file has no objects.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gdetkd.datasets.image_index import ImageIndex
from gdetkd.datasets.report import InvalidAnnotation, Report, listing, shown
from gdetkd.datasets.samples import Candidate, Layout, RawDataset, Request, Sample, register_layout
from gdetkd.datasets.splits import ROLES, role
from gdetkd.datasets.values import files_below, id_key, is_image, number_in, read_text

EXPECTS = """\
{root}/data.yaml with `names` and `train`, `val` (folders or lists of images), or
        {root}/images/SPLIT/NAME.jpg or {root}/SPLIT/images/NAME.jpg; labels/ beside images/"""
NAME_LISTS = ("classes.txt", "obj.names", "labels/classes.txt")
NO_LABELS = ("classes.txt", "obj.names", "train.txt", "val.txt", "valid.txt", "test.txt")


def read(request: Request) -> RawDataset:
    """Every split of data in YOLO's layout; names from data.yaml, classes.txt or the user."""
    root, report = request.root, request.report
    try:
        file, content = _data_yaml(root, report)
        names = _names(root, file, content, report) or list(request.classes or [])
        extra = _keypoint_fields(content)
        places = _splits(root, content or _lists(root), report) or _split_folders(root)
    except InvalidAnnotation as problem:
        report.leave_out(problem, "data.yaml")
        return RawDataset()
    if not names:
        raise ValueError(
            "YOLO's labels: expected a data.yaml or classes.txt, or --classes NAME,..."
        )
    labels = _Labels(root, names, extra, report)
    splits = {split: labels.samples(images) for split, images in places.items()}
    if len(names) in labels.seen and 0 not in labels.seen:
        _leave_out_shifted(splits, names, report)
    _report_orphans(root, labels.files, report)
    return RawDataset(splits, list(dict.fromkeys(names)))


def _data_yaml(root: Path, report: Report | None = None) -> tuple[str, dict]:
    """The YAML file with names or splits in it, and its content; nothing where there is none."""
    found = {}
    for file in files_below(root, (".yaml", ".yml"), depth=0):
        text = read_text(root / file)
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise InvalidAnnotation("no YAML", f"{file}: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            continue
        content = {str(key).lower(): value for key, value in content.items()}
        if {"names", "train", "val"} & content.keys():
            found[file] = content
    usual = [file for file in found if os.path.splitext(file)[0].lower() in ("data", "dataset")]
    taken = usual or list(found)
    if len(taken) > 1:
        raise InvalidAnnotation("several files", f"expected one, got {', '.join(taken)}")
    for file in found.keys() - {*taken} if report else ():
        report.remark("other content", file, "", f"passed over: {taken[0]} is taken")
    return (taken[0], found[taken[0]]) if taken else ("data.yaml", {})


def _names(root: Path, file: str, content: dict, report: Report) -> list[str] | None:
    names = content.get("names")
    if isinstance(names, dict):
        numbered = {id_key(number): name for number, name in names.items()}
        if numbered.keys() != {*range(len(names))}:
            text = f"names: expected the numbers 0 to {len(names) - 1}, got {listing([*names])}"
            raise InvalidAnnotation("layout", text)
        names = [numbered[number] for number in range(len(names))]
    lists = [other for other in NAME_LISTS if os.path.isfile(root / other)]
    listed = read_text(root / lists[0]).splitlines() if lists else []
    listed = [line.strip() for line in listed if line.strip()]
    if names is None:
        return listed or None
    plain = isinstance(names, list) and all(type(name) in (str, int) for name in names)
    if not plain:
        text = f"names: expected a list of names, got {names}"[:120]
        raise InvalidAnnotation("layout", f"{text} (YAML reads a bare yes or no as true or false)")
    names = [str(name).strip() for name in names]
    if content.get("nc") not in (None, len(names)):
        text = f"nc is {shown(content['nc'])}, names has {len(names)}"
        report.remark("number of classes", file, "", text)
    if listed and listed != names:
        text = f"its names are not those of {file}, which are taken"
        report.remark("other names", lists[0], "", text)
    for name, count in Counter(names).items():
        if count > 1:
            text = f"{count} numbers are named {shown(name)}: they are one class"
            report.remark("shared name", file, "", text)
    return names


def _keypoint_fields(content: dict) -> int:
    """How many fields of keypoints follow a box, as kpt_shape says."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or {*map(type, shape)} != {int}:
        text = f"kpt_shape: expected two whole numbers, got {shown(shape)}"
        raise InvalidAnnotation("layout", text)
    return shape[0] * shape[1]


def _splits(root: Path, content: dict, report: Report) -> dict[str, list[str]]:
    """Split -> its images, as data.yaml says; paths that lead nowhere are reported."""
    found, index = {}, ImageIndex(root)
    for split in (key for key in content if key in ROLES):
        value = content.get(split)
        entries = value if isinstance(value, list) else [value] if value else []
        if not all(isinstance(entry, str) for entry in entries):
            raise InvalidAnnotation("layout", f"{split}: expected paths, got {shown(value)}")
        try:
            found[split] = [i for entry in entries for i in _images(index, entry, content, split)]
        except InvalidAnnotation as problem:
            if role(split) != "test":  # exports often name one that they do not hold
                raise
            report.remark(problem.kind, "data.yaml", split, problem.text)
        if not entries:
            del found[split]
    return found


def _lists(root: Path) -> dict[str, str]:
    """Lists of images named after splits, which Darknet's layout has in place of a data.yaml."""
    files = files_below(root, (".txt",), depth=0)
    return {os.path.splitext(file)[0].lower(): file for file in files if file.lower() in NO_LABELS}


def _images(index: ImageIndex, entry: str, content: dict, split: str) -> list[str]:
    """Images of a folder or list: below `path`, as it stands, or by the end of a foreign path."""
    root = index.root
    base = content.get("path") if isinstance(content.get("path"), str) else ""
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    ends = [os.path.join(*parts[at:]) for at in range(len(parts)) if len(parts) - at > 1 or not at]
    for path in (os.path.join(base, entry), entry, *ends):
        place = os.path.normpath(os.path.join(root, path))
        below = os.path.relpath(place, root)
        if below.split(os.sep)[0] == "..":
            continue
        if os.path.isdir(place):
            names = files_below(Path(place), ("",), depth=3)
            return [os.path.normpath(os.path.join(below, name)) for name in names if is_image(name)]
        if os.path.isfile(place):
            lines = [line.strip() for line in read_text(Path(place)).splitlines() if line.strip()]
            return [index.find(line, ("", os.path.dirname(below)), split) for line in lines]
    raise InvalidAnnotation("missing split", f"{shown(entry)}: no such folder or list below {root}")


def _split_folders(root: Path) -> dict[str, list[str]]:
    """Without a data.yaml: images by the split that is in their path, or all as one split."""
    found: dict[str, list[str]] = {}
    for image in (name for name in files_below(root, ("",)) if is_image(name)):
        split = next((part for part in image.split(os.sep)[:-1] if role(part)), "all")
        found.setdefault(split, []).append(image)
    return found


@dataclass
class _Labels:
    """Reads label files; `files` are those read so far, `seen` the numbers of classes in them."""

    root: Path
    names: list[str]
    extra: int
    report: Report
    files: set[str] = field(default_factory=set)
    seen: set[float] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.texts = {file.lower(): file for file in files_below(self.root, (".txt",), depth=5)}

    def samples(self, images: list[str]) -> list[Sample]:
        self.report.images_in += len(images)
        files = {image: self._file(image) for image in images}
        counts, samples, read = Counter(files.values()), [], set()
        for number, image in enumerate(images, start=1):
            file = files[image]
            sample = Sample(number, image, file or image, f"image {os.path.basename(image)}", None)
            samples.append(sample)
            if file is None or image in read:
                continue  # an image that is listed twice is reported as such
            self.files.add(file)
            read.add(image)
            try:
                lines = read_text(self.root / file).splitlines()
                if file not in read:
                    self._read(sample, lines)
                read.add(file)
                if counts[file] > 1:
                    text = f"{file} is that of {counts[file]} images: all are left out"
                    raise InvalidAnnotation("one label file, several images", text)
            except InvalidAnnotation as problem:
                self.report.leave_out(problem, file, sample.item, objects=len(sample.objects))
                samples.pop()
        return samples

    def _file(self, image: str) -> str | None:
        """Labels for images in its path, the last one counts; else beside it or below labels/."""
        parts = (os.path.splitext(image.lower())[0] + ".txt").split(os.sep)
        for place in reversed(range(len(parts) - 1)):
            if parts[place] == "images":
                parts[place] = "labels"
                return self.texts.get(os.path.join(*parts))
        pool = self.texts.get(os.path.join("labels", *parts))
        return pool or self.texts.get(os.path.join(*parts))

    def _read(self, sample: Sample, lines: list[str]) -> None:
        for place, line in enumerate(lines, start=1):
            if not (fields := line.split()):
                continue
            self.report.objects_in += 1
            try:
                candidate = _candidate(fields, f"line {place}", self.names, self.extra, self.seen)
                sample.objects.append(candidate)
            except InvalidAnnotation as problem:
                self.report.leave_out(problem, sample.file, f"line {place}", objects=1)


def _leave_out_shifted(splits: dict[str, list[Sample]], names: list[str], report: Report) -> None:
    """Numbers from 1 to the count of names, and no 0: who counts from 1 means other names."""
    for split, samples in splits.items():
        text = (
            f"no class 0, but a class {len(names)} of {len(names)} names: the files seem to count "
            "classes from 1, YOLO counts from 0; take 1 off their numbers"
        )
        count = sum(len(sample.objects) for sample in samples)
        report.leave_out(InvalidAnnotation("shifted classes", text), split, "", objects=count)
        for sample in samples:
            sample.objects = []


def _candidate(
    fields: list[str], item: str, names: list[str], extra: int, seen: set[float]
) -> Candidate:
    if extra and len(fields) == 5 + extra:
        fields = fields[:5]
    if len(fields) != 5 and (extra or len(fields) < 7 or len(fields) % 2 == 0):
        text = f"expected 5 numbers, or a class and a polygon, got {len(fields)} fields"
        raise InvalidAnnotation("no box", text)
    label, *values = (number_in(text, "value") for text in fields)
    seen.add(label)
    if label != int(label) or not 0 <= label < len(names):
        text = f"class {fields[0][:20]}: expected a number from 0 to {len(names) - 1}"
        raise InvalidAnnotation("unknown class", text)
    if max(abs(value) for value in values) > 2:
        text = (
            f"expected fractions of the image, got {', '.join(fields[1:5])[:60]}: are these pixels?"
        )
        raise InvalidAnnotation("no fractions", text)
    more: dict[str, Any] = {}
    if len(values) == 4:
        cx, cy, w, h = values
        box = (cx - w / 2, cy - h / 2, w, h)
    else:
        xs, ys = values[::2], values[1::2]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        more["segmentation"] = [values]
    return Candidate(item, box, names[int(label)], more, fractions=True)


def _report_orphans(root: Path, read_files: set[str], report: Report) -> None:
    """Label files that belong to no image of any split: their objects are reported."""
    for file in files_below(root, (".txt",)):
        folder, name = os.path.split(file)
        in_labels = "labels" in folder.lower().split(os.sep)
        if file in read_files or name.lower() in NO_LABELS or not in_labels:
            continue
        try:
            count = sum(bool(line.strip()) for line in read_text(root / file).splitlines())
        except InvalidAnnotation:
            count = 0
        report.objects_in += count
        problem = InvalidAnnotation("no image", "no split has an image for these labels")
        report.leave_out(problem, file, "", objects=count)


def finds(root: Path) -> str | None:
    """Whether a data.yaml, or labels/ with text files beside images/, lie there."""
    try:
        file, content = _data_yaml(root)
    except InvalidAnnotation:
        return "a data.yaml"
    if content:
        return file
    texts = [file for file in files_below(root, (".txt",)) if _is_label(root, file)]
    return f"{len(texts)} label files, such as {texts[0]}" if texts else None


def _is_label(root: Path, file: str) -> bool:
    folder, name = os.path.split(file)
    if name.lower() in NO_LABELS or "ImageSets" in folder:
        return False
    if "labels" in folder.lower().split(os.sep):
        return True
    stem = os.path.splitext(file)[0]
    if not any(os.path.isfile(root / (stem + suffix)) for suffix in (".jpg", ".png", ".jpeg")):
        return False
    try:
        _candidate(
            read_text(root / file).partition("\n")[0].split(), "line 1", [""] * 1000, 0, set()
        )
    except InvalidAnnotation:
        return False
    return True


register_layout(
    Layout(
        "yolo",
        "Convert own data in YOLO's layout: a text file per image, and a data.yaml.",
        EXPECTS,
        read=read,
        finds=finds,
    )
)
