"""Contrastive distillation: a student's proposal should resemble its teacher's more than others.

Section 4.2 of the paper, supplement A, B and F.1. `naive_contrastive_loss` is the equation;
`contrastive_loss` gives the same numbers without ever holding the N x (M + K) similarities.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gdetkd.losses.common import (
    block_length,
    check_differentiated_once,
    check_shape,
    check_temperature,
    empty_loss,
    full_precision,
)

__all__ = ["contrastive_loss", "naive_contrastive_loss"]

CPU_BLOCK_BYTES = 4 << 20  # of similarities at a time
SMALLEST_NORM = 1e-8


def naive_contrastive_loss(
    queries: Tensor,
    keys: Tensor,
    *,
    queue: Tensor | None = None,
    ignore: Tensor | None = None,
    temperature: float | Tensor = 0.07,
) -> Tensor:
    """The equation of `contrastive_loss` as it is written; same arguments, no checks."""
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    logits = queries @ (keys if queue is None else torch.cat([keys, queue])).t() / temperature
    if ignore is not None:
        ignored = F.pad(ignore, (0, logits.shape[1] - ignore.shape[1])).fill_diagonal_(False)
        logits = logits.masked_fill(ignored, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


@torch.compiler.disable  # a loop whose length follows N and K: recompiled for every size
def contrastive_loss(
    queries: Tensor,
    keys: Tensor,
    *,
    queue: Tensor | None = None,
    ignore: Tensor | None = None,
    temperature: float | Tensor = 0.07,
) -> Tensor:
    r"""Contrast each query with its key against all other keys and a queue (supplement F.1).

    .. math:: L = -\frac{1}{N} \sum_i \log
        \frac{g(q_i, k_i)}{\sum_j g(q_i, k_j)}, \qquad g(q, k) = e^{\cos(q, k) / \gamma}

    over the keys and the queue's rows, without those that ``ignore`` marks for i; the positive
    stands in the denominator too.

    The N x (M + K) similarities never exist at once, forward or backward: gradients are formed
    block by block in the forward pass, so the queue may change before ``backward``. Inside
    ``torch.compile`` it is a graph break and runs as it is.

    Args:
        queries: (N, D), the student's projected representations. Any length, zero included (a
            vector without direction has cosine 0 with everything and gets no gradient).
        keys: (M, D) with M >= N, the teacher's; ``keys[i]`` is the positive of ``queries[i]``.
        queue: (K, D) further negatives, rows of length 1. Gets no gradient.
        ignore: (N, W) bool with W <= M, over the leading keys; True = not a negative. The positive
            counts whatever it says.
        temperature: the paper's gamma, > 0; a tensor of one element may receive a gradient.

    Returns:
        Scalar, mean over the N queries; float32 (autocast and half inputs too) or float64.
        Gradients go to queries, keys and temperature. N = 0 gives 0 with gradients of zeros.

    Raises:
        ValueError: shapes that do not fit, an ``ignore`` that is not bool, a number <= 0 as
            temperature.
        RuntimeError: when differentiated twice.
    """
    _check(queries, keys, queue, ignore)
    dtype = full_precision(queries, keys)
    divisor = check_temperature("temperature", temperature, dtype)
    if len(queries) == 0:
        learned = [temperature] if isinstance(temperature, Tensor) else []
        return empty_loss(queries, keys, *learned)
    with torch.autocast(queries.device.type, enabled=False):
        queries = _unit(queries.to(dtype)) / divisor
        return _DotProductContrast.apply(queries, _unit(keys.to(dtype)), queue, ignore)


def _unit(rows: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norm.masked_fill(norm < SMALLEST_NORM, torch.inf)


class _DotProductContrast(torch.autograd.Function):
    """Mean over i of logsumexp_j(q_i . k_j) - q_i . k_i, and its gradients, in blocks."""

    @staticmethod
    def forward(ctx, queries, keys, queue, ignore):
        grads = [
            torch.zeros_like(x) if wanted else None
            for x, wanted in zip((queries, keys), ctx.needs_input_grad[:2], strict=True)
        ]
        height = min(block_length(queries, len(keys), CPU_BLOCK_BYTES), len(queries))
        # Blocks reuse two buffers: if allocated each time, small tensors that outlive them
        # would leave holes too small for the next, and the heap would grow.
        dense = queries.new_empty(height, len(keys))
        width = block_length(queries, height, CPU_BLOCK_BYTES)
        block = queries.new_empty(height, 0 if queue is None else min(width, len(queue)))
        losses = [
            _contrast_rows(
                start, queries[start : start + height], keys, queue, ignore, dense, block, *grads
            )
            for start in range(0, len(queries), height)
        ]
        ctx.save_for_backward(*(g if g is None else g.div_(len(queries)) for g in grads))
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx, grad):
        check_differentiated_once("contrastive_loss")
        return *(g if g is None else grad * g for g in ctx.saved_tensors), None, None


def _contrast_rows(
    start, queries, keys, queue, ignore, dense, block, grad_queries, grad_keys
) -> Tensor:
    """Losses (n,) of the queries from row ``start`` on; adds to the gradients that are not None."""
    rows = slice(start, start + len(queries))
    dense = torch.mm(queries, keys.t(), out=dense[: len(queries)])
    positive = dense.diagonal(start)
    value = positive.clone()
    if ignore is not None:
        dense[:, : ignore.shape[1]].masked_fill_(ignore[rows], -torch.inf)
        positive.copy_(value)

    # One softmax over keys and queue, its sums taken below a running maximum.
    first_top = top = dense.amax(1, keepdim=True)
    total = dense.sub_(top).exp_().sum(1, keepdim=True)
    pulled = None if grad_queries is None else grad_queries[rows]
    if queue is not None and len(queue):
        top, total = _continue_over(queue, queries, block, top, total, pulled)

    if grad_queries is not None or grad_keys is not None:
        dense.mul_((first_top - top).exp_().div_(total))  # now probabilities ...
        positive.sub_(1)  # ... now the gradient of the losses by the logits
        if grad_keys is not None:
            grad_keys.addmm_(dense.t(), queries)
        if grad_queries is not None:
            pulled.div_(total).addmm_(dense, keys)
    return (top.squeeze(1) - value) + total.squeeze(1).log()  # the large terms cancel first


def _continue_over(queue, queries, block, top, total, pulled) -> tuple[Tensor, Tensor]:
    """Extend the running maximum and sum over the queue, and ``pulled`` += weights @ queue."""
    for part in queue.split(block.shape[1]):
        part = part.to(queries.dtype)
        weights = torch.mm(queries, part.t(), out=block[: len(queries), : len(part)])
        highest = torch.maximum(top, weights.amax(1, keepdim=True))
        weights.sub_(highest).exp_()
        shrink = (top - highest).exp_()
        total = total * shrink + weights.sum(1, keepdim=True)
        if pulled is not None:
            pulled.mul_(shrink).addmm_(weights, part)
        top = highest
    return top, total


def _check(queries, keys, queue, ignore) -> None:
    check_shape("queries", queries, (None, None), "(N, D)")
    check_shape("keys", keys, (None, queries.shape[1]), f"beside queries {tuple(queries.shape)}")
    beside = f"beside queries {tuple(queries.shape)} and keys {tuple(keys.shape)}"
    if len(keys) < len(queries):
        raise ValueError(f"expected at least one key per query {beside}")
    if queue is not None:
        check_shape("queue", queue, (None, queries.shape[1]), beside)
    if ignore is not None:
        check_shape("ignore", ignore, (len(queries), None), beside)
        if ignore.shape[1] > len(keys) or ignore.dtype != torch.bool:
            raise ValueError(
                f"expected a bool ignore over at most {len(keys)} keys {beside}, "
                f"got {ignore.dtype} {tuple(ignore.shape)}"
            )
