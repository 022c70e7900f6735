"""A sheet of small images with their boxes: what a data set looks like, at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

INK = (0, 200, 255)  # BGR; legible on light and dark images
SIDE = 256  # pixels of the longer side of an image on the sheet


def contact_sheet(
    samples: Sequence[tuple[np.ndarray, Sequence[tuple[Sequence[float], str]]]],
    side: int = SIDE,
    columns: int = 8,
) -> np.ndarray:
    """Draw images in a grid: (H, W, 3) uint8 BGR.

    Args:
        samples: Images, (h, w, 3) uint8 BGR, each with its boxes (x, y, w, h) in its pixels and
            what to write beside them.
        side: Pixels of the longer side of an image on the sheet.
        columns: Images in a row.
    """
    rows, cell = max(1, -(-len(samples) // columns)), side + 4
    sheet = np.full((rows * cell, min(columns, max(1, len(samples))) * cell, 3), 255, np.uint8)
    for number, (image, boxes) in enumerate(samples):
        drawn = _draw(image, boxes, side)
        row, column = divmod(number, columns)
        top, left = row * cell + 2, column * cell + 2
        sheet[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return sheet


def fit(image: np.ndarray, boxes: Sequence, side: int) -> tuple[np.ndarray, list]:
    """An image whose longer side has `side` pixels, and its boxes in them."""
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(
        image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    )
    return small, [([value * scale for value in box], text) for box, text in boxes]


def _draw(image: np.ndarray, boxes: Sequence, side: int) -> np.ndarray:
    drawn, boxes = fit(image, boxes, side)
    for (x, y, w, h), text in boxes:
        left, top, right, bottom = (round(v) for v in (x, y, x + w, y + h))
        cv2.rectangle(drawn, (left, top), (right, bottom), INK, 1)
        at = (left + 2, max(top - 3, 11))
        for color, thickness in (((0, 0, 0), 3), (INK, 1)):
            cv2.putText(drawn, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, thickness,
                        cv2.LINE_AA)  # fmt: skip
    return drawn
