"""`DistilledDetector`: a plain MMDetection detector that learns from another one as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import get_box_tensor
from mmengine.dist import all_reduce
from torch import Tensor, nn

from gdetkd.detectors.adapter import Adapter, adapter_for, stage_pairs
from gdetkd.detectors.mmdet.building import load_detector
from gdetkd.detectors.mmdet.pixels import PixelConversion
from gdetkd.detectors.transfer import freeze_heads, transfer_heads
from gdetkd.distillation.objective import Objective, active_weights
from gdetkd.distillation.structures import RoIOutputs

HALVES = ("float16", "bfloat16")


class NonFiniteLossError(FloatingPointError):
    """A loss is NaN or infinite; the message names every such loss."""


class _Unregistered:
    """Keeps a module out of `nn.Module`'s books; copies of its owner share it."""

    def __init__(self, adapter: Adapter, owned: bool = True) -> None:
        self.adapter, self.owned = adapter, owned

    def __deepcopy__(self, memo: dict) -> _Unregistered:
        # An averaged copy that goes to another device must not take the teacher along.
        return _Unregistered(self.adapter, owned=False)


@MODELS.register_module()
class DistilledDetector(BaseDetector):
    """Trains a student detector with its own losses and those of distillation.

    The student is the detector that its config describes, untouched: its `loss()` runs as ever,
    listened to, and it alone predicts. The teacher is frozen, in eval mode and no submodule: it is
    not in the state dict, the optimizer or DDP. With every weight 0 and no head transfer no
    teacher is loaded, and training is plain MMDetection's, bit for bit.

    Args:
        student: Config of the student, as in a plain MMDetection config's `model`.
        teacher: `config`, a config file (or `gdetkd::NAME`, `mmdet::NAME`, or a model's dict), and
            `checkpoint`, a file or URL (or `gdetkd::NAME`). Of a cascade, `stage` is the one that
            teaches a student of a single stage (by default the last). To be quicker:
            `autocast`, a dtype ('float16', 'bfloat16') it runs in, by default that of the student;
            `channels_last`; `compile`.
        components: Settings by component, each with its `weight`.
        transfer_heads: Put the teacher's RPN and RCNN weights into the student and freeze them
            (supplement A).
        student_adapter: Settings of the student's adapter, e.g. `branch` of a dense student.
        seed: Seed of the distillation's own modules; the student's initial weights and the
            batches do not depend on it.
        data_preprocessor: The student's, where its config has none.

    Raises:
        ValueError: The pair cannot be distilled as asked; the message names both and their shapes.
    """

    def __init__(
        self,
        student: dict,
        teacher: Mapping[str, Any] | None = None,
        components: Mapping[str, Mapping[str, Any]] | None = None,
        transfer_heads: bool = False,
        student_adapter: Mapping[str, Any] | None = None,
        seed: int = 0,
        data_preprocessor: dict | None = None,
    ) -> None:
        student = dict(student)
        if data_preprocessor is not None:
            student.setdefault("data_preprocessor", data_preprocessor)
        built = MODELS.build(student)
        super().__init__(data_preprocessor=built.data_preprocessor)
        self.student = built
        self.transfer_heads = transfer_heads
        self.objective: nn.ModuleList | None = None  # one `Objective` a stage of the student
        self.sampling: nn.Module | None = None  # of a dense student
        self._teacher: _Unregistered | None = None
        self.before_stopping: Callable[[], str] | None = None
        components, teacher = components or {}, dict(teacher or {})
        if not active_weights(components) and not transfer_heads:
            return
        self._student_adapter = adapter_for(built, "student", **(student_adapter or {}))
        self._look = {key: teacher.pop(key, None) for key in ("stage", "autocast")}
        if self._look["autocast"] not in (None, *HALVES):
            raise ValueError(
                f"teacher.autocast: expected one of {HALVES}, or None to run as the student, got "
                f"{self._look['autocast']!r}"
            )
        # Nothing drawn for the teacher or the new modules may move the student's own draws.
        with torch.random.fork_rng(devices=_cuda_devices()):
            torch.manual_seed(seed)
            self._teacher = _Unregistered(adapter_for(build_teacher(**teacher), "teacher"))
            if active_weights(components):
                self._build_objective(components)
        if transfer_heads:
            freeze_heads(self._student_adapter, self.teacher_adapter)

    def _build_objective(self, components: Mapping[str, Mapping[str, Any]]) -> None:
        student, teacher = self._student_adapter.specs(), self.teacher_adapter.specs()
        with self._student_adapter.hook_outputs():  # a family that only teaches says so
            pass
        self._stages = stage_pairs(len(student), len(teacher), self._look["stage"])
        self.objective = nn.ModuleList(
            Objective(student[own], teacher[given], components) for own, given in self._stages
        )
        self.sampling = self._student_adapter.state
        self.pixels = PixelConversion(
            self.student.data_preprocessor, self.teacher.data_preprocessor
        )

    @property
    def teacher_adapter(self) -> Adapter | None:
        return None if self._teacher is None else self._teacher.adapter

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher, shared by copies of this detector; None when nothing needs it."""
        return None if self._teacher is None else self._teacher.adapter.detector

    def init_weights(self) -> None:
        """Initialise the student as ever, then put the transferred heads in."""
        self.student.init_weights()
        if self.transfer_heads:
            transfer_heads(self._student_adapter, self.teacher_adapter)

    def train(self, mode: bool = True) -> DistilledDetector:
        """Transferred heads stay in eval mode: their statistics are frozen with their weights."""
        super().train(mode)
        if self.transfer_heads:
            for head in self._student_adapter.heads().values():
                head.eval()
                head.training = mode  # the head's own: FCOS's is in other units when it predicts
        return self

    def _apply(self, fn, recurse: bool = True):
        # .to(), .cuda() and .half() reach registered children only.
        if self._teacher is not None and self._teacher.owned:
            self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _set_device(self, device: torch.device) -> None:
        # MMEngine's record of where a data preprocessor puts its images, beside its buffers.
        if self._teacher is not None and self._teacher.owned:
            self.teacher._set_device(device)
        super()._set_device(device)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict:
        """The student's losses and, by their names, those of distillation ('kd_...')."""
        if self.objective is None:
            return self.student.loss(batch_inputs, batch_data_samples)
        with self._student_adapter.hook_outputs() as recording:
            losses = self.student.loss(batch_inputs, batch_data_samples)
            students = recording.outputs(batch_data_samples)
        truth = _ground_truth(batch_data_samples, batch_inputs)
        teachers = self._look_at(batch_inputs, batch_data_samples, [v.rois for v in students])
        for index, objective in enumerate(self.objective):
            students[index].truth = truth
            prefix = f"s{index}." if len(self.objective) > 1 else ""  # as MMDetection's cascades
            found = objective(students[index], teachers[index])
            losses.update({prefix + name: value for name, value in found.items()})
        return losses

    @torch.no_grad()
    def _look_at(
        self, batch_inputs: Tensor, samples: SampleList, boxes: list[Tensor]
    ) -> list[RoIOutputs]:
        """What the teacher's stages make of the boxes (N, 5) of the student's stages."""
        images = self.pixels(batch_inputs, samples)
        stages = [given for _, given in self._stages]
        sizes = [tuple(sample.img_shape[:2]) for sample in samples]
        half = self._look["autocast"]
        if half is None:
            return self.teacher_adapter.forward_rois(images, boxes, stages, sizes)
        with torch.autocast(images.device.type, getattr(torch, half)):
            views = self.teacher_adapter.forward_rois(images, boxes, stages, sizes)
        return [_in_full(view) for view in views]

    def parse_losses(self, losses: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """As MMEngine's, but a loss that is not finite stops the training before it does harm.

        Raises:
            NonFiniteLossError: Naming the losses; the weights are still those of the last step.
        """
        total, log_vars = super().parse_losses(losses)
        # All ranks stop, or the others would wait for this one's gradients.
        finite = torch.isfinite(total.detach()).int()
        all_reduce(finite, "min")
        if not finite:
            for objective in self.objective or ():
                objective.undo()
            if self.sampling is not None:
                self.sampling.undo()
            culprits = [
                f"{name} = {value.item():g}"
                for name, value in log_vars.items()
                if "loss" in name and name != "loss" and not torch.isfinite(value).all()
            ]
            here = not torch.isfinite(total.detach())
            other = "the sum of the losses" if here else "a loss of another rank"
            kept = self.before_stopping() if self.before_stopping else "No checkpoint was kept."
            raise NonFiniteLossError(
                f"stopped before the step: {', '.join(culprits) or other}. "
                f"{kept} Lower the learning rate or that loss's weight, or clip gradients "
                "(optim_wrapper.clip_grad), and resume."
            )
        return total, log_vars

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, **kwargs) -> SampleList:
        return self.student.predict(batch_inputs, batch_data_samples, **kwargs)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: SampleList = None):
        return self.student._forward(batch_inputs, batch_data_samples)

    def extract_feat(self, batch_inputs: Tensor):
        return self.student.extract_feat(batch_inputs)


def build_teacher(
    config: str | dict | None = None,
    checkpoint: str | None = None,
    channels_last: bool = False,
    compile: bool = False,
    **unknown: Any,
) -> nn.Module:
    """Build a teacher, load its weights, freeze it.

    Raises:
        ValueError: `config` or `checkpoint` is missing, there is a setting that is none, or the
            weights do not fit the config.
    """
    if unknown:
        raise ValueError(
            "teacher: expected config, checkpoint, stage, autocast, channels_last or compile, got "
            f"{', '.join(unknown)}"
        )
    if not config or not checkpoint:
        raise ValueError(
            "teacher: expected dict(config=..., checkpoint=...), both set, since a distillation "
            "weight or transfer_heads asks for a teacher; got "
            f"{dict(config=config, checkpoint=checkpoint)}"
        )
    try:
        teacher = load_detector(config, checkpoint)
    except ValueError as error:
        raise ValueError(f"teacher: {error}") from error
    if channels_last:
        teacher.to(memory_format=torch.channels_last)
    if compile:
        teacher.backbone.compile()
        if teacher.with_neck:
            teacher.neck.compile()
    return teacher


def _in_full(view: RoIOutputs) -> RoIOutputs:
    """A view in float32, which the objective's layers take whether the student has AMP or not."""
    names = ("pooled", "representation", "logits")
    values = {name: getattr(view, name) for name in names}
    return replace(view, **{name: x.float() for name, x in values.items() if x is not None})


def _ground_truth(samples: SampleList, images: Tensor) -> Tensor:
    """The ground-truth boxes of a batch as (M, 5) [image, x1, y1, x2, y2]."""
    rois = [images.new_zeros(0, 5, dtype=torch.float32)]
    for index, sample in enumerate(samples):
        boxes = get_box_tensor(sample.gt_instances.bboxes)
        rois.append(torch.cat([boxes.new_full((len(boxes), 1), index), boxes], 1))
    return torch.cat(rois)


def _cuda_devices() -> list[int]:
    return list(range(torch.cuda.device_count()))
