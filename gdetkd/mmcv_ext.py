"""The operators of MMDetection without a compiler: this file is imported as `mmcv._ext` where MMCV has none.

The operators run on torchvision's kernels and on plain torch. Names, argument order and the habit of writing into
preallocated outputs are those that `mmcv.ops` (2.x) calls with; see its Python sources for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

REMEDY = (
    "Operators beyond those of gdetkd.mmcv_ext need the full MMCV, compiled for your torch: "
    "`pip uninstall mmcv-lite`, then install `mmcv` as its installation guide says."
)


def __getattr__(name: str) -> Callable[..., NoReturn]:
    # mmcv checks with hasattr, at import, that every operator it might call exists.
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def missing(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(f"mmcv operator {name!r} is not available. {REMEDY}")

    missing.__name__ = missing.__qualname__ = name
    return missing


def _kernel_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in: the common one, or float32 where torchvision has no kernel for it."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    native = (torch.float32, torch.float64)
    if tensors[0].is_cuda:
        native += (torch.float16,)
    return dtype if dtype in native else torch.float32


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices (int64) of the boxes (N, 4) that survive, by falling score; a width is x2 - x1 + offset."""
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    # Growing every box by `offset` gives the same intersections and areas as adding it to each width.
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    # Compare in the boxes' own precision: an overlap of float32(0.3) does not exceed a threshold of 0.3.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), threshold)


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
    aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
    pool_mode: int, aligned: bool,
) -> None:
    """Write RoIAlign of input (B, C, H, W) at rois (N, 5) into output (N, C, h, w); pool_mode 1 is 'avg'."""
    _average_only(pool_mode)
    dtype = _kernel_dtype(input, rois)
    output.copy_(torch.ops.torchvision.roi_align(
        input.to(dtype), rois.to(dtype), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    ))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor,
    aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
    pool_mode: int, aligned: bool,
) -> None:
    """Write the gradient of RoIAlign's input (B, C, H, W); the RoIs receive none."""
    _average_only(pool_mode)
    dtype = _kernel_dtype(grad_output, rois)
    grad_input.copy_(torch.ops.torchvision._roi_align_backward(
        grad_output.to(dtype), rois.to(dtype), spatial_scale, aligned_height, aligned_width,
        *grad_input.shape, sampling_ratio, aligned,
    ))


def _average_only(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(f"mmcv operator 'roi_align' with pool_mode='max' is not available. {REMEDY}")
