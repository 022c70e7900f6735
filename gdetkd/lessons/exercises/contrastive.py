"""Exercises of notebooks 2 and 3: the contrastive loss, its negatives, its memory queue."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from gdetkd.lessons.exercises import Exercise, close, known_mistake, number, number_check


def solution_loss(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """InfoNCE over cosines: queries (N, D), keys (N, D), keys[i] the positive of queries[i]."""
    logits = normalize(queries, dim=1) @ normalize(keys, dim=1).T / temperature
    return cross_entropy(logits, torch.arange(len(queries)))


def _check_loss(answer) -> str | None:
    random = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 6, 4, generator=random)
    got, right = answer(queries, keys, 0.2), solution_loss(queries, keys, 0.2)
    if hint := number(got):
        return hint
    logits = normalize(queries, dim=1) @ normalize(keys, dim=1).T / 0.2
    target = torch.arange(6)
    others = logits.masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    mistakes = {
        "the positive is part of the denominator too": (others.logsumexp(1) - logits.diag()).mean(),
        "each query chooses among the keys, not each key among the queries": cross_entropy(
            logits.T, target
        ),
        "expected the mean over the queries, not the sum": right * 6,
        "the temperature divides the cosines": cross_entropy(logits * 0.04, target),
        "expected cosines: normalize first": cross_entropy(queries @ keys.T / 0.2, target),
        "check the sign: the loss falls as the positive becomes more similar": -right,
    }
    if hint := known_mistake(got, mistakes):
        return hint
    if not close(got, right):
        return f"expected {float(right):.3f}, got {float(got):.3f}"
    if not close(answer(queries, keys, 0.5), solution_loss(queries, keys, 0.5)):
        return "right for a temperature of 0.2, but not for 0.5: use the argument"
    return None


def solution_ignored(ious: Tensor, images: Tensor, threshold: float) -> Tensor:
    """Pairs (N, N) of one image whose IoU exceeds the threshold: they are not negatives."""
    same = images[:, None] == images
    return same & (ious > threshold) & ~torch.eye(len(images), dtype=torch.bool)


def _check_ignored(answer) -> str | None:
    ious = torch.tensor([[1.0, 0.6, 0.2, 0.9], [0.6, 1, 0.5, 0], [0.2, 0.5, 1, 0], [0.9, 0, 0, 1]])
    images = torch.tensor([0, 0, 0, 1])
    got, right = answer(ious, images, 0.5), solution_ignored(ious, images, 0.5)
    if not isinstance(got, Tensor) or got.shape != right.shape or got.dtype != torch.bool:
        return "expected a bool tensor of shape (4, 4)"
    if got.diagonal().any():
        return "do not exclude a proposal from its own row: it is the positive there"
    if got[0, 3]:
        return "the coordinates of boxes 0 and 3 overlap, but the boxes are in different images"
    if got[1, 2]:
        return "an IoU of exactly the threshold does not count as more"
    if torch.equal(got, ~right.fill_diagonal_(True)):
        return "this marks the negatives; mark the excluded pairs instead"
    if not torch.equal(got, solution_ignored(ious, images, 0.5)):
        return "these are not the pairs"
    if not torch.equal(answer(ious, images, 0.1), solution_ignored(ious, images, 0.1)):
        return "right for a threshold of 0.5, but not for 0.1: use the argument"
    return None


EXERCISES = {
    "loss": Exercise(
        "Write loss(queries, keys, temperature): keys[i] is the positive of queries[i].",
        _check_loss,
        solution_loss,
    ),
    "ignored": Exercise(
        "Write ignored(ious, images, threshold): from (N, N) and (N,) to the excluded pairs, bool.",
        _check_ignored,
        solution_ignored,
    ),
    "capacity": Exercise(
        "K = 80 x 1024 on 8 GPUs with 1024 proposals each: how many rows does the queue need?",
        number_check(
            72 * 1024,
            {
                80 * 1024: "K also counts the current batch, which is not in the queue",
                79 * 1024: "each of the 8 GPUs adds its proposals to the current batch",
                72: "count rows, not batches",
                8 * 1024: "that is the current batch; how many rows are left for earlier ones?",
            },
            "subtract from K the proposals of all GPUs at one step",
        ),
        72 * 1024,
    ),
}
