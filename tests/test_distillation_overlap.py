import pytest
import torch

from gdetkd.distillation.overlap import overlap_mask


def test_marks_by_hand():
    rois = torch.tensor(
        [
            [0, 0, 0, 10, 10],
            [0, 0, 0, 10, 8],  # with the first: 80 / 100
            [0, 0, 0, 10, 5],  # with the first: 50 / 100, not above 0.5; with the second: 50 / 80
            [1, 0, 0, 10, 10],  # the first box, in another image
            [0, 20, 20, 30, 30],
        ],
        dtype=torch.float32,
    )
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = True
    assert torch.equal(overlap_mask(rois), expected)


def test_boxes_whose_area_half_precision_does_not_hold():
    rois = torch.tensor([[0, 0, 0, 800, 1333], [0, 0, 0, 800, 1300]], dtype=torch.float16)
    assert overlap_mask(rois).tolist() == [[False, True], [True, False]]


def slow_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


@pytest.mark.parametrize("iou", [0.1, 0.5, 0.9])
def test_agrees_with_a_slow_loop(iou):
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 40, 2, generator=generator, dtype=torch.float64) * 10
    image = torch.randint(0, 3, (40, 1), generator=generator)
    rois = torch.cat([image, corner, corner + size + 1], dim=1)
    rois[7] = rois[3]
    marked = overlap_mask(rois, iou).tolist()
    boxes = rois.tolist()
    for i, a in enumerate(boxes):
        for j, b in enumerate(boxes):
            same = i != j and a[0] == b[0]
            assert marked[i][j] == (same and slow_iou(a[1:], b[1:]) > iou)
    assert sum(map(sum, marked)) >= 2


def test_other_images_stay_apart_however_far_the_boxes_reach():
    box = [-1e4, -1e4, 1e4, 1e4]
    rois = torch.tensor([[image, *box] for image in range(3)])
    assert not overlap_mask(rois, 0).any()


def test_identical_boxes_are_not_above_one():
    rois = torch.tensor([[0, 0.1, 0.2, 7.3, 9.7]]).repeat(3, 1)
    assert overlap_mask(rois, 0.99).sum() == 6
    assert not overlap_mask(rois, 1.0).any()


def test_boxes_without_area_overlap_nothing():
    rois = torch.tensor([[0.0, 5, 5, 5, 5], [0, 5, 5, 5, 5], [0, 5, 0, 5, 9], [0, 0, 0, 9, 9]])
    inverted = torch.tensor([[0.0, 8, 8, 1, 1]])
    assert not overlap_mask(torch.cat([rois, inverted]), 0).any()


def test_no_rois():
    marked = overlap_mask(torch.zeros(0, 5))
    assert marked.shape == (0, 0)
    assert marked.dtype == torch.bool


def test_carries_no_gradient():
    assert not overlap_mask(torch.rand(3, 5, requires_grad=True)).requires_grad


@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 3, 5)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(N, 5\), got") as error:
        overlap_mask(torch.zeros(shape))
    assert str(tuple(shape)) in str(error.value)


def test_a_wrong_threshold_is_refused():
    with pytest.raises(ValueError, match="50"):
        overlap_mask(torch.zeros(1, 5), 50)
