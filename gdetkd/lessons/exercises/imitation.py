"""Exercises of notebook 5: the pyramid level that resembles the teacher's feature."""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close, number_check


def solution_weights(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Level weights (N, L) from embeddings (N, L, E) and (N, E)."""
    products = (student * teacher[:, None]).sum(2)
    return (products / tau).softmax(1)


def _check_weights(answer) -> str | None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 4, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    products = torch.einsum("nle,ne->nl", student, teacher)
    got = answer(student, teacher, 0.5)
    if not isinstance(got, Tensor) or got.shape != (5, 4):
        return "expected a tensor (N, L) = (5, 4): one weight per proposal and level"
    if close(got.sum(0), torch.ones(4)) and not close(got.sum(1), torch.ones(5)):
        return "your weights sum to 1 over the proposals; they should sum to 1 over the levels"
    if not close(got.sum(1), torch.ones(5)):
        return f"the weights of one proposal sum to {got.sum(1)[0]:.3f}"
    if close(got, (products * 0.5).softmax(1)):
        return "a small tau should make the weights sharper: divide by it"
    if close(got, products.softmax(1)):
        return "you did not use tau"
    cosine = torch.cosine_similarity(student, teacher[:, None], dim=2)
    if close(got, (cosine / 0.5).softmax(1)):
        return "use dot products, not cosines: the norm of a level's embedding counts too"
    if not close(got, solution_weights(student, teacher, 0.5)):
        return "the weights sum to 1, but they are not the right ones"
    if not close(answer(student, teacher, 2.0), solution_weights(student, teacher, 2.0)):
        return "right for a tau of 0.5, but not for 2: use the argument"
    return None


EXERCISES = {
    "weights": Exercise(
        "Write weights(student, teacher, tau): from (N, L, E) and (N, E) to (N, L).",
        _check_weights,
        solution_weights,
    ),
    "mix": Exercise(
        "The levels are 1 and 5, the teacher's feature is 3, both weights 1/2: what is the loss?",
        number_check(
            0.0,
            {
                4.0: "that is the mean of the errors: mix the levels first, then take the error",
                8.0: "mix the levels first, then take the error; do not sum over the levels",
                3.0: "that is the weighted sum of the levels; the loss is its error",
            },
            "it is not {value}: what is the weighted sum of the levels?",
        ),
        0.0,
    ),
}
