"""What a reader hands over: splits of images with their objects, as the files of a layout say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdetkd.datasets.report import Report

Progress = Callable[[Iterable, str], Iterable]


@dataclass
class Candidate:
    """An object as its file states it.

    item: What the report calls it, such as "annotation 7".
    box: (x, y, width, height) in pixels, or in fractions of the image where `fractions` is True.
    name: Its class, by the name that the file has.
    more: Further COCO fields: iscrowd, area, segmentation.
    number: Its id in the file, if it has one.
    fractions: Box and polygons are fractions of the image's width and height.
    unit_range: It ought to be in pixels, but all of its coordinates lie within 0 to 1.
    """

    item: str
    box: tuple[float, float, float, float]
    name: str
    more: dict[str, Any] = field(default_factory=dict)
    number: int | None = None
    fractions: bool = False
    unit_range: bool = False


@dataclass
class Sample:
    """An image as its file states it.

    number: Its id, unique in the split.
    name: Its file, relative to the root of the data set.
    file, item: Where the annotation is, for the report.
    size: Width and height that the annotation states, if it does.
    edge: 1 where a box ends on its last pixel, as VOC's do: its width lacks that pixel. Else 0.
    """

    number: int
    name: str
    file: str
    item: str
    size: tuple[int, int] | None
    objects: list[Candidate] = field(default_factory=list)
    edge: int = 0


@dataclass
class RawDataset:
    """What a reader found: the samples of each split, and the class names that files declare.

    names: In the order of their numbers; None where the layout has no list of classes.
    """

    splits: dict[str, list[Sample]] = field(default_factory=dict)
    names: list[str] | None = None


@dataclass(frozen=True)
class Request:
    """The request to a reader.

    root: Where the data set lies.
    report: Takes what cannot be used; the reader counts images and objects of the files in it.
    classes: The user's class names, if any, for files that number their classes only.
    flags: Names of the layout's flags that are set, such as "zero_based".
    """

    root: Path
    report: Report
    classes: Sequence[str] | None = None
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Layout:
    """One row: a data layout, from which its command, options and dataset config follow.

    name: Of the command: `gdetkd data NAME`.
    help: One line that says what the command does.
    expects: Which files it wants where, or what to fetch; `{root}` stands for the folder.
    read: Reads data with the user's own classes; None where the layout has fixed classes.
    read_release: Reads the public release; None for a layout that has none.
    classes: Of the release: category id -> name, in the order of the labels.
    finds: Whether data of this layout lie in a folder: a short description, or None.
    root: Where the release lies by default.
    config: The base config in gdetkd/configs/_base_ that evaluates the release by its own rules.
    metric_reads_file: Whether the metric in it reads an annotation file; VOCMetric does not.
    flags: Further switches of the command: name -> help text.
    differs: Why the files of a split cannot be used where they are, given the checked content;
        None if they can. A layout without it is always converted.
    files: Of a split: annotation file and image folder that are used where `differs` gives None.
    """

    name: str
    help: str
    expects: str
    read: Callable[[Request], RawDataset] | None = None
    read_release: Callable[[Request], RawDataset] | None = None
    classes: Mapping[int, str] | None = None
    finds: Callable[[Path], str | None] = lambda root: None
    root: str | None = None
    config: str | None = None
    metric_reads_file: bool = True
    flags: Mapping[str, str] = field(default_factory=dict)
    differs: Callable[[Path, str, dict], str | None] | None = None
    files: Callable[[str], tuple[str, str]] | None = None


LAYOUTS: dict[str, Layout] = {}


def register_layout(layout: Layout) -> Layout:
    """Make a layout known: to `gdetkd data`, to `prepare`, and to the search of `gdetkd data own`.

    Raises:
        ValueError: Another layout has that name, or it reads nothing.
    """
    if layout.name in LAYOUTS and LAYOUTS[layout.name] != layout:
        raise ValueError(f"layout {layout.name!r}: expected a new name, there is one already")
    if layout.read is None and (layout.read_release is None or layout.classes is None):
        raise ValueError(
            f"layout {layout.name!r}: expected `read`, or `read_release` with `classes`"
        )
    LAYOUTS[layout.name] = layout
    return layout
