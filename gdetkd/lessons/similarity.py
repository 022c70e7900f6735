"""How alike a detector finds proposals, and whether two detectors agree on that.

A detector's representations (N, D) of the same N proposals are compared through their cosine
similarities: every network has axes of its own, but who resembles whom can be compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = [
    "class_similarities",
    "cosine_similarities",
    "effective_negatives",
    "key_drift",
    "linear_cka",
    "negative_shares",
    "retrieval",
    "pairwise_auroc",
    "rsa_correlation",
]


def cosine_similarities(rows: Tensor, others: Tensor | None = None) -> Tensor:
    """Cosines (N, M) between rows (N, D) and others (M, D), by default the rows themselves."""
    rows = normalize(rows.double(), dim=1)
    others = rows if others is None else normalize(others.double(), dim=1)
    return (rows @ others.t()).float()


def rsa_correlation(similarities: Tensor, reference: Tensor) -> float:
    """Pearson correlation of two similarity matrices (N, N) over the pairs i < j; N >= 3."""
    if similarities.shape != reference.shape or similarities.shape[0] != similarities.shape[-1]:
        raise ValueError(
            "expected two square matrices of one size, got "
            f"{tuple(similarities.shape)} and {tuple(reference.shape)}"
        )
    i, j = torch.triu_indices(len(reference), len(reference), offset=1)
    return torch.corrcoef(torch.stack([similarities[i, j], reference[i, j]]).double())[0, 1].item()


def linear_cka(rows: Tensor, others: Tensor) -> float:
    """Linear centered kernel alignment of (N, D) and (N, E) (Kornblith et al., 2019): 0 to 1.

    Does not change when either space is rotated or scaled as a whole.
    """
    if rows.shape[0] != others.shape[0]:
        raise ValueError(
            "expected the same proposals, a row each, got "
            f"{tuple(rows.shape)} and {tuple(others.shape)}"
        )
    rows, others = (x.double() - x.double().mean(0) for x in (rows, others))
    shared = (rows.t() @ others).square().sum()
    return (shared / ((rows.t() @ rows).norm() * (others.t() @ others).norm())).item()


def pairwise_auroc(similarities: Tensor, labels: Tensor, apart: Tensor | None = None) -> float:
    """How often a pair of one class is more alike than a pair of two: 0.5 is chance, 1 always.

    The area under the ROC curve, so no scale of similarities matters.

    Args:
        similarities: (N, N).
        labels: (N,).
        apart: (N, N) bool, the pairs that count; by default all of two different proposals.
    """
    if apart is None:
        apart = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = labels[:, None] == labels
    alike, unlike = similarities[apart & same], similarities[apart & ~same]
    if not len(alike) or not len(unlike):
        raise ValueError("expected pairs of one class and pairs of two, got only one kind")
    ordered = unlike.sort().values
    # A tie counts half, hence both sides.
    below = torch.searchsorted(ordered, alike) + torch.searchsorted(ordered, alike, right=True)
    return (below.double().mean() / (2 * len(unlike))).item()


def class_similarities(
    similarities: Tensor, labels: Tensor, classes: int, apart: Tensor | None = None
) -> Tensor:
    """Mean similarity (C, C) of the proposals of two classes; NaN where there are none.

    apart: (N, N) bool, the pairs that count; by default all of two different proposals.
    """
    if apart is None:
        apart = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    member = torch.nn.functional.one_hot(labels, max(classes, int(labels.max()) + 1)).double()
    member = member[:, :classes]
    total = member.t() @ (similarities.double() * apart) @ member
    return (total / (member.t() @ apart.double() @ member)).float()


def retrieval(queries: Tensor, keys: Tensor, ignore: Tensor | None = None) -> float:
    """Share of the queries (N, D) that find their own key (N, D) the most similar of all.

    ignore: (N, N) bool, keys that do not count for a query; its own always does.
    """
    similarities = cosine_similarities(queries, keys)
    if ignore is not None:
        own = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        similarities = similarities.masked_fill(ignore & ~own, -2)
    own_key = torch.arange(len(queries), device=queries.device)
    return (similarities.argmax(1) == own_key).float().mean().item()


def negative_shares(cosines: Tensor, positive: int, temperature: float) -> Tensor:
    """What each key (K,) contributes to a query's gradient: its softmax, the positive left out.

    Sums to 1 over the negatives. The contrastive loss pushes the query from a negative with the
    force of its softmax; the shares say among which negatives that force is divided.
    """
    logits = (cosines.double() / temperature).clone()
    logits[positive] = -torch.inf
    return logits.softmax(0).float()


def effective_negatives(cosines: Tensor, temperature: float) -> Tensor:
    """How many negatives matter to each query (N,): exp of the entropy of `negative_shares`.

    cosines: (N, K), the positive of query i at i. K - 1 when all count alike, 1 for a single one.
    """
    shares = torch.stack([negative_shares(row, i, temperature) for i, row in enumerate(cosines)])
    return torch.special.entr(shares).sum(1).exp()


@torch.no_grad()
def key_drift(projections: list[nn.Module], rows: Tensor) -> Tensor:
    """Cosine of each row's key as it is now and as each projection made it: (ages, N).

    projections: the projection after every step, the last one now; rows: (N, D), representations of
    a frozen teacher, so that nothing but the projection moves. Age 0 comes first.
    """
    keys = [normalize(projection(rows), dim=1) for projection in reversed(projections)]
    return torch.stack([(key * keys[0]).sum(1) for key in keys])
