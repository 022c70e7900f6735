"""Exercises of notebook 4: what the contrastive loss estimates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdetkd.lessons.exercises import Exercise, close, number


def bound(loss: float, negatives: int) -> float:
    """The lower bound on mutual information (nats) given by a contrastive loss (F.2, corrected)."""
    return math.log(negatives + 1) - loss


def _check_bound(answer) -> str | None:
    for loss, negatives in ((0.5, 255), (2.0, 15)):
        got = answer(loss, negatives)
        if hint := number(got):
            return hint
        if close(got, math.log(negatives) - loss):
            return "count the positive too: how many terms does the denominator have?"
        if close(got, math.log2(negatives + 1) - loss):
            return "the loss is in nats: use the natural logarithm"
        if not close(got, math.log(negatives + 1) - loss):
            return f"for loss {loss} with {negatives} negatives it is not {float(got):.3f}"
    return None


def posterior(ratios: Tensor) -> Tensor:
    """From density ratios (..., n), the probability that a candidate is the positive (F.1)."""
    return ratios / ratios.sum(-1, keepdim=True)


def _check_posterior(answer) -> str | None:
    ratios = torch.tensor([[4.0, 1.0, 0.0, 3.0], [0.2, 0.2, 0.2, 1.4]], dtype=torch.float64)
    got = answer(ratios)
    if not isinstance(got, Tensor) or got.shape != ratios.shape:
        return f"expected a tensor of shape {tuple(ratios.shape)}: one probability per candidate"
    if close(got, ratios.softmax(-1)):
        return "a softmax exponentiates: the logarithms of the ratios are logits, not the ratios"
    if close(got, ratios / (ratios.sum(-1, keepdim=True) - ratios)):
        return "the candidate itself is part of the denominator"
    if not close(got.sum(-1), torch.ones(2)):
        return f"the probabilities of one query sum to {got.sum(-1)[0]:.3f}"
    return None if close(got, posterior(ratios)) else "they sum to 1, but they are wrong"


def negatives_needed(information: float) -> int:
    """The smallest K whose bound can reach that mutual information (nats)."""
    return math.ceil(math.exp(information)) - 1


def _check_count(answer) -> str | None:
    for information in (0.5, 3.0, 8.0):
        got = answer(information)
        if hint := number(got):
            return hint
        if got != int(got):
            return f"expected a whole number of negatives, got {got}"
        if math.log(got + 1) < information:
            return f"K = {got} has a ceiling of {math.log(got + 1):.3f}, below {information}"
        if math.log(got) >= information:
            return f"for {information} nats K = {int(got)} is enough, but not the smallest"
    return None


EXERCISES = {
    "posterior": Exercise(
        "Write posterior(ratios), F.1's last line: from ratios (..., n) to probabilities.",
        _check_posterior,
        posterior,
    ),
    "bound": Exercise(
        "Write bound(loss, negatives): the lower bound on mutual information, in nats.",
        _check_bound,
        bound,
    ),
    "negatives": Exercise(
        "Write negatives_needed(information): the smallest K whose ceiling reaches it (nats).",
        _check_count,
        negatives_needed,
    ),
}
