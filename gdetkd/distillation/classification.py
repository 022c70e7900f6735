"""Prediction distillation of the class scores: section 4.3, supplement D for mixed pairs."""

from __future__ import annotations

from torch import nn

from gdetkd.distillation.component import Component, ComponentOutput, register_component
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs
from gdetkd.losses import (
    converted_prediction_distillation,
    prediction_distillation,
    sigmoid_prediction_distillation,
)
from gdetkd.losses.common import check_choice

CONVERSIONS = {
    "none": prediction_distillation,
    "object_scores": converted_prediction_distillation,
    "sigmoid": sigmoid_prediction_distillation,
}
DEFAULTS = {("sigmoid", "softmax"): "object_scores", ("sigmoid", "sigmoid"): "sigmoid"}


@register_component("classification")
class Classification(Component):
    """Distill the class scores of the shared boxes.

    A sigmoid head has no background logit. sigmoid(x) is the first entry of softmax([x, 0]), so
    our reading of D, whose formula wants one, is a background logit of 0.

    Args:
        student, teacher: The pair.
        conversion: How scores of two kinds are compared.
            'none': cross-entropy of both softmaxes over all C + 1 classes.
            'object_scores': section D, the student's softmax by its maximum, object classes only.
            'sigmoid': binary cross-entropy per class with the teacher's probability of it.
            By default 'object_scores' for a sigmoid student of a softmax teacher, 'sigmoid' for
            two sigmoid heads, and 'none' for a softmax student.

    Raises:
        ValueError: One of the pair has no logits for given boxes, or an unknown conversion.
    """

    student_fields = teacher_fields = ("logits",)

    def __init__(
        self, student: DetectorSpec, teacher: DetectorSpec, conversion: str | None = None
    ) -> None:
        super().__init__()
        for spec in (student, teacher):
            if spec.scores is None:
                raise ValueError(
                    f"classification: expected a detector that scores given boxes, {spec.name} "
                    "has no logits for them; set the weight to 0"
                )
        self.score_kinds = student.scores, teacher.scores
        self.conversion = conversion or DEFAULTS.get(self.score_kinds, "none")
        check_choice("classification: conversion", self.conversion, CONVERSIONS)

    def compute(self, student: RoIOutputs, teacher: RoIOutputs) -> ComponentOutput:
        valid = slice(None) if teacher.valid_mask is None else teacher.valid_mask
        pair = student.logits[valid], teacher.logits[valid]
        student_logits, teacher_logits = (
            nn.functional.pad(logits, (0, 1)) if kind == "sigmoid" else logits
            for logits, kind in zip(pair, self.score_kinds, strict=True)
        )
        if self.conversion == "sigmoid":
            # A class against the background alone is a sigmoid of the difference.
            student_logits = student_logits[:, :-1] - student_logits[:, -1:]
            logits = pair[1].detach().float()
            sigmoid = self.score_kinds[1] == "sigmoid"
            teacher_logits = logits.sigmoid() if sigmoid else logits.softmax(1)[:, :-1]
        loss = CONVERSIONS[self.conversion](student_logits, teacher_logits)
        return ComponentOutput(loss, len(student_logits))
