"""DETRs: detectors of queries, which teach features and contrast."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property

import torch
from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.models.detectors.grounding_dino import GroundingDINO
from mmdet.structures import DetDataSample
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou

from gdetkd.detectors.adapter import Size, register
from gdetkd.detectors.mmdet.base import MMDetAdapter, OutputRecorder
from gdetkd.detectors.mmdet.dense_decoding import level_of, pool_from
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs

POOLED = (7, 7)  # bins of a pooled box, as in R-CNNs with FPN
# The side, in cells of its level, of the boxes that a level is for: the middle of the 14 to 28 that
# Lin et al. (Feature Pyramid Networks, CVPR 2017, eq. 1) give it. Ours for a DETR's neck.
CELLS = 20


@register
class DetrAdapter(MMDetAdapter):
    """DETR, Deformable DETR, DINO and their kin, as teachers.

    A DETR has no features of a given box: it has queries, each of which found a box of its own.
    Ours are these two readings. The representation is the last decoder state of the query whose
    predicted box overlaps the given one best; where none does by an IoU of 0.5, the box is not
    valid, and contrastive distillation leaves it out. The pooled feature, of every box, is
    RoIAlign of the neck's level for boxes of its size. There are no scores and no deltas:
    those of a query belong to its own box.
    """

    iou = 0.5

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        # Grounding DINO's queries depend on a text.
        grounded = isinstance(detector, GroundingDINO)
        return isinstance(detector, DetectionTransformer) and not grounded

    def specs(self) -> list[DetectorSpec]:
        head = self.detector.bbox_head
        channels, strides = self._levels
        return [
            DetectorSpec(
                name=self.title,
                num_classes=head.num_classes,
                channels=channels,
                strides=strides,
                pooled_size=POOLED,
                representation_dim=head.embed_dims,
                scores=None,
            )
        ]

    @cached_property
    def _levels(self) -> tuple[int, tuple[int, ...]]:
        """Width and strides of the neck's levels, which no config says: an empty image shows."""
        side = 256
        device = next(self.detector.parameters()).device
        with torch.no_grad():
            pyramid = self.detector.extract_feat(torch.zeros(1, 3, side, side, device=device))
        return pyramid[0].shape[1], tuple(side // level.shape[-1] for level in pyramid)

    def check_student(self) -> None:
        raise ValueError(
            f"{self.name}: expected a student that is trained on boxes, "
            f"{type(self.detector).__name__} is trained on queries that it matches to the truth as "
            "a set; a DETR can be a teacher only"
        )

    def hook_outputs(self) -> AbstractContextManager[OutputRecorder]:
        self.check_student()

    def forward_rois(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        stages: Sequence[int],
        sizes: Sequence[Size] | None = None,
    ) -> list[RoIOutputs]:
        padded = tuple(images.shape[-2:])
        sizes = sizes or [padded] * len(images)
        samples = [
            DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=padded)) for size in sizes
        ]
        pyramid = self.detector.extract_feat(images)
        found = self.detector.forward_transformer(pyramid, samples)
        states = found["hidden_states"][-1]  # of the last decoder layer: (B, queries, D)
        # Predicted boxes are shares of the image without its padding.
        predicted = box_convert(self.detector.bbox_head(**found)[1][-1].float(), "cxcywh", "xyxy")
        extent = predicted.new_tensor([(w, h, w, h) for h, w in sizes])
        predicted = predicted * extent[:, None]
        return [self._outputs(rois, pyramid, states, predicted) for rois in boxes]

    def _outputs(
        self,
        rois: Tensor,
        pyramid: tuple[Tensor, ...],
        states: Tensor,
        predicted: Tensor,
    ) -> RoIOutputs:
        query, overlap = best_of_image(rois, predicted)
        strides = self._levels[1]
        level = level_of(rois, [CELLS * stride for stride in strides])
        return RoIOutputs(
            rois=rois,
            pyramid=pyramid,
            pooled=pool_from(pyramid, rois, level, strides, POOLED),
            representation=states[rois[:, 0].long(), query],
            valid_mask=overlap >= self.iou,
        )

    def heads(self) -> dict[str, nn.Module]:
        return {"bbox_head": self.detector.bbox_head}


def best_of_image(rois: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """For rois (N, 5) the index (N,) and IoU (N,) of the best of their image's boxes (B, Q, 4)."""
    query, overlap = rois.new_zeros(len(rois), dtype=torch.long), rois.new_zeros(len(rois))
    for index, own in enumerate(predicted):
        here = rois[:, 0] == index
        overlap[here], query[here] = box_iou(rois[here, 1:].to(own), own).max(1)
    return query, overlap
