"""The clock of every measurement in this package."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def time_call(function: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Seconds that one call takes.

    On a GPU this is wall-clock time between two synchronizations. On the CPU it is the process's
    own time, summed over its threads, so that other programs on the machine affect it less; it
    equals the duration when one thread does the work.
    """
    if torch.device(device).type != "cuda":
        start = time.process_time()
        function()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start
