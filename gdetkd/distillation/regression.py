"""Class-aware regression (CAReg) and its plain variant: section 4.3.1, supplement C, Table 5."""

from __future__ import annotations

import torch

from gdetkd.distillation.component import Component, ComponentOutput, register_component
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs
from gdetkd.losses import class_aware_regression, ground_truth_class_regression
from gdetkd.losses.common import check_flag


@register_component("regression")
class Regression(Component):
    """Distill the box regression of the shared boxes.

    Args:
        student, teacher: The pair.
        class_aware: True: the regressions of all classes, weighted by the teacher's confidence
            (CAReg). False: that of the ground-truth class alone, foreground boxes only (the 'N' of
            Table 5; not to be confused with a regression that the classes share).

    Raises:
        ValueError: One of the pair shares its regression among the classes and the other does
            not, or both do and it is not class_aware.
    """

    student_fields = ("deltas",)
    teacher_fields = ("deltas",)

    def __init__(
        self, student: DetectorSpec, teacher: DetectorSpec, class_aware: bool = True
    ) -> None:
        super().__init__()
        check_flag("regression: class_aware", class_aware)
        for spec in (student, teacher):
            if spec.delta_stds is None:
                raise ValueError(
                    "regression: expected deltas relative to the shared boxes, but those of "
                    f"{spec.name} are relative to its own anchors or points; set the weight to 0"
                )
        shapes = [1 if s.class_shared_regression else s.num_classes for s in (student, teacher)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "regression: expected both detectors to regress a box per class or both to share "
                f"one, got deltas (N, {shapes[0]}, 4) from {student.name} and (N, {shapes[1]}, 4) "
                f"from {teacher.name}; set reg_class_agnostic equally, or the weight to 0"
            )
        if shapes[0] == 1 and student.num_classes > 1 and not class_aware:
            raise ValueError(
                "regression: class_aware=False distills the ground-truth class's own regression, "
                f"but {student.name} and {teacher.name} share one, deltas (N, 1, 4)"
            )
        self.class_aware, self.num_classes = class_aware, student.num_classes
        self.student_fields += () if class_aware else ("labels",)
        self.teacher_fields += ("logits",) if class_aware else ()
        # Differences are taken in common units and counted in those the student is trained in.
        self.register_buffer("unit", torch.tensor(student.delta_stds), persistent=False)

    def compute(self, student: RoIOutputs, teacher: RoIOutputs) -> ComponentOutput:
        deltas = student.deltas / self.unit
        target = teacher.deltas.detach() / self.unit
        if self.class_aware:
            confidence = teacher.logits.detach().float().softmax(1)[:, :-1]
            loss = class_aware_regression(deltas, target, confidence)
            return ComponentOutput(loss, len(deltas))
        loss = ground_truth_class_regression(deltas, target, student.labels)
        foreground = (student.labels < self.num_classes).sum()
        return ComponentOutput(loss, foreground.to(loss.dtype))
