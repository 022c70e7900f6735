"""Time of a distillation step beside the time of its indispensable parts, in one run."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import nn

from gdetkd.benchmarks.measure import one_thread, ratio
from gdetkd.detectors.mmdet.building import build_to_train, model_settings, plain_student
from gdetkd.ops.clock import time_call
from gdetkd.ops.roi_align import roi_align_levels
from gdetkd.training.config import load_config

DIGITS = "gdetkd::digits/gdetkd_faster_rcnn_r18.py"
LARGE = "gdetkd::coco/gdetkd_faster_rcnn_r50.py"
LARGE_TEACHER = "mmdet::faster_rcnn/faster-rcnn_r101_fpn_1x_coco.py"
LARGE_IMAGES = (2, 800, 1333)
LARGE_OPTIONS: dict[str, Any] = {}
DISTILLED, PLAIN, CACHED = "distilled step", "plain step", "distilled step, pyramids cached"
FLOOR = ("teacher backbone and neck", "one adapter and RoIAlign a level")
WARM_UP = 3  # rounds


def bench_step(repeats: int) -> dict[str, dict[str, Any]]:
    """A distilled step on digits and its floor, in turn on the same batches.

    Returns:
        'seconds': medians, and medians of ratios within a round; 'ranges': of those ratios;
        'peak_bytes' on a GPU, of the distilled and the plain step, beyond weights and optimizer.

    The floor is the plain student's step, the teacher's backbone and neck under `no_grad`, and one
    adapter and one RoIAlign a pyramid level, with gradient, over the boxes that imitation uses.
    'all weights 0' is the distilled detector with nothing to distil; 'pyramids cached' is the
    distilled step on images that the teacher has seen before.
    """
    loaded = _loaded(DIGITS)
    off = copy.deepcopy(loaded)
    off.model.components = {name: dict(weight=0.0) for name in loaded.model.components}
    off.model.transfer_heads = False
    cached = copy.deepcopy(loaded)
    batches = Runner.build_dataloader(loaded.train_dataloader, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        cached.model.teacher.cache = dict(folder=folder, megabytes=1000)
        configs = {
            DISTILLED: loaded, CACHED: cached, PLAIN: plain_student(loaded), "all weights 0": off,
        }  # fmt: skip
        return _in_turn(configs, batches, repeats)


def bench_large_step(repeats: int) -> dict[str, dict[str, Any]]:
    """The same at COCO's scale: an R50 learns from an R101, of two images of 800 x 1333 px.

    Weights and pixels are random. In mixed precision on a GPU.
    """
    count, height, width = LARGE_IMAGES
    loaded, random = _loaded(LARGE), torch.Generator().manual_seed(0)
    corners = torch.rand(8, 2, generator=random) * torch.tensor([width / 2, height / 2])
    sides = torch.rand(8, 2, generator=random) * torch.tensor([width / 2, height / 2])
    sample = DetDataSample(metainfo=dict(
        img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0),
        batch_input_shape=(height, width), pad_shape=(height, width),
    ))  # fmt: skip
    sample.gt_instances = InstanceData(
        bboxes=torch.cat([corners, corners + sides], 1), labels=torch.arange(8)
    )
    sample.ignored_instances = InstanceData(bboxes=torch.empty(0, 4))
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=random, dtype=torch.uint8)
    rounds = WARM_UP + repeats
    batches = (dict(inputs=list(pixels), data_samples=[sample.clone() for _ in pixels])
               for _ in range(rounds))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        teacher, weights = model_settings(LARGE_TEACHER), Path(folder) / "teacher.pth"
        torch.save(build_to_train(teacher).state_dict(), weights)
        loaded.model.teacher = dict(config=teacher, checkpoint=str(weights))
        loaded.model.student.backbone.init_cfg = None
        if get_device() == "cuda":
            loaded.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
        return _in_turn({DISTILLED: loaded, PLAIN: plain_student(loaded)}, batches, repeats)


def _loaded(name: str) -> Config:
    loaded = load_config(name, LARGE_OPTIONS if name == LARGE else {}, work_dir="work_dirs/bench")
    MMLogger.get_current_instance().setLevel("ERROR")  # not every weight's initialization
    init_default_scope("mmdet")
    return loaded


@one_thread()  # or the process's time would be a sum over threads
def _in_turn(
    configs: Mapping[str, Config], batches: Iterable[dict], repeats: int
) -> dict[str, dict[str, Any]]:
    """Measure the steps and the parts of their floor on one batch after the other."""
    steps = {name: build_to_train(each.model).to(get_device()) for name, each in configs.items()}
    optimizers = {
        name: build_optim_wrapper(model, configs[DISTILLED].optim_wrapper)
        for name, model in steps.items()
    }
    distilled = steps[DISTILLED]
    rounds: list[dict[str, float]] = []
    for batch, _ in zip(batches, range(WARM_UP + repeats), strict=False):
        calls = {
            name: partial(model.train_step, batch, optimizers[name])
            for name, model in steps.items()
        }
        with optimizers[DISTILLED].optim_context(distilled):  # in its precision
            data = distilled.data_preprocessor(batch, True)
            if CACHED in steps:
                with torch.no_grad():
                    steps[CACHED].teacher.extract_feat(data["inputs"])
            extract = torch.no_grad()(partial(distilled.teacher.extract_feat, data["inputs"]))
            parts = dict(zip(FLOOR, (extract, _pooling(distilled, data)), strict=True))
            taken = {name: time_call(call, get_device()) for name, call in parts.items()}
        rounds.append(taken | {name: time_call(call, get_device()) for name, call in calls.items()})
    found = pd.DataFrame(rounds[WARM_UP:])
    found["floor"] = found[[PLAIN, *FLOOR]].sum(axis=1)
    pairs = {
        "distilled step / floor": (DISTILLED, "floor"),
        "distilled step / plain step": (DISTILLED, PLAIN),
        f"{CACHED} / plain step": (CACHED, PLAIN),
        "all weights 0 / plain": ("all weights 0", PLAIN),
    }
    ratios = {
        name: ratio(found[one], found[other])
        for name, (one, other) in pairs.items() if one in found
    }  # fmt: skip
    return dict(
        seconds=found.median().to_dict()
        | {name: middle for name, (_, middle, _) in ratios.items()},
        ranges={name: [low, high] for name, (low, _, high) in ratios.items()},
        peak_bytes={name: _peak_bytes(calls[name]) for name in (DISTILLED, PLAIN)},
    )


def _peak_bytes(step: Callable[[], object]) -> int | None:
    """What PyTorch's allocator hands out for a step on a GPU."""
    if get_device() != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


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
        if not isinstance(pooled, torch.Tensor):
            pooled = torch.stack([each.sum() for each in pooled])
        pooled.sum().backward()

    return run
