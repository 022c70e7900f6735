"""Sparse R-CNN and QueryInst: learned boxes, refined stage by stage, one query each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import SparseRoIHead
from mmdet.structures import SampleList
from torch import Tensor, nn

from gdetkd.detectors.adapter import register
from gdetkd.detectors.mmdet.queries import Queries, QueryAdapter


@register
class SparseRCNNAdapter(QueryAdapter):
    """The queries of the last stage."""

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        head = getattr(detector, "roi_head", None)
        return isinstance(detector, TwoStageDetector) and isinstance(head, SparseRoIHead)

    @property
    def head(self) -> nn.Module:
        return self.detector.roi_head.bbox_head[-1]

    @property
    def width(self) -> int:
        return self.head.fc_cls.in_features

    @contextmanager
    def recorded(self) -> Iterator[list[Queries]]:
        found, seen, roi_head = [], {}, self.detector.roi_head
        forward, last = roi_head._bbox_forward, roi_head.num_stages - 1

        def on_representation(_, inputs):
            seen["representation"] = inputs[0]

        def on_stage(stage, x, *args, **kwargs):
            results = forward(stage, x, *args, **kwargs)
            if stage == last:
                logits = results["cls_score"]
                images = logits.shape[:2]
                representation = seen["representation"].reshape(*images, -1)
                boxes = results["decoded_bboxes"].detach().reshape(*images, 4)
                found.append(Queries(tuple(x), representation, logits, boxes))
            return results

        handle = self.head.fc_cls.register_forward_pre_hook(on_representation)
        roi_head._bbox_forward = on_stage  # on the instance, in front of the method
        try:
            yield found
        finally:
            del roi_head._bbox_forward
            handle.remove()

    def run(self, pyramid: tuple[Tensor, ...], samples: SampleList) -> None:
        metas = [sample.metainfo for sample in samples]
        proposals = self.detector.rpn_head.predict(pyramid, samples, rescale=False)
        roi_head = self.detector.roi_head
        roi_head.predict_bbox(pyramid, metas, proposals, roi_head.test_cfg)

    def heads(self) -> dict[str, nn.Module]:
        return {
            "rpn_head": self.detector.rpn_head,
            "roi_head.bbox_head": self.detector.roi_head.bbox_head,
        }
