"""Which proposals overlap, so that they are no negatives of each other."""

from __future__ import annotations

import torch
from torch import Tensor

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
    # Half precision holds no area of a large image's boxes.
    image, x1, y1, x2, y2 = rois.to(torch.promote_types(rois.dtype, torch.float32)).unbind(1)
    # As torchvision's `box_iou`, whose pairs of coordinates lie side by side: slower on the CPU.
    width = torch.minimum(x2[:, None], x2) - torch.maximum(x1[:, None], x1)
    height = torch.minimum(y2[:, None], y2) - torch.maximum(y1[:, None], y1)
    common = width.clamp_(min=0).mul_(height.clamp_(min=0))
    area = (x2 - x1) * (y2 - y1)
    marked = common / (area[:, None] + area - common) > iou  # 0/0 is NaN: not above
    return marked.logical_and_(image[:, None] == image).fill_diagonal_(False)
