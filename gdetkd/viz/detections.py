"""Detections drawn on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torchvision.ops import box_iou

from gdetkd.viz import style

CORRECT, WRONG = style.SKY_BLUE, style.ORANGE
LETTER = (0.038, 0.06)  # its width and height, as shares of an image shown two inches wide
Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes (n, 4) x1 y1 x2 y2, labels, scores


def draw_detections(
    image: np.ndarray,
    detections: Boxes,
    truth: Boxes | None = None,
    classes: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw boxes with class names on an image (h, w, 3) RGB; boxes in its pixels.

    With the ground truth, a correct detection is blue and a wrong one is orange. Correct means an
    IoU (intersection over union) of at least 0.5 with an object of its class that no detection with
    a better score has taken. A single class goes without saying. Of labels that would cover each
    other only that of the best score is written.
    """
    ax = ax or plt.gca()
    ax.imshow(image, interpolation="nearest")
    boxes, labels, scores = detections
    correct = matched(detections, truth) if truth is not None else np.ones(len(boxes), bool)
    height, width = image.shape[:2]
    written: list[tuple[float, float, float, float]] = []
    for index in np.argsort(-scores, kind="stable"):
        color = CORRECT if correct[index] else WRONG
        x1, y1, x2, _ = boxes[index]
        style.draw_box(ax, boxes[index], color, 1.6)
        name = classes[labels[index]] if classes else str(labels[index])
        shown = [name] if classes is None or len(classes) > 1 else []
        text = "  ".join([*shown, f"{scores[index]:.2f}"] if scores[index] < 1 else shown)
        # Near the right edge the text ends with the box, so that it stays on the image.
        place, side = (x2, "right") if x1 > 0.75 * width else (x1 + 1, "left")
        bottom, length = max(y1 - 2, 6), len(text) * LETTER[0] * width
        left = place - length if side == "right" else place
        area = left, bottom - LETTER[1] * height, left + length, bottom
        if any(_overlap(area, other) for other in written):
            continue
        written.append(area)
        label = ax.text(place, bottom, text, ha=side, color=color, fontsize=8, weight="bold")
        label.set_path_effects([effects.withStroke(linewidth=2, foreground="black")])
    ax.set_axis_off()
    return ax


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    x1, y1, x2, y2 = one
    return x1 < other[2] and other[0] < x2 and y1 < other[3] and other[1] < y2


def compare_detectors(
    images: Sequence[np.ndarray],
    truth: Sequence[Boxes],
    detectors: Mapping[str, Sequence[Boxes]],
    classes: Sequence[str] | None = None,
) -> Figure:
    """The same images, one row per detector, the ground truth first.

    images: (h, w, 3) RGB each; truth and every detector's detections: one entry per image.
    """
    rows = {"ground truth": truth, **detectors}
    fig, axes = plt.subplots(
        len(rows), len(images), figsize=(2.1 * len(images) + 0.4, 2.15 * len(rows)), squeeze=False,
        layout="none",  # tight, below
    )  # fmt: skip
    for row, (name, found) in zip(axes, rows.items(), strict=True):
        for ax, image, actual, boxes in zip(row, images, truth, found, strict=True):
            draw_detections(image, boxes, None if boxes is actual else actual, classes, ax)
        style.row_name(row[0], name)
    fig.text(0.5, 0.004, "blue: correct (class and IoU of at least 0.5)     orange: wrong",
             ha="center", fontsize=9)  # fmt: skip
    caption = 0.22 / fig.get_figheight()  # its height in figure coordinates
    fig.tight_layout(rect=(0.02, caption, 1, 1), pad=0.3)
    return fig


def matched(detections: Boxes, truth: Boxes, iou: float = 0.5) -> np.ndarray:
    """Which detections are correct (n,) bool: greedy by score, each object once, as COCO counts."""
    boxes, labels, scores = detections
    correct = np.zeros(len(boxes), bool)
    if not len(truth[0]):
        return correct
    # 0 / 0 of two empty boxes is no overlap.
    overlaps = box_iou(torch.tensor(boxes), torch.tensor(truth[0])).nan_to_num().numpy()
    overlaps[labels[:, None] != truth[1]] = 0
    for index in np.argsort(-scores, kind="stable"):
        best = overlaps[index].argmax()
        if overlaps[index, best] >= iou:
            correct[index] = True
            overlaps[:, best] = 0  # the object is taken
    return correct
