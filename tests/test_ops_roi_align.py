"""RoIAlign's quick backward pass gives torchvision's gradients."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align as reference

from gdetkd.ops.roi_align import (
    bilinear_weights,
    dense_backward_pays,
    roi_align,
    roi_align_assigned,
    roi_align_backward,
    roi_align_levels,
)

SCALE = 1 / 8


def boxes(count, images=3, dtype=torch.float64, seed=0):
    """Boxes inside, across and beyond the edges of an 96 x 72 px image; some without area."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw, dtype=dtype) * 110 - 20
    size = torch.rand(count, 2, generator=draw, dtype=dtype) * 70 - 4
    image = torch.randint(0, images, (count, 1), generator=draw).to(dtype)
    return torch.cat([image, corner, corner + size], 1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("size", [(7, 7), (5, 3)])
def test_gradient_is_torchvisions(aligned, ratio, size):
    torch.manual_seed(0)
    features = torch.randn(3, 4, 9, 12, dtype=torch.float64, requires_grad=True)
    rois = boxes(40)  # images in no order
    pooled = reference(features, rois, size, SCALE, ratio, aligned)
    grad = torch.randn_like(pooled)
    (expected,) = torch.autograd.grad(pooled, features, grad)
    ours = roi_align_backward(grad, rois, features.shape, SCALE, ratio, aligned)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_gradcheck():
    rois = boxes(6, images=2)
    features = torch.randn(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert dense_backward_pays(features.shape, rois, (2, 3), 2)
    torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 3), 1 / 16, 2), features)


def test_an_image_without_boxes_gets_zeros():
    features = torch.randn(3, 2, 9, 12, requires_grad=True)
    rois = boxes(20, dtype=torch.float32)
    rois = rois[rois[:, 0] != 1]
    assert (rois[:, 0].diff() < 0).any()  # and the others in no order
    roi_align(features, rois, (7, 7), SCALE, 2).sum().backward()
    first, second, third = features.grad
    assert first.any() and third.any() and not second.any()


def test_small_maps_take_the_quick_way_and_large_ones_do_not():
    rois = boxes(4, dtype=torch.float32)
    assert dense_backward_pays(torch.Size((2, 64, 32, 32)), rois, (7, 7), 2)
    assert not dense_backward_pays(torch.Size((2, 256, 200, 336)), rois, (7, 7), 2)
    assert not dense_backward_pays(torch.Size((2, 64, 32, 32)), rois, (7, 7), 0)  # adaptive
    assert not dense_backward_pays(torch.Size((2, 64, 32, 32)), rois[:0], (7, 7), 2)


@pytest.mark.parametrize("side, ratio", [(12, 2), (12, 0), (160, 2)])
def test_both_ways_agree_with_torchvision(side, ratio):
    torch.manual_seed(0)
    features = torch.randn(3, 2, side, side, requires_grad=True)
    rois = boxes(20, dtype=torch.float32)
    ours = roi_align(features, rois, (7, 7), SCALE, ratio)
    theirs = reference(features, rois, (7, 7), SCALE, ratio, True)
    assert torch.equal(ours, theirs)
    weight = torch.randn_like(ours)
    (mine,) = torch.autograd.grad((ours * weight).sum(), features)
    (expected,) = torch.autograd.grad((theirs * weight).sum(), features)
    # Sums of up to 20 * 49 * 4 float32 terms in another order.
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_weights_by_hand():
    # One box from cell 1 to cell 3 of four, two bins, one sample a bin, aligned: after the shift
    # by half a cell it spans 0.5 to 2.5, and its samples stand at 1.0 and 2.0: cells 1 and 2.
    rois = torch.tensor([[0.0, 1.0, 1.0, 3.0, 3.0]])
    rows, columns = bilinear_weights(rois, (2, 2), (4, 4), 1.0, 1, True)
    expected = torch.tensor([[[0.0, 1, 0, 0], [0, 0, 1, 0]]])
    assert torch.equal(rows, expected) and torch.equal(columns, expected)


def test_a_box_far_outside_gives_zeros_and_no_gradient():
    features = torch.randn(1, 2, 8, 8, requires_grad=True)
    rois = torch.tensor([[0.0, 500, 500, 560, 560]])
    pooled = roi_align(features, rois, (7, 7), SCALE, 2)
    pooled.sum().backward()
    assert not pooled.any() and not features.grad.any()


def test_no_boxes_send_zeros():
    features = torch.randn(1, 2, 8, 8, requires_grad=True)
    pooled = roi_align(features, torch.zeros(0, 5), (7, 7), SCALE, 2)
    assert pooled.shape == (0, 2, 7, 7)
    pooled.sum().backward()
    assert features.grad is not None and not features.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_cpu(dtype):
    features = torch.randn(3, 2, 9, 12).to(dtype).requires_grad_()
    rois = boxes(6, dtype=torch.float32)
    pooled = roi_align(features, rois, (7, 7), SCALE, 2)
    assert pooled.dtype == dtype
    expected = reference(features.detach().float(), rois, (7, 7), SCALE, 2, True)
    assert torch.equal(pooled, expected.to(dtype))
    pooled.sum().backward()
    assert features.grad.dtype == dtype and features.grad.any()


def test_a_backward_pass_inside_autocast_is_as_precise():
    levels = [torch.randn(3, 2, side, side, requires_grad=True) for side in (8, 4)]
    pooled = roi_align_levels(levels, boxes(6, dtype=torch.float32), (2, 2), (4, 8), 2)
    grad = torch.randn_like(pooled)
    expected = torch.autograd.grad(pooled, levels, grad, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(pooled, levels, grad)
    assert all(map(torch.equal, found, expected))


def test_boxes_get_no_gradient_and_twice_is_refused():
    features = torch.randn(3, 2, 9, 12, requires_grad=True)
    rois = boxes(6, dtype=torch.float32).requires_grad_()
    pooled = roi_align(features, rois, (7, 7), SCALE, 2)
    (grad,) = torch.autograd.grad(pooled.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|differentiate twice"):
        grad.sum().backward()
    assert rois.grad is None


@pytest.mark.parametrize("sides", [(24, 12, 6), (24, 12, 6, 3), (200, 100)])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_all_levels_in_one_call_are_torchvisions_of_each(sides, ratio):
    torch.manual_seed(0)
    strides = [96 / side for side in sides]
    levels = [torch.randn(3, 5, s, s, dtype=torch.float64, requires_grad=True) for s in sides]
    rois = boxes(40)
    ours = roi_align_levels(levels, rois, (7, 5), strides, ratio)
    theirs = [
        reference(x, rois, (7, 5), 1 / s, ratio, True) for x, s in zip(levels, strides, strict=True)
    ]
    # The small ones, at a fixed ratio, really are one call.
    quick = isinstance(ours, torch.Tensor)
    assert quick == (ratio > 0 and all(dense_backward_pays(x.shape, rois, (7, 5), ratio)
                                       for x in levels))  # fmt: skip
    grads = [torch.randn_like(pooled) for pooled in theirs]
    of_ours = torch.autograd.grad(list(ours), levels, grads)
    of_theirs = torch.autograd.grad(theirs, levels, grads)
    for found, expected in zip((*ours, *of_ours), (*theirs, *of_theirs), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_a_box_that_is_not_a_number_pools_zeros_from_all_levels():
    levels = [torch.ones(1, 2, side, side, requires_grad=True) for side in (8, 4)]
    rois = torch.tensor([[0, torch.nan, 0, 20, 20], [0, 0.0, 0, 20, 20]])
    for pooled in roi_align_levels(levels, rois, (2, 2), (4, 8), 2):
        assert not pooled[0].any() and torch.equal(pooled[1], torch.ones(2, 2, 2))


@pytest.mark.parametrize("side, ratio", [(12, 1), (12, 2), (12, 3), (12, 0), (160, 2)])
def test_each_box_from_the_level_assigned_to_it(side, ratio):
    torch.manual_seed(0)
    levels = [torch.randn(3, 5, s, s, dtype=torch.float64) for s in (side, side // 2)]
    strides = [96 / side, 192 / side]
    rois, assigned = boxes(40), torch.arange(40) % 2
    pooled = roi_align_assigned(levels, rois, assigned, (7, 5), strides, ratio)
    if ratio == 0 or side == 160:  # neither adaptive sampling nor large maps
        assert pooled is None
        return
    for level, stride, index in zip(levels, strides, range(2), strict=True):
        of_level = assigned == index
        expected = reference(level, rois[of_level], (7, 5), 1 / stride, ratio, True)
        torch.testing.assert_close(pooled[of_level], expected, rtol=0, atol=1e-11)
