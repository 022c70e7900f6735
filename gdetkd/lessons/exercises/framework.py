"""Exercises of notebook 7: the parts put together."""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close, number


def solution_columns(logits: Tensor) -> Tensor:
    """Logits with the background first (N, C + 1) as logits with the background last."""
    return torch.cat([logits[:, 1:], logits[:, :1]], 1)


def _right_columns(answer) -> str | None:
    logits = torch.arange(8.0).view(2, 4)
    got = answer(logits)
    if not isinstance(got, Tensor) or got.shape != logits.shape:
        return "the same (N, C + 1) columns are asked for, in another order"
    if close(got, logits.flip(1)):
        return "the object classes keep their order among themselves"
    if close(got, logits):
        return "nothing has moved: the background stands first still"
    if close(got, logits.roll(1, 1)):
        return "the other way round: your background is second"
    return None if close(got, solution_columns(logits)) else "not that: 0 1 2 3 becomes 1 2 3 0"


def _right_capacity(answer) -> str | None:
    hint = number(answer)
    if hint:
        return hint
    gathered = 4 * 2 * 512  # GPUs, images of each, proposals of an image
    told = {
        10 * gathered: "K counts the gathered batch too: those are no rows of the queue",
        9: "in rows, not in batches",
        gathered: "that is the gathered batch: what does the queue hold beside it?",
        9 * 2 * 512: "a batch is gathered from all GPUs",
        9 * 4 * 512: "every GPU sees two images",
        10 * gathered - 2 * 512: "the present batch, too, is gathered from all GPUs",
        72 * 1024: "that is the paper's, with 8 GPUs",
    }
    if float(answer) in told:
        return told[float(answer)]
    return None if float(answer) == 9 * gathered else "K = gathered batch + queue"


EXERCISES = {
    "columns": Exercise(
        "Write columns(logits): background first in, background last out, (N, C + 1) both.",
        (_right_columns,),
        solution_columns,
        {
            "unchanged": lambda logits: logits,
            "mirrored": lambda logits: logits.flip(1),
            "rolled the wrong way": lambda logits: logits.roll(1, 1),
            "background dropped": lambda logits: logits[:, 1:],
            "proposals rolled": lambda logits: logits.roll(-1, 0),
        },
    ),
    "capacity": Exercise(
        "4 GPUs with 2 images x 512 proposals each; K = 10 gathered batches: queue_capacity = ?",
        (_right_capacity,),
        9 * 4096,
        {
            "K": 10 * 4096,
            "in batches": 9,
            "the gathered batch": 4096,
            "of one GPU": 9 * 1024,
            "of one image a GPU": 9 * 2048,
            "one GPU's batch less": 10 * 4096 - 1024,
            "the paper's": 72 * 1024,
            "words": "36k",
        },
    ),
}
