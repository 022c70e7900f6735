"""Baseline: same-level feature imitation of the whole pyramid (FitNets, Romero et al., 2015)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gdetkd.distillation.component import Component, ComponentOutput, register_component
from gdetkd.distillation.same_level import common_levels, crop_to_common
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs


@register_component("fitnet")
class FitNet(Component):
    """Mean squared error over all cells and channels, averaged over the levels of equal stride.

    A 1x1 convolution per level adapts the student's channels.

    Raises:
        ValueError: The pair has no level of the same stride.
    """

    def __init__(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__()
        self.strides, self.levels = common_levels(student, teacher, "same-level imitation")
        self.adapt = nn.ModuleList(
            nn.Conv2d(student.level_channels[ours], teacher.level_channels[theirs], 1)
            for ours, theirs in self.levels
        )

    def compute(self, student: RoIOutputs, teacher: RoIOutputs) -> ComponentOutput:
        losses = [self.compare(ours, target) for ours, target, _ in self.maps(student, teacher)]
        loss = torch.stack(losses).mean()
        return ComponentOutput(loss, len(student.pyramid[0]))

    def maps(
        self, student: RoIOutputs, teacher: RoIOutputs
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """The student's adapted map of each common level, the teacher's, and the stride."""
        for (index, target), adapt, stride in zip(
            self.levels, self.adapt, self.strides, strict=True
        ):
            pair = adapt(student.pyramid[index]), teacher.pyramid[target].detach()
            yield *crop_to_common(*pair), stride

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The error of one level, (B, C, H, W) each."""
        return (student - teacher).square().mean()
