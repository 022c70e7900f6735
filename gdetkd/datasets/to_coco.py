"""From what a reader found to COCO JSON: every image and object is used or reported.

What can be wrong with a box, a class or an image is the same for all layouts and is checked here.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gdetkd.datasets.images import Picture, examine_all
from gdetkd.datasets.orientation import STORED, fits, turn_objects
from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.samples import Candidate, Progress, Sample


@dataclass
class Classes:
    """Which classes there are, and what the user wants renamed or dropped.

    ids: Class name -> COCO's category id, in the order of the labels.
    rename: Name in the files -> name to use.
    drop: Names, in the files or renamed, whose objects are left out.
    dropped: How many objects were left out, by file and name.
    """

    ids: dict[str, int]
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: frozenset[str] = frozenset()
    dropped: Counter = field(default_factory=Counter)

    def find(self, name: str) -> int | None:
        """The category id of a name in the files; None for a class that is dropped.

        Raises:
            InvalidAnnotation: There is no such class; the nearest name is suggested.
        """
        known = self.rename.get(name, name)
        if name in self.drop or known in self.drop:
            return None
        if known not in self.ids:
            lowered = {other.lower(): other for other in self.ids}
            near = difflib.get_close_matches(known.lower(), lowered, 1)
            hint = f"; did you mean {shown(lowered[near[0]])}?" if near else ""
            text = f"{shown(known)} is none of the {len(self.ids)} classes{hint}"
            raise InvalidAnnotation("unknown class", text)
        return self.ids[known]


def to_coco(
    samples: Sequence[Sample],
    classes: Classes,
    root: Path,
    report: Report,
    turned: str | None = None,
    progress: Progress = lambda items, _: items,
    digests: dict[str, bytes] | None = None,
) -> dict:
    """Check the samples against their images and give what can be used, in COCO's format.

    Args:
        samples: Images with their objects; `report.objects_in` has counted them already.
        classes: The classes that are wanted.
        root: Folder that the samples' names are relative to.
        report: Takes every image and object that is left out, and counts what goes out.
        turned: "stored" or "shown": how boxes of turned images are meant where they do not settle
            it (`orientation.turn_objects`).
        progress: Called as ``progress(items, description)``, gives the items back.
        digests: Takes the name of every image file and the digest of its bytes.
    """
    digests = {} if digests is None else digests
    samples = _one_sample_per_file(samples, report)
    samples = _without_fractions(samples, report)
    pictures = examine_all(os.path.join(root, sample.name) for sample in samples)
    fitted = []
    for sample, picture in zip(progress(samples, "images"), pictures, strict=True):
        try:
            _fit_to_picture(sample, picture, turned, report)
        except InvalidAnnotation as problem:
            report.leave_out(problem, sample.file, sample.item, objects=len(sample.objects))
            continue
        fitted.append((sample, picture))
        digests[sample.name] = picture.digest
    if copies := len(digests) - len({*digests.values()}):
        text = f"{copies} of {len(digests)} image files are copies of others under another name"
        report.remark("copied images", samples[0].file, "", text)
    _leave_out_corners(fitted, report)
    images, kept = [], []
    for sample, picture in fitted:
        width, height = picture.width, picture.height
        images.append(dict(id=sample.number, file_name=sample.name, width=width, height=height))
        for candidate in sample.objects:
            try:
                category = classes.find(candidate.name)
                if category is None:
                    classes.dropped[sample.file, candidate.name] += 1
                    continue
                check_box(candidate.box, width, height)
            except InvalidAnnotation as problem:
                report.leave_out(problem, sample.file, candidate.item, objects=1)
                continue
            if min(candidate.box[2:]) < 1 and candidate.unit_range:
                text = f"{_text(candidate.box)}: fractions of the image? Others are in pixels"
                problem = InvalidAnnotation("relative box", text)
                report.leave_out(problem, sample.file, candidate.item, objects=1)
                continue
            if min(candidate.box[2:]) < 1:
                text = f"{_text(candidate.box)}: MMDetection trains on no box under 1 px"
                report.remark("thin box", sample.file, candidate.item, text)
            kept.append((candidate, sample.number, category))
    copies = len(kept) - len({(image, category, c.box) for c, image, category in kept})
    if copies:
        text = f"{copies} objects repeat another one of their image, in class and box"
        report.remark("repeated objects", samples[0].file, "", text)
    report.images_out += len(images)
    report.objects_out += len(kept)
    for (file, name), count in classes.dropped.items():
        report.remark("dropped class", file, "", f"{shown(name)}, as asked for", objects=count)
    classes.dropped.clear()
    categories = [dict(id=number, name=name) for name, number in classes.ids.items()]
    return dict(
        info=dict(description="checked and converted by gdetkd", version="1"),
        images=images,
        annotations=_annotations(kept),
        categories=categories,
    )


def check_box(box: Sequence[float], width: int, height: int) -> None:
    """Raise InvalidAnnotation unless (x, y, w, h) has an area in the image, up to `ROUNDING`."""
    x, y, w, h = box
    if not w > 0 or not h > 0:
        raise InvalidAnnotation("zero area", f"{_text(box)}: expected a width and height above 0")
    right, bottom = min(x + w, width), min(y + h, height)
    if not fits(box, width, height) or right <= max(x, 0) or bottom <= max(y, 0):
        raise InvalidAnnotation("box outside", f"{_text(box)} in an image of {width} x {height}")


def _annotations(kept: list[tuple[Candidate, int, int]]) -> list[dict]:
    """Objects with the ids of their file, if these can serve, else numbered from 1.

    pycocotools takes id 0 for "no match", so it cannot.
    """
    numbers = [candidate.number for candidate, _, _ in kept]
    if any(number is None or number < 1 for number in numbers) or len({*numbers}) < len(numbers):
        numbers = list(range(1, len(kept) + 1))
    entries = []
    for number, (candidate, image, category) in zip(numbers, kept, strict=True):
        usual = dict(area=candidate.box[2] * candidate.box[3], iscrowd=0)
        ids = dict(id=number, image_id=image, category_id=category)
        entries.append(usual | candidate.more | ids | dict(bbox=list(candidate.box)))
    return entries


def _one_sample_per_file(samples: Sequence[Sample], report: Report) -> list[Sample]:
    """Leave out images of one file: which of them its boxes belong to cannot be known."""
    counts = Counter(sample.name for sample in samples)
    kept = []
    for sample in samples:
        if counts[sample.name] == 1:
            kept.append(sample)
            continue
        text = f"{shown(sample.name)} is the file of {counts[sample.name]} images: all are left out"
        problem = InvalidAnnotation("one file, several images", text)
        report.leave_out(problem, sample.file, sample.item, objects=len(sample.objects))
    return kept


def _without_fractions(samples: list[Sample], report: Report) -> list[Sample]:
    """Leave out the objects of a split whose boxes are all within 0 to 1: fractions, not pixels."""
    objects = [candidate for sample in samples for candidate in sample.objects]
    if not objects or not all(candidate.unit_range for candidate in objects):
        return samples
    for file, count in Counter(sample.file for sample in samples for _ in sample.objects).items():
        text = (
            f"all {len(objects)} boxes of the split are within 0 to 1: expected pixels, got "
            "fractions of the image; multiply them by its width and height"
        )
        report.leave_out(InvalidAnnotation("relative boxes", text), file, "", objects=count)
    for sample in samples:
        sample.objects = []
    return samples


def _leave_out_corners(fitted: list[tuple[Sample, Picture]], report: Report) -> None:
    """Leave out the objects of a split whose boxes are two corners where sizes are expected.

    All of them are possible corners, and one reaches out of its image as x, y, width and height.
    """
    outside = total = 0
    for sample, picture in fitted:
        for candidate in sample.objects:
            x, y, right, bottom = candidate.box
            corners = (x, y, right - x, bottom - y)
            if candidate.fractions or min(corners[2:]) <= 0:
                return
            if not fits(corners, picture.width, picture.height):
                return
            total += 1
            outside += not fits(candidate.box, picture.width, picture.height)
    if not outside or total < 2:
        return
    text = (
        f"{outside} of the {total} boxes of the split reach out of their images as x, y, width, "
        "height, and all of them are inside as x1, y1, x2, y2: expected width and height, got "
        "corners"
    )
    counts = Counter(sample.file for sample, _ in fitted for _ in sample.objects)
    for file, count in counts.items():
        report.leave_out(InvalidAnnotation("corners as sizes", text), file, "", objects=count)
    for sample, _ in fitted:
        sample.objects = []


def _fit_to_picture(
    sample: Sample, picture: Picture | InvalidAnnotation, turned: str | None, report: Report
) -> None:
    """Bring a sample's boxes to the pixels of the loaded picture, or raise InvalidAnnotation."""
    if isinstance(picture, InvalidAnnotation):
        raise InvalidAnnotation(picture.kind, f"{sample.name}: {picture.text}")
    if sample.size not in (None, picture.stored, (picture.width, picture.height)):
        raise InvalidAnnotation(
            "image size",
            f"{sample.name}: the annotation says {_pair(sample.size)}, the file "
            f"{_pair((picture.width, picture.height))}",
        )
    for candidate in sample.objects:
        if candidate.fractions:
            _scale(candidate, *_frame(picture, turned))
    masks = [c for c in sample.objects if "segmentation" in c.more]
    reading = turn_objects(sample, picture, turned)
    if lost := sum("segmentation" not in candidate.more for candidate in masks):
        text = f"{lost} masks are run lengths of the stored image: left out, the boxes are kept"
        report.remark("segmentation", sample.file, sample.item, text)
    for kind, text in picture.remarks:
        if kind == "turned image" and reading:
            text += "; boxes are converted from the stored pixels" * (reading == STORED)
            text += "; boxes fit that as they are" * (reading != STORED)
        report.remark(kind, sample.name, sample.item, text)


def _frame(picture: Picture, turned: str | None) -> tuple[int, int]:
    """Width and height that fractions refer to; undecided ones are refused in `turn_objects`."""
    return picture.stored if turned == STORED else (picture.width, picture.height)


def _scale(candidate: Candidate, width: int, height: int) -> None:
    x, y, w, h = candidate.box
    candidate.box = (x * width, y * height, w * width, h * height)
    mask = candidate.more.get("segmentation")
    if mask:
        candidate.more["segmentation"] = [
            [value * (height if place % 2 else width) for place, value in enumerate(polygon)]
            for polygon in mask
        ]


def _pair(size: tuple[int, int]) -> str:
    return f"{shown(size[0])} x {shown(size[1])}"


def _text(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
