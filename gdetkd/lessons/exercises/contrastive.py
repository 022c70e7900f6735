"""Exercises of notebook 2: the contrastive loss, its negatives, its memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from gdetkd.lessons.exercises import Exercise, close, number


def solution_loss(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """InfoNCE over cosines: queries (N, D), keys (N, D), keys[i] the positive of queries[i]."""
    logits = normalize(queries, dim=1) @ normalize(keys, dim=1).T / temperature
    return cross_entropy(logits, torch.arange(len(queries)))


def _right_loss(answer) -> str | None:
    random = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 6, 4, generator=random)
    got, right = answer(queries, keys, 0.2), solution_loss(queries, keys, 0.2)
    hint = number(got)
    if hint:
        return hint
    logits = normalize(queries, dim=1) @ normalize(keys, dim=1).T / 0.2
    target = torch.arange(6)
    others = logits.masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    near = {
        "the positive belongs to the denominator too": (others.logsumexp(1) - logits.diag()).mean(),
        "each query chooses among the keys, not each key among the queries": cross_entropy(
            logits.T, target
        ),
        "the mean over the queries is asked for": right * 6,
        "the temperature divides the cosines": cross_entropy(logits * 0.04, target),
        "cosines are asked for: normalize": cross_entropy(queries @ keys.T / 0.2, target),
        "the sign: a loss falls as the positive wins": -right,
    }
    for hint, value in near.items():
        if close(got, value):
            return hint
    if not close(got, right):
        return f"{float(right):.3f} expected, {float(got):.3f} came"
    if not close(answer(queries, keys, 0.5), solution_loss(queries, keys, 0.5)):
        return "right for a temperature of 0.2, not for 0.5: the argument is to be used"
    return None


def solution_ignored(ious: Tensor, images: Tensor, threshold: float) -> Tensor:
    """Pairs (N, N) that are no negatives: they overlap by more than the threshold in one image."""
    same = images[:, None] == images
    return same & (ious > threshold) & ~torch.eye(len(images), dtype=torch.bool)


def _right_ignored(answer) -> str | None:
    ious = torch.tensor([[1.0, 0.6, 0.2, 0.9], [0.6, 1, 0.5, 0], [0.2, 0.5, 1, 0], [0.9, 0, 0, 1]])
    images = torch.tensor([0, 0, 0, 1])
    got, right = answer(ious, images, 0.5), solution_ignored(ious, images, 0.5)
    if not isinstance(got, Tensor) or got.shape != right.shape or got.dtype != torch.bool:
        return "a tensor of bool of shape (4, 4) is asked for"
    if got.diagonal().any():
        return "a proposal is not to be left out of its own row: it is the positive there"
    if got[0, 3]:
        return "boxes 0 and 3 overlap in coordinates, but they lie in different images"
    if got[1, 2]:
        return "an IoU of exactly the threshold does not count as more"
    if torch.equal(got, ~right.fill_diagonal_(True)):
        return "this marks the negatives; those to be left out are asked for"
    if not torch.equal(got, solution_ignored(ious, images, 0.5)):
        return "not these pairs"
    if not torch.equal(answer(ious, images, 0.1), solution_ignored(ious, images, 0.1)):
        return "right for a threshold of 0.5, not for 0.1: the argument is to be used"
    return None


def _right_capacity(answer) -> str | None:
    hint = number(answer)
    if hint:
        return hint
    hints = {
        80 * 1024: "K counts the present batch too, and that is not in the queue",
        79 * 1024: "every one of the 8 GPUs brings its proposals to the present batch",
        72: "in rows, not in batches",
        8 * 1024: "that is the present batch; what is left for earlier ones?",
    }
    if float(answer) in hints:
        return hints[float(answer)]
    return None if float(answer) == 72 * 1024 else "K less what all GPUs bring at one step"


EXERCISES = {
    "loss": Exercise(
        "Write loss(queries, keys, temperature): keys[i] is the positive of queries[i].",
        (_right_loss,),
        solution_loss,
        {
            "dot products": lambda q, k, t: cross_entropy(q @ k.T / t, torch.arange(len(q))),
            "temperature multiplied": lambda q, k, t: solution_loss(q, k, 1 / t),
            "keys choose queries": lambda q, k, t: solution_loss(k, q, t),
            "a sum": lambda q, k, t: len(q) * solution_loss(q, k, t),
            "the sign": lambda q, k, t: -solution_loss(q, k, t),
            "a temperature of its own": lambda q, k, t: solution_loss(q, k, 0.2),
            "pull only": lambda q, k, t: 1 - (normalize(q) * normalize(k)).sum(1).mean(),
            "one a query": lambda q, k, t: torch.ones(len(q)) * solution_loss(q, k, t),
        },
    ),
    "ignored": Exercise(
        "Write ignored(ious, images, threshold): (N, N) and (N,) in, the pairs to leave out, bool.",
        (_right_ignored,),
        solution_ignored,
        {
            "with the diagonal": lambda ious, images, t: (ious > t) & (images[:, None] == images),
            "across images": lambda ious, images, t: (
                (ious > t) & ~torch.eye(len(images), dtype=torch.bool)
            ),
            "the threshold itself": lambda ious, images, t: (
                (ious >= t) & (images[:, None] == images) & ~torch.eye(4, dtype=torch.bool)
            ),
            "the negatives": lambda ious, images, t: (
                ~((ious > t) & (images[:, None] == images)) & ~torch.eye(4, dtype=torch.bool)
            ),
            "a threshold of its own": lambda ious, images, t: solution_ignored(ious, images, 0.5),
            "numbers": lambda ious, images, t: solution_ignored(ious, images, t).float(),
        },
    ),
    "capacity": Exercise(
        "K = 80 x 1024 with 8 GPUs of 1024 proposals each: how many rows has the queue room for?",
        (_right_capacity,),
        72 * 1024,
        {
            "K": 80 * 1024,
            "one GPU's batch less": 79 * 1024,
            "in batches": 72,
            "the present batch": 8 * 1024,
            "a string": "72 x 1024",
        },
    ),
}
