"""The teacher's own normalization of the images that the student's network saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class PixelFormat:
    """How a network expects its images.

    Attributes:
        mean, std: (3,) in levels of 0 to 255, in the network's channel order: it sees
            (pixel - mean) / std.
        rgb: Whether its channels are red, green, blue; else blue, green, red.
        pad_divisor: Height and width of a batch are multiples of this.
        pad_value: What padding is filled with, after normalization.
    """

    mean: Tensor
    std: Tensor
    rgb: bool = True
    pad_divisor: int = 1
    pad_value: float = 0.0


class PixelConversion:
    """Turns the student's batch into the teacher's: pixel values, channel order and padding.

    Args:
        student, teacher: Their pixel formats.
    """

    def __init__(self, student: PixelFormat, teacher: PixelFormat) -> None:
        self.swap = student.rgb != teacher.rgb
        self.divisor, self.fill = teacher.pad_divisor, teacher.pad_value
        scale, shift = student.std, student.mean
        if self.swap:
            scale, shift = scale.flip(0), shift.flip(0)
        # raw = scale x + shift; the teacher's = (raw - its shift) / its scale.
        self.scale, self.shift = scale / teacher.std, (shift - teacher.mean) / teacher.std
        same = self.scale.allclose(torch.ones(3)) and self.shift.abs().max() < 1e-6
        self.same_values = same and not self.swap
        self.same_padding = student.pad_value == teacher.pad_value

    def __call__(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """The teacher's batch (B, 3, H', W'); the student's own tensor where nothing differs.

        images: (B, 3, H, W) as the student's network saw them; sizes: of each image (height,
        width), where padding begins.
        """
        # As large as the teacher's own preprocessing makes it: often, not always, the student's.
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        height, width = (side + -side % self.divisor for side in (height, width))
        margins = (0, width - images.shape[3], 0, height - images.shape[2])  # below 0 it crops
        if self.same_values and self.same_padding and not any(margins):
            return images
        pixels = images.flip(1) if self.swap else images
        if not self.same_values:
            if self.scale.device != pixels.device:  # once: a copy to a GPU waits for it
                self.scale, self.shift = self.scale.to(pixels), self.shift.to(pixels)
            pixels = pixels * self.scale.view(1, 3, 1, 1) + self.shift.view(1, 3, 1, 1)
        pixels = pad(pixels, margins, value=float(self.fill))
        if pixels is images or pixels.data_ptr() == images.data_ptr():
            pixels = pixels.clone()
        for image, (height, width) in zip(pixels, sizes, strict=True):
            image[:, height:] = self.fill
            image[:, :, width:] = self.fill
        return pixels
