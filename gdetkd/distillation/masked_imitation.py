"""Baseline: same-level imitation inside the ground-truth boxes.

In the spirit of Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation",
CVPR 2019, whose mask is that of the anchors near an object.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.distillation.component import ComponentOutput, register_component
from gdetkd.distillation.fitnet import FitNet
from gdetkd.distillation.structures import RoIOutputs


@register_component("masked_imitation")
class MaskedImitation(FitNet):
    """`FitNet` over the cells, of all levels, whose center lies in a ground-truth box."""

    student_fields = ("gt_boxes",)

    def compute(self, student: RoIOutputs, teacher: RoIOutputs) -> ComponentOutput:
        total, cells = student.pyramid[0].new_zeros((), dtype=torch.float32), 0
        for ours, target, stride in self.maps(student, teacher):
            inside = inside_boxes(student.gt_boxes, len(ours), ours.shape[2:], stride)
            total = total + ((ours - target).square().mean(1) * inside).sum()
            cells = cells + inside.sum()
        return ComponentOutput(total / cells.clamp(min=1), cells.to(total.dtype))


def inside_boxes(rois: Tensor, images: int, size: tuple[int, int], stride: float) -> Tensor:
    """Cells whose center lies in a box of their image.

    Args:
        rois: (M, 5) [image, x1, y1, x2, y2], pixels.
        images, size, stride: The maps: how many, (H, W) in cells, pixels per cell.

    Returns:
        (images, H, W) bool.
    """
    height, width = size
    x = (torch.arange(width, device=rois.device) + 0.5) * stride
    y = (torch.arange(height, device=rois.device) + 0.5) * stride
    across = (x >= rois[:, 1:2]) & (x <= rois[:, 3:4])
    down = (y >= rois[:, 2:3]) & (y <= rois[:, 4:5])
    each = (down[:, :, None] & across[:, None, :]).float()
    inside = each.new_zeros(images, height, width)
    inside.index_add_(0, rois[:, 0].long(), each)
    return inside > 0
