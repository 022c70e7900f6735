"""The proposal explorer: what detectors make of the same proposals, as one page or as a widget.

Both are drawn by `explorer.js`. Existing libraries do not fit into one file: embedding-atlas brings
a database of 36 MB that a server has to hand out, jupyter-scatter links views through a kernel.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex
from scipy.linalg import orthogonal_procrustes
from sklearn.manifold import TSNE

from gdetkd.viz import style
from gdetkd.viz.similarity import LIMITS, order_by_class

DIMENSIONS = 128  # of the vectors in the page; see `_encode`
SIDE = 256  # px, the longest side of an embedded picture
HERE = Path(__file__).parent


@dataclass
class Answers:
    """What a detector says of N proposals.

    Attributes:
        vectors: (N, D), its representations.
        labels, scores: (N,) the class it says, as many as there are classes = background, and its
            probability; None without.
        boxes: (N, 4) x1 y1 x2 y2, where it sees the object, pixels of the picture; None without.
    """

    vectors: np.ndarray
    labels: np.ndarray | None = None
    scores: np.ndarray | None = None
    boxes: np.ndarray | None = None


@dataclass
class Proposals:
    """N proposals on pictures with M objects, and the answers of detectors.

    Attributes:
        pictures: (H, W, 3) uint8 RGB each.
        names: Of the pictures.
        rois: (N, 5) [image, x1, y1, x2, y2], pixels of the pictures.
        labels: (N,) what each shows; as many as there are classes = background.
        ious: (N,) its IoU with the object that it overlaps most.
        truth, truth_labels: The objects (M, 5) like rois, and their classes (M,).
        classes: Their names.
        detectors: By name; the first is the one to compare with, the teacher.
    """

    pictures: list[np.ndarray]
    names: list[str]
    rois: np.ndarray
    labels: np.ndarray
    ious: np.ndarray
    truth: np.ndarray
    truth_labels: np.ndarray
    classes: tuple[str, ...]
    detectors: dict[str, Answers]


def explorer_data(proposals: Proposals) -> dict[str, Any]:
    """What `explorer.js` draws, as plain data; takes a minute for 2,000 proposals (the layout)."""
    first = next(iter(proposals.detectors))
    unit = {name: _unit_rows(each.vectors) for name, each in proposals.detectors.items()}
    similarities = {name: rows @ rows.T for name, rows in unit.items()}
    pairs = np.triu_indices(len(proposals.rois), 1)
    layouts = aligned_layouts(unit)
    detectors = []
    for name, each in proposals.detectors.items():
        x, y = layouts[name].T.round(4).tolist()
        agreement = np.corrcoef(similarities[name][pairs], similarities[first][pairs])[0, 1]
        detectors.append(dict(
            name=name, color=style.detector_color(name), x=x, y=y, agreement=float(agreement),
            said=None if each.labels is None else each.labels.tolist(),
            score=None if each.scores is None else each.scores.astype(float).round(3).tolist(),
            box=None if each.boxes is None else _flat(each.boxes),
            vectors=_encode(unit[name]),
        ))  # fmt: skip
    heat = plt.get_cmap(style.SEQUENTIAL)(np.linspace(0, 1, 16))
    return dict(
        classes=list(proposals.classes),
        colors=[style.class_color(c, c + 1) for c in range(len(proposals.classes))],
        highlight=style.HIGHLIGHT, heat=[to_hex(color) for color in heat], limits=LIMITS,
        images=[_image(proposals, index) for index in range(len(proposals.pictures))],
        image=proposals.rois[:, 0].astype(int).tolist(), box=_flat(proposals.rois[:, 1:]),
        label=proposals.labels.tolist(), iou=proposals.ious.astype(float).round(3).tolist(),
        order=order_by_class(similarities[first], proposals.labels).tolist(), detectors=detectors,
    )  # fmt: skip


def write_explorer(data: Mapping[str, Any], title: str) -> str:
    """The explorer as an HTML page that needs no network, no kernel and no other file.

    data: As of `explorer_data`.
    """
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no tag within
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{front_end("css")}</style></head>
<body class="gdetkd-page"><h1>{escape(title)}</h1><div id="gdetkd-explorer"></div>
<script type="application/json" id="gdetkd-data">{text}</script>
<script type="module">{front_end("js")}</script></body></html>
"""


def front_end(kind: str) -> str:
    """The explorer's code ('js') or styles ('css')."""
    names = dict(js=("explorer_shapes.js", "explorer.js"), css=("explorer.css",))[kind]
    return "\n".join((HERE / name).read_text() for name in names)


def aligned_layouts(unit: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Points (N, 2) in the unit square, per detector, from rows (N, D) of length 1; N >= 3.

    t-SNE (van der Maaten and Hinton, 2008). Those of the second detector and later start from that
    of the first and are rotated onto it, so that a proposal is in about the same place in all, if
    the detectors agree. On 2,000 proposals of digits, 45% of a teacher's ten nearest are nearest on
    the plane, with the two principal components 8%.
    """
    found: dict[str, np.ndarray] = {}
    first = None
    for name, rows in unit.items():
        u, s, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        options = dict(perplexity=min(30, (len(rows) - 1) / 3), random_state=0)
        if first is None:
            options |= dict(init="pca", max_iter=350)
        else:
            options |= dict(init=30 * first, max_iter=250, early_exaggeration=1.0)
        points = TSNE(2, **options).fit_transform((u * s)[:, :50])
        points -= points.mean(0)
        points /= np.sqrt(np.square(points).sum(1).mean()) or 1
        first = points if first is None else first
        found[name] = points @ orthogonal_procrustes(points, first)[0]
    return {name: _into_square(points) for name, points in found.items()}


def _into_square(points: np.ndarray) -> np.ndarray:
    points = points - points.min(0)
    side = points.max(0)
    return (points + (side.max() - side) / 2) / (side.max() or 1)


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _encode(unit: np.ndarray) -> str:
    """Rows of length 1 as bytes in base64, in at most 128 principal directions.

    On digits, 99% of the cosines change by less than 0.005, the others by at most 0.06.
    """
    if unit.shape[1] > DIMENSIONS:
        u, s, _ = np.linalg.svd(unit, full_matrices=False)
        unit = (u * s)[:, :DIMENSIONS]
    largest = np.maximum(np.abs(unit).max(1, keepdims=True), 1e-12)
    return base64.b64encode((127 * unit / largest).round().astype(np.int8).tobytes()).decode()


def _image(proposals: Proposals, index: int) -> dict[str, Any]:
    pixels = np.asarray(proposals.pictures[index])
    height, width = pixels.shape[:2]
    shrink = min(1.0, SIDE / max(height, width))
    small = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    rows = np.flatnonzero(proposals.truth[:, 0] == index)
    return dict(
        name=proposals.names[index], width=width, height=height,
        src=f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}",
        truth=[[_flat(proposals.truth[row, 1:]), int(proposals.truth_labels[row])]
               for row in rows],
    )  # fmt: skip


def _flat(boxes: Sequence) -> list[float]:
    return [round(side, 1) for side in np.asarray(boxes, float).ravel().tolist()]
