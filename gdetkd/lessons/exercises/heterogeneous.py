"""Exercises of notebook 6: scores of two kinds, and the boxes of a dense student."""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close, number


def solution_scores(logits: Tensor) -> Tensor:
    """Section D's scores (N, C) of sigmoid logits (N, C), the background's taken as 0."""
    full = torch.cat([logits, torch.zeros(len(logits), 1)], 1)
    probs = full.softmax(1)
    return (probs / probs.amax(1, keepdim=True))[:, :-1]


def _right_scores(answer) -> str | None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [-3.0, -1.0, -2.0]])
    expected, got = solution_scores(logits), answer(logits.clone())
    if not isinstance(got, Tensor) or got.shape != (2, 3):
        return "three classes of two boxes in, (2, 3) scores out: the background is not returned"
    alone = logits.softmax(1)
    full = torch.nn.functional.pad(logits, (0, 1)).softmax(1)
    if close(got, alone / alone.amax(1, keepdim=True)):
        return "without a background the best class of a box is 1, whatever the box shows"
    if close(got, full[:, :-1]):
        return "divide by the maximum"
    if close(got, full[:, :-1] / full[:, :-1].amax(1, keepdim=True)):
        return "the background takes part in the maximum too, and is left out afterwards"
    if close(got, logits.sigmoid()):
        return "these are the sigmoids: classes do not compete yet"
    return None if close(got, expected) else "softmax with a background of 0, then by its maximum"


def _right_loss(answer) -> str | None:
    hint = number(answer)
    if hint:
        return hint
    value = float(answer)
    told = {
        0.5: "the background's term is left out: that is what section D does, and its bias",
        0.9076: "divide the softmax by its maximum before the logarithm",
        0.15: "a sum over the classes, not a mean",
        -0.3: "mind the sign: logarithms of scores below 1 are negative",
    }
    for wrong, why in told.items():
        if abs(value - wrong) < 1e-3:
            return why
    return None if abs(value - 0.3) < 1e-4 else f"{value:g} is not it: log P_s = L - max L"


def _right_negatives(answer) -> str | None:
    hint = number(answer)
    if hint:
        return hint
    told = {
        15: "three for each positive is what a full sample has; here negatives fill up the number",
        36: "three quarters are negatives where there are positives enough; here there are 5",
        12: "that is how many positives there may be",
        48: "the positives are drawn first, and count",
        4995: "of all the others, only as many as the image's number allows",
    }
    value = float(answer)
    return None if value == 43 else told.get(value, f"{value:g} is not it: positives come first")


EXERCISES = {
    "scores": Exercise(
        "Write scores(logits): (N, C) logits of sigmoids in, section D's scores (N, C) out.",
        (_right_scores,),
        solution_scores,
        {
            "no background": lambda x: x.softmax(1) / x.softmax(1).amax(1, keepdim=True),
            "not divided": lambda x: torch.nn.functional.pad(x, (0, 1)).softmax(1)[:, :-1],
            "divided by the best object": lambda x: (x - x.amax(1, keepdim=True)).exp(),
            "sigmoids": torch.sigmoid,
            "background returned": lambda x: torch.nn.functional.pad(x, (0, 1)).softmax(1),
            "a maximum over boxes": lambda x: (
                torch.nn.functional.pad(x, (0, 1)).softmax(1)
                / torch.nn.functional.pad(x, (0, 1)).softmax(1).amax(0)
            )[:, :-1],
        },
    ),
    "loss": Exercise(
        "Two classes: teacher 0.6 and 0.3 (background 0.1), student's logits 2 and 1: section D's "
        "loss?",
        (_right_loss,),
        0.3,
        {
            "background counted": 0.5,
            "cross-entropy of softmaxes": 0.9076,
            "a mean over classes": 0.15,
            "sign": -0.3,
            "sigmoids": 0.72,
        },
    ),
    "negatives": Exercise(
        "An image has 5,000 predicted boxes, 5 of them positive; 48 are drawn. How many negatives?",
        (_right_negatives,),
        43,
        {
            "three for each positive": 15,
            "three quarters": 36,
            "the number of positives allowed": 12,
            "all": 4995,
            "positives not counted": 48,
        },
    ),
}
