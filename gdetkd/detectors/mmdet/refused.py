"""Models of MMDetection that cannot be distilled, each with the reason."""

from __future__ import annotations

from typing import Any, NoReturn

from mmdet.models.detectors import (
    SOLO,
    Detectron2Wrapper,
    GroundingDINO,
    MaskFormer,
    SemiBaseDetector,
    SOLOv2,
)
from mmdet.models.mot import BaseMOTModel
from mmdet.models.reid import BaseReID
from torch import nn

from gdetkd.detectors.adapter import register
from gdetkd.detectors.mmdet.base import MMDetAdapter

MASKS = "predicts masks without boxes"
REASONS = {
    SOLO: MASKS,
    SOLOv2: MASKS,
    MaskFormer: MASKS,
    SemiBaseDetector: "trains a detector by a teacher of its own; distill its `student`",
    BaseMOTModel: "follows objects through videos; distill the `detector` in it",
    BaseReID: "distinguishes persons and detects nothing",
    Detectron2Wrapper: "hides a detector of detectron2, whose layers MMDetection does not see",
}


def refusal(kind: type) -> str | None:
    """Why models of this class cannot be distilled; None where they may be."""
    if issubclass(kind, GroundingDINO):
        return (
            f"expected a detector with classes of its own, but {kind.__name__} scores its queries "
            "by a text"
        )
    for known, reason in REASONS.items():
        if issubclass(kind, known):
            return f"expected a detector of boxes in images, but {kind.__name__} {reason}"
    return None


@register
class RefusedAdapter(MMDetAdapter):
    """Says why there is no adapter."""

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        return refusal(type(detector)) is not None

    def specs(self) -> NoReturn:
        raise ValueError(f"{self.name}: {refusal(type(self.detector))}")

    def hook_outputs(self) -> NoReturn:
        self.specs()

    def forward_rois(self, *_: Any) -> NoReturn:
        self.specs()
