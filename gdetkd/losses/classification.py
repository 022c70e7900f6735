"""Distilling class predictions: between detectors of one kind, and from softmax to a dense student.

Section 4.3 of the paper, supplement D. The naive forms are the equations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gdetkd.losses.common import empty_loss, full_precision

__all__ = [
    "converted_prediction_distillation",
    "naive_converted_prediction_distillation",
    "naive_prediction_distillation",
    "object_scores",
    "prediction_distillation",
    "sigmoid_prediction_distillation",
]


def naive_prediction_distillation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The equation of `prediction_distillation`."""
    p_s, p_t = student_logits.softmax(1), teacher_logits.softmax(1)
    return -(p_t * p_s.log()).sum() / len(p_s)


def naive_converted_prediction_distillation(
    student_logits: Tensor, teacher_logits: Tensor, background: int = -1
) -> Tensor:
    """The equation of `converted_prediction_distillation`, as supplement D writes it."""
    p_s, p_t = student_logits.softmax(1), teacher_logits.softmax(1)
    p_s = p_s / p_s.amax(1, keepdim=True)
    objects = [c for c in range(p_s.shape[1]) if c != background % p_s.shape[1]]
    return -(p_t * p_s.log())[:, objects].sum() / len(p_s)


def prediction_distillation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    r"""Cross-entropy between the softmax predictions of two-stage detectors.

    .. math:: L = -\frac{1}{N} \sum_i \sum_{c=0}^{C} P_t^c \log P_s^c

    Args:
        student_logits: (N, C + 1), background included.
        teacher_logits: (N, C + 1), in the same order of classes. A constant.

    Returns:
        Scalar, in nats; its minimum is the teacher's entropy. A class whose teacher's logit is
        -inf does not count. The gradient goes to the student alone; N = 0 gives 0 with a gradient
        of zeros.

    Raises:
        ValueError: shapes that are not one shape (N, C + 1).
    """
    _check_logits(student_logits, teacher_logits)
    if len(student_logits) == 0:
        return empty_loss(student_logits)
    dtype = full_precision(student_logits)
    target = teacher_logits.detach().to(dtype).softmax(1)
    terms = target * student_logits.to(dtype).log_softmax(1)
    # A class that the teacher excludes counts nothing, also where the student excludes it too.
    return -terms.masked_fill(target == 0, 0).sum() / len(terms)


def object_scores(logits: Tensor, background: int = -1) -> Tensor:
    r"""Convert softmax logits to scores like a dense detector's (supplement D).

    .. math:: P = \frac{\mathrm{softmax}(L)}{\max \mathrm{softmax}(L)} [\text{objects}]

    Args:
        logits: (N, C + 1).
        background: the column that is left out, after it took part in softmax and maximum.
            MMDetection's is the last; the supplement writes it first (0).

    Returns:
        (N, C) in 0..1: 1 for the likeliest class, all small where background is likeliest. The
        gradient goes to the logits; (0, C) for N = 0.

    Raises:
        ValueError: logits that are not (N, C + 1), a background column that is not there.
    """
    return _log_object_scores(logits, background).exp()


def converted_prediction_distillation(
    student_logits: Tensor, teacher_logits: Tensor, background: int = -1
) -> Tensor:
    r"""Class distillation to a dense student whose prediction is converted (supplement D).

    .. math:: L = -\frac{1}{N} \sum_i \sum_{c=1}^{C} P_t^c \log P_s^c

    with the student's :func:`object_scores` as P_s and the teacher's softmax, objects only, as
    P_t. The logarithm is taken before the division (log P_s = L - max L): no score underflows.

    Beware of its bias: nothing rewards background. Without the background term the loss is at
    its minimum 0 when all object logits tie above the background's, whatever the teacher says.

    Args:
        student_logits: (N, C + 1). A student with C sigmoid logits has no background column: an
            appended column of zeros is our reading, as sigmoid(x) is the first of softmax([x, 0]).
        teacher_logits: (N, C + 1), in the same order. A constant.
        background: the background's column in both.

    Returns:
        Scalar, in nats. The gradient goes to the student alone; N = 0 gives 0 with a gradient
        of zeros.

    Raises:
        ValueError: shapes that are not one shape (N, C + 1), a background that is not there.
    """
    _check_logits(student_logits, teacher_logits)
    log_scores = _log_object_scores(student_logits, background)
    if len(student_logits) == 0:
        return empty_loss(student_logits)
    target = teacher_logits.detach().to(log_scores.dtype).softmax(1)
    return -(_objects(target, background) * log_scores).sum(1).mean()


def sigmoid_prediction_distillation(student_logits: Tensor, teacher_probs: Tensor) -> Tensor:
    r"""Plain KD between class-by-class predictions, as an alternative to section D's conversion.

    .. math:: L = -\frac{1}{N} \sum_i \sum_{c=1}^{C} P_t^c \log \sigma(L_s^c)
        + (1 - P_t^c) \log (1 - \sigma(L_s^c))

    Args:
        student_logits: (N, C), of sigmoids; no background.
        teacher_probs: (N, C) in 0..1, the teacher's probability of each class. A constant.

    Returns:
        Scalar, in nats. The gradient goes to the student alone; N = 0 gives 0 with a gradient of
        zeros.

    Raises:
        ValueError: shapes that are not one shape (N, C).
    """
    if student_logits.shape != teacher_probs.shape or student_logits.ndim != 2:
        raise ValueError(
            "expected student logits and teacher probabilities of one shape (N, C), "
            f"got {tuple(student_logits.shape)} and {tuple(teacher_probs.shape)}"
        )
    if len(student_logits) == 0:
        return empty_loss(student_logits)
    logits = student_logits.to(full_precision(student_logits))
    target = teacher_probs.detach().to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return each.sum(1).mean()


def _log_object_scores(logits: Tensor, background: int) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"expected logits of shape (N, C + 1), got {tuple(logits.shape)}")
    if not -logits.shape[1] <= background < logits.shape[1]:
        raise ValueError(f"expected a column of logits {tuple(logits.shape)}, got {background}")
    logits = logits.to(full_precision(logits))
    return _objects(logits - logits.amax(1, keepdim=True), background)


def _objects(columns: Tensor, background: int) -> Tensor:
    background %= columns.shape[1]
    return torch.cat([columns[:, :background], columns[:, background + 1 :]], dim=1)


def _check_logits(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape or student.ndim != 2 or student.shape[1] < 2:
        raise ValueError(
            "expected student and teacher logits of one shape (N, C + 1), "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
