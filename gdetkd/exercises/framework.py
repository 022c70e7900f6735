"""Exercises of notebook 7: the parts put together."""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.exercises import Exercise, close, number


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
    told = {
        80 * 1024: "K counts the gathered batch too: those are no rows of the queue",
        72: "in rows, not in thousands of them",
        80 * 1024 - 1024: "the batch is gathered from all GPUs",
        8 * 1024: "that is the gathered batch: what does the queue hold beside it?",
    }
    if int(answer) in told:
        return told[int(answer)]
    return None if float(answer) == 72 * 1024 else "K = gathered batch + queue"


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
        "The paper's K is 80 x 1024, on 8 GPUs with 1024 proposals each: queue_capacity = ?",
        (_right_capacity,),
        72 * 1024,
        {
            "K": 80 * 1024,
            "without a unit": 72,
            "one GPU's batch left out": 79 * 1024,
            "the gathered batch": 8 * 1024,
            "words": "72k",
        },
    ),
}
