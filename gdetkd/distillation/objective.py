"""The distillation objective: which losses a pair of detectors is trained with, and their weights.

Every component takes the student's and the teacher's `RoIOutputs` of the same boxes and gives
its loss, unweighted, with the number of things it is a mean over. `Objective` weighs them, and
makes the mean of the ranks' losses that of the union of their batches.

Weights and settings that neither the paper nor its supplement gives are marked as ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gdetkd.distillation.baselines import Localization, Masked, Normalized, Rigid
from gdetkd.distillation.overlap import overlap_mask
from gdetkd.distillation.queue import FeatureQueue, all_gather_variable
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs
from gdetkd.losses import (
    class_aware_regression,
    contrastive_loss,
    converted_prediction_distillation,
    ground_truth_class_regression,
    level_weights,
    prediction_distillation,
    semantic_guided_imitation,
    sigmoid_prediction_distillation,
)
from gdetkd.losses.common import check_number
from gdetkd.ops.roi_align import roi_align


class Contrastive(nn.Module):
    """Contrastive KD over proposals (supplement B, Tables 1 to 3).

    A student's proposal is pulled to what the teacher makes of the same box, and pushed from the
    teacher's other proposals: those of all ranks, and those of earlier batches in a memory queue.

    Args:
        student, teacher: The pair.
        temperature: gamma of the critic (ours; the paper does not give it).
        dim: Width of the projection f (ours).
        queue_capacity: Rows of the queue. The paper's K counts the gathered batch too, so
            K = 80 x 1024 on 8 x 1024 proposals is a capacity of 72 x 1024.
        iou: Proposals that overlap more than this are no negatives of each other (Table 2);
            1.0 keeps all.
        projection: 'linear', or 'nonlinear' with a hidden layer and ReLU (Table 3).
        queue_content: 'keys', what f made of earlier batches at the time, or 'features', the
            teacher's own, which f maps anew at every step: never stale, as the teacher does not
            change, for a queue as wide as they are. B speaks of "representations from previous
            batches", which can be read either way.
        queue_gradient: Of representations: f learns from the queue's rows as from the batch's
            own (ours). Without, f can lower the loss by moving away from rows that stay behind
            (`gdetkd reproduce explosion`). It holds a copy of the rows until the backward pass.

    Raises:
        ValueError: An unknown projection or content of the queue, a gradient for keys, which f
            does not see again, or a number out of its range.
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
    ) -> None:
        super().__init__()
        if queue_content not in ("keys", "features"):
            raise ValueError(
                f"contrastive: expected queue_content 'keys' or 'features', got {queue_content!r}"
            )
        if queue_gradient and queue_content == "keys":
            raise ValueError(
                "contrastive: expected queue_content='features' beside queue_gradient=True; "
                "'keys' are constants"
            )
        check_number("contrastive: temperature", temperature, 0, above=True)
        check_number("contrastive: iou", iou, 0, 1)
        self.temperature, self.iou, self.queue_gradient = temperature, iou, queue_gradient
        self.student_projection = _projection(projection, student.representation_dim, dim)
        # B.1 shares f; it can where the representations are equally wide.
        self.teacher_projection = self.student_projection
        if teacher.representation_dim != student.representation_dim:
            self.teacher_projection = _projection(projection, teacher.representation_dim, dim)
        self.projects_queue = queue_content == "features"
        wide = teacher.representation_dim if self.projects_queue else dim
        self.queue = FeatureQueue(queue_capacity, wide)

    def forward(self, student: RoIOutputs, teacher: RoIOutputs) -> tuple[Tensor, Tensor, dict]:
        known = slice(None) if teacher.known is None else teacher.known
        queries = self.student_projection(student.representation[known])
        # The teacher's features are constants: gathering them before the projection lets every
        # rank project by itself, and no gradient has to cross ranks.
        gathered, own = all_gather_variable(teacher.representation.detach()[known])
        keys = self.teacher_projection(gathered)
        first = torch.cat([keys[own], keys[: own.start], keys[own.stop :]])
        queue = None
        if self.queue_gradient:  # further keys; a copy, as the rows change before backward
            first = torch.cat([first, self.teacher_projection(self.queue.rows.clone())])
        else:
            queue = self._negatives()
        loss = contrastive_loss(
            queries,
            first,
            queue=queue,
            ignore=overlap_mask(student.rois[known], self.iou) if self.iou < 1 else None,
            temperature=self.temperature,
        )
        # Rank order, the same rows on every rank: the queues stay equal.
        kept = gathered if self.projects_queue else nn.functional.normalize(keys.detach(), dim=1)
        self.queue.enqueue(kept.float())
        return loss, loss.new_full((), len(queries)), {}

    @torch.no_grad()
    def _negatives(self) -> Tensor:
        """The queue's rows as unit keys (K, D), constants."""
        if not self.projects_queue:
            return self.queue.rows
        return nn.functional.normalize(self.teacher_projection(self.queue.rows).float(), dim=1)


class Imitation(nn.Module):
    """Semantic-guided feature imitation: which of the student's levels shows what the teacher saw.

    The student's box is pooled from all its levels; the levels are weighed by how well their
    embedding agrees with that of the teacher's feature, and their sum imitates it.

    Args:
        student, teacher: The pair.
        embedding: Channels of the two stride-2 convolutions that embed a pooled box; a half and a
            quarter of the teacher's width by default (ours, as is the ReLU after each).
        temperature: Start of the learnable tau (ours).
        sampling_ratio: Samples a bin and axis of RoIAlign; 0 as many as a bin has cells.
        boxes_per_image: Imitate only the first so many boxes of an image (MMDetection lists the
            foreground first); all of them by default, as in the paper. A shortcut for the CPU.

    Raises:
        ValueError: A number out of its range.
    """

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        embedding: tuple[int, int] | None = None,
        temperature: float = 1.0,
        sampling_ratio: int = 0,
        boxes_per_image: int | None = None,
    ) -> None:
        super().__init__()
        check_number("imitation: temperature", temperature, 0, above=True)
        check_number("imitation: sampling_ratio", sampling_ratio, 0)
        if boxes_per_image is not None:
            check_number("imitation: boxes_per_image", boxes_per_image, 1)
        embedding = embedding or (teacher.channels // 2, teacher.channels // 4)
        if not isinstance(embedding, list | tuple) or len(embedding) != 2:
            raise ValueError(
                f"imitation: expected embedding to be the widths of two layers, got {embedding!r}"
            )
        self.strides, self.size = student.strides, teacher.pooled_size
        self.sampling_ratio, self.boxes_per_image = sampling_ratio, boxes_per_image
        # No bias, so that adapting the pyramid and then pooling is pooling and then adapting.
        self.adapt = nn.Conv2d(student.channels, teacher.channels, 1, bias=False)
        if student.channels == teacher.channels:
            nn.init.dirac_(self.adapt.weight)
        middle, last = embedding
        self.embed = nn.Sequential(
            nn.Conv2d(teacher.channels, middle, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, last, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
        )
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    def forward(self, student: RoIOutputs, teacher: RoIOutputs) -> tuple[Tensor, Tensor, dict]:
        if len(student.pyramid) != len(self.strides):
            raise ValueError(
                f"imitation: expected {len(self.strides)} pyramid levels of the student, one for "
                f"each of its strides, got {len(student.pyramid)}"
            )
        chosen = self.chosen(student.rois)
        rois, target = student.rois[chosen], teacher.need("pooled", "imitation").detach()[chosen]
        levels = [
            roi_align(self.adapt(level), rois, self.size, 1 / stride, self.sampling_ratio)
            for level, stride in zip(student.pyramid, self.strides, strict=True)
        ]
        embedded = torch.stack([self.embed(level) for level in levels], 1)
        weights = level_weights(embedded, self.embed(target), self.log_temperature.exp())
        loss = semantic_guided_imitation(levels, target, weights)
        shares = weights.detach().mean(0) if len(rois) else weights.new_zeros(len(levels))
        shown = {f"level_{i}_share": share for i, share in enumerate(shares)}
        return loss, loss.new_full((), len(rois)), shown

    def chosen(self, rois: Tensor) -> Tensor | slice:
        """Which of the boxes (N, 5) are imitated."""
        if self.boxes_per_image is None:
            return slice(None)
        return first_of_each_image(rois, self.boxes_per_image)


class Classification(nn.Module):
    """Prediction distillation of the class scores (main paper; supplement D for mixed pairs).

    A sigmoid head has no background logit. sigmoid(x) is the first entry of softmax([x, 0]), so
    our reading of D, whose formula wants one, is a background logit of 0.

    Args:
        student, teacher: The pair.
        conversion: How scores of two kinds are compared.
            'none': cross-entropy of both softmaxes over all C + 1 classes.
            'object_scores': section D, the student's softmax by its maximum, object classes only.
            'sigmoid': binary cross-entropy a class with the teacher's probability of it.
            By default 'object_scores' for a sigmoid student of a softmax teacher, 'sigmoid' for
            two sigmoid heads, and 'none' for a softmax student.

    Raises:
        ValueError: One of the pair has no logits for given boxes, or an unknown conversion.
    """

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
        self.kinds = student.scores, teacher.scores
        usual = {("sigmoid", "softmax"): "object_scores", ("sigmoid", "sigmoid"): "sigmoid"}
        self.conversion = conversion or usual.get(self.kinds, "none")
        if self.conversion not in CONVERSIONS:
            raise ValueError(
                f"classification: expected a conversion among {sorted(CONVERSIONS)}, "
                f"got {conversion!r}"
            )

    def forward(self, student: RoIOutputs, teacher: RoIOutputs) -> tuple[Tensor, Tensor, dict]:
        logits = [view.need("logits", "classification") for view in (student, teacher)]
        student_logits, teacher_logits = (
            nn.functional.pad(given, (0, 1)) if kind == "sigmoid" else given
            for given, kind in zip(logits, self.kinds, strict=True)
        )
        if self.conversion == "sigmoid":
            # A class against the background alone is a sigmoid of the difference.
            student_logits = student_logits[:, :-1] - student_logits[:, -1:]
            given = logits[1].detach().float()
            sigmoid = self.kinds[1] == "sigmoid"
            teacher_logits = given.sigmoid() if sigmoid else given.softmax(1)[:, :-1]
        loss = CONVERSIONS[self.conversion](student_logits, teacher_logits)
        return loss, loss.new_full((), len(student_logits)), {}


CONVERSIONS = {
    "none": prediction_distillation,
    "object_scores": converted_prediction_distillation,
    "sigmoid": sigmoid_prediction_distillation,
}


class Regression(nn.Module):
    """Localisation distillation (supplement C, Table 5).

    Args:
        student, teacher: The pair.
        class_aware: True: the regressions of all classes, weighed by the teacher's confidence
            (CAReg). False: that of the ground-truth class alone, foreground boxes only (the 'N' of
            Table 5; not to be confused with a regression that the classes share).

    Raises:
        ValueError: One of the pair shares its regression among the classes and the other does
            not, or both do and it is not class_aware.
    """

    def __init__(
        self, student: DetectorSpec, teacher: DetectorSpec, class_aware: bool = True
    ) -> None:
        super().__init__()
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
                f"from {teacher.name}; set reg_class_agnostic alike, or the weight to 0"
            )
        if shapes[0] == 1 and student.num_classes > 1 and not class_aware:
            raise ValueError(
                "regression: class_aware=False distils the ground-truth class's own regression, "
                f"but {student.name} and {teacher.name} share one, deltas (N, 1, 4)"
            )
        self.class_aware, self.num_classes = class_aware, student.num_classes
        # Differences are taken in common units and counted in those the student is trained in.
        self.register_buffer("unit", torch.tensor(student.delta_stds), persistent=False)

    def forward(self, student: RoIOutputs, teacher: RoIOutputs) -> tuple[Tensor, Tensor, dict]:
        deltas = student.need("deltas", "regression") / self.unit
        target = teacher.need("deltas", "regression").detach() / self.unit
        if self.class_aware:
            logits = teacher.need("logits", "regression").detach()
            confidence = logits.float().softmax(1)[:, :-1]
            loss = class_aware_regression(deltas, target, confidence)
            return loss, loss.new_full((), len(deltas)), {}
        labels = student.need("labels", "regression")
        loss = ground_truth_class_regression(deltas, target, labels)
        foreground = (labels < self.num_classes).sum()
        return loss, foreground.to(loss.dtype), {}


COMPONENTS: dict[str, type[nn.Module]] = {
    "contrastive": Contrastive,
    "imitation": Imitation,
    "classification": Classification,
    "regression": Regression,
}
RIVALS: dict[str, type[nn.Module]] = {
    "rigid": Rigid,
    "masked": Masked,
    "normalized": Normalized,
    "localization": Localization,
}


class Objective(nn.Module):
    """The weighted sum of distillation components: L_feat + L_ckd + L_cls + L_reg.

    Args:
        student, teacher: Shapes of the pair.
        components: Settings by name (`COMPONENTS`, `RIVALS`), each with a 'weight'. One of weight
            0 is not built.

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
        self.weights = {
            name: weight * student.loss_weight
            for name, weight in active_weights(components).items()
        }
        self.components, kinds = nn.ModuleDict(), COMPONENTS | RIVALS
        for name in self.weights:
            settings = {k: v for k, v in components[name].items() if k != "weight"}
            try:
                self.components[name] = kinds[name](student, teacher, **settings)
            except TypeError as error:
                known = ", ".join(list(signature(kinds[name]).parameters)[2:]) or "none"
                raise ValueError(
                    f"distillation component {name!r}: {error}; its settings beside weight: {known}"
                ) from error

    def forward(self, student: RoIOutputs, teacher: RoIOutputs) -> dict[str, Tensor]:
        """Weighted losses as 'kd_NAME_loss', diagnostics as 'kd_NAME_...' (never with 'loss').

        Raises:
            ValueError: The views are not of the same boxes, or lack what a component needs.
        """
        self._check(student, teacher)
        losses, counts, shown = [], [], {}
        for name, component in self.components.items():
            loss, count, extra = component(student, teacher)
            losses.append(self.weights[name] * loss)
            counts.append(count)
            shown.update({f"kd_{name}_{key}": value for key, value in extra.items()})
        scales = ddp_loss_scale(torch.stack(counts))
        result = {
            f"kd_{name}_loss": loss * scale
            for name, loss, scale in zip(self.components, losses, scales, strict=True)
        }
        return result | shown

    def undo(self) -> None:
        """Take back what the last forward pass left behind: the rows of the memory queue."""
        if "contrastive" in self.components:
            self.components["contrastive"].queue.undo()

    def _check(self, student: RoIOutputs, teacher: RoIOutputs) -> None:
        rows = [len(student.rois), len(student.representation), len(teacher.representation)]
        if len(set(rows)) != 1:
            raise ValueError(
                "expected both detectors to look at the same boxes, got {} rois, {} "
                "representations of the student and {} of the teacher".format(*rows)
            )


def active_weights(components: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The weights above 0, by component; checks names and weights."""
    weights = {}
    for name, settings in components.items():
        if name not in COMPONENTS | RIVALS:
            raise ValueError(
                "expected distillation components among "
                f"{sorted(COMPONENTS)}, or rivals among {sorted(RIVALS)}, got {name!r}"
            )
        weight = settings.get("weight") if isinstance(settings, Mapping) else None
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ValueError(
                f"distillation component {name!r}: expected a finite weight >= 0, got {weight!r}"
            )
        if weight:
            weights[name] = float(weight)
    return weights


def ddp_loss_scale(counts: Tensor) -> Tensor:
    """What makes DDP's average of per-rank means the mean over the union: N_rank * world / N."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return torch.ones_like(counts)
    total = counts.clone()
    dist.all_reduce(total)
    return counts * dist.get_world_size() / total.clamp(min=1)


def first_of_each_image(rois: Tensor, count: int) -> Tensor:
    """Indices of the first `count` boxes of every image of rois (N, 5), in their order."""
    same = rois[:, 0] == rois[:, 0, None]
    place = same.tril(-1).sum(1)
    return (place < count).nonzero().squeeze(1)


def _projection(kind: str, inputs: int, dim: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(inputs, dim)
    if kind == "nonlinear":
        return nn.Sequential(
            nn.Linear(inputs, inputs), nn.ReLU(inplace=True), nn.Linear(inputs, dim)
        )
    raise ValueError(f"projection: expected 'linear' or 'nonlinear', got {kind!r}")
