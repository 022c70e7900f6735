"""Tables of boxes: a CSV file with a row per object, as spreadsheets and several tools write them.

Columns are found by their names, whatever their order: the image's file, the class, and either two
corners (xmin, ymin, xmax, ymax) or x, y, width, height, in pixels. A table without a header has the
six columns path, x1, y1, x2, y2, class. A row with an image alone is one without objects.
"""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

from gdetkd.datasets.image_index import ImageIndex
from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.samples import Candidate, Layout, RawDataset, Request, Sample, register_layout
from gdetkd.datasets.splits import role
from gdetkd.datasets.values import (
    IGNORED,
    files_below,
    flag,
    in_unit_range,
    is_image,
    number_in,
    read_text,
)

EXPECTS = """\
{root}/SPLIT.csv or one .csv with a column `split`; columns filename, class and xmin, ymin,
        xmax, ymax (or x, y, width, height)"""
COLUMNS = {
    "image": ("filename", "file_name", "image", "image_path", "img_path", "path", "file", "img",
              "image_id", "imageid", "image_name"),
    "name": ("class", "label", "name", "category", "class_name", "labelname", "label_name"),
    "split": ("split", "set", "subset", "usage"),
    "x1": ("xmin", "x1", "x_min", "left", "bbox_xmin"),
    "y1": ("ymin", "y1", "y_min", "top", "bbox_ymin"),
    "x2": ("xmax", "x2", "x_max", "right", "bbox_xmax"),
    "y2": ("ymax", "y2", "y_max", "bottom", "bbox_ymax"),
    "x": ("x", "bbox_x", "left", "xmin", "x_min", "x1"),
    "y": ("y", "bbox_y", "top", "ymin", "y_min", "y1"),
    "w": ("bbox_width", "bbox_w", "w", "width"),
    "h": ("bbox_height", "bbox_h", "h", "height"),
    "ignore": ("ignore", "iscrowd", "is_crowd", "difficult", "isgroupof", "is_group_of"),
    "image_width": ("image_width", "img_width", "width"),
    "image_height": ("image_height", "img_height", "height"),
}  # fmt: skip
HEADERLESS = ("image", "x1", "y1", "x2", "y2", "name")
SUFFIXES = (".csv", ".tsv")
CORNERS, SIDES = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h")


def read(request: Request) -> RawDataset:
    """A split per table, or per value of the column `split` where one table has it."""
    root, report = request.root, request.report
    found: dict[str, dict[str, Sample]] = {}
    index = ImageIndex(root)
    readable = _tables(root)
    for file in files_below(root, SUFFIXES, depth=1):
        try:
            columns, rows = _table(root / file)
        except InvalidAnnotation as problem:
            if readable and problem.kind == "layout" and role(_stem(file)) is None:
                report.remark("other content", file, "", f"passed over: {problem.text}")
            else:
                report.leave_out(problem, file)
            continue
        stem = _stem(file)
        for line, row in rows:
            cells = {key: row[at].strip() for key, at in columns.items() if at < len(row)}
            split = cells.get("split") or stem
            _add(found.setdefault(split, {}), cells, f"line {line}", file, index, split, report)
        index.report_elsewhere(file, report)
    splits = {split: list(samples.values()) for split, samples in found.items()}
    for samples in splits.values():
        report.images_in += len(samples)
    return RawDataset(splits)


def _stem(file: str) -> str:
    """The split of a table: by its own name, else by its folder's, if these say one."""
    folder, name = os.path.split(os.path.splitext(file)[0])
    return folder if role(folder) and not role(name) else name


def _tables(root: Path) -> list[str]:
    return [file for file in files_below(root, SUFFIXES, depth=1) if _readable(root / file)]


def _readable(path: Path) -> bool:
    try:
        _table(path)
    except InvalidAnnotation as problem:
        return problem.kind != "layout"
    return True


def _table(path: Path) -> tuple[dict[str, int], list[tuple[int, list[str]]]]:
    """Which columns there are, and the rows with the numbers of their lines.

    Raises:
        InvalidAnnotation: The file cannot be read, or has no columns of boxes ("layout").
    """
    text = read_text(path)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InvalidAnnotation("no CSV", str(error)) from error
    if delimiter == ";":  # spreadsheets that use it write 10,5 for 10.5
        rows = [(n, [re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", c) for c in row]) for n, row in rows]
    if not rows:
        raise InvalidAnnotation("layout", "expected a table, got an empty file")
    header = [cell.strip().lower().replace(" ", "_") for cell in rows[0][1]]
    repeated = {name for name in header if name and header.count(name) > 1}
    if twice := sorted(repeated & {name for names in COLUMNS.values() for name in names}):
        raise InvalidAnnotation("header", f"two columns are named {shown(twice[0])}")
    columns = {
        key: next(header.index(name) for name in names if name in header)
        for key, names in COLUMNS.items()
        if any(name in header for name in names)
    }
    corners = all(key in columns for key in CORNERS)
    # With one far edge alone, width and height may be the image's.
    sides = all(key in columns for key in SIDES) and not {"x2", "y2"} & columns.keys()
    if {"image", "name"} <= columns.keys() and (corners or sides):
        others = SIDES if corners else ("image_width", "image_height")
        if corners or columns.get("image_width") == columns["w"]:
            columns = {key: at for key, at in columns.items() if key not in others}
        return columns, rows[1:]
    if len(header) == 6 and is_image(rows[0][1][0]):
        return {key: at for at, key in enumerate(HEADERLESS)}, rows
    raise InvalidAnnotation(
        "layout",
        "expected columns filename, class and xmin, ymin, xmax, ymax (or x, y, width, height), got "
        f"{shown(', '.join(header))}",
    )


def _add(
    samples: dict[str, Sample], cells: dict[str, str], item: str, file: str,
    index: ImageIndex, split: str, report: Report,
) -> None:  # fmt: skip
    """Put a row's image, and its object if it has one, into the split."""
    has_box = any(cells.get(key) for key in ("name", *CORNERS, *SIDES))
    report.objects_in += has_box
    try:
        name = cells.get("image") or ""
        path = index.find(name, ("", split, os.path.join("images", split)), split)
        sample = samples.get(path)
        if sample is None:
            sample = samples[path] = Sample(len(samples) + 1, path, file, f"image {name}", None)
        if not has_box:
            return
        size = _size(cells)
        if size and sample.size not in (None, size):
            text = f"{name}: the table says {size} here and {sample.size} before"
            raise InvalidAnnotation("image size", text)
        sample.size = size or sample.size
        sample.objects.append(_candidate(cells, item))
        if sample.objects[-1].more["iscrowd"]:
            report.remark("ignored object", file, item, IGNORED)
    except InvalidAnnotation as problem:
        report.leave_out(problem, file, item, objects=int(has_box))


def _size(cells: dict[str, str]) -> tuple[int, int] | None:
    if not cells.get("image_width") or not cells.get("image_height"):
        return None
    size = [number_in(cells[key], key) for key in ("image_width", "image_height")]
    if min(size) < 1 or max(size) >= 2**31:
        raise InvalidAnnotation("image size", f"expected at least 1, got {shown(size)}")
    return int(size[0]), int(size[1])


def _candidate(cells: dict[str, str], item: str) -> Candidate:
    if not cells.get("name"):
        raise InvalidAnnotation("unknown class", "the row has a box and no class")
    keys = CORNERS if "x2" in cells else SIDES
    values = [number_in(cells.get(key), key) for key in keys]
    x, y, a, b = values
    box = (x, y, a - x, b - y) if keys == CORNERS else (x, y, a, b)
    more = dict(iscrowd=int(flag(cells.get("ignore"), "ignore")))
    return Candidate(item, box, cells["name"], more, unit_range=in_unit_range(values))


def finds(root: Path) -> str | None:
    """Whether a table there has columns of boxes."""
    files = _tables(root)
    return f"a table of boxes, {files[0]}" if files else None


register_layout(
    Layout(
        "csv",
        "Convert own data in a CSV file with a row per box.",
        EXPECTS,
        read=read,
        finds=finds,
    )
)
