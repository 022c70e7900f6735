"""Exercises of notebook 5: a regression loss that knows how sure the teacher is."""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close, number


def solution_loss(student: Tensor, teacher: Tensor, confidence: Tensor) -> Tensor:
    """CAReg of deltas (N, C, 4) and the teacher's confidences (N, C)."""
    weighted = confidence[:, :, None] * (teacher - student)
    return weighted.sum(1).abs().sum(1).mean()


def _right_loss(answer) -> str | None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 3, 4, generator=generator, dtype=torch.float64)
    confidence = torch.rand(6, 4, generator=generator, dtype=torch.float64).softmax(1)[:, :3]
    got = answer(student, teacher, confidence)
    if not isinstance(got, Tensor) or got.ndim:
        return "one number is asked for: a tensor without dimensions"
    expected = solution_loss(student, teacher, confidence)
    parts = confidence[:, :, None] * (teacher - student)
    if close(got, parts.abs().sum((1, 2)).mean()):
        return "sum over the classes first, then the absolute value: the classes vote together"
    if close(got, expected / 4):
        return "the L1 norm adds the four coordinates; it does not average them"
    if close(got, expected / 3):
        return "a weighted sum over the classes: the confidences are the weights already"
    if close(got, expected * 6):
        return "average over the proposals"
    whole = parts / confidence.sum(1)[:, None, None]
    if close(got, whole.sum(1).abs().sum(1).mean()):
        return "what the teacher gives to background shall count as nothing: do not renormalize"
    if close(got, parts.sum(1).square().sum(1).mean()):
        return "an L1 norm, not squares"
    return (
        None if close(got, expected) else f"{got.item():.3f} where {expected.item():.3f} is right"
    )


def _right_hand(answer) -> str | None:
    hint = number(answer)
    if hint:
        return hint
    value = float(answer)
    told = {
        0.15: "you took absolute values before the sum: here the two classes disagree",
        0.1: "the confidences do not add up to 1, and shall not: the rest is background",
        0.0225: "the L1 norm adds coordinates: no division by 4",
        0.2: "that is the plain loss of the true class",
        0.045: "no mean over the classes: the confidences weigh them",
    }
    for wrong, why in told.items():
        if abs(value - wrong) < 1e-4:
            return why
    return None if abs(value - 0.09) < 1e-4 else f"{value:g} is not it: weigh, add, then |.|"


EXERCISES = {
    "loss": Exercise(
        "Write loss(student, teacher, confidence): (N, C, 4), (N, C, 4), (N, C) in, a number out.",
        (_right_loss,),
        solution_loss,
        {
            "absolute values first": lambda s, t, p: (
                (p[:, :, None] * (t - s)).abs().sum((1, 2)).mean()
            ),
            "a mean over the coordinates": lambda s, t, p: (
                (p[:, :, None] * (t - s)).sum(1).abs().mean()
            ),
            "a mean over the classes": lambda s, t, p: (
                (p[:, :, None] * (t - s)).mean(1).abs().sum(1).mean()
            ),
            "a sum over the proposals": lambda s, t, p: (
                (p[:, :, None] * (t - s)).sum(1).abs().sum()
            ),
            "renormalized": lambda s, t, p: solution_loss(s, t, p / p.sum(1, keepdim=True)),
            "squares": lambda s, t, p: (p[:, :, None] * (t - s)).sum(1).square().sum(1).mean(),
            "the first class alone": lambda s, t, p: (
                (t - s)[torch.arange(len(s)), p.argmax(1)].abs().sum(1).mean()
            ),
            "one number a proposal": lambda s, t, p: (p[:, :, None] * (t - s)).sum(1).abs().sum(1),
        },
    ),
    "by_hand": Exercise(
        "Confidences 0.6 and 0.3, gaps in dx of 0.2 and -0.1, no others: what is the loss?",
        (_right_hand,),
        0.09,
        {
            "absolute values first": 0.15,
            "renormalized": 0.1,
            "a mean over coordinates": 0.0225,
            "plain": 0.2,
            "a mean over classes": 0.045,
            "signed": -0.09,
        },
    ),
}
