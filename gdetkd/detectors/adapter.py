"""The adapter protocol: what a family of detectors has to answer so that it can be distilled.

Distillation asks four things of a detector. An adapter answers them from outside: the detector is
built, trained and saved by its own library, and is not changed.

**What are your shapes?** `specs()` gives a `DetectorSpec` per stage (one, except for a cascade),
and raises ValueError with a sentence where distillation would read something wrong. It runs when a
pair is built, so that nothing is refused in the middle of a training.

**As a student: what did you compute while your own loss ran?** `training_pass(images, targets)`
runs the detector's own loss with hooks that record what passes, and gives a `TrainingPass`: the
losses, untouched, the images as the network saw them, and `RoIOutputs` per stage for the boxes that
fed the loss. Nothing stays attached, and nothing is drawn at random that would not be drawn anyway.

**As a teacher: what do you compute for these boxes?** `forward_rois(images, boxes, stages, sizes)`
runs backbone, neck and head on given boxes, without proposals of its own, and gives `RoIOutputs`
for each stage asked for. What it has no answer to is left None (`DetectorSpec.scores` and
`delta_stds` say so beforehand) or masked out (`RoIOutputs.valid_mask`).

**What do you expect of pixels?** `pixel_format()`, so that each network sees images normalized its
own way.

A family may leave out `heads` (nothing to transfer), `state` (nothing of the adapter to save with a
training), and being a student at all (`check_student` and `training_pass` raise ValueError).

What is fixed in `RoIOutputs`: rois in pixels of the student's batch, image by image; the background
last in softmax logits, absent from sigmoid ones; deltas with the head's own normalization taken
out; the representation is the *input* of the last classification layer. A student's pyramid is the
maps from which its heads compute, not copies: weights by share ask for its losses' gradient there.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from gdetkd.detectors.pixels import PixelFormat
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs

Size = tuple[int, int]  # height, width in pixels


@dataclass
class TrainingPass:
    """What a student computed in one pass of its own loss.

    Attributes:
        losses: The student's own, as its library gives them.
        images: (B, 3, H, W), as the network saw them, in the adapter's `pixel_format`.
        sizes: Of each image (height, width) before it was padded.
        outputs: By stage, for the boxes that fed the loss.
    """

    losses: dict[str, Any]
    images: Tensor
    sizes: list[Size]
    outputs: list[RoIOutputs]


class Adapter(ABC):
    """One detector, as distillation sees it; see the module's docstring for the protocol.

    Attributes:
        detector, name: The detector, and how messages call it ('student', 'teacher').
        state: What of the adapter is saved with a training, if anything (a sampler's position).
    """

    state: nn.Module | None = None

    def __init__(self, detector: nn.Module, name: str) -> None:
        self.detector, self.name = detector, name

    @property
    def title(self) -> str:
        """The name with the detector's class, for messages."""
        return f"{self.name} ({type(self.detector).__name__})"

    @classmethod
    @abstractmethod
    def supports(cls, detector: nn.Module) -> bool:
        """Whether this adapter knows the detector's family."""

    @abstractmethod
    def specs(self) -> list[DetectorSpec]:
        """The detector's shapes, by stage. Raises ValueError where distillation cannot use it."""

    @abstractmethod
    def pixel_format(self) -> PixelFormat:
        """How the network expects its images to be normalized and padded."""

    def check_student(self) -> None:
        """Raise ValueError where the detector can teach at most."""
        self.specs()

    @abstractmethod
    def losses(self, images: Any, targets: Any) -> dict[str, Any]:
        """The detector's own losses and nothing else, as its library computes them."""

    @abstractmethod
    def training_pass(self, images: Any, targets: Any) -> TrainingPass:
        """Run the detector's own loss and record what it computed.

        images, targets: As the detector's own library takes them in training.
        """

    @abstractmethod
    def forward_rois(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        stages: Sequence[int],
        sizes: Sequence[Size] | None = None,
    ) -> list[RoIOutputs]:
        """What stages of the detector compute for given boxes.

        images: (B, 3, H, W), in its `pixel_format`; boxes: for each of the stages asked, (N, 5) in
        pixels of those images; sizes: of each image (height, width) before it was padded, for a
        detector that masks its padding (by default nothing is padding).
        """

    def heads(self) -> dict[str, nn.Module]:
        """The heads that head transfer moves, by the name they have in the detector."""
        return {}

    def head_conventions(self, head: nn.Module) -> dict[str, object]:
        """What a head's outputs are relative to (anchors, box coding), which no shape tells."""
        return {}


ADAPTERS: list[type[Adapter]] = []
# Where the families of a library are; imported once a detector may be of that library.
LIBRARIES = {
    "mmdet": "gdetkd.detectors.mmdet",
    "torchvision.models.detection": "gdetkd.detectors.torchvision",
    "transformers": "gdetkd.detectors.transformers",
}


def register(adapter: type[Adapter]) -> type[Adapter]:
    """Add an adapter to the registry; the one registered last is asked first."""
    ADAPTERS.insert(0, adapter)
    return adapter


def adapter_for(detector: nn.Module, name: str, **settings: Any) -> Adapter:
    """The adapter of a detector, with the settings of its family.

    Raises:
        ValueError: There is none, or it does not know a setting; the message names both.
    """
    for library, families in LIBRARIES.items():
        if sys.modules.get(library) is not None:
            import_module(families)
    for adapter in ADAPTERS:
        if adapter.supports(detector):
            try:
                return adapter(detector, name, **settings)
            except TypeError as error:
                raise ValueError(f"{name}: settings of {adapter.__name__}: {error}") from error
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
