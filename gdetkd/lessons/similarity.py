"""Which proposals a detector considers similar, and whether two detectors agree on that.

A detector's representations (N, D) of the same N proposals are compared through their cosine
similarities. Two networks have different axes, so their vectors cannot be compared directly, but
their similarity matrices can.
"""

from __future__ import annotations

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot


def cosine_similarities(rows: Tensor, columns: Tensor | None = None) -> Tensor:
    """Cosines (N, M) between rows (N, D) and columns (M, D), by default the rows themselves."""
    rows = normalize(rows.double(), dim=1)
    columns = rows if columns is None else normalize(columns.double(), dim=1)
    return (rows @ columns.t()).float()


def rsa_correlation(similarities: Tensor, reference: Tensor) -> float:
    """Pearson correlation of two similarity matrices (N, N) over the pairs i < j; N >= 3.

    This is representational similarity analysis (RSA; Kriegeskorte et al., 2008).
    """
    if similarities.shape != reference.shape or similarities.shape[0] != similarities.shape[-1]:
        raise ValueError(
            "expected two square matrices of the same size, got "
            f"{tuple(similarities.shape)} and {tuple(reference.shape)}"
        )
    i, j = torch.triu_indices(len(reference), len(reference), offset=1)
    return torch.corrcoef(torch.stack([similarities[i, j], reference[i, j]]).double())[0, 1].item()


def linear_cka(rows: Tensor, others: Tensor) -> float:
    """Linear centered kernel alignment (CKA) of (N, D) and (N, E), from 0 to 1.

    It is invariant to a rotation or a scaling of either space (Kornblith et al., 2019).
    """
    if rows.shape[0] != others.shape[0]:
        raise ValueError(
            "expected one row per proposal and the same proposals in both, got "
            f"{tuple(rows.shape)} and {tuple(others.shape)}"
        )
    rows, others = (x.double() - x.double().mean(0) for x in (rows, others))
    shared = (rows.t() @ others).square().sum()
    return (shared / ((rows.t() @ rows).norm() * (others.t() @ others).norm())).item()


def pairwise_auroc(similarities: Tensor, labels: Tensor, pair_mask: Tensor | None = None) -> float:
    """The probability that a same-class pair is more similar than a pair of two classes.

    It is the area under the ROC (receiver operating characteristic) curve of the similarities
    (N, N) as scores of "same class": 0.5 is chance, 1 is perfect, and a tie counts half.

    Args:
        similarities: (N, N).
        labels: (N,).
        pair_mask: (N, N) bool, the pairs that count; by default all pairs of different proposals.
    """
    pair_mask = _different_proposals(labels) if pair_mask is None else pair_mask
    same = (labels[:, None] == labels)[pair_mask]
    if same.all() or not same.any():
        raise ValueError("expected same-class pairs and pairs of two classes, got only one kind")
    return float(roc_auc_score(same.cpu().numpy(), similarities[pair_mask].cpu().numpy()))


def class_similarities(
    similarities: Tensor, labels: Tensor, classes: int, pair_mask: Tensor | None = None
) -> Tensor:
    """Mean similarity (C, C) of the proposals of two classes; NaN where there are none.

    pair_mask: (N, N) bool, the pairs that count; by default all pairs of different proposals.
    """
    pair_mask = _different_proposals(labels) if pair_mask is None else pair_mask
    member = one_hot(labels, max(classes, int(labels.max()) + 1)).double()[:, :classes]
    total = member.t() @ (similarities.double() * pair_mask) @ member
    return (total / (member.t() @ pair_mask.double() @ member)).float()


def retrieval(queries: Tensor, keys: Tensor, ignore: Tensor | None = None) -> float:
    """The fraction of queries (N, D) whose most similar key (N, D) is their positive (top-1).

    ignore: (N, N) bool, keys that do not count for a query; the positive always counts.
    """
    similarities = cosine_similarities(queries, keys)
    if ignore is not None:
        similarities = similarities.masked_fill(ignore & _different_proposals(queries), -2)
    target = torch.arange(len(queries), device=queries.device)
    return (similarities.argmax(1) == target).float().mean().item()


def negative_shares(cosines: Tensor, positive: int, temperature: float) -> Tensor:
    """The share of each key (K,) in the push on a query: the softmax over its negatives.

    The contrastive loss pushes a query away from each negative with a force proportional to that
    negative's softmax. The shares sum to 1 over the negatives; that of the positive is 0.
    """
    logits = (cosines.double() / temperature).clone()
    logits[positive] = -torch.inf
    return logits.softmax(0).float()


@torch.no_grad()
def key_drift(projections: list[nn.Module], rows: Tensor) -> Tensor:
    """Cosine between each row's current key and its key after every earlier step: (ages, N).

    projections: the projection after every step, the current one last; rows: (N, D),
    representations of a frozen teacher, so that only the projection changes. Age 0 comes first.
    """
    keys = [normalize(projection(rows), dim=1) for projection in reversed(projections)]
    return torch.stack([(key * keys[0]).sum(1) for key in keys])


def _different_proposals(rows: Tensor) -> Tensor:
    return ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
