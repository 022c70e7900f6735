"""Faster R-CNN and its kin: detectors with a `StandardRoIHead` on a feature pyramid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.cascade_roi_head import CascadeRoIHead
from mmdet.structures import SampleList
from torch import Tensor, nn

from gdetkd.detectors.adapters import Adapter, Recording, register
from gdetkd.views import DetectorSpec, DetectorView


@register
class TwoStageAdapter(Adapter):
    """Taps of a two-stage detector.

    The RoI extractor's inputs are the pyramid and the boxes; the input of `fc_cls` is the
    representation; the box head returns logits and deltas. A head that runs forward more than
    once in a loss (OHEM, PISA and Double Head do) is read at its last call, which feeds the loss.
    """

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        head = getattr(detector, "roi_head", None)
        return (
            isinstance(detector, TwoStageDetector)
            and isinstance(head, StandardRoIHead)
            and not isinstance(head, CascadeRoIHead)
            and not head.with_shared_head
        )

    @property
    def head(self) -> StandardRoIHead:
        return self.detector.roi_head

    def spec(self) -> DetectorSpec:
        box_head, extractor = self.head.bbox_head, self.head.bbox_roi_extractor
        classes = getattr(box_head, "num_classes", None)
        layer = getattr(box_head, "fc_cls", None)
        if not isinstance(layer, nn.Linear) or layer.out_features != classes + 1:
            raise ValueError(
                f"{self.name}: expected a box head whose fc_cls is linear with {classes} + 1 "
                f"outputs, got {type(box_head).__name__} with fc_cls {layer}"
            )
        coder = box_head.bbox_coder
        if not hasattr(coder, "stds") or len(coder.stds) != 4:
            raise ValueError(
                f"{self.name}: expected a box coder of four deltas with target_stds "
                f"(DeltaXYWHBBoxCoder), got {type(coder).__name__}"
            )
        if not getattr(box_head, "with_reg", True):
            raise ValueError(
                f"{self.name}: expected a box head that regresses, got {type(box_head).__name__} "
                f"of {type(self.head).__name__} with no regression (with_reg=False)"
            )
        return DetectorSpec(
            name=f"{self.name} ({type(self.detector).__name__})",
            num_classes=classes,
            channels=extractor.out_channels,
            strides=tuple(extractor.featmap_strides),
            pooled_size=tuple(extractor.roi_layers[0].output_size),
            representation_dim=layer.in_features,
            class_shared_regression=bool(box_head.reg_class_agnostic),
            delta_stds=tuple(float(std) for std in coder.stds),
        )

    @contextmanager
    def record(self) -> Iterator[_TwoStageRecording]:
        with _taps(self.head) as recording:
            yield recording

    def look(self, images: Tensor, rois: Tensor) -> DetectorView:
        pyramid = self.detector.extract_feat(images)
        with _taps(self.head) as recording:
            self.head._bbox_forward(pyramid, rois)
        return recording.view()

    def heads(self) -> dict[str, nn.Module]:
        heads = {"rpn_head": self.detector.rpn_head, "roi_head.bbox_head": self.head.bbox_head}
        if self.head.with_mask:
            heads["roi_head.mask_head"] = self.head.mask_head
        return heads


class _TwoStageRecording(Recording):
    def __init__(self, head: StandardRoIHead) -> None:
        self.head = head
        self.rois = self.pyramid = self.pooled = None
        self.representation = self.logits = self.deltas = self.labels = None

    def view(self, batch_data_samples: SampleList | None = None) -> DetectorView:
        box_head = self.head.bbox_head
        if self.logits is None or len(self.logits) != len(self.rois):
            raise RuntimeError(
                f"{type(self.head).__name__}: expected its loss to end with one pass of the box "
                f"head over the boxes it pooled ({_count(self.rois)}), got {_count(self.logits)} "
                "rows of logits; this head is not supported"
            )
        coder = box_head.bbox_coder
        deltas = self.deltas.view(len(self.rois), self.deltas.shape[1] // 4, 4).float()
        deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
        return DetectorView(
            rois=self.rois.detach(),
            pyramid=self.pyramid,
            pooled=self.pooled,
            representation=self.representation,
            logits=self.logits,
            deltas=deltas,
            labels=self.labels,
        )


@contextmanager
def _taps(head: StandardRoIHead) -> Iterator[_TwoStageRecording]:
    """Listen to a RoI head while the block runs. Bound to this instance, gone afterwards."""
    taps = _TwoStageRecording(head)
    box_head, get_targets = head.bbox_head, head.bbox_head.get_targets

    def on_pooled(_, inputs, pooled):
        # The extractor casts its inputs under AMP: these are from before the cast. Double Head
        # pools the same boxes a second time, enlarged, for its regression; the first is the box.
        pyramid, rois = inputs[0], inputs[1]
        if taps.rois is not rois:
            taps.pyramid, taps.rois, taps.pooled = pyramid, rois, pooled

    def on_representation(_, inputs):
        taps.representation = inputs[0]

    def on_predicted(_, __, outputs):
        taps.logits, taps.deltas = outputs

    def on_targets(*args, **kwargs):
        targets = get_targets(*args, **kwargs)
        labels = targets[0]
        taps.labels = labels if isinstance(labels, Tensor) else torch.cat(labels)
        return targets

    handles = [
        head.bbox_roi_extractor.register_forward_hook(on_pooled),
        box_head.fc_cls.register_forward_pre_hook(on_representation),
        box_head.register_forward_hook(on_predicted),
    ]
    box_head.get_targets = on_targets  # on the instance, in front of the method
    try:
        yield taps
    finally:
        del box_head.get_targets
        for handle in handles:
            handle.remove()


def _count(rows: Tensor | None) -> int:
    return 0 if rows is None else len(rows)
