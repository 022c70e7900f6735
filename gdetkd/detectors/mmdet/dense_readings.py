"""The heads that MMDetection has, each with the reading that fits: `read_head`.

Most decode boxes in the usual way (`DenseHead`). A head with a way of its own has a class here, of
the few lines in which it differs; any other is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmdet.models import dense_heads as heads
from mmdet.models.dense_heads.atss_vlfusion_head import ATSSVLFusionHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.dense_heads.condinst_head import CondInstBboxHead
from mmdet.models.dense_heads.rtmdet_ins_head import RTMDetInsHead
from torch import Tensor, nn

from gdetkd.detectors.mmdet.dense_heads import DenseHead, Outputs, flat

EPSILON = 1e-6  # of a probability, where a head gives no logits: a step of float32 near 1


class SSD(DenseHead):
    names = ("cls_convs", "reg_convs")


class YOLOF(DenseHead):
    names = ("cls_score", "bbox_pred")


class YOLOX(DenseHead):
    """A box's probability of a class is the class's times the objectness."""

    def logits(self, outputs: Outputs) -> list[Tensor]:
        return [product_logits(*level) for level in zip(outputs[0], outputs[2], strict=True)]

    def decode(self, outputs: Outputs) -> list[Tensor]:
        levels = self.with_priors(outputs[1], with_stride=True)
        return [self.head._bbox_decode(prior, flat(level)) for level, prior, _ in levels]


class YOLOv3(DenseHead):
    """One map: of each anchor a box, the objectness, and the classes that an object may have."""

    names = ("convs_pred", "convs_pred")

    @property
    def columns(self) -> int:
        return self.head.num_classes

    def _predicts_classes(self, layers: Sequence[nn.Conv2d]) -> bool:
        return True

    def logits(self, outputs: Outputs) -> list[Tensor]:
        maps = [level.unflatten(1, (-1, self.head.num_attrib)) for level in outputs[0]]
        return [product_logits(m[:, :, 5:], m[:, :, 4:5]).flatten(1, 2) for m in maps]

    def decode(self, outputs: Outputs) -> list[Tensor]:
        levels = []
        for level, prior, stride in self.with_priors(outputs[0]):
            values = flat(level, self.head.num_attrib)[..., :4]
            values = torch.cat([values[..., :2].sigmoid(), values[..., 2:]], -1)
            levels.append(self.head.bbox_coder.decode(prior, values, stride))
        return levels


class TOOD(DenseHead):
    """Gives probabilities, and boxes in strides."""

    def logits(self, outputs: Outputs) -> list[Tensor]:
        return [level.logit(EPSILON) for level in outputs[0]]

    def decode(self, outputs: Outputs) -> list[Tensor]:
        return [flat(level) * s for level, s in zip(outputs[1], self.strides, strict=True)]


class SABL(DenseHead):
    """A side of a box is a bucket and an offset within it."""

    names = ("retina_cls", "retina_bbox_reg")
    priors = "square_anchor_generator"
    border = 1.0

    def decode(self, outputs: Outputs) -> list[Tensor]:
        buckets, offsets = zip(*outputs[1], strict=True)
        levels, width = [], 4 * self.head.side_num
        for (bucket, prior, _), offset in zip(self.with_priors(buckets), offsets, strict=True):
            values = [flat(maps, width).flatten(0, 1) for maps in (bucket, offset)]
            boxes, _ = self.head.bbox_coder.decode(prior.repeat(len(bucket), 1), values)
            levels.append(boxes.reshape(len(bucket), -1, 4))
        return levels


class FoveaBox(DenseHead):
    """Distances from a cell in units of its level's base edge, in exponents."""

    border = 1.0

    @property
    def sides(self) -> list[float]:
        return [float(edge) for edge in self.head.base_edge_list]

    def decode(self, outputs: Outputs) -> list[Tensor]:
        levels = []
        for (level, prior, _), side in zip(self.with_priors(outputs[1]), self.sides, strict=True):
            distance = side * flat(level).exp()
            levels.append(torch.cat([prior - distance[..., :2], prior + distance[..., 2:]], -1))
        return levels


class RepPoints(DenseHead):
    """A box around a set of points."""

    names = ("reppoints_cls_out", "reppoints_pts_refine_out")

    def decode(self, outputs: Outputs) -> list[Tensor]:
        maps = outputs[1]
        if len(outputs) > 2:  # in training the points, first ones and refined ones
            maps = [self.head.points2bbox(level.detach()) for level in outputs[2]]
        return [
            flat(level) * stride + point.repeat(1, 2)
            for level, point, stride in self.with_priors(maps)
        ]


class CenterNet(DenseHead):
    """One level: a heatmap per class, sizes and offsets of boxes in cells."""

    names = ("heatmap_head", "wh_head")
    strides, anchors, sides = [4.0], [1], [32.0]

    def logits(self, outputs: Outputs) -> list[Tensor]:
        return [level.logit(EPSILON) for level in outputs[0]]

    def decode(self, outputs: Outputs) -> list[Tensor]:
        size, offset = (flat(maps[0], 2) for maps in outputs[1:3])
        height, width = outputs[0][0].shape[-2:]
        rows, columns = torch.meshgrid(
            torch.arange(height, device=size.device),
            torch.arange(width, device=size.device),
            indexing="ij",
        )
        center = torch.stack([columns.flatten(), rows.flatten()], 1) + offset
        return [torch.cat([center - size / 2, center + size / 2], -1) * self.strides[0]]


class GuidedAnchoring(DenseHead):
    """Anchors whose shapes the head predicts."""

    priors = "square_anchor_generator"

    def forward(self, pyramid: Sequence[Tensor]) -> Outputs:
        mode = self.head.training  # without it the head predicts only where it expects objects
        self.head.training = True
        try:
            return self.head(pyramid)
        finally:
            self.head.training = mode

    def decode(self, outputs: Outputs) -> list[Tensor]:
        levels = []
        for (level, prior, _), shape in zip(self.with_priors(outputs[1]), outputs[2], strict=True):
            deltas = nn.functional.pad(flat(shape, 2).flatten(0, 1), (2, 0))
            squares = prior.repeat(len(level), 1)
            anchors = self.head.anchor_coder.decode(squares, deltas, wh_ratio_clip=1e-6)
            boxes = self.head.bbox_coder.decode(anchors, flat(level).flatten(0, 1))
            levels.append(boxes.reshape(len(level), -1, 4))
        return levels


# The reading of a head, by the function with which it decodes: a subclass with another is refused.
READINGS: dict[Callable, type[DenseHead]] = {
    heads.YOLOXHead.predict_by_feat: YOLOX,
    heads.YOLOV3Head.predict_by_feat: YOLOv3,
    heads.TOODHead._predict_by_feat_single: TOOD,
    heads.SABLRetinaHead._predict_by_feat_single: SABL,
    heads.FoveaHead._predict_by_feat_single: FoveaBox,
    heads.RepPointsHead._predict_by_feat_single: RepPoints,
    heads.CenterNetHead._predict_by_feat_single: CenterNet,
    heads.GuidedAnchorHead._predict_by_feat_single: GuidedAnchoring,
    heads.GARPNHead._predict_by_feat_single: GuidedAnchoring,
} | {
    head._predict_by_feat_single: DenseHead
    for head in (
        BaseDenseHead,
        heads.GFLHead,
        heads.PAAHead,
        heads.RPNHead,
        heads.YOLACTHead,
        CondInstBboxHead,
        RTMDetInsHead,
    )
}
LAYERS = {heads.SSDHead: SSD, heads.YOLOFHead: YOLOF}  # layers named otherwise, usual boxes
IMPOSSIBLE = {
    heads.CornerHead: "pairs corners to boxes, so that no location of it predicts a box",
    ATSSVLFusionHead: "scores boxes by a text, so that it has no classes of its own",
}


def read_head(head: BaseDenseHead, title: str) -> DenseHead:
    """The reading of a head.

    Raises:
        ValueError: It decodes boxes in a way that is not known, or has no boxes per location.
    """
    for kind, reason in IMPOSSIBLE.items():
        if isinstance(head, kind):
            raise ValueError(
                f"{title}: expected a dense head that predicts boxes and classes at its locations, "
                f"but {type(head).__name__} {reason}; this head cannot be distilled"
            )
    for kind, reading in LAYERS.items():
        if isinstance(head, kind):
            return reading(head, title)
    for method in ("predict_by_feat", "_predict_by_feat_single"):
        reading = READINGS.get(getattr(type(head), method, None))
        if reading is not None:
            return reading(head, title)
    raise ValueError(
        f"{title}: expected a dense head that decodes boxes as one of MMDetection's that are "
        f"supported does, but {type(head).__name__} does it in its own way; this head is not "
        "supported"
    )


def product_logits(classes: Tensor, objectness: Tensor) -> Tensor:
    """The logit of sigmoid(classes) x sigmoid(objectness), of the shape of `classes`.

    1 / (p q) - 1 = exp(-x) + exp(-y) + exp(-x - y).
    """
    x, y = classes.float(), objectness.float().expand_as(classes)
    return x + y - torch.logaddexp(torch.logaddexp(x, y), torch.zeros_like(x))
