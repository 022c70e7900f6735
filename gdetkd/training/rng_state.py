"""The state of every generator that a training draws from: kept, put back, set by position."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """The states of Python's, numpy's, torch's and every GPU's generator, as tensors and numbers.

    A checkpoint that holds them loads with `torch.load`'s check on.
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    return dict(
        python=[version, torch.tensor(words), gauss],
        numpy=[torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def restore(state: dict[str, Any]) -> None:
    """Put back what `capture` gave, on whatever device a checkpoint was read to."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    for device, generator in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(generator.cpu(), device)


@contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn on the CPU inside moves no generator outside."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def seeded(key: Sequence[int]) -> Iterator[None]:
    """Inside, draws on the CPU depend on `key` (integers from 0) alone; outside, nothing moves."""
    with preserved():
        seeds = np.random.SeedSequence(key).generate_state(3)
        random.seed(int(seeds[0]))
        np.random.seed(int(seeds[1]))
        torch.default_generator.manual_seed(int(seeds[2]))
        yield
