"""What distillation needs to know of a detector: its shapes at build time, its outputs at a step.

Both are plain data. An adapter (`gdetkd.detectors`) fills them from a detector; they can as well be
filled by hand.
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
        num_classes: Object classes C; softmax logits have C + 1 columns, the background last.
        channels: Width of the pyramid levels that boxes are pooled from; one for each where they
            differ (SSD).
        strides: Stride of each of those levels, image pixels per cell.
        pooled_size: Bins (h, w) of a pooled box.
        representation_dim: Width of the representation just before the prediction layer.
        scores: What the logits are: 'softmax' (classes and background compete), 'sigmoid' (one
            detector per class, no background column), or None without logits for given boxes.
        class_shared_regression: One regression for all classes (MMDetection's
            `reg_class_agnostic`) instead of one per class.
        delta_stds: The standard deviations (4,) by which the head divides its regression targets;
            None if its regression is not relative to the given boxes.
        edge_bins: Bins of the distribution that a dense head predicts for the distance of each
            edge of a box (GFL); None for other heads.
        loss_weight: The weight of the detector's own losses of this stage.
    """

    name: str
    num_classes: int
    channels: int | tuple[int, ...]
    strides: tuple[float, ...]
    pooled_size: tuple[int, int]
    representation_dim: int
    scores: Literal["softmax", "sigmoid"] | None = "softmax"
    class_shared_regression: bool = False
    delta_stds: tuple[float, float, float, float] | None = None
    edge_bins: int | None = None
    loss_weight: float = 1.0

    @property
    def level_channels(self) -> tuple[int, ...]:
        """The width of each level."""
        if isinstance(self.channels, int):
            return (self.channels,) * len(self.strides)
        return tuple(self.channels)

    @property
    def pooled_channels(self) -> int:
        """The width of a pooled box: the widest level's."""
        return max(self.level_channels)


@dataclass
class RoIOutputs:
    """What a detector computes for a set of boxes at one step.

    Attributes:
        rois: (N, 5) [image, x1, y1, x2, y2], pixels of the batch as the student sees it.
        pyramid: One (B, C, H, W) per level that boxes are pooled from, finest first.
        pooled: (N, C, h, w), each box pooled from the level that the detector itself assigns;
            None where nobody needs it (dense students).
        representation: (N, D), the input of the classification layer.
        logits: (N, classes + 1), background last; (N, classes) from sigmoid heads; None without.
        deltas: (N, classes, 4), or (N, 1, 4) if shared by the classes: (dx, dy, dw, dh) with the
            head's own normalization taken out, so that two detectors' can be compared; None
            without.
        labels: (N,) in [0, C], C = background: the ground-truth class that training assigned to
            each box; None when not known.
        locations: (N,) numbers of the places that predicted the boxes, equal for several anchors of
            one cell; None for detectors that predict one box at each.
        valid_mask: (N,) bool, the boxes for which the representation stands (a DETR does not have
            a query for every box); None for all.
        gt_boxes: (M, 5) [image, x1, y1, x2, y2], the ground-truth boxes; None when not known.
        class_maps: One (B, C, H, W) per level, the class logits of every cell of a head that
            predicts distributions of edges; None for others.
        edge_maps: One (B, 4 bins, H, W) per level, the logits of those distributions: left, top,
            right and bottom, the distance from the cell's center in strides; None for others.
    """

    rois: Tensor
    pyramid: tuple[Tensor, ...]
    pooled: Tensor | None
    representation: Tensor
    logits: Tensor | None = None
    deltas: Tensor | None = None
    labels: Tensor | None = None
    locations: Tensor | None = None
    valid_mask: Tensor | None = None
    gt_boxes: Tensor | None = None
    class_maps: tuple[Tensor, ...] | None = None
    edge_maps: tuple[Tensor, ...] | None = None

    def require(self, fields: tuple[str, ...], expected: str) -> None:
        """Raise ValueError if one of the fields is None; `expected` begins the sentence."""
        for name in fields:
            if getattr(self, name) is None:
                raise ValueError(f"{expected} to have {name}, got None")
