"""`gdetkd data own`: a data set with classes of its own, in whichever layout it is found to be."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from gdetkd.datasets.report import InvalidAnnotation, listing, printable, shown
from gdetkd.datasets.samples import LAYOUTS, Layout, RawDataset, Request, register_layout
from gdetkd.datasets.values import files_below, load_json, read_text

FETCH = """\
one of these layouts:
  COCO  {root}/annotations/SPLIT.json (or instances_SPLIT.json), {root}/SPLIT/_annotations.coco.json
        or one .json; images in {root}/SPLIT/, {root}/images/SPLIT/, {root}/images/ or {root}/
  VOC   {root}/Annotations/NAME.xml with {root}/JPEGImages/NAME.jpg and, for splits,
        {root}/ImageSets/Main/SPLIT.txt; or XML files beside the images, in {root}/ or {root}/SPLIT/
  YOLO  {root}/data.yaml with {root}/images/SPLIT/NAME.jpg and {root}/labels/SPLIT/NAME.txt
  CSV   {root}/SPLIT.csv with columns filename, class, xmin, ymin, xmax, ymax"""


def read(request: Request) -> RawDataset:
    """Read with the one layout that is there.

    Raises:
        FileNotFoundError: None is; the message says what there is instead.
        ValueError: Several are.
    """
    found = found_layouts(request.root)
    if not found:
        raise FileNotFoundError(
            f"{request.root}: expected a data set, found {survey(request.root)}; expected "
            + FETCH.format(root=request.root)
        )
    if len(found) > 1:
        there = "; ".join(f"{name}: {text}" for name, text in found.items())
        commands = " or ".join(f"gdetkd data {name}" for name in found)
        raise ValueError(f"{request.root}: several layouts are there ({there}); use {commands}")
    return LAYOUTS[next(iter(found))].read(request)


def found_layouts(root: Path) -> dict[str, str]:
    """Names of the layouts whose files are in a folder, with a description of what was found."""
    texts = {
        name: layout.finds(root)
        for name, layout in LAYOUTS.items()
        if layout.read is not None and layout.name != "own"
    }
    return {name: text for name, text in texts.items() if text}


def survey(root: Path) -> str:
    """What there is in a folder: how many files of which kind, and where."""
    counts = Counter(
        (os.path.splitext(file)[1].lower() or "no suffix", os.path.dirname(file) or ".")
        for file in files_below(root, ("",))
    )
    parts = [f"{count} files {suffix} in {folder}/" for (suffix, folder), count in
             counts.most_common(5)]  # fmt: skip
    tables = files_below(root, (".csv", ".tsv", ".json"), depth=1)[:3]
    return ", ".join(parts + [_content(root, file) for file in tables]) or "an empty folder"


def _content(root: Path, file: str) -> str:
    """What a table or JSON file begins with: neither was taken for one of boxes."""
    try:
        if file.lower().endswith(".json"):
            content = load_json(root / file)
            keys = list(content) if isinstance(content, dict) else []
            return f"{file} with {f'the keys {listing(keys)}' if keys else shown(content)}"
        return f"{file} that begins with {shown(read_text(root / file).partition(chr(10))[0], 90)}"
    except InvalidAnnotation as problem:
        return f"{file} ({printable(str(problem))})"


register_layout(
    Layout(
        "own",
        "Verify and convert own data, in whichever of these layouts it is.",
        FETCH,
        read=read,
        finds=lambda root: None,
        flags=dict(zero_based="VOC's XML files count pixels from 0, not from 1."),
    )
)
