"""How distillation looks at a detector: one adapter a family, found by a registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from mmdet.structures import SampleList
from torch import Tensor, nn

from gdetkd.distillation.structures import DetectorSpec, RoIOutputs


class Adapter(ABC):
    """Gives the `DetectorSpec` of a detector and, at a step, its `RoIOutputs`.

    As a student the detector is left alone: `hook_outputs` listens while its own `loss()` runs. As
    a teacher it is asked to `forward_rois` of the student's boxes. A detector of several stages
    (Cascade R-CNN) has a spec and outputs of each; most have one.

    Attributes:
        state: What of the adapter is saved with a training, if anything (a sampler's position).
    """

    state: nn.Module | None = None

    def __init__(self, detector: nn.Module, name: str) -> None:
        self.detector, self.name = detector, name

    @classmethod
    @abstractmethod
    def supports(cls, detector: nn.Module) -> bool:
        """Whether this adapter knows the detector's family."""

    @abstractmethod
    def specs(self) -> list[DetectorSpec]:
        """The detector's shapes, by stage. Raises ValueError where distillation cannot use it."""

    @abstractmethod
    def hook_outputs(self) -> AbstractContextManager[Recording]:
        """Listen to one `loss()` of the detector; nothing stays attached afterwards.

        Raises:
            ValueError: The family cannot be a student.
        """

    @abstractmethod
    def forward_rois(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        stages: Sequence[int],
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[RoIOutputs]:
        """What stages of the detector make of given boxes: backbone, neck and heads, no proposals.

        images: (B, 3, H, W), normalised its way; boxes: for each of the stages asked, (N, 5) in
        pixels of those images; sizes: of each image (height, width) before it was padded, for a
        detector that masks its padding (by default nothing is padding).
        """

    @abstractmethod
    def heads(self) -> dict[str, nn.Module]:
        """The heads that head transfer moves, by the name they have in the detector."""


class Recording(ABC):
    """What `Adapter.hook_outputs` heard."""

    @abstractmethod
    def outputs(self, batch_data_samples: SampleList) -> list[RoIOutputs]:
        """The student's view, by stage, of the boxes that fed its loss."""


ADAPTERS: list[type[Adapter]] = []


def register(adapter: type[Adapter]) -> type[Adapter]:
    """Add an adapter to the registry; the one registered last is asked first."""
    ADAPTERS.insert(0, adapter)
    return adapter


def adapter_for(detector: nn.Module, name: str, **settings: Any) -> Adapter:
    """The adapter of a detector, with the settings of its family.

    Raises:
        ValueError: There is none, or it does not know a setting; the message names both.
    """
    for adapter in ADAPTERS:
        if adapter.supports(detector):
            try:
                return adapter(detector, name, **settings)
            except TypeError as error:
                raise ValueError(f"{name}: view settings of {adapter.__name__}: {error}") from error
    known = ", ".join(sorted(adapter.__name__ for adapter in ADAPTERS))
    raise ValueError(
        f"{name}: no adapter for {type(detector).__name__}; expected a detector that one of these "
        f"supports: {known}. Register one with gdetkd.detectors.adapter.register"
    )


def stage_pairs(student: int, teacher: int, stage: int | None = None) -> list[tuple[int, int]]:
    """Which stage of the teacher teaches which of the student's.

    The same one where both have as many; the only one teaches all; `stage` of several, by default
    the last, teaches the only one of a student.

    Raises:
        ValueError: Both have several, and not as many; or the teacher has no such stage, or there
            is nothing to choose.
    """
    if stage is not None and (teacher == 1 or student > 1):
        raise ValueError(
            "teacher.stage: expected with a teacher of several stages and a student of one, got "
            f"stage {stage} with {teacher} and {student}; leave it out"
        )
    if student == teacher:
        return [(index, index) for index in range(student)]
    if teacher == 1:
        return [(index, 0) for index in range(student)]
    if student == 1:
        chosen = teacher - 1 if stage is None else stage
        if not 0 <= chosen < teacher:
            raise ValueError(f"teacher.stage: expected 0 to {teacher - 1}, got {stage}")
        return [(0, chosen)]
    raise ValueError(
        f"expected a pair with as many stages, or one with a single stage, got {student} stages in "
        f"the student and {teacher} in the teacher"
    )
