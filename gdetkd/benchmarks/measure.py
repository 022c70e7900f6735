"""How time and memory are measured.

Time is that of `gdetkd.ops.clock`, on one thread. Memory on the CPU is how far the resident set of
a fresh process rises above what its inputs take; on a GPU it is what PyTorch's allocator hands out.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdetkd.ops.clock import time_call

Step = Callable[[], None]
Differentiated = Callable[[Any, str, torch.dtype], dict[str, Tensor]]


def devices() -> list[str]:
    """The kinds of device of this machine."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Process time adds up over threads, so it is a duration on one thread only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(steps: Mapping[str, Step], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each step, ``repeats`` each after one to warm up.

    The steps are measured in turn, so that a machine that slows down affects all of them.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    with one_thread():
        for repeat in range(repeats + 1):
            for name, step in steps.items():
                spent = time_call(step, device)
                if repeat:
                    taken[name].append(spent)
    return taken


def time_and_memory(
    make: Callable[..., Step],
    names: Iterable[str],
    shape: Any,
    warm: Any,
    repeats: int,
    device: str,
    processes: int = 1,
) -> list[dict[str, Any]]:
    """One record per form of a loss: time and peak memory of one step; see `peak_bytes`.

    make: Gives the step for a form's name, a shape (a dataclass of sizes) and a device; warm: a
    small shape; repeats: times measured for each form, in turn.
    """
    steps = {name: make(name, shape, device) for name in names}
    taken = seconds(steps, repeats, device)
    rows = []
    for name in list(steps):
        del steps[name]  # its inputs would count as this process's
        peak = peak_bytes(make, (name, shape, device), (name, warm, device), device, processes)
        row = dict(device=device, form=name, **asdict(shape), **summary(taken[name]))
        ratios = {other: ratio(taken[name], taken[other]) for other in taken if other != name}
        rows.append(row | dict(repeats=repeats, peak_bytes=peak, ratios=ratios))
    return rows


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """[low, median, high] of the ratios round by round; see `median_interval`.

    Two times of one round were taken one after the other, so that a slow moment affects both.
    """
    found = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, high = median_interval(found)
    return [round(value, 4) for value in (low, statistics.median(found), high)]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values between which the median of their distribution lies, in 19 of 20 cases.

    Whatever the distribution is: the median is below k of n values as often as a coin shows heads
    at most k - 1 times in n throws. Of fewer than 6 values it is the whole range, and less certain.
    """
    ordered, n, k = sorted(values), len(values), 0
    while sum(math.comb(n, i) for i in range(k + 1)) / 2**n <= 0.025:
        k += 1
    return ordered[max(k - 1, 0)], ordered[n - max(k, 1)]


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread of repeated times."""
    values = [round(value, 5) for value in values]
    return dict(seconds=statistics.median(values), fastest=min(values), slowest=max(values))


def loss_step(loss: Callable[[], Tensor], learned: Sequence[Tensor]) -> Step:
    """The loss, forward and backward, with new gradients of what is learned."""
    for tensor in learned:
        tensor.requires_grad_()

    def step() -> None:
        for tensor in learned:
            tensor.grad = None
        loss().backward()

    return step


def precision(
    forms: Mapping[str, Differentiated], reference: Differentiated, shape: Any, device: str
) -> list[dict[str, Any]]:
    """One record per form: relative errors, in norm, of float32 against the reference in float64.

    A form gives its loss and gradients by name, for inputs of a shape, device and type.
    """
    exact, rows = reference(shape, device, torch.float64), []
    for name, form in forms.items():
        found = form(shape, device, torch.float32)
        errors = {
            key: ((found[key] - value).norm() / value.norm()).item() for key, value in exact.items()
        }
        rows.append(dict(device=device, form=name, **asdict(shape), errors=errors))
    return rows


def describe(rows: list[dict[str, Any]]) -> str:
    """Time and memory of each form, in one line."""
    shown = []
    for row in rows:
        peak = "" if row["peak_bytes"] is None else f", {row['peak_bytes'] / 1e6:,.0f} MB"
        shown.append(f"{row['form']} {row['seconds']:.3f} s{peak}")
    return "; ".join(shown) + f" ({rows[0]['device']})"


def peak_bytes(
    make: Callable[..., Step], arguments: tuple, warm: tuple, device: str, processes: int = 1
) -> int | None:
    """The most bytes that a step needs beyond its inputs, including the gradients it leaves.

    Args:
        make: Gives the step for its arguments; importable by name, since a fresh process calls it.
        arguments: Of the step to measure.
        warm: Arguments of a small step that loads what is loaded only once.
        device: 'cpu' or 'cuda'.
        processes: On the CPU, the median over so many. Linux counts resident memory to about 1 MB.

    Returns:
        None on a CPU without Linux's /proc: not measured.
    """
    if device == "cuda":
        make(*warm)()
        step = make(*arguments)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not Path("/proc/self/clear_refs").exists():
        return None
    # A fresh process: memory that an earlier step left with the allocator would hide this one's.
    spawn, found = multiprocessing.get_context("spawn"), []
    for _ in range(processes):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            found.append(process.submit(_resident_peak, make, arguments, warm).result())
    return int(statistics.median(found))


def load() -> dict[str, Any]:
    """How busy the machine is: processes that want a core, averaged over 1, 5 and 15 minutes."""
    averages = os.getloadavg() if hasattr(os, "getloadavg") else ()
    return dict(cores=os.cpu_count(), load_average=[round(value, 2) for value in averages])


def _resident_peak(make: Callable[..., Step], arguments: tuple, warm: tuple) -> int:
    with one_thread():
        make(*warm)()
        step = make(*arguments)
        with contextlib.suppress(AttributeError, OSError):  # what making the inputs left behind
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before = _resident("VmRSS")
        step()
        return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])
