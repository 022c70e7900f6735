"""YOLO's layout: a text file per image, lines `class cx cy w h` or `class x1 y1 x2 y2 ...`.

Numbers are fractions of the image's width and height. A data.yaml names the classes and the folders
or lists of images of each split; labels lie in the folder whose path has `labels` for `images`, or
beside the images. An image without a label file has no objects.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.samples import Candidate, Layout, RawDataset, Request, Sample, register_layout
from gdetkd.datasets.splits import role
from gdetkd.datasets.values import files_below, inside, is_image, number_in, read_text

EXPECTS = """\
{root}/data.yaml with `names` and `train`, `val` (folders or lists of images), or
        {root}/images/SPLIT/NAME.jpg or {root}/SPLIT/images/NAME.jpg; labels/ beside images/"""
NO_LABELS = ("classes.txt", "obj.names", "train.txt", "val.txt", "valid.txt", "test.txt")


def read(request: Request) -> RawDataset:
    """Every split of data in YOLO's layout; names from data.yaml, classes.txt or the user."""
    root, report = request.root, request.report
    try:
        file, content = _data_yaml(root)
        names = _names(root, content) or list(request.classes or [])
        places = _splits(root, file, content) or _split_folders(root)
    except InvalidAnnotation as problem:
        report.leave_out(problem, "data.yaml")
        return RawDataset()
    if not names:
        raise ValueError(
            "YOLO's labels: expected a data.yaml or classes.txt, or --classes NAME,..."
        )
    if content.get("nc") not in (None, len(names)):
        text = f"nc is {shown(content['nc'])}, names has {len(names)}"
        report.remark("number of classes", file, "", text)
    found = RawDataset(names=list(dict.fromkeys(names)))
    read_files: set[str] = set()
    for split, images in places.items():
        found.splits[split] = _samples(root, images, names, report, read_files)
    _report_orphans(root, read_files, report)
    return found


def _data_yaml(root: Path) -> tuple[str, dict]:
    """The YAML file with names or splits in it, and its content; nothing where there is none."""
    for file in files_below(root, (".yaml", ".yml"), depth=0):
        text = read_text(root / file)
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise InvalidAnnotation("no YAML", f"{file}: {' '.join(str(error).split())}") from error
        if isinstance(content, dict) and ({"names", "train", "val"} & content.keys()):
            return file, content
    return "data.yaml", {}


def _names(root: Path, content: dict) -> list[str] | None:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            text = (
                f"names: expected the numbers 0 to {len(names) - 1}, got {shown(list(names)[:5])}"
            )
            raise InvalidAnnotation("layout", text)
        names = [names[number] for number in range(len(names))]
    if names is None:
        for file in ("classes.txt", "obj.names", "labels/classes.txt"):
            if os.path.isfile(root / file):
                lines = read_text(root / file).splitlines()
                return [line.strip() for line in lines if line.strip()]
        return None
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise InvalidAnnotation("layout", f"names: expected a list of names, got {shown(names)}")
    return [str(name).strip() for name in names]


def _splits(root: Path, file: str, content: dict) -> dict[str, list[str]]:
    """Split -> its images, as data.yaml says; paths that lead nowhere are reported."""
    found = {}
    for split in ("train", "val", "valid", "test"):
        value = content.get(split)
        entries = value if isinstance(value, list) else [value] if value else []
        if not all(isinstance(entry, str) for entry in entries):
            raise InvalidAnnotation("layout", f"{split}: expected paths, got {shown(value)}")
        images = [image for entry in entries for image in _images(root, entry, content)]
        if entries and (images or split != "test"):
            found[split] = images
    return found


def _images(root: Path, entry: str, content: dict) -> list[str]:
    """Images of a folder or list: below `path`, as it stands, or by the end of a foreign path."""
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
            return [_listed(root, below, line) for line in lines]
    raise InvalidAnnotation("missing split", f"{shown(entry)}: no such folder or list below {root}")


def _listed(root: Path, file: str, line: str) -> str:
    """An image of a list: relative to the root or the list's folder, or a path from elsewhere."""
    parts = line.replace("\\", "/").removeprefix("./").split("/")
    for start in range(len(parts)):
        for folder in ("", os.path.dirname(file)):
            path = os.path.join(folder, *parts[start:])
            if os.path.isfile(root / path):
                return path
    return inside("", "/".join(part for part in parts if part not in ("", ".", "..")) or "none")


def _split_folders(root: Path) -> dict[str, list[str]]:
    """Without a data.yaml: images by the split that is in their path, or all as one split."""
    found: dict[str, list[str]] = {}
    for image in (name for name in files_below(root, ("",)) if is_image(name)):
        split = next((part for part in image.split(os.sep)[:-1] if role(part)), "all")
        found.setdefault(split, []).append(image)
    return found


def _label_file(root: Path, image: str) -> str:
    """Labels for images in its path, the last one counts; else beside the image."""
    parts = image.split(os.sep)
    stem = os.path.splitext(parts[-1])[0] + ".txt"
    for place in reversed(range(len(parts) - 1)):
        if parts[place].lower() == "images":
            return os.path.join(*parts[:place], "labels", *parts[place + 1 : -1], stem)
    beside = os.path.join(*parts[:-1], stem)
    pool = os.path.join("labels", *parts[:-1], stem)
    return pool if os.path.isfile(root / pool) else beside


def _samples(
    root: Path, images: list[str], names: list[str], report: Report, read_files: set[str]
) -> list[Sample]:
    report.images_in += len(images)
    samples = []
    for number, image in enumerate(images, start=1):
        file = _label_file(root, image)
        sample = Sample(number, image, file, f"image {os.path.basename(image)}", None)
        samples.append(sample)
        if file in read_files:
            continue  # the image is listed twice, which is reported as such
        read_files.add(file)
        if not os.path.lexists(root / file):
            sample.file = image
            continue
        try:
            lines = read_text(root / file).splitlines()
        except InvalidAnnotation as problem:
            report.leave_out(problem, file)
            samples.pop()
            continue
        _read_lines(sample, lines, names, report)
    return samples


def _read_lines(sample: Sample, lines: list[str], names: list[str], report: Report) -> None:
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        report.objects_in += 1
        try:
            sample.objects.append(_candidate(line.split(), f"line {place}", names))
        except InvalidAnnotation as problem:
            report.leave_out(problem, sample.file, f"line {place}", objects=1)


def _candidate(fields: list[str], item: str, names: list[str]) -> Candidate:
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        text = f"expected 5 numbers, or a class and a polygon, got {len(fields)} fields"
        raise InvalidAnnotation("no box", text)
    label, *values = (number_in(text, "value") for text in fields)
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
        _candidate(read_text(root / file).partition("\n")[0].split(), "line 1", [""] * 1000)
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
