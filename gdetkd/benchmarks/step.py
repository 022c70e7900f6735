"""Time of a distillation step beside the time of its indispensable parts, in one run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from gdetkd.benchmarks.measure import one_thread
from gdetkd.detectors.mmdet.building import build_to_train, plain_student
from gdetkd.ops.clock import time_call
from gdetkd.ops.roi_align import roi_align
from gdetkd.training.config import load_config

DISTILLED = "gdetkd::digits/gdetkd_faster_rcnn_r18.py"


@one_thread()  # or the process's time would be a sum over threads
def bench_step(repeats: int) -> dict[str, float]:
    """Median seconds of a distilled step and of its floor, in turn on the same batches.

    The floor is the plain student's step, the teacher's backbone and neck under `no_grad`, and one
    adapter and one RoIAlign a pyramid level, with gradient, over the boxes that imitation uses.
    'all weights 0' is the distilled detector with nothing to distil.
    """
    loaded = load_config(DISTILLED, work_dir="work_dirs/bench")
    MMLogger.get_current_instance().setLevel("ERROR")  # not every weight's initialization
    init_default_scope("mmdet")
    batches = iter(Runner.build_dataloader(loaded.train_dataloader, seed=0))
    off = copy.deepcopy(loaded)
    off.model.components = {name: dict(weight=0.0) for name in loaded.model.components}
    off.model.transfer_heads = False
    configs = {"distilled step": loaded, "plain step": plain_student(loaded), "all weights 0": off}
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
        calls["teacher backbone and neck"] = partial(extract, data["inputs"])
        calls["one adapter and RoIAlign a level"] = _pooling(distilled, data)
        rounds.append({name: time_call(call, get_device()) for name, call in calls.items()})
    medians = pd.DataFrame(rounds[3:]).median().to_dict()  # the first three warm up
    whole, off_step = medians["distilled step"], medians.pop("all weights 0")
    floor = sum(value for name, value in medians.items() if name != "distilled step")
    return medians | {
        "floor": floor,
        "distilled step / floor": whole / floor,
        "all weights 0": off_step,
        "all weights 0 / plain": off_step / medians["plain step"],
    }


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
        for level, stride in zip(levels, imitation.strides, strict=True):
            ratio = imitation.sampling_ratio
            adapted = imitation.adapt(level)
            roi_align(adapted, rois, imitation.size, 1 / stride, ratio).sum().backward()

    return run
