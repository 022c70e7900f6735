"""What distillation needs to know of a detector: its shapes at build time, its features at a step.

Both are plain data. An adapter (`gdetkd.detectors`) fills them from an MMDetection model; they can
as well be filled by hand from any other detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class DetectorSpec:
    """The shapes of a detector that a pair must agree on, known before its first step.

    A detector of several stages (Cascade R-CNN) has one of each.

    Attributes:
        name: How messages call it.
        num_classes: Object classes C; logits have C + 1 columns, the background last.
        channels: Width of the pyramid levels that boxes are pooled from.
        strides: Stride of each of those levels, image pixels a cell.
        pooled_size: Bins (h, w) of a pooled box.
        representation_dim: Width of the representation just before the prediction layer.
        scores: What the logits are: 'softmax' (classes and background compete), 'sigmoid' (a
            detector of each class by itself, no background column), or None without logits for
            given boxes.
        class_shared_regression: One regression for all classes (MMDetection's
            `reg_class_agnostic`) instead of one a class.
        delta_stds: The standard deviations (4,) by which the head divides its regression targets;
            None if its regression is not relative to the given boxes.
        edge_bins: Bins of the distribution that a dense head predicts for the distance of every
            edge of a box (GFL); None of other heads.
        loss_weight: What the detector's own losses of this stage are weighed by.
    """

    name: str
    num_classes: int
    channels: int
    strides: tuple[float, ...]
    pooled_size: tuple[int, int]
    representation_dim: int
    scores: Literal["softmax", "sigmoid"] | None = "softmax"
    class_shared_regression: bool = False
    delta_stds: tuple[float, float, float, float] | None = None
    edge_bins: int | None = None
    loss_weight: float = 1.0


@dataclass
class RoIOutputs:
    """What a detector makes of a set of boxes at one step.

    Attributes:
        rois: (N, 5) [image, x1, y1, x2, y2], pixels of the batch as the student sees it.
        pyramid: One (B, C, H, W) a level that boxes are pooled from.
        pooled: (N, C, h, w), each box pooled from the level that the detector itself assigns;
            None where nobody needs it (dense students).
        representation: (N, D), the input of the classification layer.
        logits: (N, classes + 1), background last; (N, classes) from sigmoid heads; None without.
        deltas: (N, classes, 4), or (N, 1, 4) if shared by the classes: (dx, dy, dw, dh) with the
            head's own normalisation taken out, so that two detectors' can be compared; None
            without.
        labels: (N,) in [0, C], C = background: the ground-truth class that training assigned to
            each box; None when not known.
        known: (N,) bool, the boxes that the representation speaks of (a DETR has no query for
            every box); None for all.
        truth: (M, 5) [image, x1, y1, x2, y2], the ground-truth boxes; None when not known.
        class_maps: One (B, C, H, W) a level, the class logits of every cell of a head that
            predicts distributions of edges; None of others.
        edge_maps: One (B, 4 bins, H, W) a level, the logits of those distributions: left, top,
            right and bottom, the distance from the cell's centre in strides; None of others.
    """

    rois: Tensor
    pyramid: tuple[Tensor, ...]
    pooled: Tensor | None
    representation: Tensor
    logits: Tensor | None = None
    deltas: Tensor | None = None
    labels: Tensor | None = None
    known: Tensor | None = None
    truth: Tensor | None = None
    class_maps: tuple[Tensor, ...] | None = None
    edge_maps: tuple[Tensor, ...] | None = None

    def need(self, field: str, component: str) -> Tensor:
        """A field that a component cannot do without; ValueError, naming both, where it is None."""
        value = getattr(self, field)
        if value is None:
            raise ValueError(f"{component}: expected views with {field} (RoIOutputs), got None")
        return value
