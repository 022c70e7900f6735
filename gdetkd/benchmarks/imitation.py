"""Semantic-guided imitation beside the form that stacks the levels and multiplies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gdetkd.benchmarks import measure
from gdetkd.benchmarks.measure import Step, describe
from gdetkd.losses import semantic_guided_imitation


@dataclass(frozen=True)
class Shape:
    """N proposals pooled to 7 x 7 from L levels of C channels."""

    N: int = 1024
    L: int = 4
    C: int = 256
    bins: int = 7


PROCESSES = 5
PAPER = Shape()
TINY = Shape(4, 2, 8)
SHAPES = [PAPER, replace(PAPER, N=512), replace(PAPER, N=2048), replace(PAPER, L=5),
          replace(PAPER, C=64)]  # fmt: skip


def stack_and_einsum(levels: list[Tensor], teacher: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error of the weighted levels, over one tensor (N, L, C, h, w) of them all."""
    mixed = torch.einsum("nlchw,nl->nchw", torch.stack(levels, 1), weights)
    return F.mse_loss(mixed, teacher)


FORMS: dict[str, Callable[..., Tensor]] = {
    "ours": semantic_guided_imitation,
    "stack + einsum": stack_and_einsum,
}


def problem(shape: Shape, device: str, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """L levels and a teacher (N, C, 7, 7), weights (N, L)."""
    random = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    size = (shape.N, shape.C, shape.bins, shape.bins)
    levels = [random(size).to(device) for _ in range(shape.L)]
    return levels, random(size).to(device), random(shape.N, shape.L).softmax(1).to(device)


def make_step(name: str, shape: Shape, device: str) -> Step:
    """The loss of one form, forward and backward."""
    levels, teacher, weights = problem(shape, device)
    return measure.loss_step(partial(FORMS[name], levels, teacher, weights), [*levels, weights])


def run(repeats: int, report: Callable[[str], None], devices: Sequence[str]) -> dict[str, Any]:
    """Everything that is recorded about the imitation loss."""
    record: dict[str, Any] = dict(time_and_memory=[], precision=[])
    for device in devices:
        record["precision"] += precision(device=device)
        for shape in SHAPES:
            here = (repeats, device, PROCESSES) if shape == PAPER else (min(repeats, 3), device, 1)
            rows = measure.time_and_memory(make_step, FORMS, shape, TINY, *here)
            record["time_and_memory"] += rows
            report(f"imitation {asdict(shape)}: {describe(rows)}")
    return record


def precision(shape: Shape = PAPER, device: str = "cpu") -> list[dict[str, Any]]:
    """Relative error against float64, in norm, of loss and gradients."""
    forms = {name: partial(differentiate, loss) for name, loss in FORMS.items()}
    return measure.precision(forms, forms["stack + einsum"], shape, device)


def differentiate(
    loss: Callable[..., Tensor], shape: Shape, device: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Loss and gradients by name."""
    levels, teacher, weights = problem(shape, device)
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (*levels, weights)]
    value = loss(leaves[:-1], teacher.to(dtype), leaves[-1])
    *by_level, by_weight = torch.autograd.grad(value, leaves)
    return dict(loss=value.detach(), levels=torch.stack(by_level), weights=by_weight)
