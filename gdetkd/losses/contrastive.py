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
FLASH_THREADS = 4
LONGEST_IN_FLASH = 32  # a temperature of 0.03
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
        queries_wanted, keys_wanted = ctx.needs_input_grad[:2]
        grad_keys = torch.zeros_like(keys) if keys_wanted else None
        height = min(block_length(queries, len(keys), CPU_BLOCK_BYTES), len(queries))
        # The queue first: what it adds to the queries' gradient is the mean of its rows.
        queue_top, queue_total, mean = _attention(queries, queue, queries_wanted, height)
        # Blocks reuse one buffer: if allocated each time, small tensors that outlive them
        # would leave holes too small for the next, and the heap would grow.
        dense = queries.new_empty(height, len(keys))
        losses = []
        for start in range(0, len(queries), height):
            rows = slice(start, start + height)
            pulled = None if mean is None else mean[rows]
            sums = queue_top[rows], queue_total[rows]
            losses.append(
                _contrast_rows(start, queries[rows], keys, ignore, dense, *sums, pulled, grad_keys)
            )
        ctx.save_for_backward(
            *(g if g is None else g.div_(len(queries)) for g in (mean, grad_keys))
        )
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx, grad):
        check_differentiated_once("contrastive_loss")
        return *(g if g is None else grad * g for g in ctx.saved_tensors), None, None


def _contrast_rows(
    start, queries, keys, ignore, dense, queue_top, queue_total, pulled, grad_keys
) -> Tensor:
    """Losses (n,) of the queries from row ``start`` on.

    ``pulled`` (n, D), the queue's mean, becomes the queries' gradient; ``grad_keys`` is added to.
    """
    dense = torch.mm(queries, keys.t(), out=dense[: len(queries)])
    positive = dense.diagonal(start)
    value = positive.clone()
    if ignore is not None:
        dense[:, : ignore.shape[1]].masked_fill_(ignore[start : start + len(queries)], -torch.inf)
        positive.copy_(value)

    # One softmax over keys and queue, its sums taken below the maximum.
    top = torch.maximum(dense.amax(1, keepdim=True), queue_top)
    of_queue = (queue_top - top).exp_().mul_(queue_total)
    total = dense.sub_(top).exp_().sum(1, keepdim=True) + of_queue
    if pulled is not None or grad_keys is not None:
        dense.div_(total)  # now probabilities ...
        positive.sub_(1)  # ... now the gradient of the losses by the logits
        if grad_keys is not None:
            grad_keys.addmm_(dense.t(), queries)
        if pulled is not None:
            pulled.mul_(of_queue.div_(total)).addmm_(dense, keys)
    return (top - value[:, None] + total.log()).squeeze(1)  # the large terms cancel first


def _attention(
    queries: Tensor, queue: Tensor | None, mean_wanted: bool, height: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Contrast is an attention whose values are its keys, without scale.

    Returns:
        (N, 1) twice, a and b: each query's products with the queue's rows have the sum of
        exponentials b exp(a); and the mean (N, D) of those rows, weighted by the softmax, or None
        where it is not wanted.
    """
    if queue is None or not len(queue):
        top = queries.new_full((len(queries), 1), -torch.inf)
        return top, torch.zeros_like(top), torch.zeros_like(queries) if mean_wanted else None
    if mean_wanted and _flash_fits(queries, queue):
        mean, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries[None, None], queue[None, None], queue[None, None], scale=1.0
        )
        log_sum = log_sum.view(-1, 1)
        return log_sum, torch.ones_like(log_sum), mean[0, 0]
    return _looped_attention(queries, queue, mean_wanted, height)


def _flash_fits(queries: Tensor, queue: Tensor) -> bool:
    """Whether PyTorch's CPU kernel of attention is there, as exact as the loop, and quicker.

    The public function does not give the log-sum-exp. Of a long query, at a temperature near 0,
    that is a large number with few digits behind the point. The kernel shares a call among threads
    by blocks of 256 queries: with many threads, the loop's products use them better.
    """
    return (
        hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")
        and queries.device.type == queue.device.type == "cpu"
        and queries.dtype == queue.dtype
        and queue.stride(1) == 1
        and torch.get_num_threads() <= FLASH_THREADS
        and bool(torch.linalg.vector_norm(queries, dim=1).amax() < LONGEST_IN_FLASH)
    )


def _looped_attention(
    queries: Tensor, queue: Tensor, mean_wanted: bool, height: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same in blocks of ``height`` queries, with a running maximum and sum."""
    width = min(block_length(queries, height, CPU_BLOCK_BYTES), len(queue))
    block = queries.new_empty(height, width)
    tops = queries.new_empty(len(queries), 1)
    totals = torch.empty_like(tops)
    mean = torch.zeros_like(queries) if mean_wanted else None
    for start in range(0, len(queries), height):
        part = queries[start : start + height]
        top = part.new_full((len(part), 1), -torch.inf)
        total, pulled = (
            torch.zeros_like(top),
            None if mean is None else mean[start : start + height],
        )
        for rows in queue.split(width):
            rows = rows.to(part.dtype)
            weights = torch.mm(part, rows.t(), out=block[: len(part), : len(rows)])
            highest = torch.maximum(top, weights.amax(1, keepdim=True))
            weights.sub_(highest).exp_()
            shrink = (top - highest).exp_()
            total = total * shrink + weights.sum(1, keepdim=True)
            if pulled is not None:
                pulled.mul_(shrink).addmm_(weights, rows)
            top = highest
        tops[start : start + height], totals[start : start + height] = top, total
        if pulled is not None:
            pulled.div_(total)
    return tops, totals, mean


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
