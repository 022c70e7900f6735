"""Exercises of notebook 10: conventions of another library, and boxes of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close


def solution_columns(logits: Tensor) -> Tensor:
    """Logits with the background first (N, C + 1) as logits with the background last."""
    return torch.cat([logits[:, 1:], logits[:, :1]], 1)


def _check_columns(answer) -> str | None:
    logits = torch.arange(8.0).view(2, 4)
    got = answer(logits)
    if not isinstance(got, Tensor) or got.shape != logits.shape:
        return "expected the same (N, C + 1) columns in another order"
    if close(got, logits.flip(1)):
        return "the object classes keep their order among themselves"
    if close(got, logits):
        return "nothing has moved: the background is still first"
    if close(got, logits.roll(1, 1)):
        return "the other way around: your background is second"
    return None if close(got, solution_columns(logits)) else "columns 0 1 2 3 should become 1 2 3 0"


def solution_numbered(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes (n, 4) of each image as RoIs (N, 5) [image, x1, y1, x2, y2]."""
    rows = [torch.cat([b.new_full((len(b), 1), i), b], 1) for i, b in enumerate(boxes)]
    return torch.cat(rows)


def _check_numbered(answer) -> str | None:
    boxes = [torch.rand(count, 4) for count in (2, 0, 3)]
    got = answer(boxes)
    if not isinstance(got, Tensor) or got.shape != (5, 5):
        return "expected one tensor (N, 5) for the boxes of all images"
    if close(got[:, :4], torch.cat(boxes)):
        return "the number of the image is the first column"
    if close(got[:, 0], torch.tensor([0.0, 0, 1, 1, 1])):
        return "an image without boxes has a number too"
    if close(got[:, 0], torch.tensor([1.0, 1, 3, 3, 3])):
        return "images are counted from 0"
    return None if close(got, solution_numbered(boxes)) else "the rows keep the order of the boxes"


EXERCISES = {
    "columns": Exercise(
        "Write columns(logits): (N, C + 1) with the background first to last.",
        _check_columns,
        solution_columns,
    ),
    "numbered": Exercise(
        "Write numbered(boxes): from a list of (n, 4) to RoIs (N, 5), the image's number first.",
        _check_numbered,
        solution_numbered,
    ),
}
