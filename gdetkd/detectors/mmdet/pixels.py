"""The teacher's own normalisation of the images that the student's preprocessor prepared."""

from __future__ import annotations

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import SampleList
from torch import Tensor, nn
from torch.nn.functional import pad

# Which channel order a preprocessor hands on, images being loaded as BGR: any conversion swaps it.


class PixelConversion:
    """Turns the student's batch into the teacher's: pixel values, channel order and padding.

    Args:
        student, teacher: Their data preprocessors.

    Raises:
        ValueError: One of them is not a `DetDataPreprocessor`, whose settings are known.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        for name, preprocessor in (("student", student), ("teacher", teacher)):
            if not isinstance(preprocessor, DetDataPreprocessor):
                raise ValueError(
                    f"{name}: expected data_preprocessor to be a DetDataPreprocessor, "
                    f"got {type(preprocessor).__name__}"
                )
        self.swap = student._channel_conversion != teacher._channel_conversion
        self.divisor, self.fill = teacher.pad_size_divisor, teacher.pad_value
        scale, shift = _affine(student)
        teacher_scale, teacher_shift = _affine(teacher)
        if self.swap:
            scale, shift = scale.flip(0), shift.flip(0)
        # raw = scale x + shift; teacher's = (raw - its shift) / its scale.
        self.scale, self.shift = scale / teacher_scale, (shift - teacher_shift) / teacher_scale
        same = self.scale.allclose(torch.ones(3)) and self.shift.abs().max() < 1e-6
        self.same_values = same and not self.swap
        self.same_padding = student.pad_value == teacher.pad_value

    def __call__(self, images: Tensor, samples: SampleList) -> Tensor:
        """The teacher's batch (B, 3, H', W'); the student's own tensor where nothing differs.

        images: (B, 3, H, W) as the student's preprocessor made them; samples: their data samples,
        whose `img_shape` says where padding begins.
        """
        # As large as the teacher's preprocessor makes it: often, not always, the student's size.
        sides = [max(sample.img_shape[axis] for sample in samples) for axis in (0, 1)]
        height, width = (side + -side % self.divisor for side in sides)
        more = (0, width - images.shape[3], 0, height - images.shape[2])  # below 0 it crops
        if self.same_values and self.same_padding and not any(more):
            return images
        pixels = images.flip(1) if self.swap else images
        if not self.same_values:
            if self.scale.device != pixels.device:  # once: a copy to a GPU waits for it
                self.scale, self.shift = self.scale.to(pixels), self.shift.to(pixels)
            pixels = pixels * self.scale.view(1, 3, 1, 1) + self.shift.view(1, 3, 1, 1)
        pixels = pad(pixels, more, value=float(self.fill))
        if pixels is images or pixels.data_ptr() == images.data_ptr():
            pixels = pixels.clone()
        for image, sample in zip(pixels, samples, strict=True):
            height, width = sample.img_shape[:2]
            image[:, height:] = self.fill
            image[:, :, width:] = self.fill
        return pixels


def _affine(preprocessor: DetDataPreprocessor) -> tuple[Tensor, Tensor]:
    """std and mean (3,) of a preprocessor, in the channel order that it hands on."""
    if not preprocessor._enable_normalize:
        return torch.ones(3), torch.zeros(3)
    std, mean = preprocessor.std.cpu().flatten(), preprocessor.mean.cpu().flatten()
    return std.expand(3).clone(), mean.expand(3).clone()
