"""Trials of a family of detectors: small, on random data, as a student and as a teacher."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmdet.models.roi_heads import SparseRoIHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gdetkd.checkpoints.hub import find_config
from gdetkd.detectors.adapter import adapter_for
from gdetkd.detectors.distiller import Distiller
from gdetkd.detectors.mmdet.building import build_to_train, type_name
from gdetkd.detectors.mmdet.queries import QueryAdapter
from gdetkd.detectors.mmdet.refused import refusal
from gdetkd.detectors.transformers.detr import QueryAdapter as OtherQueryAdapter
from gdetkd.reproduce import library_detectors
from gdetkd.reproduce.tiny_models import tiny_model

ROLES = ("student", "teacher")
COMPONENTS: dict[str, dict[str, Any]] = {
    "contrastive": dict(weight=0.5, dim=16),
    "imitation": dict(weight=1.0, sampling_ratio=2, boxes_per_image=8),
    "classification": dict(weight=1.0),
    "regression": dict(weight=1.0),
}
STEPS, RATE = 20, 1e-3
# Steps and rate of a component trained alone: the first with which it falls.
ALONE = ((10, RATE), (30, RATE), (10, RATE / 10))
# Of a teacher of queries with its own losses, on the batch, until they cover some of its boxes.
COVERING_STEPS, COVERING_ROUNDS = 40, 10
# Side of the images, base channels and width, from small on: the first with which a family runs.
SIZES = ((64, 8, 16), (64, 8, 256), (128, 8, 256), (320, 8, 16), (320, 64, 256))


def try_family(name: str, steps: int = STEPS) -> dict[str, Any]:
    """What a family can do as a student of a Faster R-CNN, and as a teacher of one.

    First, each component by itself: some steps of Adam on one batch with this component's loss
    alone, and the same random numbers in every step; its loss in the first step and the mean of the
    last three. Where it has not fallen, the next steps and rate of `ALONE`, from the start. Then
    all that the pair supports, with the student's own losses, for `steps` steps. In the first step
    those losses are compared with the plain detector's.
    """
    start = time.process_time()
    reason = None if _of_library(name) else refusal(_kind(name))
    if reason is not None:  # some of these need packages that are not here to be built
        return {role: dict(refused=reason) for role in ROLES} | dict(seconds=0.0)
    try:
        detector, side, width = build_small(name)
    except Exception as error:  # whatever the library says, it is the reason
        text = f"its library does not run it here: {type(error).__name__}: {str(error)[:300]}"
        found = {role: dict(refused=text) for role in ROLES}
    else:
        found = {role: _tried(detector, role, side, steps) for role in ROLES}
        found |= dict(side=side, width=width)
    return found | dict(seconds=round(time.process_time() - start, 2))


def _of_library(name: str) -> bool:
    return name.split("/")[0] in library_detectors.LIBRARIES


def _kind(name: str) -> type[nn.Module]:
    return MODELS.get(type_name(Config.fromfile(find_config(f"mmdet::{name}.py")).model))


def _tried(*trial: Any) -> dict[str, Any]:
    try:
        return _try_role(*trial)
    except Exception as error:  # a fault: the table shows it, and the other families still run
        return dict(refused=f"fails with {type(error).__name__}: {str(error)[:300]}")


def build_small(name: str) -> tuple[nn.Module, int, int]:
    """A family's detector, the side of the images and the width: the first at which it runs."""
    if _of_library(name):
        return library_detectors.build(name)
    for side, base, width in SIZES:
        try:
            detector = build_to_train(tiny_model(f"mmdet::{name}.py", base, width), seed=1)
            classes = _classes(detector)
            if classes is not None:
                with torch.no_grad():
                    losses_of(detector, batch(side, classes))
            return detector, side, width
        except Exception as error:  # whatever a library raises at a size that it does not take
            last = error
    raise last


def _classes(detector: nn.Module) -> int | None:
    """How many classes a detector has; None for one that is refused."""
    try:
        return adapter_for(detector, "student").specs()[0].num_classes
    except ValueError:
        return None


def _try_role(detector: nn.Module, role: str, side: int, steps: int) -> dict[str, Any]:
    try:
        adapter = adapter_for(detector, role)
        classes = adapter.specs()[0].num_classes
        if role == "student":
            adapter.check_student()
    except ValueError as error:
        return dict(refused=str(error))
    partner = build_to_train(tiny_model("faster_rcnn", base=12, width=32, classes=classes), seed=1)
    pair = (detector, partner) if role == "student" else (partner, detector)
    student, teacher = (alive(copy.deepcopy(each), side, classes) for each in pair)
    data = batch(side, classes)
    if role == "teacher" and isinstance(adapter, QueryAdapter | OtherQueryAdapter):
        train_to_cover(student, teacher, data)
    results = {name: try_alone(student, teacher, name, data) for name in COMPONENTS}
    supported = {name: COMPONENTS[name] for name, one in results.items() if "start" in one}
    pair = _pair(student, teacher, supported)
    plain = copy.deepcopy(student)
    torch.manual_seed(0)
    student_losses = losses_of(plain, data)
    torch.manual_seed(0)
    distilled = losses_of(pair, data)
    same = all(_equal(value, distilled[key]) for key, value in student_losses.items())
    losses = train(_pair(student, teacher, supported), data, steps)
    return dict(components=results, own_losses_equal=same, losses=losses)


def try_alone(student: nn.Module, teacher: nn.Module, name: str, data: dict) -> dict[str, Any]:
    """A component's loss when it alone is trained: at the start, and the mean of the last three."""
    for steps, rate in ALONE:
        try:
            pair = _pair(student, teacher, {name: COMPONENTS[name]})
        except ValueError as error:
            return dict(refused=str(error))
        values = train(pair, data, steps, rate, alone=True)
        finite = None not in values
        found = dict(start=values[0], end=round(sum(values[-3:]) / 3, 5) if finite else None)
        if falls(found):
            break
    return found


def train_to_cover(student: nn.Module, teacher: nn.Module, data: dict) -> None:
    """Train a teacher of queries with its own losses until its queries cover some of the boxes.

    Contrastive distillation leaves out boxes that no query covers: at first all of them. Batch
    normalization keeps its statistics, as in the teacher later.
    """
    for module in teacher.modules():
        module.training = module.training and not isinstance(module, _BatchNorm)
    component = {"contrastive": COMPONENTS["contrastive"]}
    for _ in range(COVERING_ROUNDS):
        train(teacher, data, COVERING_STEPS)
        torch.manual_seed(0)
        pair = _pair(student, copy.deepcopy(teacher), component)  # which freezes its teacher
        if losses_of(pair, data)["kd_contrastive_loss"] > 0:
            return


def falls(component: Mapping[str, Any]) -> bool:
    """Whether a component's loss fell on the fixed batch."""
    return component.get("end") is not None and component["end"] < component["start"]


def _equal(one: Any, other: Any) -> bool:
    pairs = zip(*(x if isinstance(x, list | tuple) else [x] for x in (one, other)), strict=True)
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


def _pair(student: nn.Module, teacher: nn.Module, components: Mapping[str, Any]) -> Distiller:
    settings = dict(boxes_per_image=64)
    if not hasattr(adapter_for(student, "student").state, "boxes_per_image"):
        settings = {}
    return Distiller(
        copy.deepcopy(student), teacher, copy.deepcopy(dict(components)), student_adapter=settings
    ).train()


def _detector(model: nn.Module) -> nn.Module:
    return model.student if isinstance(model, Distiller) else model


def losses_of(model: nn.Module, data: dict) -> dict[str, Any]:
    """The losses of a batch, of a detector or of a `Distiller`."""
    for name in ("epoch", "iter"):  # as a Runner does; TOOD and BoxInst read them
        MessageHub.get_current_instance().update_info(name, 0)
    if library_detectors.library_of(_detector(model)) in library_detectors.LIBRARIES:
        images, targets = library_detectors.plain_batch(data, _detector(model))
        call = model if isinstance(model, Distiller) else adapter_for(model, "student").losses
        return call(images, targets)
    data = _detector(model).data_preprocessor(copy.deepcopy(data), True)
    if not any("mask" in name for name, _ in _detector(model).named_modules()):
        for sample in data["data_samples"]:
            del sample.gt_instances.masks  # RTMDet would center its boxes by them
    call = model if isinstance(model, Distiller) else model.loss
    return call(data["inputs"], data["data_samples"])


def train(
    model: nn.Module, data: dict, steps: int, rate: float = RATE, alone: bool = False
) -> list[float | None]:
    """The total loss at each step, None where it is not finite; `alone` distillation's only."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    values: list[float | None] = []
    for index in range(steps):
        if alone and model.sampling is not None and index:
            model.undo()  # the same boxes are drawn again
        torch.manual_seed(0 if alone else index)
        losses = losses_of(model, data)
        if alone:
            losses = {name: value for name, value in losses.items() if "kd_" in name}
        total = _total(_detector(model), losses)
        values.append(round(float(total.detach()), 5) if total.isfinite() else None)
        if values[-1] is None:
            return values
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    return values


def _total(detector: nn.Module, losses: Mapping[str, Any]) -> Tensor:
    if hasattr(detector, "parse_losses"):
        return detector.parse_losses(losses)[0]
    return torch.stack([value for name, value in losses.items() if "loss" in name]).sum()


def alive(detector: nn.Module, side: int, classes: int = 10) -> nn.Module:
    """Heads that predict something, and BatchNorm with statistics of its features.

    The heads of an untrained detector predict almost nothing. Where stages refine boxes and
    embeddings (Sparse R-CNN, QueryInst) only the last layer of classes, and boxes move little: else
    they would leave the image.
    """
    refines = isinstance(getattr(detector, "roi_head", None), SparseRoIHead)
    queries = library_detectors.library_of(detector) == "transformers"
    for name, parameter in detector.named_parameters():
        if queries and parameter.ndim > 1 and ("class" in name or "bbox" in name):
            nn.init.xavier_normal_(parameter, gain=0.5)
        if parameter.ndim > 1 and ("fc_cls" if refines else "head") in name:
            nn.init.kaiming_normal_(parameter)
        if refines and "fc_reg" in name:
            parameter.data.mul_(0.1)
    with torch.no_grad():
        for seed in range(4):
            losses_of(detector, batch(side, classes, seed=seed))
    return detector


def batch(side: int, classes: int = 10, images: int = 2, objects: int = 3, seed: int = 0) -> dict:
    """What a data loader gives, of everything that any family asks for, random."""
    random = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    samples = []
    for index in range(images):
        corner, extent = uniform(objects, 2) * side / 2, uniform(objects, 2) * side * 0.4 + side / 8
        truth = InstanceData(
            bboxes=torch.cat([corner, corner + extent], 1),
            labels=torch.randint(min(classes, 10), (objects,), generator=random),
        )
        masks = np.zeros((objects, side, side), np.uint8)
        for mask, (left, top, right, bottom) in zip(
            masks, truth.bboxes.long().tolist(), strict=True
        ):
            mask[top:bottom, left:right] = 1
        truth.masks = BitmapMasks(masks, side, side)
        near = truth.bboxes.repeat(6, 1) + torch.randn(6 * objects, 4, generator=random) * side / 32
        sample = DetDataSample(
            gt_instances=truth,
            ignored_instances=InstanceData(
                bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
            ),
            proposals=InstanceData(bboxes=near.clamp(0, side), scores=uniform(len(near))),
            gt_sem_seg=PixelData(
                sem_seg=torch.randint(10, (1, side // 8, side // 8), generator=random)
            ),
        )
        shape = (side, side)
        sample.set_metainfo(
            dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_id=index)
        )
        samples.append(sample)
    pixels = [(uniform(3, side, side) * 255).to(torch.uint8) for _ in range(images)]
    return dict(inputs=pixels, data_samples=samples)
