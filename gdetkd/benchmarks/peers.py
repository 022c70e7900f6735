"""The contrast as other libraries compute it on a GPU. None of them has a mask: none ignores any.

`cut-cross-entropy` takes half precision alone, `inf-cl` computes in TF32; FlexAttention, of PyTorch
itself, gives the log-sum-exp of an attention.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gdetkd.benchmarks import measure
from gdetkd.benchmarks.contrastive import PAPER, form, problem


def flex_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Losses by FlexAttention's log-sum-exp; compiled on a GPU."""
    from torch.nn.attention.flex_attention import flex_attention

    attention = _compiled(flex_attention) if queries.is_cuda else flex_attention
    values = keys[None, None]
    _, log_sum = attention(queries[None, None], values, values, scale=1.0, return_lse=True)
    return log_sum[0, 0] - (queries * keys[: len(queries)]).sum(1)


def cut_cross_entropy(queries: Tensor, keys: Tensor) -> Tensor:
    """Losses in bfloat16, without the filter of small gradients."""
    peer = import_module("cut_cross_entropy")  # of `make gpu-kit`, no dependency
    target = torch.arange(len(queries), device=queries.device)
    return peer.linear_cross_entropy(
        queries.bfloat16(), keys.bfloat16(), target, filter_eps=None, impl="cce"
    )


def inf_cl(queries: Tensor, keys: Tensor) -> Tensor:
    """Losses by Inf-CL's flash kernel."""
    peer = import_module("inf_cl")  # of `make gpu-kit`, no dependency
    return peer.cal_flash_loss(queries, keys, scale=1.0, head_dim=queries.shape[1])


PEERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "FlexAttention": flex_attention,
    "cut-cross-entropy": cut_cross_entropy,
    "inf-cl": inf_cl,
}


@functools.cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function)


def contrast(
    peer: str, queries: Tensor, keys: Tensor, *, queue: Tensor, temperature: float | Tensor
) -> Tensor:
    """`contrastive_loss` without a mask, by a peer."""
    unit = torch.cat([F.normalize(keys, dim=1), queue])
    return PEERS[peer](F.normalize(queries, dim=1) / temperature, unit).mean()


def compare(device: str, repeats: int, shape: Any = None) -> list[dict[str, Any]]:
    """One row per peer: seconds, [low, median, high] of ours by its, the loss's error.

    A peer that is not installed, or fails, has its error's text instead.
    """
    inputs, rows, steps = problem(shape or PAPER, device), [], {}
    learned = [inputs[name] for name in ("queries", "keys", "temperature")]
    inputs.pop("ignore")
    exact = form("naive")(**{name: tensor.double() for name, tensor in inputs.items()}).item()
    losses = dict(ours=functools.partial(form("ours"), **inputs))
    losses |= {name: functools.partial(contrast, name, **inputs) for name in PEERS}
    for name, loss in losses.items():
        try:
            value = loss().item()
            steps[name] = measure.loss_step(loss, learned)
            steps[name]()
            rows.append(dict(device=device, form=name, error=abs(value - exact) / exact))
        except Exception as error:  # whatever a library of another project raises
            steps.pop(name, None)
            text = str(error).strip().split("\n")[0][:200]
            rows.append(dict(device=device, form=name, failed=f"{type(error).__name__}: {text}"))
    taken = measure.seconds(steps, repeats, device)
    for row in rows:
        if times := taken.get(row["form"]):
            row["seconds"] = statistics.median(times)
            row["ours / its"] = measure.ratio(taken["ours"], times)
    return rows
