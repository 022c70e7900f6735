"""Which proposals overlap, so that they are no negatives of each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

__all__ = ["overlap_mask"]


@torch.no_grad()
def overlap_mask(rois: Tensor, iou: float = 0.5) -> Tensor:
    """Mark the pairs of RoIs that overlap by more than ``iou`` in the same image.

    Supplement B, Table 2: proposals that show the same thing should not be pushed apart, so
    they are left out of each other's negatives; 0.5 is the paper's best threshold.

    Args:
        rois: (N, 5), a row is image index, x1, y1, x2, y2, in any unit common to an image's boxes.
        iou: a pair counts when its IoU is strictly above; 1.0 therefore marks nothing.

    Returns:
        (N, N) bool, symmetric, False on the diagonal; (0, 0) for no RoIs. A box without area
        overlaps nothing. No gradient.

    Raises:
        ValueError: rois of another shape, a threshold outside 0..1.
    """
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(f"expected rois of shape (N, 5), got {tuple(rois.shape)}")
    if not 0 <= iou <= 1:
        raise ValueError(f"expected an IoU threshold within 0..1, got {iou}")
    image = rois[:, 0]
    marked = box_iou(rois[:, 1:], rois[:, 1:]) > iou  # 0/0 of two empty boxes is NaN: not above
    return marked.logical_and_(image[:, None] == image).fill_diagonal_(False)
