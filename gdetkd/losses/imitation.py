"""Semantic-guided feature imitation (SGFI): a proposal's feature, rebuilt from all pyramid levels.

Section 4.1 of the paper; `naive_semantic_guided_imitation` is the equation. The level that a
proposal's size assigns it to need not be the one whose
meaning matches in another network; so the student's levels are mixed by how much each resembles
the teacher's feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gdetkd.losses.common import (
    block_length,
    check_differentiated_once,
    check_shape,
    check_temperature,
    empty_loss,
    full_precision,
)

__all__ = ["level_weights", "naive_semantic_guided_imitation", "semantic_guided_imitation"]

CPU_BLOCK_BYTES = 512 << 10


def naive_semantic_guided_imitation(
    student_levels: Tensor, teacher: Tensor, weights: Tensor
) -> Tensor:
    """The equation of `semantic_guided_imitation`: levels (N, L, C, h, w), weights (N, L)."""
    mixed = torch.einsum("nl,nlchw->nchw", weights, student_levels)
    return (mixed - teacher).square().mean()


def level_weights(
    student_embeddings: Tensor, teacher_embedding: Tensor, tau: float | Tensor
) -> Tensor:
    r"""How much each pyramid level resembles the teacher's feature.

    .. math:: \alpha_{il} = \mathrm{softmax}_l (K_s^{il} \cdot K_t^i / \tau)

    The softmax runs over the levels of one proposal, never over the proposals.

    Args:
        student_embeddings: (N, L, E).
        teacher_embedding: (N, E). It gets a gradient: the embedding is learned on both sides.
        tau: > 0; a tensor of one element may receive a gradient.

    Returns:
        (N, L), rows sum to 1; (0, L) for N = 0. float32, under autocast too, or float64.

    Raises:
        ValueError: shapes that do not fit, a number <= 0 as tau.
    """
    check_shape("student_embeddings", student_embeddings, (None, None, None), "(N, L, E)")
    n, _, width = student_embeddings.shape
    beside = f"beside student embeddings {tuple(student_embeddings.shape)}"
    check_shape("teacher_embedding", teacher_embedding, (n, width), beside)
    dtype = full_precision(student_embeddings, teacher_embedding)
    tau = check_temperature("tau", tau, dtype)
    with torch.autocast(student_embeddings.device.type, enabled=False):
        products = student_embeddings.to(dtype) @ teacher_embedding.to(dtype).unsqueeze(2)
        return (products.squeeze(2) / tau).softmax(1)


@torch.compiler.disable  # a loop whose length follows N: recompiled for every size
def semantic_guided_imitation(
    student_levels: Tensor | Sequence[Tensor], teacher: Tensor, weights: Tensor
) -> Tensor:
    r"""Mean squared error between the weighted sum of the student's levels and the teacher.

    .. math:: L = \mathrm{mean} \Big( \sum_l \alpha_{il} S_i^l - T_i \Big)^2

    It allocates nothing of the levels' size but their gradients: the residual is formed again in
    the backward pass. Inside ``torch.compile`` it is a graph break and runs as it is.

    Args:
        student_levels: L tensors (N, C, h, w), adapted to the teacher's channels; or one tensor
            (N, L, C, h, w).
        teacher: (N, C, h, w), from the level its own detector assigned. A constant.
        weights: (N, L), see :func:`level_weights`.

    Returns:
        Scalar, mean over all N * C * h * w elements; float32 (half inputs too) or float64.
        Gradients go to the levels and the weights. N = 0 gives 0 with gradients of zeros.

    Raises:
        ValueError: shapes that do not fit.
        RuntimeError: when differentiated twice.
    """
    stacked = isinstance(student_levels, Tensor)
    if stacked:
        check_shape("student_levels", student_levels, (None,) * 5, "(N, L, C, h, w)")
    levels = student_levels.unbind(1) if stacked else student_levels
    check_shape("teacher", teacher, (None,) * 4, "(N, C, h, w)")
    for level in levels:
        check_shape("a student level", level, tuple(teacher.shape), "as the teacher's")
    expected = (len(teacher), len(levels))
    check_shape("weights", weights, expected, f"beside a teacher {tuple(teacher.shape)}")
    if teacher.numel() == 0:
        return empty_loss(*levels, weights)
    teacher = teacher.detach()
    inputs = [student_levels] if stacked else student_levels
    if all(level.is_contiguous(memory_format=torch.channels_last) for level in levels):
        # In the order of memory; which axis is which does not matter to a mean of squares.
        inputs = [x.movedim(-3, -1) for x in inputs]
        teacher = teacher.movedim(-3, -1).contiguous()
    return _WeightedError.apply(teacher, weights, *inputs)


class _WeightedError(torch.autograd.Function):
    """Keeps nothing but its inputs: the residual is formed again in backward, block by block."""

    @staticmethod
    def forward(ctx, teacher, weights, *inputs):
        ctx.save_for_backward(teacher, weights, *inputs)
        levels = _levels(teacher, inputs)
        squares = [residual.square_().sum() for _, residual in _residuals(teacher, weights, levels)]
        return torch.stack(squares).sum() / teacher.numel()

    @staticmethod
    def backward(ctx, grad):
        check_differentiated_once("semantic_guided_imitation")
        teacher, weights, *inputs = ctx.saved_tensors
        weights_wanted, *inputs_wanted = ctx.needs_input_grad[1:]
        grads = [
            torch.empty_like(x) if wanted else None
            for x, wanted in zip(inputs, inputs_wanted, strict=True)
        ]
        grad_weights = torch.empty_like(weights, dtype=grad.dtype) if weights_wanted else None
        levels, grad_levels = _levels(teacher, inputs), _levels(teacher, grads)
        for rows, residual in _residuals(teacher, weights, levels):
            residual *= grad * (2 / teacher.numel())
            if weights_wanted:
                grad_weights[rows] = _products(inputs, rows, residual)
            for index, grad_level in enumerate(grad_levels):
                if grad_level is not None:
                    torch.mul(residual, _per_row(weights[rows, index]), out=grad_level[rows])
        return None, grad_weights, *grads


def _levels(teacher: Tensor, inputs: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """The levels (N, ...) of inputs that are levels, or the one tensor (N, L, ...) of all."""
    first = inputs[0]
    return inputs if first is None or first.ndim == teacher.ndim else first.unbind(1)


def _products(inputs: Sequence[Tensor], rows: slice, residual: Tensor) -> Tensor:
    """Of each level of a block of proposals with their residuals (n, ...): (n, L)."""
    flat = residual.flatten(1)
    if inputs[0].ndim > residual.ndim:
        stacked = inputs[0][rows].to(residual.dtype).flatten(2)
        with torch.autocast(flat.device.type, enabled=False):  # a backward pass may run inside one
            return (stacked @ flat[..., None]).squeeze(2)
    levels = (level[rows].to(residual.dtype).flatten(1) for level in inputs)
    return torch.stack([torch.linalg.vecdot(flat, level) for level in levels], 1)


def _residuals(
    teacher: Tensor, weights: Tensor, levels: Sequence[Tensor]
) -> Iterator[tuple[slice, Tensor]]:
    """Weighted sum of the levels less the teacher, for one block of proposals after the other.

    All in one buffer: if each block were allocated, small tensors that outlive it leave
    holes too small for the next, and the heap grows by a block each time.
    """
    dtype = full_precision(*levels)
    height = block_length(teacher, teacher[0].numel(), CPU_BLOCK_BYTES)
    buffer = torch.empty_like(teacher[:height], dtype=dtype)
    for start in range(0, len(teacher), height):
        rows = slice(start, start + height)
        part = teacher[rows]
        residual = torch.neg(part.to(dtype), out=buffer[: len(part)])
        for level, weight in zip(levels, weights[rows].to(dtype).unbind(1), strict=True):
            residual.addcmul_(level[rows].to(dtype), _per_row(weight))
        yield rows, residual


def _per_row(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]
