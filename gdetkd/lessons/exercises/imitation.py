"""Exercises of notebook 4: which pyramid level shows what the teacher saw."""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close, number


def solution_weights(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Level weights (N, L) from embeddings (N, L, E) and (N, E)."""
    products = (student * teacher[:, None]).sum(2)
    return (products / tau).softmax(1)


def _right_weights(answer) -> str | None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 4, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    products = torch.einsum("nle,ne->nl", student, teacher)
    got = answer(student, teacher, 0.5)
    if not isinstance(got, Tensor) or got.shape != (5, 4):
        return "a tensor (N, L) = (5, 4) is asked for, one weight a level of every proposal"
    if close(got.sum(0), torch.ones(4)) and not close(got.sum(1), torch.ones(5)):
        return "your weights add up to 1 over the proposals: let the levels of one box compete"
    if not close(got.sum(1), torch.ones(5)):
        return f"the weights of one proposal add up to {got.sum(1)[0]:.3f}"
    if close(got, (products * 0.5).softmax(1)):
        return "a small tau must make the choice sharper: divide by it"
    if close(got, products.softmax(1)):
        return "where is tau?"
    cosine = torch.cosine_similarity(student, teacher[:, None], dim=2)
    if close(got, (cosine / 0.5).softmax(1)):
        return "plain dot products, not cosines: how strongly a level responds counts too"
    if not close(got, solution_weights(student, teacher, 0.5)):
        return "they add up to 1, but differ"
    if not close(answer(student, teacher, 2.0), solution_weights(student, teacher, 2.0)):
        return "right for a tau of 0.5, not for 2: the argument is to be used"
    return None


def _right_mix(answer) -> str | None:
    hint = number(answer)
    if hint:
        return hint
    value = float(answer)
    told = {
        2.5: "that is the mean of the levels' errors: mix the levels first, then take the error",
        5.0: "mix the levels first, then take the error; it is not a sum over levels",
        0.5: "square the difference",
        -0.5: "square the difference",
    }
    if value in told:
        return told[value]
    return None if abs(value - 0.25) < 1e-3 else f"{value:g} is not it: what is the weighted sum?"


EXERCISES = {
    "weights": Exercise(
        "Write weights(student, teacher, tau): (N, L, E), (N, E) in, (N, L) out.",
        (_right_weights,),
        solution_weights,
        {
            "a softmax over the proposals": lambda s, t, tau: (
                (s * t[:, None]).sum(2) / tau
            ).softmax(0),
            "times tau": lambda s, t, tau: ((s * t[:, None]).sum(2) * tau).softmax(1),
            "no tau": lambda s, t, tau: (s * t[:, None]).sum(2).softmax(1),
            "cosines": lambda s, t, tau: (
                torch.cosine_similarity(s, t[:, None], dim=2) / tau
            ).softmax(1),
            "a tau of its own": lambda s, t, tau: solution_weights(s, t, 0.5),
            "sigmoids": lambda s, t, tau: ((s * t[:, None]).sum(2) / tau).sigmoid(),
            "the closest in distance": lambda s, t, tau: (
                -(s - t[:, None]).square().sum(2) / tau
            ).softmax(1),
            "one level alone": lambda s, t, tau: torch.nn.functional.one_hot(
                (s * t[:, None]).sum(2).argmax(1), s.shape[1]
            ).double(),
        },
    ),
    "mix": Exercise(
        "Two levels show 1 and 4, the teacher 3, both weights are 1/2: what is the loss?",
        (_right_mix,),
        0.25,
        {
            "the mean of the errors": 2.5,
            "not squared": 0.5,
            "the difference": -0.5,
            "the sum of the errors": 5.0,
            "the first level alone": 4,
            "nothing": 0,
            "words": "none",
        },
    ),
}
