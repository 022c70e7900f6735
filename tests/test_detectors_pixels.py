"""The teacher's pixels, made from the student's batch, against its own preprocessor's."""

import copy

import pytest
import torch
from helpers import batch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.model import ImgDataPreprocessor

from gdetkd.detectors.mmdet.base import pixel_format
from gdetkd.detectors.pixels import PixelConversion

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
SIZES = ((64, 50), (40, 61))


def converted(student, teacher, sizes=SIZES):
    """The conversion's batch, the teacher's own, and the student's."""
    student, teacher = DetDataPreprocessor(**student), DetDataPreprocessor(**teacher)
    data = batch(sizes=sizes)
    mine = student(copy.deepcopy(data), True)
    theirs = teacher(copy.deepcopy(data), True)["inputs"]
    convert = PixelConversion(pixel_format(student), pixel_format(teacher))
    found = convert(mine["inputs"], sizes)
    return found, theirs, mine["inputs"]


def tolerance(teacher):
    """Rounding: the student's pixels and some four operations, each off by 2^-24 of at most 512
    gray levels, counted in the teacher's deviation."""
    return 5 * 2**-24 * 512 / min(teacher.get("std", [1.0]))


@pytest.mark.parametrize("divisors", [(32, 32), (16, 32), (32, 16), (1, 32), (32, 1), (1, 1)])
@pytest.mark.parametrize(
    "student, teacher",
    [
        (IMAGENET, dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0])),
        (dict(IMAGENET, bgr_to_rgb=True), dict(IMAGENET, pad_value=114)),
        (dict(IMAGENET, rgb_to_bgr=True), dict(mean=[0.0], std=[255.0])),
        (IMAGENET, dict(IMAGENET, bgr_to_rgb=True)),
        (dict(IMAGENET, bgr_to_rgb=True, pad_value=114), dict(IMAGENET, bgr_to_rgb=True)),
        (dict(IMAGENET, bgr_to_rgb=True), {}),
        ({}, dict(IMAGENET, bgr_to_rgb=True, pad_value=-1.5)),
        (dict(mean=[128.0], std=[64.0]), dict(IMAGENET, rgb_to_bgr=True)),
    ],
)
def test_the_batch_is_the_teachers_own(student, teacher, divisors):
    student, teacher = (
        dict(settings, pad_size_divisor=divisor)
        for settings, divisor in zip((student, teacher), divisors, strict=True)
    )
    before = converted(student, student)[2]
    found, theirs, mine = converted(student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, theirs, rtol=0, atol=tolerance(teacher))
    # Outside of the images the value is exact, as it is where nothing is computed.
    padding = torch.ones_like(theirs, dtype=torch.bool)
    for outside, (height, width) in zip(padding, SIZES, strict=True):
        outside[:, :height, :width] = False
    assert padding.any() and torch.equal(found[padding], theirs[padding])
    assert torch.equal(mine, before)  # the student's batch is left alone


def test_images_that_fill_the_batch():
    teacher = dict(IMAGENET, pad_value=9)
    found, theirs, _ = converted(dict(mean=[0.0], std=[1.0]), teacher, sizes=((64, 64), (64, 64)))
    torch.testing.assert_close(found, theirs, rtol=0, atol=tolerance(teacher))


@pytest.mark.parametrize("swap", ["bgr_to_rgb", "rgb_to_bgr"])
def test_where_all_is_equal_it_is_the_students_own_tensor(swap):
    """Either name swaps the channels: images are loaded in one order."""
    student = dict(IMAGENET, bgr_to_rgb=True, pad_size_divisor=32)
    teacher = dict(IMAGENET, **{swap: True}, pad_size_divisor=32)
    found, theirs, mine = converted(student, teacher)
    assert found is mine and torch.equal(found, theirs)


def test_a_divisor_that_changes_nothing_keeps_the_students_tensor():
    found, theirs, mine = converted(dict(pad_size_divisor=32), dict(pad_size_divisor=16))
    assert theirs.shape == mine.shape == (2, 3, 64, 64)
    assert found is mine


def test_another_preprocessor_is_refused():
    for preprocessor in (ImgDataPreprocessor(), None):
        with pytest.raises(ValueError, match="expected .*DetDataPreprocessor, got"):
            pixel_format(preprocessor)


def test_a_network_that_preprocesses_on_another_device_is_followed():
    """The student's tensors say where the teacher's are made (here: another precision)."""
    student, teacher = DetDataPreprocessor(**IMAGENET), DetDataPreprocessor()
    data = student(batch(sizes=SIZES), True)
    images = data["inputs"].double()
    convert = PixelConversion(pixel_format(student), pixel_format(teacher))
    assert convert(images, SIZES).dtype == torch.float64
