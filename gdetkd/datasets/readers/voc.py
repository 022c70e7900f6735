"""PASCAL VOC's layout: XML files, in Annotations/ or beside the images, and ImageSets/Main/*.txt.

Coordinates are handled as MMDetection's VOCDataset and the devkit do: VOC counts pixels from 1 and
includes the last one, so 1 is taken off all four and fractions are cut off. A box of COCO then
spans [xmin - 1, ymin - 1] to [xmax - 1, ymax - 1]; its width lacks the pixel that the devkit, and
VOCMetric with it, add again (`xmax - xmin + 1`) when they compute an IoU. Objects marked
`difficult` become `iscrowd`: neither trained on nor counted, by VOCMetric and pycocotools.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from gdetkd.datasets.image_index import ImageIndex
from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.samples import Layout, RawDataset, Request, Sample, register_layout
from gdetkd.datasets.splits import ROLES, role
from gdetkd.datasets.values import files_below, inside, is_image, read_text
from gdetkd.datasets.voc_xml import fill, load_xml

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
SPLITS = {"trainval07": "trainval", "test2007": "test"}
# Images of VOC2007, http://host.robots.ox.ac.uk/pascal/VOC/voc2007/dbstats.html
IMAGES = {"trainval07": 5_011, "test2007": 4_952}
LISTS = os.path.join("ImageSets", "Main")
LIST_FOLDERS = ("main", "", "layout", "segmentation")  # below ImageSets/, the first that has lists
FETCH = """\
from http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, both unpacked into the same folder {root}:
  VOCtrainval_06-Nov-2007.tar  460 MB  MD5 c52e279531787c972589f7e41ab4ae64
  VOCtest_06-Nov-2007.tar      451 MB  MD5 b6e924de25625d8de591ea690078ad9f
  -> {root}/VOC2007/{{Annotations,ImageSets,JPEGImages}}/"""


def read_release(request: Request) -> RawDataset:
    """trainval07 and test2007 of VOCdevkit/ (or of the VOC2007/ in it)."""
    root, report = request.root, request.report
    folder = "VOC2007" if os.path.isdir(root / "VOC2007") else ""
    found, images = RawDataset(), ImageIndex(root)
    for split, name in SPLITS.items():
        file = os.path.join(folder, LISTS, f"{name}.txt")
        if not os.path.isfile(root / file):
            report.leave_out(InvalidAnnotation("missing split", "there is no such file"), file)
            continue
        place = os.path.join(folder, "Annotations")
        found.splits[split] = _read_list(request, images, place, file, split)
        if len(found.splits[split]) != IMAGES[split]:
            text = (
                f"{len(found.splits[split])} images, the release has {IMAGES[split]}: part of it?"
            )
            report.remark("another count", file, "", text)
    _remark_zero_based(found, report)
    return found


def read(request: Request) -> RawDataset:
    """Every split of own data.

    Splits are the lists in ImageSets/Main or ImageSets, else what folders of XML files, or those
    that they lie in, are named after; without either, all files are one split.
    """
    root, report, found = request.root, request.report, RawDataset()
    images = ImageIndex(root)
    folders = _xml_folders(root)
    lists = _lists(root, folders[0]) if len(folders) == 1 else {}
    for split, file in lists.items():
        found.splits[split] = _read_list(request, images, folders[0], file, split)
    if not lists:
        for folder in folders:
            split = next((part for part in reversed(folder.split(os.sep)) if role(part)), "all")
            files = files_below(root / folder, (".xml",), depth=0)
            entries = [(os.path.splitext(file)[0], os.path.join(folder, file)) for file in files]
            samples = found.splits.setdefault(split, [])
            first = samples[-1].number + 1 if samples else 1
            samples += _read_files(request, images, folder, entries, split, first)
    _remark_unlisted(root, folders, found, report)
    _remark_zero_based(found, report)
    return found


def _remark_unlisted(root: Path, folders: list[str], found: RawDataset, report: Report) -> None:
    """XML files that no list names, and those of a second devkit, are not read: say how many."""
    listed = {sample.file for samples in found.splits.values() for sample in samples}
    listed |= {problem.file for problem in report.problems}
    unlisted = [file for file in files_below(root, (".xml",)) if file not in listed]
    for place, count in Counter(map(os.path.dirname, unlisted)).items():
        text = f"{count} XML files are in no list in ImageSets/: neither trained nor tested on"
        if place not in folders:
            text = (
                f"{count} XML files beside {folders[0]}/ are not read: give their folder as --root"
            )
        report.remark("unlisted", place or ".", "", text)


def _xml_folders(root: Path) -> list[str]:
    """Folders that hold XML files; VOC2007/Annotations alone, where a devkit is."""
    folders = sorted({os.path.dirname(file) for file in files_below(root, (".xml",))})
    standard = [folder for folder in folders if _is_standard(folder)]
    newest = [folder for folder in standard if folder == os.path.join("VOC2007", "Annotations")]
    return newest or standard or folders


def _is_standard(folder: str) -> bool:
    return os.path.basename(folder).lower() == "annotations"


def _lists(root: Path, folder: str) -> dict[str, str]:
    """Split -> its list of images; lists of one class (lines end with -1, 0 or 1) are no splits."""
    base = os.path.dirname(folder)
    files = [os.path.join(base, file) for file in files_below(root / base, (".txt",), depth=2)]
    for name in LIST_FOLDERS:
        wanted = os.path.normpath(os.path.join(base, "imagesets", name)).lower()
        found = {}
        for file in files:
            stem = os.path.splitext(os.path.basename(file))[0]
            if os.path.dirname(file).lower() == wanted and (
                stem.lower() in ROLES or not _is_class_list(root / file)
            ):
                found[stem] = file
        if found:
            return {stem: file for stem, file in found.items() if role(stem)} or found
    return {}


def _is_class_list(path: Path) -> bool:
    try:
        line = next((line for line in read_text(path).split("\n") if line.strip()), "")
    except InvalidAnnotation:
        return False
    parts = line.split()
    return len(parts) == 2 and parts[1] in ("-1", "0", "1")


def _read_list(
    request: Request, images: ImageIndex, folder: str, file: str, split: str
) -> list[Sample]:
    """The images of a list: a text file with the name of an image a line, or its path."""
    root, report = request.root, request.report
    try:
        lines = [line.strip() for line in read_text(root / file).splitlines() if line.strip()]
    except InvalidAnnotation as problem:
        report.leave_out(problem, file)
        return []
    files = {os.path.splitext(name)[0]: name for name in files_below(root / folder, (".xml",))}
    names: dict[str, str] = {}
    for place, line in enumerate(lines, start=1):
        base = os.path.basename(line)
        stems = (line, os.path.splitext(line)[0], base, os.path.splitext(base)[0])
        name = next((stem for stem in stems if stem in files), line)
        if name in names:
            report.images_in += 1
            problem = InvalidAnnotation("duplicate id", f"image {shown(name)} is listed twice")
            report.leave_out(problem, file, f"line {place}")
        else:
            names[name] = files.get(name, f"{name}.xml")
    entries = [(name, os.path.join(folder, file)) for name, file in names.items()]
    return _read_files(request, images, folder, entries, split)


def _read_files(
    request: Request, images: ImageIndex, folder: str, entries: list[tuple[str, str]], split: str,
    first: int = 1,
) -> list[Sample]:  # fmt: skip
    """Read XML files, given as title and path relative to the root; numbers count from `first`."""
    root, report = request.root, request.report
    report.images_in += len(entries)
    samples: list[Sample] = []
    places = _image_folders(root, folder)
    for place, (name, path) in enumerate(entries, start=first):
        item = f"image {name}"
        try:
            path = inside("", path)
            if folder and not path.startswith(folder + os.sep):
                raise InvalidAnnotation(
                    "file name", f"expected a path inside the data set, got {shown(name)}"
                )
            tree = load_xml(root / path)
        except InvalidAnnotation as problem:
            report.leave_out(problem, path, item)
            continue
        sample = Sample(place, "", path, item, None, edge=1)
        if fill(sample, tree, report, zero_based="zero_based" in request.flags):
            try:
                stem = os.path.splitext(os.path.relpath(path, folder or "."))[0]
                stated = re.split(r"[/\\]", (tree.findtext("filename") or "").strip())[-1]
                sample.name = _image(images, stem, stated, places, split, sample, report)
                samples.append(sample)
            except InvalidAnnotation as problem:
                report.leave_out(problem, path, item, objects=len(sample.objects))
    images.report_elsewhere(folder or ".", report)
    return samples


def _image_folders(root: Path, folder: str) -> list[str]:
    """Where the images of a folder of XML files may lie, the likely places first."""
    parent, name = os.path.split(folder)
    grand = os.path.dirname(parent)
    places = [os.path.join(parent, "JPEGImages"), os.path.join(parent, "images"), folder]
    if grand != parent:  # annotations/train/ beside images/train/
        places += [os.path.join(grand, pool, name) for pool in ("JPEGImages", "images")]
    places += [os.path.join(parent, "Images"), os.path.join(parent, "img"), parent]
    return [place for place in places if os.path.isdir(root / place)]


def _image(
    images: ImageIndex, stem: str, stated: str, places: list[str], split: str, sample: Sample,
    report: Report,
) -> str:  # fmt: skip
    """The image of the XML file's name; where there is none, the one that <filename> states."""
    differs = is_image(stated) and os.path.splitext(stated)[0] != stem
    found = images.lookup(stem, places, split, prefer=stated)
    if found is None and differs:
        found = images.lookup(stated, places, split)
    elif differs and any(os.path.lexists(images.root / place / stated) for place in places):
        text = f"says {shown(stated)}, an image of its own; that of the XML file's name is taken"
        report.remark("filename", sample.file, sample.item, text)
    if found is None:
        where = ", ".join(f"{place or '.'}/" for place in places) or "any folder"
        raise InvalidAnnotation("no image", f"no image is named {shown(stem)}.* in {where}")
    return found


def _remark_zero_based(found: RawDataset, report: Report) -> None:
    """VOC counts from 1: a box that starts at 0 proves files that count from 0."""
    for split, samples in found.splits.items():
        proofs = [
            s for s in samples if any(min(c.box[:2]) == -1 and not c.unit_range for c in s.objects)
        ]
        if proofs:
            text = (
                f"{len(proofs)} images have a box that starts at 0, such as {proofs[0].item}; VOC "
                "counts from 1, so these files count from 0: repeat with --zero-based, or boxes "
                "lie a pixel too far up and left"
            )
            report.remark("zero-based boxes", proofs[0].file, split, text)


def finds(root: Path) -> str | None:
    """Whether XML files of annotations lie there."""
    for folder in _xml_folders(root):
        files = files_below(root / folder, (".xml",), depth=0)
        if _is_standard(folder) or any(_is_annotation(root / folder / file) for file in files[:5]):
            return f"{len(files)} XML files in {folder or '.'}/"
    return None


def _is_annotation(path: Path) -> bool:
    try:
        return b"<annotation" in path.read_bytes()[:8192].replace(b"\0", b"").lower()
    except OSError:
        return False


register_layout(
    Layout(
        "voc07",
        "Verify and convert VOC2007, or own data in its layout.",
        FETCH,
        read=read,
        read_release=read_release,
        classes=dict(enumerate(CLASSES, start=1)),
        finds=finds,
        root="data/VOCdevkit",
        config="voc07.py",
        metric_reads_file=False,
        flags=dict(zero_based="Own XML files count pixels from 0, not from 1 as VOC does."),
    )
)
