"""Exercises of notebook 6: a regression loss weighted by the teacher's confidence."""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close, known_mistake, number_check


def solution_loss(student: Tensor, teacher: Tensor, confidence: Tensor) -> Tensor:
    """Class-aware regression (CAReg) from deltas (N, C, 4) and confidences (N, C)."""
    weighted = confidence[:, :, None] * (teacher - student)
    return weighted.sum(1).abs().sum(1).mean()


def _check_loss(answer) -> str | None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 3, 4, generator=generator, dtype=torch.float64)
    confidence = torch.rand(6, 4, generator=generator, dtype=torch.float64).softmax(1)[:, :3]
    got = answer(student, teacher, confidence)
    if not isinstance(got, Tensor) or got.ndim:
        return "expected one number: a tensor without dimensions"
    expected = solution_loss(student, teacher, confidence)
    parts = confidence[:, :, None] * (teacher - student)
    whole = solution_loss(student, teacher, confidence / confidence.sum(1, keepdim=True))
    mistakes = {
        "sum over the classes first, then take the absolute value": parts.abs().sum((1, 2)).mean(),
        "the L1 norm sums the four coordinates; it does not average them": expected / 4,
        "sum over the classes: the confidences already are the weights": expected / 3,
        "average over the proposals": expected * 6,
        "do not renormalize: the teacher's background probability counts as zero": whole,
        "use the L1 norm, not squares": parts.sum(1).square().sum(1).mean(),
    }
    if hint := known_mistake(got, mistakes):
        return hint
    return None if close(got, expected) else f"expected {expected:.3f}, got {got:.3f}"


EXERCISES = {
    "loss": Exercise(
        "Write loss(student, teacher, confidence): one number from (N, C, 4), (N, C, 4), (N, C).",
        _check_loss,
        solution_loss,
    ),
    "by_hand": Exercise(
        "Confidences 0.6 and 0.3, gaps 0.2 and -0.1 in dx, all others 0: what is the loss?",
        number_check(
            0.09,
            {
                0.15: "you took absolute values before the sum: here the two classes disagree",
                0.1: "the confidences need not sum to 1: the rest is background",
                0.0225: "the L1 norm sums the coordinates: do not divide by 4",
                0.2: "that is the plain loss of the true class",
                0.045: "do not average over the classes: the confidences are the weights",
            },
            "it is not {value}: weight, sum, then take absolute values",
        ),
        0.09,
    ),
}
