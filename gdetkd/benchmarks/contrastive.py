"""The contrastive loss at paper scale beside forms that keep all similarities, or some of them.

K counts the gathered batch, as in the paper: 8 ranks with 1,024 proposals each give 8,192 keys
with gradient, and the queue holds the other K - 8,192 (Table 1 of the supplement).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gdetkd.benchmarks import measure
from gdetkd.benchmarks.measure import Step, describe, seconds
from gdetkd.losses import common, contrastive, contrastive_loss

TEMPERATURE = 0.07


@dataclass(frozen=True)
class Shape:
    """N queries of one rank, M keys gathered from all ranks, K keys in total, D wide."""

    N: int = 1024
    M: int = 8192
    K: int = 81_920
    D: int = 128


PAPER = Shape()
TINY = Shape(8, 16, 64, 8)
SHAPES = [
    *(replace(PAPER, K=k * 1024) for k in (8, 40, 80, 120, 160)),  # Table 1
    *(replace(PAPER, N=n) for n in (512, 2048)),
    *(replace(PAPER, D=d) for d in (64, 256)),
    replace(PAPER, M=1024),  # one rank
]
CHUNKS = (16, 64, 256, 1024)  # rows at a time for torch's form
BLOCKS = (4, 16, 64, 256)  # MB of similarities at a time for ours on a GPU


def naive(
    queries: Tensor,
    keys: Tensor,
    *,
    queue: Tensor,
    ignore: Tensor | None = None,
    temperature: float | Tensor = TEMPERATURE,
) -> Tensor:
    """Masked cross-entropy over all N x K similarities; the mask is written in place, to be fair.

    `contrastive_loss`'s arguments, except that ``ignore`` has no True on its diagonal.
    """
    queries, keys = F.normalize(queries, dim=1) / temperature, F.normalize(keys, dim=1)
    similarities = queries @ torch.cat([keys, queue.to(keys.dtype)]).t()
    if ignore is not None:
        similarities[:, : ignore.shape[1]].masked_fill_(ignore, -torch.inf)
    return F.cross_entropy(similarities, torch.arange(len(queries), device=queries.device))


def torch_chunked(
    queries: Tensor,
    keys: Tensor,
    *,
    queue: Tensor,
    ignore: Tensor,
    temperature: float | Tensor,
    rows: int,
) -> Tensor:
    """PyTorch's `linear_cross_entropy`, so many rows at a time; it has no mask and ignores none."""
    queries, keys = F.normalize(queries, dim=1) / temperature, F.normalize(keys, dim=1)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
    target = torch.arange(len(queries), device=queries.device)
    weight = torch.cat([keys, queue])
    return F.linear_cross_entropy(queries, weight, target, options=options)


def looped(*args: Tensor, **settings: Any) -> Tensor:
    """Ours, as where PyTorch's kernel of attention does not fit: its own loop over the queue."""
    kept, contrastive.FLASH_THREADS = contrastive.FLASH_THREADS, 0
    try:
        return contrastive_loss(*args, **settings)
    finally:
        contrastive.FLASH_THREADS = kept


def form(name: str) -> Callable[..., Tensor]:
    """The loss by its name: 'ours', 'loop', 'naive', 'torch N' (N rows at a time)."""
    if name.startswith("torch "):
        return partial(torch_chunked, rows=int(name.split()[1]))
    return dict(ours=contrastive_loss, loop=looped, naive=naive)[name]


def problem(shape: Shape, device: str, seed: int = 0) -> dict[str, Tensor]:
    """Queries (N, D) near their keys (M, D), unit rows (K - M, D), a sparse mask (N, N)."""
    generator = torch.Generator().manual_seed(seed)
    random = partial(torch.randn, generator=generator)
    keys = random(shape.M, shape.D)
    made = dict(
        queries=keys[: shape.N] + random(shape.N, shape.D),
        keys=keys,
        queue=F.normalize(random(shape.K - shape.M, shape.D), dim=1),
        ignore=(torch.rand(shape.N, shape.N, generator=generator) < 0.02).fill_diagonal_(False),
        temperature=torch.tensor(TEMPERATURE),
    )
    return {name: tensor.to(device) for name, tensor in made.items()}


def make_step(name: str, shape: Shape, device: str) -> Step:
    """The loss of one form, forward and backward."""
    inputs = problem(shape, device)
    learned = [inputs[name] for name in ("queries", "keys", "temperature")]
    return measure.loss_step(partial(form(name), **inputs), learned)


def run(repeats: int, report: Callable[[str], None], devices: Sequence[str]) -> dict[str, Any]:
    """Everything that is recorded about the contrastive loss."""
    record: dict[str, Any] = dict(time_and_memory=[], chunks=[], precision=[], extremes=[])
    for device in devices:
        if device == "cuda":
            from gdetkd.benchmarks import peers

            record["blocks"] = blocks(repeats)
            record["peers"] = peers.compare(device, repeats)
        record["precision"] += precision(device=device)
        record["extremes"] += extremes(device)
        by_chunk = chunks(device)
        record["chunks"].append(dict(device=device, seconds=by_chunk))
        names = ["ours", "naive", *sorted(by_chunk, key=by_chunk.get)[:1]]
        names += ["loop"] if device == "cpu" else []
        for shape in SHAPES:
            # The targets are of the first shape and, for memory, of twice its N.
            here = dict(names=names, repeats=repeats, processes=3)
            if shape != PAPER:
                processes = 3 if shape.N > PAPER.N else 1
                here = dict(names=names[:2], repeats=min(repeats, 3), processes=processes)
            rows = time_and_memory(shape, device=device, **here)
            record["time_and_memory"] += rows
            report(f"contrastive {asdict(shape)}: {describe(rows)}")
    return record


def time_and_memory(
    shape: Shape, names: list[str], repeats: int, device: str, processes: int = 1
) -> list[dict[str, Any]]:
    """One record per form: time and peak memory of one step."""
    return measure.time_and_memory(make_step, names, shape, TINY, repeats, device, processes)


def chunks(device: str, shape: Shape = PAPER) -> dict[str, float]:
    """Seconds of torch's form by rows at a time; empty if this torch lacks the loss."""
    if not hasattr(F, "linear_cross_entropy"):
        return {}
    steps = {f"torch {rows}": make_step(f"torch {rows}", shape, device) for rows in CHUNKS}
    return {name: statistics.median(taken) for name, taken in seconds(steps, 2, device).items()}


def blocks(repeats: int, device: str = "cuda") -> dict[str, float]:
    """Seconds of ours on a GPU by its blocks, in 2^20 bytes, in float32 and with TF32 products."""
    kept, step = common.GPU_BLOCK_BYTES, make_step("ours", PAPER, device)

    def run_in(megabytes: int, precision: str) -> None:
        common.GPU_BLOCK_BYTES = megabytes << 20
        torch.set_float32_matmul_precision(precision)
        step()

    ways = dict(float32="highest", TF32="high")
    steps = {
        f"{megabytes} MB, {name}": partial(run_in, megabytes, ways[name])
        for megabytes, name in itertools.product(BLOCKS, ways)
    }
    try:
        taken = seconds(steps, repeats, device)
    finally:
        common.GPU_BLOCK_BYTES = kept
        torch.set_float32_matmul_precision("highest")
    return {name: statistics.median(times) for name, times in taken.items()}


def precision(shape: Shape = PAPER, device: str = "cpu") -> list[dict[str, Any]]:
    """Relative error against float64, in norm, of loss and gradients; through a projection too."""
    forms = {name: partial(differentiate, form(name)) for name in ("ours", "naive")}
    return measure.precision(forms, forms["naive"], shape, device)


def differentiate(
    loss: Callable[..., Tensor], shape: Shape, device: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Loss and gradients, by name, also of a projection of queries and keys."""
    inputs, names = problem(shape, device), ("queries", "keys", "temperature", "projection")
    random = torch.randn(shape.D, shape.D, generator=torch.Generator().manual_seed(1))
    inputs["projection"] = random.to(device)
    leaves = {name: inputs[name].to(dtype).requires_grad_() for name in names}
    value = loss(
        leaves["queries"] @ leaves["projection"].t(),
        leaves["keys"] @ leaves["projection"].t(),
        queue=inputs["queue"].to(dtype),
        ignore=inputs["ignore"],
        temperature=leaves["temperature"],
    )
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return dict(loss=value.detach()) | dict(zip(names, gradients, strict=True))


def extremes(device: str = "cpu") -> list[dict[str, Any]]:
    """Positive and negatives at cosines of -1 and +1: whether all is finite, and the loss's error.

    The error is absolute where the loss is below 1, else relative, against float64 on the same
    (rounded) inputs; the worst of the four pairs of cosines.
    """
    rows = []
    halves = dict(none=None, bfloat16=torch.bfloat16, float16=torch.float16)
    temperatures, forms = (1e-3, 1e-2, 0.07, 1.0), ("ours", "naive")
    for autocast, temperature, name in itertools.product(halves, temperatures, forms):
        pairs = itertools.product((-1, 1), (-1, 1))
        found = [_at_cosines(name, *pair, temperature, halves[autocast], device) for pair in pairs]
        finite, errors = zip(*found, strict=True)
        rows.append(dict(device=device, form=name, autocast=autocast, temperature=temperature,
                         finite=all(finite), error=max(errors)))  # fmt: skip
    return rows


def _at_cosines(name, positive, negative, temperature, half, device) -> tuple[bool, float]:
    """Whether loss and gradients are finite, and the loss's error."""
    axis = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).to(device)
    queries = axis.repeat(4, 1).to(half or torch.float32).requires_grad_()
    keys = (positive * axis).repeat(4, 1).to(half or torch.float32).requires_grad_()
    queue = F.normalize(negative * axis, dim=1).repeat(64, 1)
    gamma = torch.tensor(temperature, device=device, requires_grad=True)
    with torch.autocast(device, dtype=half or torch.bfloat16, enabled=half is not None):
        loss = form(name)(queries, keys, queue=queue, temperature=gamma)
    loss.backward()
    exact = naive(queries.double(), keys.double(), queue=queue.double(), temperature=gamma.double())
    values = (loss, queries.grad, keys.grad, gamma.grad)
    error = (loss.double() - exact).abs() / exact.abs().clamp(min=1)
    return all(bool(value.isfinite().all()) for value in values), error.item()
