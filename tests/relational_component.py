"""A component from outside the package: relational distillation of proposals.

The worked example of gdetkd/distillation/README.md, whose code blocks are this file's.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from gdetkd.distillation import Component, ComponentOutput, register_component
from gdetkd.losses.common import check_number, empty_loss


@register_component("relation")
class Relation(Component):
    """Distances between proposals as in the teacher (RKD, Park et al., CVPR 2019, eq. 3 and 4)."""

    def __init__(self, student, teacher, beta=1.0):
        super().__init__()
        check_number("relation: beta", beta, 0, above=True)
        self.beta = beta

    def compute(self, student, teacher):
        if len(student.rois) < 2:
            return ComponentOutput(empty_loss(student.representation), 0)
        ours = relative_distances(student.representation)
        target = relative_distances(teacher.representation.detach())
        loss = F.smooth_l1_loss(ours, target, beta=self.beta)
        return ComponentOutput(loss, len(student.rois))


def relative_distances(rows):
    """Distances of all pairs of rows (N, D), divided by their mean: (N (N - 1) / 2,)."""
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    distances = F.pairwise_distance(rows[first].float(), rows[second].float())
    return distances / distances.mean().clamp(min=1e-6)
