"""A few steps of a run on its own data, to say how long the whole will take."""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from gdetkd.datasets.config_check import leaves

STEPS, BATCHES = 3, 2


@dataclass(frozen=True)
class Rehearsal:
    """Seconds on this machine, and the largest image that was seen.

    step: A training step on a whole batch, with the optimizer's.
    validation: All images of the validation set once; 0 without one.
    size: Height and width in px, as the network gets them.
    """

    step: float
    validation: float
    size: tuple[int, int]


def rehearse(config: Config, model: nn.Module) -> Rehearsal | None:
    """Run three steps and two batches of validation; None where the data are not there.

    Args:
        config: That of the run; its own pipelines and batches are used.
        model: It is trained, so do not use it afterwards.
    """
    parts = [config.train_dataloader, *([config.val_dataloader] if config.get("val_cfg") else [])]
    for leaf in (leaf for part in parts for leaf in leaves(part.dataset)):
        if not Path(leaf.get("data_root") or "", leaf.get("ann_file") or "").is_file():
            return None
    device = get_device()
    model = model.to(device).train()
    optimizer = build_optim_wrapper(model, copy.deepcopy(config.optim_wrapper))
    times, size = [], (0, 0)
    loader = iter(_loader(config.train_dataloader))
    for _ in range(STEPS):
        began = _now()
        data = next(loader)
        loaded = _now()
        model.train_step(data, optimizer)
        # Workers load the next batch meanwhile.
        times.append(_now() - (loaded if config.train_dataloader.get("num_workers") else began))
        shapes = [image.shape[-2:] for image in data["inputs"]]
        size = max([size, *map(tuple, shapes)], key=lambda each: each[0] * each[1])
    step = median(times[1:])  # the first one is slower
    return Rehearsal(step, _validation(config, model) if config.get("val_cfg") else 0.0, size)


def _validation(config: Config, model: nn.Module) -> float:
    loader = _loader(config.val_dataloader)
    model.eval()
    began, count = _now(), 0
    with torch.no_grad():
        for batch in islice(loader, BATCHES):
            model.val_step(batch)
            count += 1
    return (_now() - began) / count * len(loader)


def _loader(settings: dict) -> torch.utils.data.DataLoader:
    alone = dict(copy.deepcopy(settings), num_workers=0, persistent_workers=False)
    return Runner.build_dataloader(alone, seed=0)


def _now() -> float:
    """On a CPU the time of this process, whatever else the machine does."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / min(torch.get_num_threads(), os.cpu_count() or 1)
