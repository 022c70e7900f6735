"""The operators of `mmcv._ext` against slow references, and the finder that makes it importable.

The references follow the papers' definitions element by element in float64. Where they are written
in torch, autograd gives their gradients. Operators are called as MMDetection calls them, through
`mmcv.ops`.
"""

import math
import shutil
import site
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import mmcv._ext as ext
import numpy as np
import pytest
import torch
from mmcv.ops import (
    DeformConv2d,
    ModulatedDeformConv2d,
    RoIAlign,
    RoIPool,
    SigmoidFocalLoss,
    batched_nms,
    box_iou_rotated,
    nms,
    nms_match,
    roi_align,
    sigmoid_focal_loss,
    soft_nms,
    softmax_focal_loss,
)
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch import Tensor

import gdetkd
from gdetkd import startup

if Path(ext.__file__).name != "mmcv_ext.py":
    pytest.skip("a compiled mmcv._ext is installed and comes first", allow_module_level=True)

PACKAGE = Path(gdetkd.__file__).parent
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
on_devices = pytest.mark.parametrize("device", DEVICES)
# Float64 on both sides leaves only the order of summation; float32 has 24 bits, sums ~100 terms.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 3e-2}


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype = torch.float64) -> None:
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        actual.detach().cpu().double(), expected.detach().double(), rtol=tolerance, atol=tolerance
    )


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- non-maximum suppression ------------------------------------------------------------------


def make_boxes(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes around ten objects, in quarter pixels (exact in float32), and distinct scores."""
    rng = np.random.default_rng(seed)
    objects = rng.integers(0, 160, (10, 2))
    corner = (objects[np.arange(count) % 10] + rng.integers(0, 16, (count, 2))) / 4
    size = rng.integers(60, 80, (count, 2)) / 4
    scores = rng.permutation(count) / count
    boxes = np.concatenate([corner, corner + size], axis=1)
    return torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores, dtype=torch.float32)


def slow_iou(a: list[float], b: list[float], offset: int) -> float:
    def area(box: list[float]) -> float:
        return (box[2] - box[0] + offset) * (box[3] - box[1] + offset)

    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    return width * height / (area(a) + area(b) - width * height)


def slow_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int = 0) -> list[int]:
    boxes = boxes.tolist()
    keep: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i].item()):
        if all(slow_iou(boxes[i], boxes[k], offset) <= threshold for k in keep):
            keep.append(i)
    return keep


@on_devices
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_equals_the_slow_loop(device: str, offset: int, threshold: float) -> None:
    boxes, scores = make_boxes(60)
    expected = slow_nms(boxes, scores, threshold, offset)
    assert 5 < len(expected) < 55
    dets, keep = nms(boxes.to(device), scores.to(device), threshold, offset=offset)
    assert keep.dtype == torch.int64 and keep.tolist() == expected
    close(dets, torch.cat((boxes[expected], scores[expected, None]), dim=1))


def test_nms_offset_counts_the_last_pixel() -> None:
    # Offset 0: no shared column, IoU 0. Offset 1: columns 0..4 and 4..8 share one of nine, IoU 1/9.
    boxes = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.1, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.1, offset=1)[1].tolist() == [0]


@on_devices
def test_nms_keeps_a_box_whose_overlap_equals_the_threshold(device: str) -> None:
    # 6 / (13 + 13 - 6) = 0.3, which float32 rounds up: against the float64 0.3 the box would go.
    boxes = torch.tensor([[0.0, 0, 13, 1], [7, 0, 20, 1]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert nms(boxes, scores, 0.3)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.29)[1].tolist() == [0]


def test_nms_prefers_the_first_of_equal_scores() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 10], [0, 0, 10, 10], [20, 0, 30, 10]])
    assert nms(boxes, torch.full((3,), 0.5), 0.5)[1].tolist() == [0, 2]
    # Torch's quick sort shuffles equal values from about twenty on.
    apart = torch.arange(200.0)[:, None] * 10 + torch.tensor([0.0, 0, 5, 5])
    assert nms(apart, torch.full((200,), 0.5), 0.5)[1].tolist() == list(range(200))


@on_devices
def test_nms_of_nothing(device: str) -> None:
    dets, keep = nms(torch.zeros(0, 4, device=device), torch.zeros(0, device=device), 0.5)
    assert dets.shape == (0, 5) and keep.shape == (0,) and keep.dtype == torch.int64


def test_nms_takes_numpy_half_precision_strides_and_limits() -> None:
    boxes, scores = make_boxes(30)
    expected = slow_nms(boxes, scores, 0.5)
    assert nms(boxes.numpy(), scores.numpy(), 0.5)[1].tolist() == expected
    assert nms(boxes.half(), scores.half(), 0.5)[1].tolist() == expected
    assert nms(boxes.double().T.contiguous().T, scores.double(), 0.5)[1].tolist() == expected
    above = [i for i in expected if scores[i] > 0.4]
    assert nms(boxes, scores, 0.5, score_threshold=0.4, max_num=4)[1].tolist() == above[:4]


@on_devices
@pytest.mark.parametrize("config", [{}, {"split_thr": 10}, {"class_agnostic": True}])
def test_batched_nms_suppresses_within_classes(device: str, config: dict) -> None:
    boxes, scores = make_boxes(60)
    labels = torch.arange(60) % 3
    groups = [range(60)] if config.get("class_agnostic") else [range(c, 60, 3) for c in range(3)]
    kept = [list(g)[i] for g in groups for i in slow_nms(boxes[list(g)], scores[list(g)], 0.5)]
    expected = sorted(kept, key=lambda i: -scores[i].item())
    dets, keep = batched_nms(
        boxes.to(device), scores.to(device), labels.to(device), {"iou_threshold": 0.5, **config}
    )
    assert keep.tolist() == expected
    close(dets, torch.cat((boxes[expected], scores[expected, None]), dim=1), torch.float32)


def slow_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    method: str,
    threshold: float,
    sigma: float,
    min_score: float,
    offset: int,
) -> list[tuple[int, float]]:
    """Bodla et al., Figure 3; for distinct scores."""
    boxes, left = boxes.tolist(), dict(enumerate(scores.tolist()))
    selected = []
    while left:
        best = max(left, key=left.__getitem__)
        selected.append((best, left.pop(best)))
        for i in list(left):
            iou = slow_iou(boxes[best], boxes[i], offset)
            if method == "gaussian":
                left[i] *= math.exp(-iou * iou / sigma)
            elif iou >= threshold:
                left[i] *= 0 if method == "naive" else 1 - iou
            if left[i] < min_score:
                del left[i]
    return selected


@on_devices
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_nms_equals_the_slow_loop(
    device: str, method: str, offset: int, dtype: torch.dtype
) -> None:
    boxes, scores = make_boxes(40)
    expected = slow_soft_nms(boxes, scores, method, 0.3, 0.5, 0.05, offset)
    assert 5 < len(expected) < 39
    dets, keep = soft_nms(
        boxes.to(device, dtype), scores.to(device, dtype), 0.3, 0.5, 0.05, method, offset
    )
    assert keep.dtype == torch.int64 and keep.tolist() == [i for i, _ in expected]
    close(dets[:, :4], boxes[keep.cpu()])
    decayed = torch.tensor([score for _, score in expected], dtype=torch.float64)
    # The float32 scores are the common input of both dtypes.
    close(dets[:, 4], decayed, dtype)


def test_soft_nms_resolves_equal_scores_as_mmcv_does() -> None:
    apart = torch.tensor([[10.0 * i, 0, 10 * i + 5, 5] for i in range(4)])
    # Box 2 is selected and box 0 takes its place, behind box 1.
    assert soft_nms(apart[:3], torch.tensor([0.5, 0.5, 0.9]))[1].tolist() == [2, 1, 0]
    # Box 1 is dropped after the first selection and the last box takes its place, before box 2.
    scores = torch.tensor([0.9, 0.0005, 0.5, 0.5])
    assert soft_nms(apart, scores, min_score=0.001)[1].tolist() == [0, 3, 2]


def test_soft_nms_of_nothing_and_of_boxes_without_area() -> None:
    dets, keep = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5) and keep.shape == (0,)
    dets, keep = soft_nms(torch.ones(2, 4), torch.tensor([0.9, 0.8]), method="gaussian")
    close(dets[:, 4], torch.tensor([0.9, 0.8]))


def test_soft_nms_leaves_its_inputs_alone() -> None:
    boxes, scores = make_boxes(20)
    before = boxes.clone(), scores.clone()
    soft_nms(boxes, scores, method="gaussian")
    assert torch.equal(boxes, before[0]) and torch.equal(scores, before[1])


def test_nms_match_groups_each_box_with_what_it_suppresses() -> None:
    boxes, scores = make_boxes(40)
    left = sorted(range(40), key=lambda i: -scores[i].item())
    expected = []
    while left:
        near = [
            i for i in left[1:] if slow_iou(boxes[left[0]].tolist(), boxes[i].tolist(), 0) >= 0.5
        ]
        expected.append([left[0], *near])
        left = [i for i in left[1:] if i not in near]
    groups = nms_match(torch.cat((boxes, scores[:, None]), dim=1), 0.5)
    assert [group.tolist() for group in groups] == expected
    assert max(map(len, expected)) > 1


# --- pooling of regions -----------------------------------------------------------------------

# On 20 x 24 pixels: inside, over the border, outside, smaller than a cell, the whole image.
ROIS = torch.tensor(
    [
        [0, 3.3, 2.1, 17.6, 15.2],
        [1, -7.0, 9.0, 12.4, 31.0],
        [1, 40.0, 40.0, 60.0, 50.0],
        [0, 5.2, 6.1, 5.9, 6.6],
        [1, 0.0, 0.0, 23.0, 19.0],
    ],
    dtype=torch.float64,
)


def slow_bilinear(feature: Tensor, y: float, x: float) -> Tensor:
    """Value (C,) of feature (C, H, W): clamped to the map, 0 more than a cell outside it."""
    height, width = feature.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return feature.new_zeros(len(feature))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    total = feature.new_zeros(len(feature))
    for row in {math.floor(y), math.ceil(y)}:
        for column in {math.floor(x), math.ceil(x)}:
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            total = total + share * feature[:, row, column]
    return total


def slow_roi_align(
    feature: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool
) -> Tensor:
    """He et al., Mask R-CNN, section 3: the mean of bilinear samples in each bin."""
    pooled = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (edge * scale - 0.5 * aligned for edge in box)
        sides = [y2 - y1, x2 - x1] if aligned else [max(y2 - y1, 1), max(x2 - x1, 1)]
        steps = [side / bins for side, bins in zip(sides, size, strict=True)]
        counts = [ratio or math.ceil(step) for step in steps]
        for i in range(size[0]):
            for j in range(size[1]):
                samples = [
                    slow_bilinear(
                        feature[int(image)],
                        y1 + steps[0] * (i + (a + 0.5) / counts[0]),
                        x1 + steps[1] * (j + (b + 0.5) / counts[1]),
                    )
                    for a in range(counts[0])
                    for b in range(counts[1])
                ]
                pooled.append(torch.stack(samples).mean(dim=0))
    bins = torch.stack(pooled).view(len(rois), *size, feature.size(1))
    return bins.permute(0, 3, 1, 2)


@on_devices
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2])
@pytest.mark.parametrize("size", [(2, 2), (3, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_roi_align_equals_the_slow_loop(
    device: str, aligned: bool, ratio: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    # On the CPU the gradient has two forms: of these maps and ratios the dense one takes ratio 2.
    scale, cells = (2.0, (40, 48)) if ratio == 1 else (0.5, (10, 12))
    feature = random(2, 3, *cells).requires_grad_()
    gradient = random(len(ROIS), 3, *size, seed=1)
    expected = slow_roi_align(feature, ROIS, size, scale, ratio, aligned)
    expected.backward(gradient)
    ours = feature.detach().to(device, dtype).requires_grad_()
    pooled = RoIAlign(size, scale, ratio, aligned=aligned)(ours, ROIS.to(device, dtype))
    pooled.backward(gradient.to(device, dtype))
    assert pooled.dtype == dtype
    close(pooled, expected, dtype)
    close(ours.grad, feature.grad, dtype)


@on_devices
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_in_bfloat16(device: str, ratio: int) -> None:
    feature = random(2, 3, 10, 12).bfloat16()
    rois = ROIS.bfloat16()  # a box of 8 bits: the reference takes the rounded one
    expected = slow_roi_align(feature.double(), rois.double(), (3, 2), 0.5, ratio, True)
    ours = feature.to(device).requires_grad_()
    pooled = roi_align(ours, rois.to(device), (3, 2), 0.5, ratio, "avg", True)
    pooled.sum().backward()
    assert pooled.dtype == ours.grad.dtype == torch.bfloat16
    close(pooled, expected, torch.bfloat16)


@on_devices
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_of_strided_tensors(device: str, ratio: int) -> None:
    feature = random(2, 3, 10, 12).to(device)
    rois, gradient = ROIS.to(device), random(2, 3, 5, 3, seed=1).to(device).permute(2, 3, 1, 0)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        ours = feature.clone(memory_format=memory_format).requires_grad_()
        strided = rois if memory_format == torch.contiguous_format else rois.T.contiguous().T
        pooled = roi_align(ours, strided, (3, 2), 0.5, ratio, "avg", True)
        pooled.backward(gradient)
        results.append((pooled.detach(), ours.grad))
    torch.testing.assert_close(results[0], results[1])


@on_devices
@pytest.mark.parametrize(
    "pool", [RoIAlign((3, 2), 0.5, 2), RoIAlign((3, 2), 0.5), RoIPool((3, 2), 0.5)]
)
def test_pooling_without_rois(device: str, pool: torch.nn.Module) -> None:
    feature = random(2, 3, 10, 12).to(device).requires_grad_()
    pooled = pool(feature, torch.zeros(0, 5, dtype=torch.float64, device=device))
    assert pooled.shape == (0, 3, 3, 2)
    pooled.sum().backward()
    assert torch.equal(feature.grad, torch.zeros_like(feature))


def test_roi_align_by_maximum_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match="'roi_align' with pool_mode='max'.*full `mmcv`"):
        RoIAlign((2, 2), 0.5, 2, pool_mode="max")(random(1, 1, 4, 4), ROIS[:1])


def slow_roi_pool(feature: Tensor, rois: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """Girshick, Fast R-CNN, section 2.1, over all cells that a bin of x1..x2 + 1 touches."""
    height, width = feature.shape[2:]
    output = []
    for image, x1, y1, x2, y2 in rois.tolist():
        top, left = y1 * scale, x1 * scale
        step_y, step_x = ((y2 + 1) * scale - top) / size[0], ((x2 + 1) * scale - left) / size[1]
        for i in range(size[0]):
            for j in range(size[1]):
                rows = range(
                    max(math.floor(top + i * step_y), 0),
                    min(math.ceil(top + (i + 1) * step_y), height),
                )
                columns = range(
                    max(math.floor(left + j * step_x), 0),
                    min(math.ceil(left + (j + 1) * step_x), width),
                )
                best = feature.new_zeros(feature.size(1))
                if rows and columns:
                    cells = [feature[int(image), :, y, x] for y in rows for x in columns]
                    best = torch.stack(cells).max(dim=0).values
                output.append(best)
    return torch.stack(output).view(len(rois), *size, -1).permute(0, 3, 1, 2)


@on_devices
@pytest.mark.parametrize("size", [(2, 2), (4, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_roi_pool_equals_the_slow_loop(
    device: str, size: tuple[int, int], dtype: torch.dtype
) -> None:
    feature = random(2, 3, 10, 12).requires_grad_()
    gradient = random(len(ROIS), 3, *size, seed=1)
    expected = slow_roi_pool(feature, ROIS, size, 0.5)
    expected.backward(gradient)
    ours = feature.detach().to(device, dtype).requires_grad_()
    pooled = RoIPool(size, 0.5)(ours, ROIS.to(device, dtype))
    pooled.backward(gradient.to(device, dtype))
    close(pooled, expected, dtype)
    close(ours.grad, feature.grad, dtype)


def test_roi_pool_by_hand() -> None:
    # Pixels 0..3 of a 4 x 4 map at scale 1, four bins of 2 x 2 cells: the maxima are 5, 7, 13, 15.
    feature = torch.arange(16.0).view(1, 1, 4, 4)
    roi = torch.tensor([[0.0, 0, 0, 3, 3]])
    assert RoIPool((2, 2), 1.0)(feature, roi).flatten().tolist() == [5, 7, 13, 15]
    # Of equal cells the first receives the gradient; a box with x2 + 1 <= x1 is empty.
    flat = torch.ones(1, 1, 4, 4, requires_grad=True)
    rois = torch.cat((roi, torch.tensor([[0.0, 3, 0, 1, 3]])))
    RoIPool((1, 1), 1.0)(flat, rois).sum().backward()
    assert flat.grad.flatten().tolist() == [1] + 15 * [0]


# --- deformable convolution -------------------------------------------------------------------


def slow_deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    """Dai et al., eq. 2 and 3; Zhu et al. (v2), eq. 1, where there is a mask.

    A channel offset holds, for each deformable group and kernel cell, dy then dx.
    """
    batch, _, out_h, out_w = offset.shape
    kernel = weight.shape[2:]
    images = []
    for b in range(batch):
        columns = []
        for d, feature in enumerate(x[b].chunk(deform_groups)):
            for k in range(kernel.numel()):
                cell = d * kernel.numel() + k
                ky, kx = divmod(k, kernel[1])
                for i in range(out_h):
                    for j in range(out_w):
                        dy, dx = offset[b, 2 * cell : 2 * cell + 2, i, j]
                        value = slow_zero_padded(
                            feature,
                            i * stride[0] - padding[0] + ky * dilation[0] + dy,
                            j * stride[1] - padding[1] + kx * dilation[1] + dx,
                        )
                        columns.append(value if mask is None else value * mask[b, cell, i, j])
        # (deform groups, cells, positions, channels of one) -> (channels, cells, positions)
        columns = torch.stack(columns).view(deform_groups, kernel.numel(), out_h * out_w, -1)
        columns = columns.permute(0, 3, 1, 2).reshape(groups, -1, out_h * out_w)
        images.append((weight.view(groups, weight.size(0) // groups, -1) @ columns).flatten(0, 1))
    output = torch.stack(images).view(batch, -1, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]


def slow_zero_padded(feature: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear value (C,) of feature (C, H, W), which is 0 outside; y and x receive gradients."""
    total = feature.new_zeros(len(feature))
    top, left = math.floor(y.item()), math.floor(x.item())
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < feature.size(1) and 0 <= column < feature.size(2):
                share = (1 - (y - row).abs()) * (1 - (x - column).abs())
                total = total + share * feature[:, row, column]
    return total


#  kernel, stride, padding, dilation, groups, deformable groups
CONVOLUTIONS = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((3, 3), (2, 2), (1, 1), (1, 1), 1, 2),
    ((3, 2), (1, 2), (2, 1), (2, 1), 2, 1),
    ((1, 1), (1, 1), (0, 0), (1, 1), 2, 4),
]


def make_convolution(kernel, stride, padding, dilation, groups, deform_groups, batch=2) -> dict:
    """Inputs in float64: 4 channels of 5 x 4 cells, 6 filters, offsets of up to some cells."""
    out_h, out_w = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip((5, 4), kernel, stride, padding, dilation, strict=True)
    )
    cells = deform_groups * math.prod(kernel)
    return {
        "x": random(batch, 4, 5, 4),
        "offset": random(batch, 2 * cells, out_h, out_w, seed=1),
        "mask": random(batch, cells, out_h, out_w, seed=2).sigmoid(),
        "weight": random(6, 4 // groups, *kernel, seed=3),
        "bias": random(6, seed=4),
    }


def compare_convolution(
    layer: torch.nn.Module, inputs: dict, geometry: tuple, device: str, dtype: torch.dtype
) -> None:
    """Values, and the gradients of each input of the layer, against the slow loop's."""
    slow = {name: t.clone().requires_grad_() for name, t in inputs.items()}
    names = ("x", "offset", "mask", "weight", "bias")
    expected = slow_deform_conv(*(slow.get(name) for name in names), *geometry)
    gradient = random(*expected.shape, seed=5)
    expected.backward(gradient)
    layer = layer.to(device, dtype)
    for name, parameter in layer.named_parameters():
        parameter.data.copy_(inputs[name])
    ours = {name: t.clone().to(device, dtype).requires_grad_() for name, t in inputs.items()}
    output = layer(*(ours[n] for n in ("x", "offset", "mask") if n in ours))
    output.backward(gradient.to(device, dtype))
    close(output, expected, dtype)
    parameters = dict(layer.named_parameters())
    for name, tensor in slow.items():
        close(parameters.get(name, ours[name]).grad, tensor.grad, dtype)


@on_devices
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_deform_conv_equals_the_slow_loop(
    device: str, convolution: tuple, dtype: torch.dtype
) -> None:
    kernel, *geometry = convolution
    inputs = make_convolution(*convolution)
    del inputs["mask"], inputs["bias"]
    layer = DeformConv2d(4, 6, kernel, *geometry)
    compare_convolution(layer, inputs, tuple(geometry), device, dtype)


@on_devices
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_modulated_deform_conv_equals_the_slow_loop(
    device: str, convolution: tuple, bias: bool, dtype: torch.dtype
) -> None:
    kernel, *geometry = convolution
    inputs = make_convolution(*convolution)
    if not bias:
        del inputs["bias"]
    layer = ModulatedDeformConv2d(4, 6, kernel, *geometry, bias=bias)
    compare_convolution(layer, inputs, tuple(geometry), device, dtype)


def test_deform_conv_does_not_depend_on_the_im2col_step() -> None:
    inputs = make_convolution(*CONVOLUTIONS[0], batch=4)
    results = []
    for step in (1, 2, 32):
        layer = DeformConv2d(4, 6, 3, padding=1, im2col_step=step).double()
        layer.weight.data.copy_(inputs["weight"])
        x = inputs["x"].clone().requires_grad_()
        layer(x, inputs["offset"]).square().sum().backward()
        results.append((x.grad, layer.weight.grad))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_deform_conv_gradients_of_the_weight_alone_and_of_the_input_alone() -> None:
    inputs = make_convolution(*CONVOLUTIONS[0])
    x, offset = (inputs[name].requires_grad_() for name in ("x", "offset"))
    layer = DeformConv2d(4, 6, 3, padding=1).double()
    loss = layer(x, offset).square().sum()
    everything = torch.autograd.grad(loss, (x, offset, layer.weight), retain_graph=True)
    (alone,) = torch.autograd.grad(loss, (layer.weight,), retain_graph=True)
    torch.testing.assert_close(alone, everything[2])
    torch.testing.assert_close(torch.autograd.grad(loss, (x, offset)), everything[:2])


@on_devices
def test_deform_conv_in_bfloat16(device: str) -> None:
    inputs = {n: t.bfloat16() for n, t in make_convolution(*CONVOLUTIONS[0]).items()}
    layer = ModulatedDeformConv2d(4, 6, 3, padding=1).to(device, torch.bfloat16)
    layer.weight.data.copy_(inputs["weight"])
    output = layer(*(inputs[n].to(device) for n in ("x", "offset", "mask")))
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    doubles = [inputs[n].double() for n in ("x", "offset", "mask", "weight")]
    close(output, slow_deform_conv(*doubles, None, *CONVOLUTIONS[0][1:]), torch.bfloat16)


# --- focal losses -----------------------------------------------------------------------------


def slow_sigmoid_focal(
    logits: Tensor, target: Tensor, gamma: float, alpha: float, weight: Tensor | None
) -> Tensor:
    """Lin et al., eq. 5, element by element."""
    rows = []
    for row, label in zip(logits, target.tolist(), strict=True):
        factor = weight[label] if weight is not None and label < len(weight) else 1.0
        for c, x in enumerate(row):
            p = x.sigmoid()
            p_t, log_p_t, alpha_t = (
                (p, -torch.log1p((-x).exp()), alpha)
                if c == label
                else (1 - p, -torch.log1p(x.exp()), 1 - alpha)
            )
            rows.append(-factor * alpha_t * (1 - p_t) ** gamma * log_p_t)
    return torch.stack(rows).view_as(logits)


TARGET = torch.tensor([0, 2, 3, 1, 3])  # 3 of 3 classes is background


@on_devices
@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (1.5, 0.6), (0.0, 0.5)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sigmoid_focal_loss_equals_the_slow_loop(
    device: str, gamma: float, alpha: float, weighted: bool, dtype: torch.dtype
) -> None:
    logits = (3 * random(5, 3)).requires_grad_()
    weight = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64) if weighted else None
    gradient = random(5, 3, seed=1)
    expected = slow_sigmoid_focal(logits, TARGET, gamma, alpha, weight)
    expected.backward(gradient)
    ours = logits.detach().to(device, dtype).requires_grad_()
    loss = sigmoid_focal_loss(
        ours,
        TARGET.to(device),
        gamma,
        alpha,
        None if weight is None else weight.to(device, dtype),
        "none",
    )
    loss.backward(gradient.to(device, dtype))
    close(loss, expected, dtype)
    close(ours.grad, logits.grad, dtype)


@on_devices
@pytest.mark.parametrize("reduction, divisor", [("mean", 5), ("sum", 1)])
def test_sigmoid_focal_loss_reduces(device: str, reduction: str, divisor: int) -> None:
    logits = random(5, 3).requires_grad_()
    expected = slow_sigmoid_focal(logits, TARGET, 2.0, 0.25, None).sum() / divisor
    expected.backward()
    ours = logits.detach().to(device).requires_grad_()
    loss = SigmoidFocalLoss(2.0, 0.25, reduction=reduction)(ours, TARGET.to(device))
    loss.backward()
    close(loss, expected)
    close(ours.grad, logits.grad)


@on_devices
def test_sigmoid_focal_loss_by_hand_and_at_large_logits(device: str) -> None:
    # p = 1/2, gamma 2, alpha 1/4: positive 1/4 * 1/4 * ln 2, negative 3/4 * 1/4 * ln 2.
    target = torch.tensor([0], device=device)
    loss = sigmoid_focal_loss(torch.zeros(1, 2, device=device), target, 2.0, 0.25, None, "none")
    close(loss, torch.tensor([[math.log(2) / 16, 3 * math.log(2) / 16]]), torch.float32)
    # A sure and wrong prediction costs alpha_t * |x|, down to ln of the smallest normal float32.
    logits = torch.tensor([[-30.0, 30.0], [-500.0, 500.0]], device=device, requires_grad=True)
    loss = sigmoid_focal_loss(logits, target.expand(2), 2.0, 0.25, None, "none")
    floor = -math.log(torch.finfo(torch.float32).tiny)
    expected = torch.tensor([[30.0, 30.0], [floor, floor]]) * torch.tensor([0.25, 0.75])
    close(loss, expected, torch.float32)
    loss.sum().backward()
    close(logits.grad, torch.tensor([[-0.25, 0.75]]).expand(2, 2), torch.float32)


@on_devices
def test_focal_losses_of_nothing_and_in_half_precision(device: str) -> None:
    empty = torch.zeros(0, 3, device=device, requires_grad=True)
    no_target = torch.zeros(0, dtype=torch.int64, device=device)
    sigmoid_focal_loss(empty, no_target, 2.0, 0.25, None, "sum").backward()
    assert empty.grad.shape == (0, 3)
    half = random(5, 3).to(device, torch.bfloat16)
    loss = sigmoid_focal_loss(half, TARGET.to(device), 2.0, 0.25, None, "none")
    assert loss.dtype == torch.bfloat16
    close(loss, slow_sigmoid_focal(half.double().cpu(), TARGET, 2.0, 0.25, None), torch.bfloat16)


@on_devices
@pytest.mark.parametrize("gamma", [2.0, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction, divisor", [("mean", 5), ("sum", 1)])
def test_softmax_focal_loss_equals_the_slow_loop(
    device: str, gamma: float, weighted: bool, reduction: str, divisor: int
) -> None:
    target = torch.tensor([0, 2, 1, 1, -1])  # -1 is ignored
    logits = random(5, 3).requires_grad_()
    weight = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64) if weighted else None
    terms = []
    for row, label in zip(logits[:4], target[:4].tolist(), strict=True):
        p = row.softmax(dim=0)[label]
        factor = 1.0 if weight is None else weight[label]
        terms.append(-factor * 0.25 * (1 - p) ** gamma * p.log())
    expected = torch.stack(terms).sum() / divisor
    expected.backward()
    ours = logits.detach().to(device).requires_grad_()
    loss = softmax_focal_loss(
        ours,
        target.to(device),
        gamma,
        0.25,
        None if weight is None else weight.to(device),
        reduction,
    )
    loss.backward()
    close(loss, expected)
    close(ours.grad, logits.grad)


# --- attention of Deformable DETR -------------------------------------------------------------


@on_devices
def test_ms_deform_attn_equals_the_slow_loop(device: str) -> None:
    shapes, heads, dim, queries, points = [(3, 4), (2, 2)], 2, 3, 2, 2
    value = random(1, 16, heads, dim).requires_grad_()
    locations = (random(1, queries, heads, 2, points, 2, seed=1) * 0.4 + 0.5).requires_grad_()
    weights = random(1, queries, heads, 2, points, seed=2).requires_grad_()
    output = []
    for q in range(queries):
        for h in range(heads):
            total, start = 0, 0
            for level, (height, width) in enumerate(shapes):
                feature = value[0, start : start + height * width, h].T.view(dim, height, width)
                start += height * width
                for p in range(points):
                    x, y = locations[0, q, h, level, p]
                    sample = slow_zero_padded(feature, y * height - 0.5, x * width - 0.5)
                    total = total + weights[0, q, h, level, p] * sample
            output.append(total)
    expected = torch.stack(output).view(1, queries, heads * dim)
    gradient = random(*expected.shape, seed=3)
    expected.backward(gradient)
    ours = [t.detach().to(device).requires_grad_() for t in (value, locations, weights)]
    actual = MultiScaleDeformableAttnFunction.apply(
        ours[0],
        torch.tensor(shapes, device=device),
        torch.tensor([0, 12], device=device),
        *ours[1:],
        64,
    )
    actual.backward(gradient.to(device))
    close(actual, expected)
    for tensor, reference in zip(ours, (value, locations, weights), strict=True):
        close(tensor.grad, reference.grad)


# --- what is missing, and how the module is found ---------------------------------------------


def test_a_missing_operator_says_which_and_what_to_install() -> None:
    with pytest.raises(NotImplementedError, match="'box_iou_rotated'.*full `mmcv`, built for your"):
        box_iou_rotated(torch.ones(1, 5), torch.ones(1, 5))
    assert not hasattr(ext, "__path__") and not hasattr(ext, "__wrapped__")
    assert "torchvision" in ext.get_compiler_version() and ext.get_compiling_cuda_version()


def run_python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """Output of a fresh interpreter that starts in `cwd` with `path` first on its search path."""
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(cwd)}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip()


def test_the_finder_is_installed_once_and_answers_for_one_name() -> None:
    startup.install()
    startup.install()
    assert sys.meta_path.count(startup.MmcvExtFinder) == 1
    ours = sys.meta_path.index(startup.MmcvExtFinder)
    assert ours > sys.meta_path.index(PathFinder)
    spec = startup.MmcvExtFinder.find_spec("mmcv._ext")
    assert spec.name == "mmcv._ext" and spec.origin == str(PACKAGE / "ops" / "mmcv_ext.py")
    assert ext.__spec__.origin == spec.origin
    assert startup.MmcvExtFinder.find_spec("mmcv.ops") is None
    assert startup.MmcvExtFinder.find_spec("mmcv_ext") is None


def test_importing_the_package_does_not_import_torch(tmp_path: Path) -> None:
    code = "import gdetkd, sys; print([m for m in ('torch', 'mmcv', 'numpy') if m in sys.modules])"
    assert run_python("-c", code, cwd=tmp_path, path=PACKAGE.parent) == "[]"


@pytest.mark.parametrize("compiled", [True, False])
def test_a_compiled_module_comes_first(tmp_path: Path, compiled: bool) -> None:
    fake = tmp_path / "path" / "mmcv"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    if compiled:
        (fake / "_ext.py").touch()
    shutil.copytree(PACKAGE, tmp_path / "path" / "gdetkd")
    code = "import gdetkd, importlib.util as u; print(u.find_spec('mmcv._ext').origin)"
    origin = run_python("-c", code, cwd=tmp_path, path=tmp_path / "path")
    expected = (
        fake / "_ext.py" if compiled else tmp_path / "path" / "gdetkd" / "ops" / "mmcv_ext.py"
    )
    assert origin == str(expected)


@pytest.mark.parametrize("package", ["whole", "broken", "absent"])
def test_the_interpreter_starts_whatever_the_package_is_like(tmp_path: Path, package: str) -> None:
    root = tmp_path / "site"
    root.mkdir()
    shutil.copy(PACKAGE / "gdetkd_startup.pth", root)
    if package == "whole":
        shutil.copytree(PACKAGE, root / "gdetkd")
    if package == "broken":
        (root / "gdetkd").mkdir()
        (root / "gdetkd" / "__init__.py").write_text("raise RuntimeError('broken')")
    # -S leaves out the environment's own site-packages; addsitedir does to `root` what site would.
    code = (
        f"import site, sys; site.addsitedir({str(root)!r}); "
        "print(getattr(sys.meta_path[-1], '__name__', ''), 'torch' in sys.modules)"
    )
    last = "MmcvExtFinder" if package == "whole" else "PathFinder"
    assert run_python("-I", "-S", "-c", code, cwd=tmp_path) == f"{last} False"


def test_mmdetection_imports_in_a_fresh_process(tmp_path: Path) -> None:
    if not any(Path(s, "gdetkd_startup.pth").exists() for s in site.getsitepackages()):
        pytest.skip("gdetkd is not installed in this environment (pip install -e .)")
    code = (
        "from mmdet.apis import init_detector; import mmcv._ext; "
        "from mmengine.utils.dl_utils.misc import mmcv_full_available; "
        "print(mmcv._ext.__name__, mmcv_full_available(), mmcv._ext.__file__)"
    )
    name, available, file = run_python("-c", code, cwd=tmp_path).split()
    assert (name, available, Path(file).name) == ("mmcv._ext", "True", "mmcv_ext.py")
