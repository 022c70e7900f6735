"""R-CNNs: detectors whose RoI head pools boxes from a feature map, a pyramid or in a cascade."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import SparseRoIHead, StandardRoIHead
from mmdet.models.roi_heads.cascade_roi_head import CascadeRoIHead
from mmdet.models.roi_heads.multi_instance_roi_head import MultiInstanceRoIHead
from mmdet.structures import SampleList
from torch import Tensor, nn

from gdetkd.detectors.adapter import Size, register
from gdetkd.detectors.mmdet.base import MMDetAdapter, check_levels
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs


@register
class TwoStageAdapter(MMDetAdapter):
    """Faster R-CNN with FPN or C4, Mask R-CNN, Cascade R-CNN and detectors built like them.

    The RoI extractor's inputs are the pyramid and the boxes; the input of `fc_cls` is the
    representation (C4: the pooled res5 feature); the box head returns logits and deltas. A head
    that runs forward more than once in a loss (OHEM, PISA and Double Head do) is read at its last
    call, which feeds the loss. Every stage of a cascade is read by itself. A Hybrid Task Cascade
    adds features of its semantic branch to the pooled boxes, of which these are then the sum; an
    SCNet adds a feature of the whole image too, but not to what is recorded. A Grid R-CNN's and a
    SABL's boxes have no deltas. A TridentNet is trained on every image once per branch.

    Args:
        levels: Of the neck's maps, finest first, so many take part of a student; by default those
            that boxes are pooled from. With 5, features are imitated on P6 too.
    """

    def __init__(self, detector: nn.Module, name: str, levels: int | None = None) -> None:
        super().__init__(detector, name)
        self.levels = levels

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        head = getattr(detector, "roi_head", None)
        rcnn = isinstance(head, StandardRoIHead | CascadeRoIHead)
        queries = isinstance(head, SparseRoIHead)
        return isinstance(detector, TwoStageDetector) and rcnn and not queries

    @property
    def copies(self) -> int:
        return getattr(self.detector, "num_branch", 1) if self.detector.training else 1

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
        if isinstance(self.head, MultiInstanceRoIHead):
            raise ValueError(
                f"{self.title}: expected a box head that gives a box one class, "
                f"{type(self.head).__name__} gives each two, of two objects; it cannot be distilled"
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
        strides = tuple(extractor.featmap_strides)
        if self.levels is not None:
            generator = getattr(getattr(self.detector, "rpn_head", None), "prior_generator", None)
            if generator is not None:  # the RPN reads all of the neck's levels
                strides = tuple(stride for stride, _ in generator.strides)
            strides = strides[: check_levels(self.levels, len(strides), name)]
        return DetectorSpec(
            name=name,
            num_classes=classes,
            channels=extractor.out_channels,
            strides=strides,
            pooled_size=tuple(extractor.roi_layers[0].output_size),
            representation_dim=layer.in_features,
            scores="softmax",
            class_shared_regression=bool(box_head.reg_class_agnostic),
            delta_stds=delta_stds(box_head),
            loss_weight=float(weight),
        )

    @contextmanager
    def hook_outputs(self) -> Iterator[TwoStageRecorder]:
        with ExitStack() as stack:
            stages = [stack.enter_context(recorded(*stage[:2])) for stage in self.stages()]
            yield TwoStageRecorder(stages, stack.enter_context(self._neck()), self.levels)

    @contextmanager
    def _neck(self) -> Iterator[list[Sequence[Tensor]]]:
        """All levels of the neck, if boxes are not pooled from some of those wanted."""
        found: list[Sequence[Tensor]] = []
        if self.levels is None or not self.detector.with_neck:
            yield found
            return
        handle = self.detector.neck.register_forward_hook(lambda _, __, out: found.append(out))
        try:
            yield found
        finally:
            handle.remove()

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
        if getattr(self.head, "with_glbctx", False):
            semantic["glbctx_feat"] = self.head.glbctx_head(pyramid)[1]
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
    """What passed through each stage, and the neck's levels if they count."""

    def __init__(
        self,
        stages: list[FeatureRecorder],
        neck: Sequence[Sequence[Tensor]] = (),
        levels: int | None = None,
    ) -> None:
        self.stages, self.neck, self.levels = stages, neck, levels

    def outputs(self, batch_data_samples: SampleList | None = None) -> list[RoIOutputs]:
        outputs: list[RoIOutputs] = []
        for stage in self.stages:
            # A cascade ends at a stage without any boxes; the later ones have none either.
            ended = outputs and stage.logits is None and not len(outputs[-1].rois)
            outputs.append(outputs[-1] if ended else stage.outputs())
            if self.levels is not None:
                neck = self.neck[-1] if self.neck else outputs[-1].pyramid
                outputs[-1].pyramid = tuple(neck)[: self.levels]
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
        deltas = None
        if delta_stds(self.box_head) is not None:
            coder = self.box_head.bbox_coder
            deltas = self.deltas.view(len(self.rois), self.deltas.shape[1] // 4, 4).float()
            deltas = _by_coordinate(deltas, coder.stds, coder.means)
        return RoIOutputs(
            rois=self.rois.detach(),
            pyramid=self.pyramid,
            pooled=self.pooled,
            representation=self.representation,
            logits=self.logits,
            deltas=deltas,
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
        recorder.logits, recorder.deltas = outputs[:2]

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


def delta_stds(box_head: nn.Module) -> tuple[float, ...] | None:
    """By what the head divides its four deltas; None where it codes boxes in another way."""
    stds = getattr(box_head.bbox_coder, "stds", ())
    regresses = getattr(box_head, "with_reg", True)
    return tuple(float(std) for std in stds) if regresses and len(stds) == 4 else None


def _by_coordinate(deltas: Tensor, scale: Sequence[float], shift: Sequence[float]) -> Tensor:
    """deltas (N, C, 4) x scale + shift, (4,) each, as Python numbers: nothing waits for a GPU."""
    columns = zip(deltas.unbind(-1), scale, shift, strict=True)
    return torch.stack([column * a + b for column, a, b in columns], -1)


def _count(rows: Tensor | None) -> int:
    return 0 if rows is None else len(rows)
