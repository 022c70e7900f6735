"""The distillation objective: L = L_feat + L_ckd + L_cls + L_reg, each with its weight.

Weights and settings that neither the paper nor its supplement gives are marked as ours where they
are defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gdetkd.distillation.balance import Balance, share_of, warn_if_too_strong
from gdetkd.distillation.component import active_weights, build_component
from gdetkd.distillation.distributed import ddp_loss_scale
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs


class Objective(nn.Module):
    """The weighted sum of distillation components for one pair of detectors (or of their stages).

    Args:
        student, teacher: Shapes of the pair.
        components: Settings by registered name, each with a 'weight': a number, or 'auto' or a
            share such as '20%', see `balance`. One of weight 0 is not built.

    Raises:
        ValueError: An unknown component or setting, a weight that is missing, negative or not
            finite, or a pair that a component cannot serve; the message names both.
    """

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        components: Mapping[str, Mapping[str, Any]],
    ) -> None:
        super().__init__()
        if student.num_classes != teacher.num_classes:
            raise ValueError(
                f"expected a pair with the same classes, got logits (N, {student.num_classes + 1}) "
                f"from {student.name} and (N, {teacher.num_classes + 1}) from {teacher.name}"
            )
        active = active_weights(components)
        shares = {n: share_of(w) * student.loss_weight for n, w in active.items() if share_of(w)}
        self.balance = Balance(shares) if shares else None
        self.weights = {
            name: weight * student.loss_weight
            for name, weight in active.items()
            if name not in shares
        }
        self._first = True
        self.components = nn.ModuleDict()
        for name in active:
            settings = {key: value for key, value in components[name].items() if key != "weight"}
            self.components[name] = build_component(name, student, teacher, settings)

    def forward(
        self, student: RoIOutputs, teacher: RoIOutputs, own: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted losses as `kd_NAME_loss`, diagnostics as `kd_NAME_...` (never with 'loss').

        own: The sum of the detector's own losses, for weights that are shares and for a warning
        of a component that is far stronger at the first step of training.

        Under DDP the mean of the ranks' losses is the mean over the union of their batches.

        Raises:
            ValueError: The outputs are not of the same boxes, or lack what a component needs.
        """
        _check_same_boxes(student, teacher)
        outputs = {name: each(student, teacher) for name, each in self.components.items()}
        # A full tensor of the count, not a copied one: a copy to the GPU would wait for it.
        counts = [each.loss.new_full((), each.count) if isinstance(each.count, int) else each.count
                  for each in outputs.values()]  # fmt: skip
        scales = ddp_loss_scale(torch.stack(counts))
        measures = own is not None and own.requires_grad and torch.is_grad_enabled()
        weights = self.weights
        if self.balance is not None:
            if measures:
                raw = {name: outputs[name].loss for name in self.balance.names}
                self.balance.measure(raw, own, student.pyramid)
            weights = weights | self.balance.weights()
        losses = {
            f"kd_{name}_loss": weights[name] * output.loss * scale
            for (name, output), scale in zip(outputs.items(), scales, strict=True)
        }
        if measures and self._first:
            self._first = False
            warn_if_too_strong(losses, own, student.pyramid)
        if self.balance is not None:
            losses |= {f"kd_{name}_weight": weights[name] for name in self.balance.names}
        return losses | {
            f"kd_{name}_{key}": value
            for name, output in outputs.items()
            for key, value in output.diagnostics.items()
        }

    def without_losses(self, zero: Tensor) -> dict[str, Tensor]:
        """Every `kd_NAME_loss` as `zero`, a scalar, with no component run.

        What a component learns still has a gradient, of 0, for which DDP would wait.
        """
        return {
            f"kd_{name}_loss": sum((each.sum() * 0 for each in component.parameters()), zero)
            for name, component in self.components.items()
        }

    def undo(self) -> None:
        """Take back what the last forward pass left behind: the rows of a memory queue."""
        for component in self.components.values():
            component.undo()


def _check_same_boxes(student: RoIOutputs, teacher: RoIOutputs) -> None:
    rows = len(student.rois), len(student.representation), len(teacher.representation)
    if len(set(rows)) != 1:
        raise ValueError(
            "expected both detectors' outputs for the same boxes, got {} rois, {} representations "
            "of the student and {} of the teacher".format(*rows)
        )
