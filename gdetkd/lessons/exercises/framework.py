"""Exercises of notebook 7: all parts in one step."""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close, number_check


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


GATHERED = 4 * 2 * 512  # GPUs, images per GPU, proposals per image

EXERCISES = {
    "columns": Exercise(
        "Write columns(logits): (N, C + 1) with the background first to last.",
        _check_columns,
        solution_columns,
    ),
    "capacity": Exercise(
        "4 GPUs with 2 images x 512 proposals each; K = 10 gathered batches: queue_capacity = ?",
        number_check(
            9 * GATHERED,
            {
                10 * GATHERED: "K also counts the gathered batch, whose rows are not in the queue",
                9: "count rows, not batches",
                GATHERED: "that is the gathered batch; what does the queue hold besides it?",
                9 * 2 * 512: "a batch is gathered from all GPUs",
                9 * 4 * 512: "every GPU has two images",
                10 * GATHERED - 2 * 512: "the current batch is gathered from all GPUs too",
                72 * 1024: "that is the paper's queue, on 8 GPUs",
            },
            "K = gathered batch + queue",
        ),
        9 * 4096,
    ),
}
