"""RoIAlign (He et al., Mask R-CNN, section 3) with a backward pass that is quick on the CPU.

Bilinear sampling is separable: an output bin is ``Wy F Wx^T``, where row i of ``Wy`` holds the
weights that bin i gives to the rows of the feature map. torchvision's CPU kernel scatters the
gradient sample by sample on one thread; two matrix products give the same numbers (to float
rounding) many times faster as long as the map is small. Large maps keep torchvision's kernel.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align as _torchvision_roi_align

# Multiply-adds of the products for which one scattered sample is worth taking (measured on
# two cores; `dense_backward_pays`).
_COST_OF_A_SAMPLE = 60


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Pool boxes from a feature map.

    Args:
        features: (B, C, H, W), receives gradients.
        rois: (N, 5) [image, x1, y1, x2, y2], image pixels; no gradient.
        output_size: Bins (h, w).
        spatial_scale: Feature cells per pixel, 1 / stride.
        sampling_ratio: Samples per bin and axis; 0 takes as many as a bin has cells.
        aligned: True shifts by half a cell; False is the older convention.

    Returns:
        (N, C, h, w); N = 0 gives an empty tensor through which gradients flow as zeros.
    """
    # Half precision cannot tell the pixels of a large image apart, nor do all kernels know it.
    if features.dtype in (torch.bfloat16, torch.float16):
        pooled = roi_align(
            features.float(), rois.float(), output_size, spatial_scale, sampling_ratio, aligned
        )
        return pooled.to(features.dtype)
    rois = rois.detach().to(features.dtype)
    if features.requires_grad and dense_backward_pays(
        features.shape, rois, output_size, sampling_ratio
    ):
        return _RoIAlign.apply(features, rois, output_size, spatial_scale, sampling_ratio, aligned)
    return _torchvision_roi_align(
        features, rois, output_size, spatial_scale, sampling_ratio, aligned
    )


def dense_backward_pays(
    shape: torch.Size, rois: Tensor, output_size: tuple[int, int], sampling_ratio: int
) -> bool:
    """Whether `roi_align_backward` is quicker than torchvision's kernel for these sizes."""
    _, _, height, width = shape
    if rois.device.type != "cpu" or sampling_ratio <= 0 or not len(rois):
        return False
    h, w = output_size
    products = height * width * h + h * w * width
    return products <= _COST_OF_A_SAMPLE * h * w * sampling_ratio**2 * 4


@torch.autocast("cpu", enabled=False)  # a backward pass may run inside one
def roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    shape: torch.Size,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Gradient (B, C, H, W) of the map from that of the bins (N, C, h, w); channels-last."""
    batch, channels, height, width = shape
    rows, columns = bilinear_weights(
        rois, grad.shape[-2:], (height, width), spatial_scale, sampling_ratio, aligned
    )
    image = rois[:, 0].long()
    if (image.diff() < 0).any():  # one run of boxes an image
        order = image.argsort()
        grad, rows, columns, image = grad[order], rows[order], columns[order], image[order]
    h, w = grad.shape[-2:]
    # From bins to columns, (N h, W, w) x (N h, w, C); then per image from bins to rows. Channels
    # stay last, so that nothing is copied of a gradient that has them there.
    columns = columns.mT[:, None].expand(-1, h, -1, -1).flatten(0, 1)
    spread = (columns @ grad.permute(0, 2, 3, 1).reshape(-1, w, channels)).flatten(1)
    counts = (torch.bincount(image, minlength=batch) * h).tolist()
    runs = zip(rows.flatten(0, 1).split(counts), spread.split(counts), strict=True)
    result = grad.new_empty(batch, height, width * channels)
    for index, (weights, values) in enumerate(runs):
        torch.mm(weights.T, values, out=result[index])
    return result.view(batch, height, width, channels).permute(0, 3, 1, 2)


def bilinear_weights(
    rois: Tensor,
    output_size: tuple[int, int],
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """Weights that the bins of each box give to the rows (N, h, H) and columns (N, w, W)."""
    boxes = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    weights = []
    for axis, (bins, cells) in enumerate(zip(output_size, size, strict=True)):
        start, end = boxes[:, 1 - axis], boxes[:, 3 - axis]
        length = end - start if aligned else (end - start).clamp(min=1.0)
        # Sample s of bin i lies at (i + (s + 1/2) / ratio) / bins of the way.
        steps = torch.arange(bins * sampling_ratio, device=rois.device, dtype=rois.dtype)
        steps = (steps + 0.5) / (bins * sampling_ratio)
        position = start[:, None] + length[:, None] * steps
        # More than a cell outside counts as zero; up to a cell outside takes the edge's value.
        outside = (position < -1) | (position > cells)
        position = position.clamp(0, cells - 1)
        grid = torch.arange(cells, device=rois.device, dtype=rois.dtype)
        hat = (1 - (position[..., None] - grid).abs()).clamp(min=0)
        hat = hat.masked_fill(outside[..., None], 0)
        weights.append(hat.view(len(rois), bins, sampling_ratio, cells).mean(2))
    return weights[0], weights[1]


def roi_align_levels(
    levels: Sequence[Tensor],
    rois: Tensor,
    output_size: tuple[int, int],
    strides: Sequence[float],
    sampling_ratio: int = 0,
) -> Tensor | list[Tensor]:
    """Pool every box from every level of a pyramid, aligned; as `roi_align` level by level.

    Small maps on the CPU are pooled in one call, whose inner loop runs over the channels of a cell.

    Args:
        levels: (B, C, H, W) each, receive gradients.
        rois: (N, 5) [image, x1, y1, x2, y2], image pixels; no gradient.
        output_size, sampling_ratio: As for `roi_align`.
        strides: Of each level, image pixels per cell.

    Returns:
        One (N, C, h, w) per level; of small maps in one tensor (L, N, C, h, w), channels-last.
    """
    if _small(levels, rois, output_size, sampling_ratio):
        rois = rois.detach().to(levels[0].dtype)
        return _RoIAlignLevels.apply(rois, output_size, strides, sampling_ratio, *levels)
    return [
        roi_align(level, rois, output_size, 1 / stride, sampling_ratio)
        for level, stride in zip(levels, strides, strict=True)
    ]


@torch.no_grad()
def roi_align_assigned(
    levels: Sequence[Tensor],
    rois: Tensor,
    assigned: Tensor,
    output_size: tuple[int, int],
    strides: Sequence[float],
    sampling_ratio: int,
) -> Tensor | None:
    """Pool each box from the level assigned to it, aligned, without gradients; for small maps.

    Args:
        assigned: (N,), indices of levels.
        levels, rois, output_size, strides, sampling_ratio: As for `roi_align_levels`.

    Returns:
        (N, C, h, w), channels-last; None for maps that are not small, or not on the CPU.
    """
    if not _small(levels, rois, output_size, sampling_ratio):
        return None
    rois = rois.to(levels[0].dtype)
    return _gathered(levels, rois, assigned, output_size, strides, sampling_ratio)


def _small(
    levels: Sequence[Tensor], rois: Tensor, output_size: tuple[int, int], ratio: int
) -> bool:
    return all(
        level.dtype in (torch.float32, torch.float64)
        and dense_backward_pays(level.shape, rois, output_size, ratio)
        for level in levels
    )


def _gathered(
    levels: Sequence[Tensor],
    rois: Tensor,
    assigned: Tensor,
    output_size: tuple[int, int],
    strides: Sequence[float],
    ratio: int,
) -> Tensor:
    """Each bin as a weighted sum of rows of one table, the cells (., C) of all levels."""
    table = torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in levels])
    heights, widths, before = [], [], [0]
    for level in levels:
        batch, _, height, width = level.shape
        heights.append(height)
        widths.append(width)
        before.append(before[-1] + batch * height * width)
    height, width, first = torch.tensor([heights, widths, before[:-1]], dtype=torch.int32)[
        :, assigned, None, None
    ]
    boxes = rois[:, 1:] / torch.tensor(strides, dtype=rois.dtype)[assigned, None] - 0.5
    rows, row_weights = _nearest(boxes[:, 1::2], output_size[0], ratio, height[:, 0])
    columns, column_weights = _nearest(boxes[:, 0::2], output_size[1], ratio, width[:, 0])
    rows = first + (rois[:, 0].int()[:, None, None] * height + rows) * width
    # The (2 ratio)^2 cells of a bin lie side by side, those of its first row first.
    cells = _of_rows(rows)[:, :, None] + _of_columns(columns)[:, None]
    weights = _of_rows(row_weights)[:, :, None] * _of_columns(column_weights)[:, None]
    bags = cells.flatten(0, 2)
    pooled = F.embedding_bag(bags, table, per_sample_weights=weights.flatten(0, 2), mode="sum")
    return pooled.view(len(rois), *output_size, table.shape[1]).permute(0, 3, 1, 2)


def _of_rows(each: Tensor) -> Tensor:
    """What belongs to the rows of a bin's cells, (N, bins, 2 ratio), for each of its cells."""
    return each[..., None].expand(*each.shape, each.shape[2]).flatten(2)


def _of_columns(each: Tensor) -> Tensor:
    return each[:, :, None].expand(-1, -1, each.shape[2], -1).flatten(2)


def _nearest(sides: Tensor, bins: int, ratio: int, cells: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells around each sample of a bin along one axis, and their weights in its mean.

    sides: (N, 2), where a box starts and ends, in cells; cells: (N, 1), how many there are. Both
    results are (N, bins, 2 ratio).
    """
    start, end = sides.unbind(1)
    steps = torch.arange(bins * ratio, dtype=sides.dtype).add_(0.5).div_(bins * ratio)
    position = start[:, None] + (end - start)[:, None] * steps
    inside = (position >= -1) & (position <= cells)  # as in `bilinear_weights`
    last = cells - 1
    position = position.clamp_(min=0).minimum(last.to(position.dtype)).where(inside, 0)
    low = position.int()
    to_high = position - low
    weights = torch.stack([1 - to_high, to_high], 2) * inside[..., None] / ratio
    around = torch.stack([low, torch.minimum(low + 1, last)], 2)
    return around.view(-1, bins, 2 * ratio), weights.view(-1, bins, 2 * ratio)


class _RoIAlignLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rois, output_size, strides, ratio, *levels):
        ctx.save_for_backward(rois)
        ctx.settings = [(x.shape, 1 / s, ratio, True) for x, s in zip(levels, strides, strict=True)]
        count = len(levels)
        assigned = torch.arange(count).repeat_interleave(len(rois))
        pooled = _gathered(levels, rois.repeat(count, 1), assigned, output_size, strides, ratio)
        return pooled.unflatten(0, (count, len(rois)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grads):
        (rois,) = ctx.saved_tensors
        of_levels = [
            roi_align_backward(grad, rois, *settings)
            for grad, settings in zip(grads, ctx.settings, strict=True)
        ]
        return None, None, None, None, *of_levels


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, rois, output_size, spatial_scale, sampling_ratio, aligned):
        ctx.save_for_backward(rois)
        ctx.settings = (features.shape, spatial_scale, sampling_ratio, aligned)
        return _torchvision_roi_align(
            features, rois, output_size, spatial_scale, sampling_ratio, aligned
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (rois,) = ctx.saved_tensors
        return roi_align_backward(grad, rois, *ctx.settings), None, None, None, None, None
