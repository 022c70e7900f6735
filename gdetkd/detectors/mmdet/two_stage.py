"""R-CNNs: detectors whose RoI head pools boxes from a feature map, a pyramid or in a cascade."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from mmdet.models.detectors import TridentFasterRCNN, TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.cascade_roi_head import CascadeRoIHead
from mmdet.models.roi_heads.scnet_roi_head import SCNetRoIHead
from mmdet.structures import SampleList
from torch import Tensor, nn

from gdetkd.detectors.adapter import Size, register
from gdetkd.detectors.mmdet.base import MMDetAdapter
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs


@register
class TwoStageAdapter(MMDetAdapter):
    """Faster R-CNN with FPN or C4, Mask R-CNN, Cascade R-CNN and detectors built like them.

    The RoI extractor's inputs are the pyramid and the boxes; the input of `fc_cls` is the
    representation (C4: the pooled res5 feature); the box head returns logits and deltas. A head
    that runs forward more than once in a loss (OHEM, PISA and Double Head do) is read at its last
    call, which feeds the loss. Every stage of a cascade is read by itself. A Hybrid Task Cascade
    adds features of its semantic branch to the pooled boxes, of which these are then the sum.
    """

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        head = getattr(detector, "roi_head", None)
        return isinstance(detector, TwoStageDetector) and isinstance(
            head, StandardRoIHead | CascadeRoIHead
        )

    @property
    def head(self) -> StandardRoIHead | CascadeRoIHead:
        return self.detector.roi_head

    def stages(self) -> list[tuple[nn.Module, nn.Module, float]]:
        """RoI extractor, box head and loss weight of each stage."""
        head = self.head
        if isinstance(head, CascadeRoIHead):
            return list(
                zip(head.bbox_roi_extractor, head.bbox_head, head.stage_loss_weights, strict=True)
            )
        return [(head.bbox_roi_extractor, head.bbox_head, 1.0)]

    def specs(self) -> list[DetectorSpec]:
        if isinstance(self.head, SCNetRoIHead):
            raise ValueError(
                f"{self.title}: expected a box head that sees "
                "boxes alone, SCNet's adds a feature of the whole image; this head is not supported"
            )
        if isinstance(self.detector, TridentFasterRCNN):
            raise ValueError(
                f"{self.title}: expected one feature map per image and level, TridentNet has one "
                "per branch; this detector is not supported"
            )
        stages = self.stages()
        names = [f", stage {index}" if len(stages) > 1 else "" for index in range(len(stages))]
        return [
            self._spec(*stage, f"{self.title[:-1]}{name})")
            for stage, name in zip(stages, names, strict=True)
        ]

    def _spec(
        self, extractor: nn.Module, box_head: nn.Module, weight: float, name: str
    ) -> DetectorSpec:
        classes = getattr(box_head, "num_classes", None)
        layer = getattr(box_head, "fc_cls", None)
        if not isinstance(layer, nn.Linear) or layer.out_features != classes + 1:
            raise ValueError(
                f"{name}: expected a box head whose fc_cls is linear with {classes} + 1 "
                f"outputs, got {type(box_head).__name__} with fc_cls {layer}"
            )
        if getattr(box_head.loss_cls, "use_sigmoid", False):
            raise ValueError(
                f"{name}: expected a box head trained with softmax, got loss_cls "
                f"{type(box_head.loss_cls).__name__} with use_sigmoid=True"
            )
        coder = box_head.bbox_coder
        if not hasattr(coder, "stds") or len(coder.stds) != 4:
            raise ValueError(
                f"{name}: expected a box coder of four deltas with target_stds "
                f"(DeltaXYWHBBoxCoder), got {type(coder).__name__}"
            )
        if not getattr(box_head, "with_reg", True):
            raise ValueError(
                f"{name}: expected a box head that regresses, got {type(box_head).__name__} "
                f"of {type(self.head).__name__} with no regression (with_reg=False)"
            )
        return DetectorSpec(
            name=name,
            num_classes=classes,
            channels=extractor.out_channels,
            strides=tuple(extractor.featmap_strides),
            pooled_size=tuple(extractor.roi_layers[0].output_size),
            representation_dim=layer.in_features,
            scores="softmax",
            class_shared_regression=bool(box_head.reg_class_agnostic),
            delta_stds=tuple(float(std) for std in coder.stds),
            loss_weight=float(weight),
        )

    @contextmanager
    def hook_outputs(self) -> Iterator[TwoStageRecorder]:
        with ExitStack() as stack:
            yield TwoStageRecorder(
                [stack.enter_context(recorded(*stage[:2])) for stage in self.stages()]
            )

    def forward_rois(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        stages: Sequence[int],
        sizes: Sequence[Size] | None = None,
    ) -> list[RoIOutputs]:
        pyramid = self.detector.extract_feat(images)
        outputs, parts, semantic = [], self.stages(), {}
        if getattr(self.head, "with_semantic", False):
            semantic["semantic_feat"] = self.head.semantic_head(pyramid)[1]
        for rois, stage in zip(boxes, stages, strict=True):
            which = (stage,) if isinstance(self.head, CascadeRoIHead) else ()
            with recorded(*parts[stage][:2]) as features:
                self.head._bbox_forward(*which, pyramid, rois, **semantic)
            outputs.append(features.outputs())
        return outputs

    def heads(self) -> dict[str, nn.Module]:
        heads = {"rpn_head": getattr(self.detector, "rpn_head", None)}
        for name in ("shared_head", "bbox_head", "mask_head"):
            heads[f"roi_head.{name}"] = getattr(self.head, name, None)
        return {name: head for name, head in heads.items() if head is not None}


class TwoStageRecorder:
    """What passed through each stage."""

    def __init__(self, stages: list[FeatureRecorder]) -> None:
        self.stages = stages

    def outputs(self, batch_data_samples: SampleList | None = None) -> list[RoIOutputs]:
        outputs: list[RoIOutputs] = []
        for stage in self.stages:
            # A cascade ends at a stage without any boxes; the later ones have none either.
            ended = outputs and stage.logits is None and not len(outputs[-1].rois)
            outputs.append(outputs[-1] if ended else stage.outputs())
        return outputs


class FeatureRecorder:
    """What passed through one stage."""

    def __init__(self, box_head: nn.Module) -> None:
        self.box_head, self.pending = box_head, None
        self.rois = self.pyramid = self.pooled = None
        self.representation = self.logits = self.deltas = self.labels = None

    def outputs(self) -> RoIOutputs:
        if self.logits is None or len(self.logits) != len(self.rois):
            raise RuntimeError(
                f"{type(self.box_head).__name__}: expected its loss to end with one pass of the "
                f"box head over the boxes it pooled ({_count(self.rois)}), got "
                f"{_count(self.logits)} rows of logits; this head is not supported"
            )
        coder = self.box_head.bbox_coder
        deltas = self.deltas.view(len(self.rois), self.deltas.shape[1] // 4, 4).float()
        return RoIOutputs(
            rois=self.rois.detach(),
            pyramid=self.pyramid,
            pooled=self.pooled,
            representation=self.representation,
            logits=self.logits,
            deltas=_by_coordinate(deltas, coder.stds, coder.means),
            labels=self.labels,
        )


@contextmanager
def recorded(extractor: nn.Module, box_head: nn.Module) -> Iterator[FeatureRecorder]:
    """Record a stage while the block runs. Hooks are on these instances, and removed after it."""
    recorder, get_targets = FeatureRecorder(box_head), box_head.get_targets

    def on_pooled(_, inputs, pooled):
        # The extractor casts its inputs under AMP: these are from before the cast. Double Head
        # pools the same boxes a second time, enlarged, for its regression; the first is the box.
        pyramid, rois = inputs[0], inputs[1]
        if recorder.pending is None or recorder.pending[1] is not rois:
            recorder.pending = pyramid, rois, pooled

    def on_representation(_, inputs):
        recorder.representation = inputs[0]

    def on_predicted(_, __, outputs):
        # What is pooled later without a prediction is for masks.
        recorder.pyramid, recorder.rois, recorder.pooled = recorder.pending
        recorder.logits, recorder.deltas = outputs

    def on_targets(*args, **kwargs):
        targets = get_targets(*args, **kwargs)
        labels = targets[0]
        recorder.labels = labels if isinstance(labels, Tensor) else torch.cat(labels)
        return targets

    handles = [
        extractor.register_forward_hook(on_pooled),
        box_head.fc_cls.register_forward_pre_hook(on_representation),
        box_head.register_forward_hook(on_predicted),
    ]
    box_head.get_targets = on_targets  # on the instance, in front of the method
    try:
        yield recorder
    finally:
        del box_head.get_targets
        for handle in handles:
            handle.remove()


def _by_coordinate(deltas: Tensor, scale: Sequence[float], shift: Sequence[float]) -> Tensor:
    """deltas (N, C, 4) x scale + shift, (4,) each, as Python numbers: nothing waits for a GPU."""
    columns = zip(deltas.unbind(-1), scale, shift, strict=True)
    return torch.stack([column * a + b for column, a, b in columns], -1)


def _count(rows: Tensor | None) -> int:
    return 0 if rows is None else len(rows)
