"""A comparison as one HTML page that needs no network, no script and no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from gdetkd.evaluation.calibration import BINS, MIN_SCORE
from gdetkd.evaluation.comparison import (
    Change,
    ChangedImage,
    Comparison,
    Panel,
    Table,
    percent,
    signed,
    tables,
)
from gdetkd.viz import style

SIDE = 480  # px, the longest side of an embedded picture
_STYLE = f"""
:root {{ color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #ddd; --soft: #666;
  --a: {style.NEUTRAL}; --b: {style.TEACHER}; --right: {style.SKY_BLUE}; --wrong: {style.ORANGE};
  --missed: {style.HIGHLIGHT}; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8e8e8; --paper: #16181c; --line: #3a3d44; --soft: #a5a8ae; --a: #9a9a9a;
    --b: {style.SKY_BLUE}; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.6rem; margin: .5rem 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin: 2rem 0 .2rem; }}
p {{ margin: .2rem 0 .6rem; max-width: 46rem; }} .soft {{ color: var(--soft); }}
.headline {{ font-size: 1.15rem; }} .scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
th {{ font-weight: 600; vertical-align: bottom; }} td svg {{ display: block; }}
svg text {{ font-family: system-ui, sans-serif; }}
.key {{ display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .8em;
  vertical-align: -.05em; }}
.images {{ display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill,
  minmax(min(100%, 30rem), 1fr)); }}
figure {{ margin: 0; }} figcaption {{ overflow-wrap: anywhere; }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: .4rem; }}
.pair svg {{ width: 100%; height: auto; display: block; background: #8883; }}
@media (max-width: 34rem) {{ th, td {{ padding: .2rem .3rem; font-size: .8rem; }}
  th, td:nth-last-child(2) {{ white-space: normal; }} .extra {{ display: none; }}
  .pair {{ grid-template-columns: 1fr; }} .plot {{ display: none; }} }}
"""


def write_page(found: Comparison, images: Path | None) -> str:
    """The page; pictures come from the folder `images`, where they are there."""
    a, b = (escape(name) for name in found.names)
    parts = [_section(table) for table in tables(found)]
    parts[-1] += _reliability(found)
    pictures = "".join(
        _figure(image, found.names, number, images) for number, image in enumerate(found.changed)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{a} against {b}</title><style>{_STYLE}</style></head><body>
<h1>{a} against {b}</h1>
<p class="headline">{escape(found.headline)}.</p>
<p class="soft">{found.images} images with {found.objects} objects. AP in percent, changes in
points. Intervals hold the middle 95% of the changes when the images are drawn again, for both
detectors the same: they say what another set of such images would change, not what another seed of
the training would. The plots mark 0 by a line; a filled mark has an interval without 0.</p>
{"".join(parts)}
<h2>Images that changed most</h2>
<p class="soft">AP of the image by itself rose on {found.better} images and fell on {found.worse}.
First those that gained most, last those that lost most. Detections have a score of at least
{MIN_SCORE}: {_key("right", "correct at an IoU of 0.5")} {_key("wrong", "wrong")}
{_key("missed", "object not found")}</p>
<div class="images">{pictures}</div>
</body></html>
"""


def _key(color: str, text: str) -> str:
    return f'<span class="key" style="background: var(--{color})"></span>{text}'


def _section(table: Table) -> str:
    kinds = ["", *[' class="extra"'] * (len(table.columns) - 5), *[""] * 4]  # hidden on a phone
    columns = zip(kinds, table.columns, strict=True)
    head = "".join(f"<th{kind}>{escape(column)}</th>" for kind, column in columns)
    known = [abs(end) for _, c in table.rows for end in (c.difference, c.low, c.high)]
    scale = np.nanmax([1e-3, *known])
    rows = "".join(
        "<tr>"
        + "".join(f"<td{k}>{escape(cell)}</td>" for k, cell in zip(kinds, cells, strict=True))
        + f'<td class="plot">{_mark(change, scale)}</td></tr>'
        for cells, change in table.rows
    )  # fmt: skip
    return (
        f'<h2>{escape(table.title)}</h2><p class="soft">{escape(table.note)}</p>'
        f'<div class="scroll"><table><thead><tr>{head}<th class="plot"></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _mark(change: Change, scale: float) -> str:
    """The change and its interval on an axis from -scale to scale."""
    if np.isnan(change.difference):
        return ""

    def place(value: float) -> str:
        return f"{100 + 92 * value / scale:.1f}"

    line = ""
    if not np.isnan(change.low):
        line = (f'<line x1="{place(change.low)}" x2="{place(change.high)}" y1="9" y2="9" '
                'stroke="var(--b)" stroke-width="2"/>')  # fmt: skip
    fill = "var(--b)" if change.distinguishable else "var(--paper)"
    return (
        '<svg width="200" height="18" role="img">'
        f"<title>{signed(change.difference)} points</title>"
        f'<line x1="100" x2="100" y1="0" y2="18" stroke="var(--soft)"/>{line}'
        f'<circle cx="{place(change.difference)}" cy="9" r="4.5" fill="{fill}" '
        'stroke="var(--b)" stroke-width="2"/></svg>'
    )


def _reliability(found: Comparison) -> str:
    """Precision by score of both detectors; a perfectly calibrated one is on the diagonal."""
    marks = ""
    for color, dashes, sums in zip("ab", ("6 4", ""), found.reliability, strict=True):
        there = sums[sums[:, 0] > 0]
        points = [(40 + 260 * score / n, 270 - 260 * right / n) for n, score, right in there]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        marks += (f'<polyline points="{path}" fill="none" stroke="var(--{color})" '
                  f'stroke-width="2.5" stroke-dasharray="{dashes}"/>')  # fmt: skip
        marks += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--{color})"/>'
                         for x, y in points)  # fmt: skip
    ticks = "".join(
        f'<text x="{40 + 260 * t}" y="287" text-anchor="middle">{t:g}</text>'
        f'<text x="34" y="{274 - 260 * t}" text-anchor="end">{t:g}</text>'
        for t in (0, 0.5, 1)
    )
    a, b = (escape(name) for name in found.names)
    return (
        f'<p>Precision at an IoU of 0.5 by score, in bins of {1 / BINS:g}: '
        f'{_key("a", a + " (dashed)")} {_key("b", b)}</p>'
        '<svg viewBox="0 0 320 310" width="320" style="max-width: 100%" font-size="12" '
        'fill="var(--ink)" role="img"><title>Precision by score</title>'
        '<rect x="40" y="10" width="260" height="260" fill="none" stroke="var(--line)"/>'
        f'<line x1="40" y1="270" x2="300" y2="10" stroke="var(--soft)"/>{ticks}'
        '<text x="170" y="304" text-anchor="middle">score</text>'
        '<text x="12" y="140" text-anchor="middle" transform="rotate(-90 12 140)">precision</text>'
        f"{marks}</svg>"
    )  # fmt: skip


def _figure(image: ChangedImage, names: Sequence[str], number: int, images: Path | None) -> str:
    encoded, (width, height) = _picture(image, images)
    base = f'<rect width="{width}" height="{height}" fill="#777"/>'
    first = again = base
    if encoded:
        name = f"picture{number}"
        first = (f'<image id="{name}" width="{width}" height="{height}" '
                 f'href="data:image/jpeg;base64,{encoded}"/>')  # fmt: skip
        again = f'<use href="#{name}"/>'
    pair = "".join(
        f'<div class="soft">{escape(name)}<svg viewBox="0 0 {width} {height}" role="img">{picture}'
        f"{_boxes(panel, width, height)}</svg></div>"
        for name, panel, picture in zip(names, image.panels, (first, again), strict=True)
    )
    values = " and ".join(
        f"{percent(ap)} ({escape(name)})"
        for ap, name in zip((image.ap.a, image.ap.b), names, strict=True)
    )
    return (
        f'<figure><div class="pair">{pair}</div><figcaption>{escape(image.name)}: AP {values}, '
        f"{signed(image.ap.difference)}</figcaption></figure>"
    )


def _picture(image: ChangedImage, images: Path | None) -> tuple[str, tuple[int, int]]:
    """The picture as JPEG in base64, empty if there is none, and its size in the boxes' pixels."""
    path = images / image.name if images else None
    pixels = cv2.imread(str(path)) if path is not None and path.is_file() else None
    if pixels is None:
        corners = [(b[0] + b[2], b[1] + b[3]) for p in image.panels
                   for b in [d[0] for d in p.detections] + [m[0] for m in p.missed]]  # fmt: skip
        furthest = np.max([(1, 1), *corners], 0).round().astype(int).tolist()
        return "", image.size if all(image.size) else tuple(furthest)
    height, width = pixels.shape[:2]
    shrink = min(1.0, SIDE / max(height, width))
    small = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return base64.b64encode(data.tobytes()).decode(), (width, height)


def _boxes(panel: Panel, width: int, height: int) -> str:
    side = max(width, height)
    marks = [(box, name, "missed", "5 4") for box, name in panel.missed]
    marks += [(box, f"{name} {score:.2f}", "right" if correct else "wrong", "")
              for box, name, score, correct in reversed(panel.detections)]  # fmt: skip
    text = side / 24
    return "".join(
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="none" '
        f'stroke="var(--{color})" stroke-width="2" stroke-dasharray="{dashes}" '
        f'vector-effect="non-scaling-stroke"/><text x="{min(max(x, 0), width - 3 * text):.1f}" '
        f'y="{max(y - text / 5, text):.1f}" font-size="{text:.1f}" font-weight="600" '
        f'fill="var(--{color})" stroke="#000" stroke-width="{text / 6:.2f}" paint-order="stroke">'
        f"{escape(label)}</text>"
        for (x, y, w, h), label, color, dashes in marks
    )
