"""`Distiller`: a student detector that learns from a teacher, in any training loop of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gdetkd.detectors.adapter import Adapter, TrainingPass, adapter_for, stage_pairs
from gdetkd.detectors.pixels import PixelConversion
from gdetkd.detectors.transfer import freeze_heads, transfer_heads
from gdetkd.distillation.balance import own_loss
from gdetkd.distillation.component import active_weights
from gdetkd.distillation.objective import Objective
from gdetkd.distillation.structures import RoIOutputs

HALF_PRECISIONS = ("float16", "bfloat16")


class _Unregistered:
    """Keeps the teacher out of `nn.Module`'s books; copies of its owner share it."""

    def __init__(self, adapter: Adapter, owned: bool = True) -> None:
        self.adapter, self.owned = adapter, owned

    def __deepcopy__(self, memo: dict) -> _Unregistered:
        # An averaged copy that goes to another device must not take the teacher along.
        return _Unregistered(self.adapter, owned=False)


class Distiller(nn.Module):
    """Runs a training step of a student with its own losses and those of distillation.

    Both detectors are built by their own libraries. The student's own loss runs untouched and is
    recorded; the teacher answers for the same boxes; the components compare the two. The teacher is
    frozen, in eval mode and no submodule: it is not in the state dict, the parameters or DDP. It
    follows `.to()`, and copies of the distiller share it. ::

        distiller = Distiller(student, teacher, components=dict(imitation=dict(weight=1.0)))
        optimizer = torch.optim.AdamW(distiller.parameters())
        for images, targets in loader:
            losses = distiller(images, targets)
            sum(value for name, value in losses.items() if "loss" in name).backward()
            ...
        torch.save(distiller.student_state_dict(), "student.pth")

    Args:
        student: A detector that an adapter supports.
        teacher: Another one, with its weights; or a function that builds it, called only if
            something asks for a teacher.
        components: Settings by registered component, each with its `weight`.
        transfer_heads: Put the teacher's heads into the student and freeze them (supplement A).
        seed: Seed of the distillation's own modules; the global generators do not move.
        student_adapter: Settings of the student's adapter, e.g. `branch` of a dense student.
        teacher_adapter: Settings of the teacher's adapter, e.g. `processor` of a DETR.
        teacher_stage: Of a cascade, the stage that teaches a student of a single stage (by default
            the last).
        teacher_autocast: 'float16' or 'bfloat16' to run the teacher in; by default as the student.

    Attributes:
        strength: Factor of all components' weights, to be set between steps; at 0 neither the
            teacher nor a component runs. Transferred heads stay as they are.

    Raises:
        ValueError: The pair cannot be distilled as asked; the message names both and their shapes.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Callable[[], nn.Module] | None,
        components: Mapping[str, Mapping[str, Any]] | None = None,
        transfer_heads: bool = False,
        seed: int = 0,
        *,
        student_adapter: Mapping[str, Any] | None = None,
        teacher_adapter: Mapping[str, Any] | None = None,
        teacher_stage: int | None = None,
        teacher_autocast: str | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.strength = 1.0
        self.objective: nn.ModuleList | None = None  # one `Objective` per stage of the student
        self.sampling: nn.Module | None = None  # of a dense student
        self.transfers_heads = transfer_heads
        self.student_adapter: Adapter | None = None
        self._teacher: _Unregistered | None = None
        components = components or {}
        distills = bool(active_weights(components))
        if not distills and not transfer_heads:
            return
        if teacher_autocast not in (None, *HALF_PRECISIONS):
            raise ValueError(
                f"teacher.autocast: expected one of {HALF_PRECISIONS}, or None to run as the "
                f"student, got {teacher_autocast!r}"
            )
        self.teacher_autocast = teacher_autocast
        self.student_adapter = adapter_for(student, "student", **(student_adapter or {}))
        # Nothing drawn for the teacher or the new modules may move the student's own draws.
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            torch.manual_seed(seed)
            built = teacher if isinstance(teacher, nn.Module) or teacher is None else teacher()
            if built is None:
                raise ValueError(
                    "expected a teacher, since a component's weight or transfer_heads asks for "
                    "one, got None"
                )
            built.requires_grad_(False).eval()
            self._teacher = _Unregistered(adapter_for(built, "teacher", **(teacher_adapter or {})))
            if distills:
                self._build_objective(components, teacher_stage)
        if transfer_heads:
            freeze_heads(self.student_adapter, self.teacher_adapter)

    def _build_objective(
        self, components: Mapping[str, Mapping[str, Any]], teacher_stage: int | None
    ) -> None:
        student_specs, teacher_specs = self.student_adapter.specs(), self.teacher_adapter.specs()
        self.student_adapter.check_student()
        pairs = stage_pairs(len(student_specs), len(teacher_specs), teacher_stage)
        self.teacher_stages = [stage for _, stage in pairs]
        self.objective = nn.ModuleList(
            Objective(student_specs[stage], teacher_specs[teacher_stage], components)
            for stage, teacher_stage in pairs
        )
        self.sampling = self.student_adapter.state
        self.pixels = PixelConversion(
            self.student_adapter.pixel_format(), self.teacher_adapter.pixel_format()
        )

    @property
    def teacher_adapter(self) -> Adapter | None:
        return None if self._teacher is None else self._teacher.adapter

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher, shared by copies of this distiller; None when nothing needs it."""
        return None if self._teacher is None else self._teacher.adapter.detector

    @property
    def owned_teacher(self) -> nn.Module | None:
        """The teacher where this distiller, and no copy of it, moves it to devices."""
        return self.teacher if self._teacher is not None and self._teacher.owned else None

    def forward(self, images: Any, targets: Any) -> dict[str, Any]:
        """The student's own losses and those of distillation, `kd_...` (`s0.kd_...` in a cascade).

        images, targets: As the student's own library takes them in training. Names of losses
        contain 'loss', those of diagnostics do not.
        """
        if self.objective is None:
            adapter = self.student_adapter or adapter_for(self.student, "student")
            return adapter.losses(images, targets)
        if self.strength == 0:
            losses = dict(self.student_adapter.losses(images, targets))
            zero = own_loss(losses).new_zeros(())
            for index, objective in enumerate(self.objective):
                losses.update(self._named(index, objective.without_losses(zero)))
            return losses
        student_pass = self.student_adapter.training_pass(images, targets)
        losses = dict(student_pass.losses)
        teacher_outputs = self._teacher_outputs(student_pass)
        student_loss = own_loss(losses)
        for index, objective in enumerate(self.objective):
            found = objective(student_pass.outputs[index], teacher_outputs[index], student_loss)
            for name, value in found.items():
                found[name] = value * self.strength if "loss" in name else value
            losses.update(self._named(index, found))
        return losses

    def _named(self, stage: int, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        prefix = f"s{stage}." if len(self.objective) > 1 else ""  # as MMDetection's cascades
        return {prefix + name: value for name, value in losses.items()}

    @torch.no_grad()
    def _teacher_outputs(self, student_pass: TrainingPass) -> list[RoIOutputs]:
        """What the teacher's stages compute for the boxes of the student's stages."""
        images = self.pixels(student_pass.images, student_pass.sizes)
        boxes = [outputs.rois for outputs in student_pass.outputs]
        arguments = images, boxes, self.teacher_stages, student_pass.sizes
        if self.teacher_autocast is None:
            return self.teacher_adapter.forward_rois(*arguments)
        with torch.autocast(images.device.type, getattr(torch, self.teacher_autocast)):
            outputs = self.teacher_adapter.forward_rois(*arguments)
        return [_in_float32(each) for each in outputs]

    def transfer(self) -> None:
        """Copy the teacher's heads into the student; to be called after its initialization."""
        if self.transfers_heads:
            transfer_heads(self.student_adapter, self.teacher_adapter)

    def undo(self) -> None:
        """Take back what the last step left behind: rows of a queue, a sampler's position."""
        for objective in self.objective or ():
            objective.undo()
        if self.sampling is not None:
            self.sampling.undo()

    def student_state_dict(self) -> dict[str, Tensor]:
        """The student's weights alone, which its own library loads."""
        return self.student.state_dict()

    def train(self, mode: bool = True) -> Distiller:
        """Transferred heads stay in eval mode: their statistics are frozen with their weights."""
        super().train(mode)
        if self.transfers_heads:
            for head in self.student_adapter.heads().values():
                head.eval()
                head.training = mode  # the head's own: FCOS's is in other units when it predicts
        return self

    def _apply(self, fn, recurse: bool = True):
        # .to(), .cuda() and .half() reach registered children only.
        if self.owned_teacher is not None:
            self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _in_float32(outputs: RoIOutputs) -> RoIOutputs:
    """In float32, which the objective's layers take whether the student runs under AMP or not."""
    names = ("pooled", "representation", "logits")
    values = {name: getattr(outputs, name) for name in names}
    return replace(outputs, **{name: x.float() for name, x in values.items() if x is not None})
