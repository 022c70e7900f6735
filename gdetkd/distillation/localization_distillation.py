"""Baseline: localization distillation between dense heads (LD, Zheng et al., CVPR 2022)."""

from __future__ import annotations

import torch

from gdetkd.distillation.component import Component, ComponentOutput, register_component
from gdetkd.distillation.same_level import common_levels, crop_to_common
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs
from gdetkd.losses.common import check_number


@register_component("localization_distillation")
class LocalizationDistillation(Component):
    """Distill the distributions of box edges that two dense heads predict, cell by cell.

    The loss is the Kullback-Leibler divergence of the student's distribution from the teacher's,
    both softened by a temperature, times its square; the mean over four edges and over the cells
    of all common levels. A cell counts by the teacher's highest class score there: the teacher
    says where objects are (ours; LD takes the cells to which training assigns objects, and a
    region around them).

    Args:
        student, teacher: The pair.
        temperature: LD's 10 by default.

    Raises:
        ValueError: One of the pair predicts no such distributions, or they differ in their bins
            or have no level of the same stride.
    """

    student_fields = ("edge_maps",)
    teacher_fields = ("edge_maps", "class_maps")

    def __init__(
        self, student: DetectorSpec, teacher: DetectorSpec, temperature: float = 10.0
    ) -> None:
        super().__init__()
        if student.edge_bins is None or student.edge_bins != teacher.edge_bins:
            raise ValueError(
                "localization_distillation: expected two dense heads that predict distributions of "
                "box edges over as many bins (GFLHead's reg_max + 1), got "
                f"{student.edge_bins} bins from {student.name} and {teacher.edge_bins} from "
                f"{teacher.name}"
            )
        check_number("localization_distillation: temperature", temperature, 0, above=True)
        self.bins, self.temperature = student.edge_bins, temperature
        _, self.levels = common_levels(student, teacher, "localization_distillation")

    def compute(self, student: RoIOutputs, teacher: RoIOutputs) -> ComponentOutput:
        total = cells = 0.0
        for index, target_index in self.levels:
            ours, target = crop_to_common(
                student.edge_maps[index], teacher.edge_maps[target_index].detach()
            )
            scores = teacher.class_maps[target_index].detach()
            scores = scores[..., : ours.shape[2], : ours.shape[3]]
            weight = scores.float().sigmoid().amax(1)
            ours, target = (
                (maps.unflatten(1, (4, self.bins)) / self.temperature).log_softmax(2)
                for maps in (ours, target)
            )
            divergence = (target.exp() * (target - ours)).sum(2).mean(1)
            total, cells = total + (weight * divergence).sum(), cells + weight.sum()
        # All of a teacher's scores may underflow to 0: nothing is to be imitated then.
        least = torch.finfo(cells.dtype).tiny
        return ComponentOutput(self.temperature**2 * total / cells.clamp(min=least), cells)
