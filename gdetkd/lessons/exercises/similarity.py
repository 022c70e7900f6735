"""Exercises of notebook 1: similarities of proposals, and the agreement of two detectors."""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close, number


def solution_cosines(rows: Tensor) -> Tensor:
    """The cosine similarities (N, N) of all pairs of rows (N, D)."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    return unit @ unit.T


def _check_cosines(answer) -> str | None:
    rows = torch.tensor([[3.0, 4.0, 0.0], [6.0, 8.0, 0.0], [0.0, 0.0, 2.0], [1.0, 0.0, 1.0]])
    got, right = answer(rows.clone()), solution_cosines(rows)
    if not isinstance(got, Tensor) or got.shape != right.shape:
        return f"{tuple(rows.shape)} should give a tensor of shape {tuple(right.shape)}"
    if close(got, rows @ rows.T):
        return "these are dot products: longer rows come out as more similar to everything"
    if not close(got.diagonal(), torch.ones(4)):
        return f"the similarity of a row to itself should be 1, not {got[0, 0]:.3f}"
    return None if close(got, right) else "right on the diagonal, but wrong elsewhere"


def solution_agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation of two similarity matrices (N, N) over the pairs i < j."""
    i, j = torch.triu_indices(*teacher.shape, offset=1)
    return torch.corrcoef(torch.stack([student[i, j], teacher[i, j]]))[0, 1]


def _check_agreement(answer) -> str | None:
    random = torch.Generator().manual_seed(0)
    one = solution_cosines(torch.rand(6, 4, generator=random))
    two = solution_cosines(torch.rand(6, 4, generator=random))
    for student, teacher in ((one, two), (0.5 * one + 0.2, one)):
        got = answer(student, teacher)
        if hint := number(got):
            return hint
        right = solution_agreement(student, teacher)
        if close(got, right):
            continue
        if close(got, torch.corrcoef(torch.stack([student.ravel(), teacher.ravel()]))[0, 1]):
            return "leave out the diagonal: it is 1 in both matrices, so it carries no information"
        what = "a scaled and shifted" if teacher is one else "an unrelated"
        return f"a matrix and {what} one: expected {float(right):.3f}, got {float(got):.3f}"
    return None


EXERCISES = {
    "cosines": Exercise(
        "Write cosines(rows): the similarities (N, N) of representations (N, D).",
        _check_cosines,
        solution_cosines,
    ),
    "agreement": Exercise(
        "Write agreement(student, teacher): the correlation of two similarity matrices over the "
        "pairs i < j.",
        _check_agreement,
        solution_agreement,
    ),
}
