"""Dense detectors: RetinaNet, FCOS, GFL, ATSS and others that predict at every location."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

import torch
from mmdet.models.dense_heads import GFLHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures import SampleList
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from gdetkd.detectors.adapter import Size, register
from gdetkd.detectors.mmdet.base import MMDetAdapter
from gdetkd.detectors.mmdet.dense_decoding import (
    best_scores,
    box_sides,
    decoded_boxes,
    edge_distributions,
    level_of,
    logits_at,
    pool_from,
    prediction_layers,
    rows_at,
)
from gdetkd.detectors.sampling import BoxSampler, matched_labels
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs

BRANCHES = ("classification", "localization", "combined")


@register
class DenseAdapter(MMDetAdapter):
    """Detectors whose head has one prediction convolution per branch, shared by the levels.

    As a student: the boxes are its own predictions, sampled (see `BoxSampler`); the representation
    of a box is the input of the prediction layer at the location that predicted it, and so are its
    logits. As a teacher, which is given boxes that no location of it predicted (ours): the box is
    pooled from the level made for its size, and its representation is the branch's last feature
    map, pooled in the same way and averaged over the bins. Its logits of a box are those of the
    cell of that level that contains the box's center, at the anchor with the highest object score.

    Args:
        branch: 'classification', 'localization' or 'combined', their sum (Table 4).
        boxes_per_image, positive_fraction, candidates, seed: Of a student's `BoxSampler`.

    Raises:
        ValueError: An unknown branch, or a number out of its range.
    """

    pooled_size = (7, 7)

    def __init__(
        self,
        detector: nn.Module,
        name: str,
        branch: str = "classification",
        boxes_per_image: int = 512,
        positive_fraction: float = 0.25,
        candidates: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(detector, name)
        if branch not in BRANCHES:
            raise ValueError(f"{name}: expected a branch among {BRANCHES}, got {branch!r}")
        self.branch = branch
        self.state = BoxSampler(boxes_per_image, positive_fraction, candidates, seed)

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        head = getattr(detector, "bbox_head", None)
        return isinstance(detector, SingleStageDetector) and isinstance(head, BaseDenseHead)

    @property
    def head(self) -> BaseDenseHead:
        return self.detector.bbox_head

    def layers(self) -> dict[str, nn.Conv2d]:
        """The prediction layers of the branches in use."""
        used = BRANCHES[:2] if self.branch == "combined" else (self.branch,)
        found = dict(zip(BRANCHES, prediction_layers(self.head, self.title), strict=False))
        return {branch: found[branch] for branch in used}

    def specs(self) -> list[DetectorSpec]:
        head, layers = self.head, self.layers()
        strides = [tuple(stride) for stride in head.prior_generator.strides]
        if any(across != down for across, down in strides):
            raise ValueError(f"{self.title}: expected square strides, got {strides}")
        widths = {branch: layer.in_channels for branch, layer in layers.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"{self.title}: branch='combined' adds features of equal width, got {widths}"
            )
        return [
            DetectorSpec(
                name=self.title,
                num_classes=head.num_classes,
                channels=head.in_channels,
                strides=tuple(float(stride) for stride, _ in strides),
                pooled_size=self.pooled_size,
                representation_dim=next(iter(widths.values())),
                edge_bins=head.reg_max + 1 if isinstance(head, GFLHead) else None,
                scores="sigmoid" if head.cls_out_channels == head.num_classes else "softmax",
            )
        ]

    @contextmanager
    def hook_outputs(self) -> Iterator[DenseRecorder]:
        with self._recorded() as features:
            yield DenseRecorder(self, features)

    def forward_rois(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        stages: Sequence[int],
        sizes: Sequence[Size] | None = None,
    ) -> list[RoIOutputs]:
        pyramid = self.detector.extract_feat(images)
        with self._recorded() as features:
            self.head(pyramid)
        return [self._outputs(tuple(pyramid), features, rois) for rois in boxes]

    def _outputs(
        self, pyramid: tuple[Tensor, ...], recorded: FeatureRecorder, rois: Tensor
    ) -> RoIOutputs:
        level = level_of(rois, box_sides(self.head))
        strides = [stride[0] for stride in self.head.prior_generator.strides]
        features = [reduce(torch.add, maps) for maps in zip(*recorded.maps.values(), strict=True)]
        pooled, averaged = (
            pool_from(maps, rois, level, strides, self.pooled_size) for maps in (pyramid, features)
        )
        return RoIOutputs(
            rois=rois,
            pyramid=pyramid,
            pooled=pooled,
            representation=averaged.mean((2, 3)),
            logits=logits_at(self.head, recorded.outputs[0], rois, level),
            **edge_distributions(self.head, recorded.outputs),
        )

    def heads(self) -> dict[str, nn.Module]:
        return {"bbox_head": self.head}

    @contextmanager
    def _recorded(self) -> Iterator[FeatureRecorder]:
        """Record the head while the block runs. Hooks are on this instance, removed after it."""
        recorded, layers = FeatureRecorder(), self.layers()

        def on_pyramid(_, inputs):  # of a head that runs again, the last pass counts
            recorded.pyramid, recorded.maps = tuple(inputs[0]), {branch: [] for branch in layers}

        def on_outputs(_, __, outputs):
            recorded.outputs = outputs

        handles = [
            self.head.register_forward_pre_hook(on_pyramid),
            self.head.register_forward_hook(on_outputs),
        ]
        for branch, layer in layers.items():
            handles.append(
                layer.register_forward_pre_hook(
                    lambda _, inputs, branch=branch: recorded.maps[branch].append(inputs[0])
                )
            )
        try:
            yield recorded
        finally:
            for handle in handles:
                handle.remove()


class FeatureRecorder:
    """What passed through a head: the pyramid, its outputs, the maps before its predictions."""

    def __init__(self) -> None:
        self.pyramid: tuple[Tensor, ...] = ()
        self.outputs: tuple[Sequence[Tensor], ...] = ()
        self.maps: dict[str, list[Tensor]] = {}


class DenseRecorder:
    """What passed through the head, with the boxes that are sampled from its predictions."""

    def __init__(self, adapter: DenseAdapter, recorded: FeatureRecorder) -> None:
        self.adapter, self.recorded = adapter, recorded

    def outputs(self, batch_data_samples: SampleList) -> list[RoIOutputs]:
        head, recorded = self.adapter.head, self.recorded
        scores = recorded.outputs[0]
        sizes = [sample.img_shape[:2] for sample in batch_data_samples]
        boxes = decoded_boxes(head, recorded.outputs, sizes)
        labels = torch.stack(
            [
                matched_labels(
                    predicted,
                    get_box_tensor(sample.gt_instances.bboxes),
                    sample.gt_instances.labels,
                    head.num_classes,
                )
                for predicted, sample in zip(boxes, batch_data_samples, strict=True)
            ]
        )
        sampler, confidence = self.adapter.state, None
        if sampler.candidates is not None:
            confidence = best_scores(scores, head.cls_out_channels, head.num_classes)
        image, index = sampler(boxes, labels < head.num_classes, confidence)
        anchors = scores[0].shape[1] // head.cls_out_channels
        rows = [rows_at(maps, image, index // anchors) for maps in recorded.maps.values()]
        return [
            RoIOutputs(
                rois=torch.cat([image[:, None].to(boxes), boxes[image, index]], 1),
                pyramid=recorded.pyramid,
                pooled=None,
                representation=reduce(torch.add, rows),
                logits=rows_at(scores, image, index, anchors),
                labels=labels[image, index],
                **edge_distributions(head, recorded.outputs),
            )
        ]
