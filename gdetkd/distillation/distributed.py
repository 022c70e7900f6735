"""What distillation exchanges between the processes of a training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_gather_variable(rows: Tensor) -> tuple[Tensor, slice]:
    """All ranks' rows (sum of n, dim) in rank order, and where this rank's stand among them.

    Any n, also 0, on any rank. No gradient crosses ranks: give it constants. Without a process
    group it gives the rows back.
    """
    if world_size() == 1:
        return rows, slice(0, len(rows))
    world, rank = dist.get_world_size(), dist.get_rank()
    counts = torch.empty(world, dtype=torch.int64, device=rows.device)
    dist.all_gather_into_tensor(counts, counts.new_tensor([len(rows)]))
    lengths = counts.tolist()
    padded = rows.new_zeros(max(lengths), rows.shape[1])
    padded[: len(rows)] = rows
    blocks = rows.new_empty(world * len(padded), rows.shape[1])  # gloo knows no stacked output
    dist.all_gather_into_tensor(blocks, padded)
    blocks = blocks.view(world, *padded.shape)
    gathered = torch.cat([block[:n] for block, n in zip(blocks, lengths, strict=True)])
    start = sum(lengths[:rank])
    return gathered, slice(start, start + lengths[rank])


def ddp_loss_scale(counts: Tensor) -> Tensor:
    """What makes DDP's average of per-rank means the mean over the union: N_rank * world / N."""
    if world_size() == 1:
        return torch.ones_like(counts)
    total = counts.clone()
    dist.all_reduce(total)
    return counts * dist.get_world_size() / total.clamp(min=1)


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a scalar over the ranks, equal on all of them; without a gradient."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
