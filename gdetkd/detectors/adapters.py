"""How distillation looks at a detector: one adapter a family, found by a registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from mmdet.structures import SampleList
from torch import Tensor, nn

from gdetkd.views import DetectorSpec, DetectorView


class Adapter(ABC):
    """Gives the `DetectorSpec` of a detector and, at a step, its `DetectorView`.

    As a student the detector is left alone: `record` listens while its own `loss()` runs. As a
    teacher it is asked to `look` at the student's boxes.
    """

    def __init__(self, detector: nn.Module, name: str) -> None:
        self.detector, self.name = detector, name

    @classmethod
    @abstractmethod
    def supports(cls, detector: nn.Module) -> bool:
        """Whether this adapter knows the detector's family."""

    @abstractmethod
    def spec(self) -> DetectorSpec:
        """The detector's shapes. Raises ValueError where distillation cannot use it."""

    @abstractmethod
    def record(self) -> AbstractContextManager[Recording]:
        """Listen to one `loss()` of the detector; nothing stays attached afterwards."""

    @abstractmethod
    def look(self, images: Tensor, rois: Tensor) -> DetectorView:
        """What the detector makes of given boxes: backbone, neck and heads, no proposals.

        images: (B, 3, H, W), normalised its way; rois: (N, 5), pixels of those images.
        """

    @abstractmethod
    def heads(self) -> dict[str, nn.Module]:
        """The heads that head transfer moves, by the name they have in the detector."""


class Recording(ABC):
    """What `Adapter.record` heard."""

    @abstractmethod
    def view(self, batch_data_samples: SampleList) -> DetectorView:
        """The student's view of the boxes that fed its loss."""


ADAPTERS: list[type[Adapter]] = []


def register(adapter: type[Adapter]) -> type[Adapter]:
    """Add an adapter to the registry; the one registered last is asked first."""
    ADAPTERS.insert(0, adapter)
    return adapter


def adapter_for(detector: nn.Module, name: str) -> Adapter:
    """The adapter of a detector. Raises ValueError naming it when there is none."""
    for adapter in ADAPTERS:
        if adapter.supports(detector):
            return adapter(detector, name)
    known = ", ".join(sorted(adapter.__name__ for adapter in ADAPTERS))
    raise ValueError(
        f"{name}: no adapter for {type(detector).__name__}; expected a detector that one of these "
        f"supports: {known}. Register one with gdetkd.detectors.adapters.register"
    )
