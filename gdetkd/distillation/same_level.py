"""What baselines share that compare two pyramids level by level, cell by cell."""

from __future__ import annotations

from torch import Tensor

from gdetkd.distillation.structures import DetectorSpec


def common_levels(
    student: DetectorSpec, teacher: DetectorSpec, title: str
) -> tuple[list[float], list[tuple[int, int]]]:
    """The strides that both pyramids have, and for each its level in the student and teacher.

    Raises:
        ValueError: There is none.
    """
    common = [stride for stride in student.strides if stride in teacher.strides]
    if not common:
        raise ValueError(
            f"{title}: expected pyramids with a stride in common, got "
            f"{student.strides} from {student.name} and {teacher.strides} from {teacher.name}"
        )
    levels = [(student.strides.index(stride), teacher.strides.index(stride)) for stride in common]
    return common, levels


def crop_to_common(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, C, H, W) cropped to the cells of both, in float32: a batch may be padded further."""
    height, width = (min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return student[..., :height, :width].float(), teacher[..., :height, :width].float()
