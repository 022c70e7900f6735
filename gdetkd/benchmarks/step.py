"""Time of a distillation step beside the time of its indispensable parts, in one run."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from gdetkd.benchmarks.measure import one_thread, ratio
from gdetkd.detectors.mmdet.building import build_to_train, plain_student
from gdetkd.ops.clock import time_call
from gdetkd.ops.roi_align import roi_align_levels
from gdetkd.training.config import load_config

DISTILLED = "gdetkd::digits/gdetkd_faster_rcnn_r18.py"
CACHED = "distilled step, pyramids cached"
FLOOR = ("teacher backbone and neck", "one adapter and RoIAlign a level")


@one_thread()  # or the process's time would be a sum over threads
def bench_step(repeats: int) -> dict[str, dict[str, Any]]:
    """A distilled step and its floor, in turn on the same batches.

    Returns:
        'seconds': medians, and medians of ratios within a round; 'ranges': of those ratios.

    The floor is the plain student's step, the teacher's backbone and neck under `no_grad`, and one
    adapter and one RoIAlign a pyramid level, with gradient, over the boxes that imitation uses.
    'all weights 0' is the distilled detector with nothing to distil; 'pyramids cached' is the
    distilled step on images that the teacher has seen before.
    """
    loaded = load_config(DISTILLED, work_dir="work_dirs/bench")
    MMLogger.get_current_instance().setLevel("ERROR")  # not every weight's initialization
    init_default_scope("mmdet")
    batches = iter(Runner.build_dataloader(loaded.train_dataloader, seed=0))
    off = copy.deepcopy(loaded)
    off.model.components = {name: dict(weight=0.0) for name in loaded.model.components}
    off.model.transfer_heads = False
    cached = copy.deepcopy(loaded)
    folder = tempfile.TemporaryDirectory()
    cached.model.teacher.cache = dict(folder=folder.name, megabytes=1000)
    configs = {
        "distilled step": loaded,
        CACHED: cached,
        "plain step": plain_student(loaded),
        "all weights 0": off,
    }
    steps = {name: build_to_train(each.model) for name, each in configs.items()}
    distilled = steps["distilled step"]
    optimizers = {
        name: build_optim_wrapper(model, loaded.optim_wrapper) for name, model in steps.items()
    }
    extract = torch.no_grad()(distilled.teacher.extract_feat)
    rounds: list[dict[str, float]] = []
    for _ in range(repeats + 3):
        batch = next(batches)
        calls = {
            name: partial(model.train_step, batch, optimizers[name])
            for name, model in steps.items()
        }
        data = distilled.data_preprocessor(batch, True)
        with torch.no_grad():
            steps[CACHED].teacher.extract_feat(data["inputs"])
        parts = partial(extract, data["inputs"]), _pooling(distilled, data)
        calls.update(zip(FLOOR, parts, strict=True))
        rounds.append({name: time_call(call, get_device()) for name, call in calls.items()})
    folder.cleanup()
    taken = pd.DataFrame(rounds[3:])  # the first three warm up
    taken["floor"] = taken[["plain step", *FLOOR]].sum(axis=1)
    pairs = {
        "distilled step / floor": ("distilled step", "floor"),
        "distilled step / plain step": ("distilled step", "plain step"),
        f"{CACHED} / plain step": (CACHED, "plain step"),
        "all weights 0 / plain": ("all weights 0", "plain step"),
    }
    ratios = {name: ratio(taken[one], taken[other]) for name, (one, other) in pairs.items()}
    return dict(
        seconds=taken.median().to_dict()
        | {name: middle for name, (_, middle, _) in ratios.items()},
        ranges={name: [low, high] for name, (low, _, high) in ratios.items()},
    )


def _pooling(distilled: nn.Module, data: dict) -> Callable[[], None]:
    """Adapt every level of the student, pool the boxes of a batch, and back, without a loss."""
    student = distilled.student
    with torch.no_grad(), distilled.distiller.student_adapter.hook_outputs() as recording:
        student.loss(data["inputs"], data["data_samples"])
        student_outputs = recording.outputs(data["data_samples"])[0]
    imitation = distilled.distiller.objective[0].components["imitation"]
    rois = student_outputs.rois[imitation.chosen(student_outputs.rois)]
    levels = [level.detach().requires_grad_() for level in student_outputs.pyramid]

    def run() -> None:
        adapted = [imitation.adapt(level) for level in levels]
        size, strides, samples = imitation.size, imitation.strides, imitation.sampling_ratio
        pooled = roi_align_levels(adapted, rois, size, strides, samples)
        torch.stack([each.sum() for each in pooled]).sum().backward()

    return run
