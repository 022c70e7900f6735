"""Baseline: imitation of standardized features (PKD, Cao et al., NeurIPS 2022)."""

from __future__ import annotations

from torch import Tensor

from gdetkd.distillation.component import register_component
from gdetkd.distillation.fitnet import FitNet


@register_component("pkd")
class PKD(FitNet):
    """`FitNet` after each channel is standardized over the batch and its cells.

    Half the squared error is then 1 minus Pearson's correlation: the teacher's scale and a few
    loud channels no longer dominate the loss.
    """

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (_standardized(student) - _standardized(teacher)).square().mean() / 2


def _standardized(features: Tensor) -> Tensor:
    """(B, C, H, W) with every channel of zero mean and unit variance over B, H and W."""
    mean = features.mean((0, 2, 3), keepdim=True)
    centered = features - mean
    return centered / (centered.square().mean((0, 2, 3), keepdim=True) + 1e-6).sqrt()
