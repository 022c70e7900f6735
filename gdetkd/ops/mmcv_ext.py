"""MMDetection's operators without a compiler: imported as `mmcv._ext` where MMCV comes without.

They run on torchvision's kernels and on plain torch, on any device those support. The names, the
order of arguments and the habit of writing into preallocated outputs are what `mmcv.ops` (2.x)
calls with. Boxes are [x1, y1, x2, y2] and RoIs [image, x1, y1, x2, y2], in pixels of the image.
Inputs are not validated here: `mmcv.ops` and torchvision do that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NoReturn

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from gdetkd.ops import roi_align as pooling

REMEDY = (
    "gdetkd has MMDetection's usual operators on torchvision's kernels, and not this one. Replace "
    "mmcv-lite by the full `mmcv`, built for your torch (see MMCV's installation guide)."
)
# MMCV's focal losses hold probabilities above the smallest normal float32 before a logarithm.
TINY = torch.finfo(torch.float32).tiny


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Stand in for a missing operator: mmcv asks for every name at import and calls few of them."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def missing(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(f"mmcv operator {name!r}: {REMEDY}")

    return missing


def get_compiler_version() -> str:
    """What `mmcv.utils.collect_env` prints as the compiler."""
    return f"none (operators of torchvision {torchvision.__version__})"


def get_compiling_cuda_version() -> str:
    """What `mmcv.utils.collect_env` prints as the CUDA compiler."""
    return torch.version.cuda or "not available"


def _kernel_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in: the common one, or float32 where torchvision has no such kernel."""
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    if dtype == torch.float16 and tensors[0].is_cuda:
        return dtype
    return torch.promote_types(dtype, torch.float32)


# --- non-maximum suppression ------------------------------------------------------------------


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy suppression of boxes (N, 4) that overlap a better one by more than the threshold.

    A width is x2 - x1 + offset. Returns the indices of those that stay, int64, by falling score; of
    equal scores the first counts as better (MMCV leaves it to torch's sort, which need not be
    stable).
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    # Growing every box by `offset` gives the intersections and areas of widths x2 - x1 + offset.
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    # In the precision of the boxes: an overlap of float32(0.3) does not exceed a threshold of 0.3.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., ICCV 2017): scores decay with the overlap with every better box.

    Method 0 sets to 0 and method 1 multiplies by 1 - IoU the scores of boxes (N, 4) that overlap by
    the threshold or more; method 2 multiplies all by exp(-IoU^2 / sigma). Boxes that decay below
    `min_score` are dropped. Returns the indices (K,) of the rest, int64, in the order of selection,
    and fills the first K rows of dets (N, 5) with boxes and decayed scores.
    """
    left, current = torch.arange(len(boxes), device=boxes.device), scores.clone()
    chosen, decayed = [], []
    while len(left) > 0:
        best = int(current.argmax())
        chosen.append(int(left[best]))
        decayed.append(current[best].clone())
        # The first candidate takes the place of the selected one. Equal scores are resolved by
        # position, so MMCV's order of the candidates is part of its result; `_drop` keeps to it.
        left[best], current[best] = left[0], current[0]
        left, current = left[1:], current[1:]
        overlap = _overlaps(boxes[chosen[-1]], boxes[left], offset)
        if method == 2:
            weight = torch.exp(-(overlap * overlap) / sigma)
        else:
            reduced = torch.zeros_like(overlap) if method == 0 else 1 - overlap
            weight = torch.where(overlap >= iou_threshold, reduced, torch.ones_like(overlap))
        # Two boxes without area have IoU 0 / 0: they do not overlap. (MMCV's scores become NaN.)
        current = current * weight.nan_to_num(nan=1.0)
        order = _drop(current < min_score)
        left, current = left[order], current[order]
    indices = torch.tensor(chosen, dtype=torch.int64, device=boxes.device)
    if chosen:
        dets[: len(chosen)] = torch.cat((boxes[indices], torch.stack(decayed)[:, None]), dim=1)
    return indices


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of dets (N, 5), by falling score: a box and those it suppresses (IoU >= threshold)."""
    left = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(left) > 0:
        matched = _overlaps(dets[left[0], :4], dets[left[1:], :4], offset=0) >= iou_threshold
        groups.append([int(left[0]), *left[1:][matched].tolist()])
        left = left[1:][~matched]
    return groups


def _overlaps(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """IoU (M,) of box (4,) with boxes (M, 4), widths x2 - x1 + offset; NaN if both have no area."""
    sides = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2]) + offset
    shared = sides.clamp(min=0).prod(dim=1)
    area = (box[2:] - box[:2] + offset).prod()
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(dim=1)
    return shared / (area + areas - shared)


def _drop(gone: Tensor) -> Tensor:
    """Order (K,) of those that stay, of gone (N,): the last one fills the first gap, and so on."""
    count = int((~gone).sum())
    order = torch.arange(count, device=gone.device)
    order[gone[:count]] = (torch.nonzero(~gone[count:])[:, 0] + count).flip(0)
    return order


# --- pooling of regions -----------------------------------------------------------------------


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write RoIAlign of input (B, C, H, W) at rois (N, 5) into output (N, C, h, w)."""
    _refuse_max(pool_mode)
    dtype = _kernel_dtype(input, rois)
    output.copy_(
        torch.ops.torchvision.roi_align(
            input.to(dtype),
            rois.to(dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of RoIAlign's input to grad_input (B, C, H, W); the RoIs receive none."""
    _refuse_max(pool_mode)
    dtype, shape = _kernel_dtype(grad_output, rois), grad_input.shape
    grad_output, rois = grad_output.to(dtype), rois.to(dtype)
    if pooling.dense_backward_pays(shape, rois, grad_output.shape[2:], sampling_ratio):
        gradient = pooling.roi_align_backward(
            grad_output, rois, shape, spatial_scale, sampling_ratio, aligned
        )
    else:
        gradient = torch.ops.torchvision._roi_align_backward(
            grad_output,
            rois,
            spatial_scale,
            aligned_height,
            aligned_width,
            *shape,
            sampling_ratio,
            aligned,
        )
    grad_input.copy_(gradient)


def _refuse_max(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(f"mmcv operator 'roi_align' with pool_mode='max': {REMEDY}")


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the maxima of input (B, C, H, W) in the bins of rois (N, 5) into output (N, C, h, w).

    Not torchvision's operator, which rounds the corners of a RoI to whole cells: MMCV rounds those
    of its bins and counts the pixel x2, y2 in. `argmax` gets the cell of the maximum; where a bin
    is empty, -1 and an output of 0.
    """
    rows = _pool_bins(rois[:, 2], rois[:, 4], pooled_height, input.size(2), spatial_scale)
    columns = _pool_bins(rois[:, 1], rois[:, 3], pooled_width, input.size(3), spatial_scale)
    for n, (image, ys, xs) in enumerate(
        zip(rois[:, 0].long().tolist(), rows.tolist(), columns.tolist(), strict=True)
    ):
        # The maximum within the columns of a bin, then within its rows; of equals the first counts.
        best = input.new_zeros(*input.shape[1:3], pooled_width)
        x = torch.zeros_like(best, dtype=torch.int64)
        for j, (start, end) in enumerate(xs):
            if start < end:
                best[..., j], x[..., j] = input[image, :, :, start:end].max(dim=2)
                x[..., j] += start
        for i, (start, end) in enumerate(ys):
            if start < end:
                output[n, :, i], y = best[:, start:end].max(dim=1)
                y += start
                argmax[n, :, i] = y * input.size(3) + x.gather(1, y[:, None])[:, 0]
    no_row, no_column = (bins[..., 0] >= bins[..., 1] for bins in (rows, columns))
    empty = (no_row[:, :, None] | no_column[:, None])[:, None]
    output.masked_fill_(empty, 0)
    argmax.masked_fill_(empty, -1)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of each bin to the cell of its maximum in grad_input (B, C, H, W)."""
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    cell = plane[:, :, None, None] * (height * width) + argmax
    full = argmax >= 0
    grad_input.view(-1).index_add_(0, cell[full], grad_output[full])


def _pool_bins(low: Tensor, high: Tensor, bins: int, size: int, scale: float) -> Tensor:
    """First cell and last + 1 (N, bins, 2) of each bin of RoIs (N,) on an axis of `size` cells."""
    low, high = (edge.to(torch.promote_types(edge.dtype, torch.float32)) for edge in (low, high))
    start, end = low * scale, (high + 1) * scale
    step = ((end - start) / bins)[:, None]
    k = torch.arange(bins, device=low.device)
    cells = torch.stack(
        ((k * step + start[:, None]).floor(), ((k + 1) * step + start[:, None]).ceil()), dim=-1
    ).clamp(0, size)
    return torch.where((end > start)[:, None, None], cells, 0).long()


# --- deformable convolution -------------------------------------------------------------------
# MMCV and torchvision have the same layout of offsets: per deformable group and kernel cell dy, dx.


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write deformable convolution (Dai et al., ICCV 2017) of input (B, C, H, W) into output."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_deform_conv(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the gradients of the input and of the offsets."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    gradients = _deform_conv_gradients(gradOutput, input, weight, offset, None, geometry)
    gradInput.copy_(gradients[0])
    gradOffset.copy_(gradients[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add `scale` times the gradient of the weight to gradWeight."""
    # It does not depend on the weight itself, which is not passed: any of its shape will do.
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    gradients = _deform_conv_gradients(gradOutput, input, gradWeight, offset, None, geometry)
    gradWeight.add_(gradients[1].to(gradWeight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write modulated deformable convolution (Zhu et al., CVPR 2019) of the input into output."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    output.copy_(_deform_conv(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the gradients of input, weight, offsets, mask and (where there is one) bias."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    gradients = _deform_conv_gradients(grad_output, input, weight, offset, mask, geometry)
    targets = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for target, gradient in zip(targets[: 4 + with_bias], gradients, strict=False):
        target.copy_(gradient)


def _deform_conv(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Tensor:
    """The output; geometry: strides, paddings, dilations (y, x each), groups, deformable groups."""
    tensors = _deform_conv_tensors(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*tensors, *geometry, mask is not None)


def _deform_conv_gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask (meaningless without one) and bias."""
    tensors = _deform_conv_tensors(input, weight, offset, mask, None)
    return torch.ops.torchvision._deform_conv2d_backward(
        grad_output.to(tensors[0].dtype), *tensors, *geometry, mask is not None
    )


def _deform_conv_tensors(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """The kernel's tensors in its dtype; it wants a bias and a mask even where there is none."""
    mask = input.new_zeros(input.size(0), 1) if mask is None else mask
    bias = input.new_zeros(weight.size(0)) if bias is None else bias
    dtype = _kernel_dtype(input)
    return [tensor.to(dtype) for tensor in (input, weight, offset, mask, bias)]


# --- focal losses -----------------------------------------------------------------------------


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the focal loss (Lin et al., ICCV 2017, eq. 5) of logits (N, C) into output (N, C).

    target (N,) counts classes from 0; any other value, C by custom, is background. weight (C,), or
    empty for none, multiplies the row of each target and leaves background rows as they are.
    """
    p, not_p, log_p, log_not_p = _sigmoid_terms(input)
    positive = -alpha * not_p**gamma * log_p
    negative = -(1 - alpha) * p**gamma * log_not_p
    loss = torch.where(_one_hot(input, target), positive, negative)
    output.copy_(loss * _row_weight(target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of each element of the loss by its logit into grad_input (N, C)."""
    p, not_p, log_p, log_not_p = _sigmoid_terms(input)
    positive = -alpha * not_p**gamma * (not_p - gamma * p * log_p)
    negative = -(1 - alpha) * p**gamma * (gamma * not_p * log_not_p - p)
    slope = torch.where(_one_hot(input, target), positive, negative)
    grad_input.copy_(slope * _row_weight(target, weight))


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the focal loss of probabilities (N, C) into output (N,); 0 where target (N,) < 0."""
    p = _target_probability(softmax, target)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    output.copy_(loss * _row_weight(target, weight)[:, 0] * (target >= 0))


def softmax_focal_loss_backward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of each row's loss by its logits into grad_input (N, C)."""
    p = _target_probability(softmax, target)
    # At p = 1 the logarithm is 0; without the clamp gamma < 1 would multiply it by infinity.
    slope = gamma * (1 - p).clamp(min=TINY) ** (gamma - 1) * p * p.clamp(min=TINY).log()
    slope = alpha * (slope - (1 - p) ** gamma) * _row_weight(target, weight)[:, 0] * (target >= 0)
    grad_input.copy_(slope[:, None] * (_one_hot(softmax, target).to(softmax.dtype) - softmax))


def _sigmoid_terms(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p, 1 - p and their logarithms, in float32 or better.

    The logarithms come from the logit, which stays exact where 1 - p rounds to 0.
    """
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    floor = math.log(TINY)
    log_p, log_not_p = (F.logsigmoid(z).clamp(min=floor) for z in (x, -x))
    return x.sigmoid(), (-x).sigmoid(), log_p, log_not_p


def _one_hot(logits: Tensor, target: Tensor) -> Tensor:
    return target[:, None] == torch.arange(logits.size(1), device=logits.device)


def _row_weight(target: Tensor, weight: Tensor) -> Tensor:
    """Weight (N, 1) of each target's class; 1 for background and where weight is empty."""
    if weight.numel() == 0:
        return weight.new_ones(len(target), 1)
    is_class = (target >= 0) & (target < len(weight))
    return torch.where(is_class, weight[target.clamp(0, len(weight) - 1)], 1)[:, None]


def _target_probability(softmax: Tensor, target: Tensor) -> Tensor:
    return softmax.gather(1, target.clamp(min=0)[:, None])[:, 0]


# --- attention of Deformable DETR -------------------------------------------------------------
# MMCV takes a pure torch form of its own on the CPU and this operator on GPUs: here, that form.


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., ICLR 2021, eq. 3): (B, queries, embedding)."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(
        value, value_spatial_shapes, sampling_locations, attention_weights
    ).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients of the values, the sampling locations and the attention weights."""
    inputs = [t.detach().requires_grad_() for t in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(
            inputs[0], value_spatial_shapes, value_level_start_index, *inputs[1:], im2col_step
        )
    gradients = torch.autograd.grad(output, inputs, grad_output)
    grad_value.copy_(gradients[0])
    grad_sampling_loc.copy_(gradients[1])
    grad_attn_weight.copy_(gradients[2])
