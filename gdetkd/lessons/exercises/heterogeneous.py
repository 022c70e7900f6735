"""Exercises of notebooks 7 and 8: two kinds of scores, and the boxes of a dense student."""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close, known_mistake, number_check


def solution_scores(logits: Tensor) -> Tensor:
    """Section D's scores (N, C) of sigmoid logits (N, C), with a background logit of 0."""
    full = torch.cat([logits, torch.zeros(len(logits), 1)], 1)
    probs = full.softmax(1)
    return (probs / probs.amax(1, keepdim=True))[:, :-1]


def _check_scores(answer) -> str | None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [-3.0, -1.0, -2.0]])
    expected, got = solution_scores(logits), answer(logits.clone())
    if not isinstance(got, Tensor) or got.shape != (2, 3):
        return "expected (2, 3) scores for two boxes of three classes, without the background"
    alone = logits.softmax(1)
    full = torch.nn.functional.pad(logits, (0, 1)).softmax(1)
    mistakes = {
        "without a background logit, the best class always has score 1": (
            alone / alone.amax(1, keepdim=True)
        ),
        "divide each row by its maximum": full[:, :-1],
        "these are sigmoids: the classes should compete in a softmax": logits.sigmoid(),
    }
    if hint := known_mistake(got, mistakes):
        return hint
    right = close(got, expected)
    return None if right else "take a softmax with background 0, then divide by its maximum"


EXERCISES = {
    "scores": Exercise(
        "Write scores(logits): section D's scores (N, C) of the sigmoid logits (N, C).",
        _check_scores,
        solution_scores,
    ),
    "loss": Exercise(
        "Two classes: the teacher's scores are 0.6 and 0.3 (background 0.1), the student's logits "
        "2 and 1. What is section D's loss?",
        number_check(
            0.3,
            {
                0.5: "section D leaves out the background's term, which is the source of its bias",
                0.9076: "divide the softmax by its maximum before you take the logarithm",
                0.15: "sum over the classes instead of averaging",
                -0.3: "check the sign: logarithms of scores below 1 are negative",
            },
            "it is not {value}: log P_s = L - max L",
        ),
        0.3,
    ),
    "negatives": Exercise(
        "Of 5,000 predicted boxes of an image 5 are positive; 48 are sampled. How many negatives?",
        number_check(
            43,
            {
                15: "three per positive holds for a full sample; here negatives fill up the rest",
                36: "three quarters are negatives only if there are enough positives; here are 5",
                12: "that is the largest allowed number of positives",
                48: "the positives are sampled first, and they count",
                4995: "only as many of the others as the sample has room for",
            },
            "it is not {value}: positives come first, negatives fill up the sample",
        ),
        43,
    ),
}
