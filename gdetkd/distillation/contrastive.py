"""Contrastive KD over proposals (CKD): section 4.2, supplement A and B, Tables 1 to 3.

The critic g(s, t) = exp(cos(f(s), f(t)) / gamma) compares a student's representation with a
teacher's through a projection f. `gdetkd.losses.contrastive_loss` is the loss; here are f, the
negatives (all ranks' proposals and the memory queue) and the IoU filter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gdetkd.distillation.component import Component, ComponentOutput, register_component
from gdetkd.distillation.distributed import all_gather_variable
from gdetkd.distillation.overlap import overlap_mask
from gdetkd.distillation.queue import FeatureQueue
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs
from gdetkd.losses import contrastive_loss
from gdetkd.losses.common import check_choice, check_flag, check_integer, check_number


@register_component("contrastive")
class Contrastive(Component):
    """Pull a student's proposal to the teacher's representation of the same box.

    It is pushed away from the teacher's other proposals: those of all ranks, and those of earlier
    batches in a memory queue.

    Args:
        student, teacher: The pair.
        temperature: gamma of the critic (ours; the paper does not give it).
        dim: Width of the projection f (ours).
        queue_capacity: Rows of the queue. The paper's K counts the gathered batch too, so
            K = 80 x 1024 on 8 x 1024 proposals is a capacity of 72 x 1024.
        location_negatives: Whether boxes that one location of a dense student predicts, by several
            anchors, are negatives of each other. Their representations are the same (unless its
            adapter has `separate_anchors`), so that as negatives they contradict the positive.
        iou: Proposals that overlap by more than this are not negatives of each other (Table 2);
            1.0 keeps all.
        projection: 'linear', or 'nonlinear' with a hidden layer and ReLU (Table 3).
        queue_content: 'keys', the outputs of f at the time of earlier batches, or 'features', the
            teacher's representations, re-encoded by f at every step: never stale, since the
            teacher does not change, but the queue is as wide as they are. Supplement B speaks of
            "representations from previous batches", which can be read either way.
        queue_gradient: With 'features', f learns from the queue's rows as from the batch's
            (ours). Without it, f can lower the loss by moving away from rows that stay behind
            (`gdetkd reproduce explosion`). It keeps a copy of the rows until the backward pass.

    Raises:
        ValueError: An unknown projection or queue content, a gradient for keys, which f does not
            see again, or a number out of range.
    """

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        temperature: float = 0.07,
        dim: int = 128,
        queue_capacity: int = 0,
        iou: float = 0.5,
        projection: str = "linear",
        queue_content: str = "keys",
        queue_gradient: bool = False,
        location_negatives: bool = True,
    ) -> None:
        super().__init__()
        check_number("contrastive: temperature", temperature, 0, above=True)
        check_integer("contrastive: dim", dim, 1)
        check_integer("contrastive: queue_capacity", queue_capacity, 0)
        check_number("contrastive: iou", iou, 0, 1)
        check_choice("contrastive: projection", projection, PROJECTIONS)
        check_choice("contrastive: queue_content", queue_content, ("keys", "features"))
        check_flag("contrastive: queue_gradient", queue_gradient)
        check_flag("contrastive: location_negatives", location_negatives)
        if queue_gradient and queue_content == "keys":
            raise ValueError(
                "contrastive: expected queue_content='features' beside queue_gradient=True; 'keys' "
                "are constants"
            )
        self.temperature, self.iou, self.queue_gradient = temperature, iou, queue_gradient
        self.location_negatives = location_negatives
        build = PROJECTIONS[projection]
        self.student_projection = build(student.representation_dim, dim)
        # B.1 shares f; it can where the representations are equally wide.
        self.teacher_projection = self.student_projection
        if teacher.representation_dim != student.representation_dim:
            self.teacher_projection = build(teacher.representation_dim, dim)
        self.reencodes_queue = queue_content == "features"
        width = teacher.representation_dim if self.reencodes_queue else dim
        self.queue = FeatureQueue(queue_capacity, width)

    def compute(self, student: RoIOutputs, teacher: RoIOutputs) -> ComponentOutput:
        valid = slice(None) if teacher.valid_mask is None else teacher.valid_mask
        queries = self.student_projection(student.representation[valid])
        # The teacher's features are constants: gathered before the projection, every rank can
        # project them by itself, and no gradient has to cross ranks.
        gathered, local = all_gather_variable(teacher.representation.detach()[valid])
        keys = self.teacher_projection(gathered)
        ordered_keys = torch.cat([keys[local], keys[: local.start], keys[local.stop :]])
        queue = None
        if self.queue_gradient:  # as further keys; a copy, since the rows change before backward
            reencoded = self.teacher_projection(self.queue.rows.clone())
            ordered_keys = torch.cat([ordered_keys, reencoded])
        else:
            queue = self._queue_keys()
        loss = contrastive_loss(
            queries,
            ordered_keys,
            queue=queue,
            ignore=self._ignored(student, valid),
            temperature=self.temperature,
        )
        if self.training:  # in rank order, the same rows on every rank: the queues stay equal
            rows = gathered if self.reencodes_queue else nn.functional.normalize(keys.detach())
            self.queue.enqueue(rows.float())
        return ComponentOutput(loss, len(queries))

    def _ignored(self, student: RoIOutputs, valid: Tensor | slice) -> Tensor | None:
        """Which keys are no negatives of which queries, (N, N) bool; None if all are."""
        rois = student.rois[valid]
        ignored = overlap_mask(rois, self.iou) if self.iou < 1 else None
        if not self.location_negatives and student.locations is not None:
            places = torch.stack([rois[:, 0].long(), student.locations[valid]], 1)
            same = (places[:, None] == places).all(2)
            ignored = same if ignored is None else ignored | same
        return ignored

    def undo(self) -> None:
        self.queue.undo()

    @torch.no_grad()
    def _queue_keys(self) -> Tensor:
        """The queue's rows as unit keys (K, D), constants."""
        if not self.reencodes_queue:
            return self.queue.rows
        return nn.functional.normalize(self.teacher_projection(self.queue.rows).float())


def _nonlinear(inputs: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(inplace=True), nn.Linear(inputs, dim))


PROJECTIONS = {"linear": nn.Linear, "nonlinear": _nonlinear}
