"""How time and memory are measured.

On the CPU time is the process's own, on one thread, so that what else the machine does counts
less; memory is how far the resident set of a fresh process rises above what its inputs take. On a
GPU time is the wall's between two synchronizations, memory what PyTorch's allocator hands out.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Step = Callable[[], None]


def devices() -> list[str]:
    """What there is to measure on."""
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

    They are taken in turn, so that a machine that slows down meanwhile slows all of them.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    with one_thread():
        for repeat in range(repeats + 1):
            for name, step in steps.items():
                spent = _clock(step, device)
                if repeat:
                    taken[name].append(spent)
    return taken


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread of repeated times."""
    values = [round(value, 5) for value in values]
    return dict(seconds=statistics.median(values), fastest=min(values), slowest=max(values))


def relative_errors(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """By name, the norm of the difference over that of the exact value."""
    return {
        name: ((found[name] - exact[name]).norm() / exact[name].norm()).item() for name in exact
    }


def describe(rows: list[dict[str, Any]]) -> str:
    """Time and memory of each form in a line."""
    shown = []
    for row in rows:
        peak = "" if row["peak_bytes"] is None else f", {row['peak_bytes'] / 1e6:,.0f} MB"
        shown.append(f"{row['form']} {row['seconds']:.3f} s{peak}")
    return "; ".join(shown) + f" ({rows[0]['device']})"


def peak_bytes(
    make: Callable[..., Step], arguments: tuple, warm: tuple, device: str, processes: int = 1
) -> int | None:
    """Bytes that a step needs at most beyond its inputs; the gradients it leaves are counted.

    Args:
        make: Gives the step for arguments; importable by name, for a fresh process calls it.
        arguments: Of the step to measure.
        warm: Of a small step that loads what is loaded once only.
        device: 'cpu' or 'cuda'.
        processes: On the CPU, the median over so many. Linux counts resident memory to about 1 MB.

    Returns:
        None on a CPU without Linux's /proc: not measured.
    """
    if device == "cuda":
        return _allocated_peak(make, arguments, warm)
    if not Path("/proc/self/clear_refs").exists():
        return None
    # Nothing that an earlier step freed, yet the allocator kept, may hide what this one takes.
    spawn, found = multiprocessing.get_context("spawn"), []
    for _ in range(processes):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            found.append(process.submit(_resident_peak, make, arguments, warm).result())
    return int(statistics.median(found))


def load() -> dict[str, Any]:
    """How busy the machine is: processes that want a core, on average over 1, 5, 15 minutes."""
    averages = os.getloadavg() if hasattr(os, "getloadavg") else ()
    return dict(cores=os.cpu_count(), load_average=[round(value, 2) for value in averages])


def _clock(step: Step, device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _resident_peak(make: Callable[..., Step], arguments: tuple, warm: tuple) -> int:
    with one_thread():
        make(*warm)()
        step = make(*arguments)
        with contextlib.suppress(AttributeError, OSError):  # what making the inputs left behind
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        before = _resident("VmRSS")
        step()
        return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _allocated_peak(make: Callable[..., Step], arguments: tuple, warm: tuple) -> int:
    make(*warm)()
    step = make(*arguments)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
