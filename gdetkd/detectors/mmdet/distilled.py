"""`DistilledDetector`: MMDetection's wrapper around `Distiller`, to be trained from a config."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import mmdet
import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import Tensor, nn

from gdetkd.detectors.distiller import Distiller
from gdetkd.detectors.mmdet.building import load_detector, model_settings
from gdetkd.detectors.mmdet.folding import fold_batch_norms, pool_by_gathering
from gdetkd.detectors.mmdet.other_library import LibraryDetector
from gdetkd.detectors.mmdet.pyramid_cache import PyramidCache


class NonFiniteLossError(FloatingPointError):
    """A loss is NaN or infinite; the message names every such loss."""


@MODELS.register_module()
class DistilledDetector(BaseDetector):
    """Trains a student detector with its own losses and those of distillation.

    The student is the detector that its config describes, untouched, and it alone predicts. With
    every weight 0 and no head transfer no teacher is loaded, and training is plain MMDetection's,
    bit for bit.

    Args:
        student: Config of the student, as in a plain MMDetection config's `model`.
        teacher: `config`, a config file (or `gdetkd::NAME`, `mmdet::NAME`, or a model's dict), and
            `checkpoint`, a file or URL (or `gdetkd::NAME`). Of a cascade, `stage` is the one that
            teaches a student of a single stage (by default the last). To be quicker:
            `autocast`, a dtype ('float16', 'bfloat16') it runs in, by default that of the student;
            `channels_last`, by default on a machine without a GPU; `compile`; `cache`, a
            dict(folder=..., megabytes=...) of its pyramids on disk (`PyramidCache`). Batch
            normalizations of backbone and neck are folded into the convolutions before them.
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
        student, teacher = dict(student), dict(teacher or {})
        if data_preprocessor is not None:
            student.setdefault("data_preprocessor", data_preprocessor)
        built = MODELS.build(student)
        super().__init__(data_preprocessor=built.data_preprocessor)
        self.before_stopping: Callable[[], str] | None = None
        self._warned = False
        self.distiller = Distiller(
            built,
            lambda: build_teacher(**teacher),
            components,
            transfer_heads,
            seed,
            student_adapter=student_adapter,
            teacher_stage=teacher.pop("stage", None),
            teacher_autocast=teacher.pop("autocast", None),
        )

    @property
    def student(self) -> nn.Module:
        return self.distiller.student

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher, shared by copies of this detector; None when nothing needs it."""
        return self.distiller.teacher

    def init_weights(self) -> None:
        """Initialize the student as ever, then put the transferred heads in."""
        self.student.init_weights()
        self.distiller.transfer()

    def _set_device(self, device: torch.device) -> None:
        # MMEngine's record of where a data preprocessor puts its images, beside its buffers.
        if self.distiller.owned_teacher is not None:
            self.teacher._set_device(device)
        super()._set_device(device)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict:
        """The student's losses and, by their names, those of distillation (`kd_...`)."""
        if self.distiller.objective is None:
            return self.student.loss(batch_inputs, batch_data_samples)
        return self.distiller(batch_inputs, batch_data_samples)

    def parse_losses(self, losses: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """As MMEngine's, but a loss that is not finite stops the training before it does harm.

        Raises:
            NonFiniteLossError: Naming the losses; the weights are still those of the last step.
        """
        total, log_vars = super().parse_losses(losses)
        if self.before_stopping is None and not self._warned:
            self._warned = True  # a list of hooks in a config replaces that of its base
            print_log(
                "No DistillationHook in custom_hooks: the teacher is not measured, and no "
                "student-only file is kept beside the checkpoints.",
                logger="current",
                level=logging.WARNING,
            )
        # All ranks stop, or the others would wait for this one's gradients.
        finite = torch.isfinite(total.detach()).int()
        all_reduce(finite, "min")
        if not finite:
            self.distiller.undo()
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
                f"{kept} Clip gradients (optim_wrapper.clip_grad) or lower that loss's weight, and "
                "resume; or begin a new training from its weights (load_from) with a lower "
                "learning rate, which a resumed optimizer would not take over."
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
    channels_last: bool | None = None,
    compile: bool = False,
    cache: Mapping[str, Any] | None = None,
    **unknown: Any,
) -> nn.Module:
    """Build a teacher, load its weights, freeze it.

    Raises:
        ValueError: `config` or `checkpoint` is missing, there is a setting that is none, or the
            weights do not fit the config.
    """
    if unknown:
        raise ValueError(
            "teacher: expected config, checkpoint, stage, autocast, channels_last, compile or "
            f"cache, got {', '.join(unknown)}"
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
    if isinstance(teacher, LibraryDetector):
        if compile or cache is not None:
            raise ValueError(
                "teacher: expected compile and cache of a detector of MMDetection, got "
                f"{type(teacher).__name__}; leave them out"
            )
        return teacher
    fold_batch_norms(teacher, teacher.extract_feat)
    pool_by_gathering(teacher)
    if channels_last is None:
        channels_last = not torch.cuda.is_available()
    if channels_last:
        teacher.to(memory_format=torch.channels_last)
    if compile:
        teacher.backbone.compile()
        if teacher.with_neck:
            teacher.neck.compile()
    if cache is not None:
        if not isinstance(cache, Mapping) or set(cache) != {"folder", "megabytes"}:
            raise ValueError(
                f"teacher: expected cache=dict(folder=..., megabytes=...), got {cache!r}"
            )
        how = dict(channels_last=channels_last, compile=compile, mmdet=mmdet.__version__)
        settings = f"{model_settings(config)} {how}"
        # On the instance, in front of the method.
        teacher.extract_feat = PyramidCache(teacher, settings, teacher.extract_feat, **cache)
    return teacher
