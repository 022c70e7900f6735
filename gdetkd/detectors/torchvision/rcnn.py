"""torchvision's Faster R-CNN and the detectors built on it (Mask R-CNN, Keypoint R-CNN)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.rpn import RegionProposalNetwork

from gdetkd.detectors.adapter import Size, TrainingPass, register
from gdetkd.detectors.locations import as_rois
from gdetkd.detectors.torchvision.base import PROBE, TorchvisionAdapter
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs


@register
class RCNNAdapter(TorchvisionAdapter):
    """Faster R-CNN on any backbone of torchvision, with or without a pyramid.

    Images and targets are torchvision's: a list of (3, H, W) in 0 to 1, and a list of dicts with
    `boxes` (n, 4) and `labels` (n,) from 1. The boxes of distillation are in pixels of the images
    as the model's own transform resizes them. The background, torchvision's class 0, becomes the
    last column.
    """

    detector: FasterRCNN

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        return isinstance(detector, FasterRCNN)

    def specs(self) -> list[DetectorSpec]:
        head = self.detector.roi_heads
        layer = getattr(head.box_predictor, "cls_score", None)
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"{self.title}: expected roi_heads.box_predictor with a linear cls_score, got "
                f"{type(head.box_predictor).__name__}"
            )
        return [
            DetectorSpec(
                name=self.title,
                num_classes=layer.out_features - 1,
                channels=self.detector.backbone.out_channels,
                strides=self._strides,
                pooled_size=tuple(head.box_roi_pool.output_size),
                representation_dim=layer.in_features,
                delta_stds=self._delta_stds,
            )
        ]

    @property
    def _delta_stds(self) -> tuple[float, ...]:
        """Targets are multiplied by the coder's weights: divided by their inverses."""
        return tuple(1 / weight for weight in self.detector.roi_heads.box_coder.weights)

    @cached_property
    def _strides(self) -> tuple[float, ...]:
        """Of the pooled levels."""
        return tuple(float(PROBE // level.shape[-1]) for level in self._pooled_levels(self.probe()))

    def _pooled_levels(self, features: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The levels that boxes are pooled from; others are the RPN's alone."""
        names = self.detector.roi_heads.box_roi_pool.featmap_names
        return tuple(level for name, level in features.items() if name in names)

    def training_pass(self, images: Any, targets: Any) -> TrainingPass:
        with self.recorded() as recorder:
            losses = self.losses(images, targets)
        batch, resized = recorder.transformed
        outputs = recorder.outputs()
        outputs.gt_boxes = as_rois([target["boxes"] for target in resized])
        return TrainingPass(losses, batch.tensors, list(batch.image_sizes), [outputs])

    def forward_rois(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        stages: Sequence[int],
        sizes: Sequence[Size] | None = None,
    ) -> list[RoIOutputs]:
        features, head = self.pyramid(images), self.detector.roi_heads
        shapes = [tuple(images.shape[-2:])] * len(images)
        outputs = []
        for rois in boxes:
            proposals = [rois[rois[:, 0] == index, 1:] for index in range(len(images))]
            with self.recorded() as recorder:
                head.box_predictor(head.box_head(head.box_roi_pool(features, proposals, shapes)))
            outputs.append(recorder.outputs())
        return outputs

    def heads(self) -> dict[str, nn.Module]:
        head = self.detector.roi_heads
        heads = {"rpn": self.detector.rpn}
        for name in ("box_head", "box_predictor", "mask_head", "mask_predictor"):
            heads[f"roi_heads.{name}"] = getattr(head, name, None)
        return {name: part for name, part in heads.items() if part is not None}

    def head_conventions(self, head: nn.Module) -> dict[str, object]:
        if isinstance(head, RegionProposalNetwork):
            anchors = head.anchor_generator
            return dict(sizes=anchors.sizes, aspect_ratios=anchors.aspect_ratios)
        if head is self.detector.roi_heads.box_predictor:
            return dict(box_coder=tuple(self.detector.roi_heads.box_coder.weights))
        return {}

    @contextmanager
    def recorded(self) -> Iterator[FeatureRecorder]:
        """Record a pass of the RoI head; hooks are on this detector, and removed after it."""
        recorder, head = FeatureRecorder(self), self.detector.roi_heads
        select = head.select_training_samples

        def on_transformed(_, __, output):
            recorder.transformed = output

        def on_pooled(_, inputs, pooled):
            features, proposals = inputs[:2]
            recorder.pyramid, recorder.proposals = self._pooled_levels(features), proposals
            recorder.pooled = pooled

        def on_predicted(_, inputs, output):
            recorder.representation, (recorder.logits, recorder.deltas) = inputs[0], output

        def on_selected(*args, **kwargs):
            selected = select(*args, **kwargs)
            recorder.labels = torch.cat(selected[2])
            return selected

        hooks = [
            self.detector.transform.register_forward_hook(on_transformed),
            head.box_roi_pool.register_forward_hook(on_pooled),
            head.box_predictor.register_forward_hook(on_predicted),
        ]
        head.select_training_samples = on_selected  # on the instance, in front of the method
        try:
            yield recorder
        finally:
            del head.select_training_samples
            for hook in hooks:
                hook.remove()


class FeatureRecorder:
    """What passed through the RoI head, in torchvision's conventions."""

    transformed: tuple[Any, Any]
    pyramid: tuple[Tensor, ...]
    proposals: list[Tensor]
    pooled: Tensor
    representation: Tensor
    logits: Tensor
    deltas: Tensor
    labels: Tensor | None = None

    def __init__(self, adapter: RCNNAdapter) -> None:
        self.adapter = adapter

    def outputs(self) -> RoIOutputs:
        """The same in the conventions of `RoIOutputs`."""
        stds = self.deltas.new_tensor(self.adapter._delta_stds, dtype=torch.float32)
        background = self.logits.shape[1] - 1
        labels = self.labels
        if labels is not None:
            labels = torch.where(labels > 0, labels - 1, background)
        return RoIOutputs(
            rois=as_rois(self.proposals).detach(),
            pyramid=self.pyramid,
            pooled=self.pooled,
            representation=self.representation,
            logits=self.logits.roll(-1, dims=1),
            deltas=self.deltas.float().unflatten(1, (-1, 4))[:, 1:] * stds,
            labels=labels,
        )
