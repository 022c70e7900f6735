"""Distilling the box regression of a two-stage teacher.

Section 4.3.1 of the paper, supplement C and Table 5. `naive_class_aware_regression` is the
equation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdetkd.losses.common import check_shape, empty_loss, full_precision

__all__ = [
    "class_aware_regression",
    "ground_truth_class_regression",
    "naive_class_aware_regression",
]


def naive_class_aware_regression(
    student_deltas: Tensor, teacher_deltas: Tensor, teacher_probs: Tensor
) -> Tensor:
    """The equation of `class_aware_regression`, box by box and class by class."""
    total = student_deltas.new_zeros(())
    for student, teacher, probs in zip(student_deltas, teacher_deltas, teacher_probs, strict=True):
        gap = sum(p * (t - s) for p, t, s in zip(probs, teacher, student, strict=True))
        total = total + gap.abs().sum()
    return total / len(student_deltas)


def class_aware_regression(
    student_deltas: Tensor, teacher_deltas: Tensor, teacher_probs: Tensor
) -> Tensor:
    r"""Regress like the teacher, each class as much as the teacher believes in it (CAReg).

    .. math:: L = \frac{1}{N} \sum_i \Big\| \sum_c p_t^c (\Delta_t^c - \Delta_s^c) \Big\|_1

    Args:
        student_deltas: (N, C, 4), in the same units as the teacher's (two heads with different
            ``target_stds`` speak of different units: multiply by them first). (N, 1, 4), one
            regression shared by all classes, broadcasts, here and for the teacher.
        teacher_deltas: (N, C, 4). A constant.
        teacher_probs: (N, C), the teacher's softmax without its background column. A constant.

    Returns:
        Scalar: L1 norm over the 4 coordinates, mean over N, in the deltas' units. The gradient
        goes to the student alone; N = 0 gives 0 with a gradient of zeros.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_deltas(student_deltas, teacher_deltas)
    beside = f"(N, C), object classes only, beside deltas {_shapes(student_deltas, teacher_deltas)}"
    check_shape("teacher_probs", teacher_probs, (len(student_deltas), None), beside)
    classes = max(student_deltas.shape[1], teacher_deltas.shape[1])
    if classes > 1:  # where both share one regression, any number of classes fits
        check_shape("teacher_probs", teacher_probs, (len(student_deltas), classes), beside)
    if len(student_deltas) == 0:
        return empty_loss(student_deltas)
    dtype = full_precision(student_deltas)
    gap = teacher_deltas.detach().to(dtype) - student_deltas.to(dtype)
    weighted = teacher_probs.detach().to(dtype).unsqueeze(-1) * gap
    return weighted.sum(1).abs().sum(1).mean()


def ground_truth_class_regression(
    student_deltas: Tensor, teacher_deltas: Tensor, labels: Tensor
) -> Tensor:
    """Regress like the teacher for the class that the proposal truly shows: the plain L1 variant.

    Table 5 calls it class-agnostic, which is not the class-agnostic regression of detectors (one
    regression for all classes, here a shape (N, 1, 4)).

    Args:
        student_deltas: (N, C, 4), in the same units as the teacher's. (N, 1, 4), one regression
            shared by all classes, broadcasts; where both sides share one, C is 1.
        teacher_deltas: (N, C, 4). A constant.
        labels: (N,) integers in 0..C; C is background and left out.

    Returns:
        Scalar: L1 norm over the 4 coordinates, mean over the foreground, in the deltas' units.
        The gradient goes to the student alone; without foreground 0, with a gradient of zeros.

    Raises:
        ValueError: shapes that do not fit, labels that are no integers or outside 0..C.
    """
    _check_deltas(student_deltas, teacher_deltas)
    beside = f"beside deltas {_shapes(student_deltas, teacher_deltas)}"
    check_shape("labels", labels, (len(student_deltas),), beside)
    classes = max(student_deltas.shape[1], teacher_deltas.shape[1])
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"expected int64 or int32 labels, got {labels.dtype}")
    if ((labels < 0) | (labels > classes)).any():
        low, high = labels.min().item(), labels.max().item()
        raise ValueError(f"expected labels in 0..{classes} {beside}, got {low}..{high}")
    foreground = (labels < classes).nonzero().squeeze(1)
    if len(foreground) == 0:
        return empty_loss(student_deltas)
    dtype = full_precision(student_deltas)
    student, teacher = (
        deltas[foreground, labels[foreground] if deltas.shape[1] > 1 else 0].to(dtype)
        for deltas in (student_deltas, teacher_deltas.detach())
    )
    return (teacher - student).abs().sum(1).mean()


def _check_deltas(student: Tensor, teacher: Tensor) -> None:
    fits = (
        student.ndim == teacher.ndim == 3
        and student.shape[0] == teacher.shape[0]
        and student.shape[2] == teacher.shape[2] == 4
        and min(student.shape[1], teacher.shape[1]) in (1, max(student.shape[1], teacher.shape[1]))
    )
    if not fits:
        raise ValueError(
            "expected student and teacher deltas of one shape (N, C, 4), or (N, 1, 4) for a "
            f"shared regression, got {_shapes(student, teacher)}"
        )


def _shapes(student: Tensor, teacher: Tensor) -> str:
    return f"{tuple(student.shape)} and {tuple(teacher.shape)}"
