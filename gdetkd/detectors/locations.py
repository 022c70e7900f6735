"""Where a detector answers for a box: the level made for its size, the cell, the query."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from gdetkd.ops.roi_align import roi_align


def as_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes (n, 4) of each image as (N, 5) [image, x1, y1, x2, y2]."""
    return torch.cat(
        [
            torch.cat([each.new_full((len(each), 1), index), each], 1)
            for index, each in enumerate(boxes)
        ]
    )


def level_of(rois: Tensor, sides: Sequence[float]) -> Tensor:
    """For each of rois (N, 5) the level (N,) whose boxes are nearest in size, by ratio."""
    size = (rois[:, 3:] - rois[:, 1:3]).float().clamp(min=1e-3).log().mean(1)
    return torch.stack([(size - math.log(side)).abs() for side in sides], 1).argmin(1)


def pool_from(
    levels: Sequence[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: Sequence[float],
    size: tuple[int, int],
) -> Tensor:
    """RoIAlign (N, C, h, w) of every box from its own level (N,)."""
    pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], *size)
    for number, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        chosen = (level == number).nonzero().squeeze(1)
        pooled[chosen] = roi_align(features, rois[chosen], size, 1 / stride)
    return pooled


def cells_of(
    levels: Sequence[Tensor], rois: Tensor, level: Tensor, strides: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The cell that has each box's center: its place within its level (N,), and over all levels.

    levels: (B, C, H, W) each; rois: (N, 5); level: (N,), where each is looked for.
    """
    sizes = torch.tensor([maps.shape[2:] for maps in levels], device=rois.device)  # h, w
    stride = rois.new_tensor(strides)[level, None]
    centers = ((rois[:, 1:3] + rois[:, 3:]) / 2 / stride).long().clamp(min=0)
    column, row = torch.minimum(centers, sizes[level].flip(1) - 1).unbind(1)
    place = row * sizes[level, 1] + column
    return place, place + (sizes.prod(1).cumsum(0) - sizes.prod(1))[level]


def features_at(levels: Sequence[Tensor], image: Tensor, cell: Tensor) -> Tensor:
    """What feature maps (B, D, H, W) hold at cells counted over all levels, with gradient: (N, D).

    image, cell: (N,). Levels are read one by one: joining them would copy them all.
    """
    start, rows = 0, None
    for level in levels:
        count = level.shape[2] * level.shape[3]
        found = level.flatten(2)[image, :, (cell - start).clamp(0, count - 1)]
        rows = found if rows is None else torch.where((cell >= start)[:, None], found, rows)
        start += count
    return rows


def best_of_image(rois: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """For rois (N, 5) the index (N,) and IoU (N,) of the best of their image's boxes (B, Q, 4)."""
    query, overlap = rois.new_zeros(len(rois), dtype=torch.long), rois.new_zeros(len(rois))
    for index, own in enumerate(predicted):
        here = rois[:, 0] == index
        overlap[here], query[here] = box_iou(rois[here, 1:].to(own), own).max(1)
    return query, overlap
