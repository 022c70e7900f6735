"""Dense detectors: RetinaNet, FCOS, YOLOX, RTMDet, SSD and others that predict everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

import torch
from mmdet.models.dense_heads import GFLHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import RPN, TwoStageDetector
from mmdet.structures import SampleList
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from gdetkd.detectors.adapter import Size, register
from gdetkd.detectors.locations import level_of, pool_from
from gdetkd.detectors.mmdet.base import MMDetAdapter, check_levels
from gdetkd.detectors.mmdet.dense_heads import BRANCHES, DenseHead
from gdetkd.detectors.mmdet.dense_maps import (
    best_scores,
    feature_width,
    features_at,
    location_of,
    logits_at,
    rows_at,
)
from gdetkd.detectors.mmdet.dense_readings import read_head
from gdetkd.detectors.sampling import BoxSampler, matched_labels
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs


@register
class DenseAdapter(MMDetAdapter):
    """Detectors that predict a box at every location: RetinaNet, FCOS, YOLOX, SSD and many more.

    As a student: the boxes are its own predictions, sampled (see `BoxSampler`); the representation
    of a box is the input of the prediction layer at the location that predicted it, and so are its
    logits. As a teacher, which is given boxes that no location of it predicted (ours): the box is
    pooled from the level made for its size, and its representation is the branch's last feature
    map, pooled in the same way and averaged over the bins. Its logits of a box are those of the
    cell of that level that contains the box's center, at the anchor with the highest object score.

    Where levels have different widths (SSD, YOLOv3), the representation has a block of columns for
    each, so that a projection has weights of its own for each; a teacher's pooled boxes are filled
    up with zeros to the width of the widest.

    Args:
        branch: 'classification', 'localization' or 'combined', their sum (Table 4).
        boxes_per_image, positive_fraction, candidates, seed: Of a student's `BoxSampler`.
        separate_anchors: Give each anchor of a location a block of columns of its own too. Without,
            boxes that several anchors of one location predict have the same representation.
        levels: Of the pyramid, finest first, so many take part; all by default.

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
        separate_anchors: bool = False,
        levels: int | None = None,
    ) -> None:
        super().__init__(detector, name)
        if branch not in (*BRANCHES, "combined"):
            raise ValueError(
                f"{name}: expected a branch among {(*BRANCHES, 'combined')}, got {branch!r}"
            )
        self.branch, self.separate_anchors, self.levels = branch, separate_anchors, levels
        self.state = BoxSampler(boxes_per_image, positive_fraction, candidates, seed)

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        head = getattr(detector, "bbox_head", None)
        return isinstance(head, BaseDenseHead) and not isinstance(detector, TwoStageDetector)

    @property
    def head(self) -> BaseDenseHead:
        return self.detector.bbox_head

    @property
    def reading(self) -> DenseHead:
        return read_head(self.head, self.title)

    def layers(self) -> dict[str, list[nn.Conv2d]]:
        """The prediction layers of the branches in use."""
        used = BRANCHES if self.branch == "combined" else (self.branch,)
        found = self.reading.layers()
        return {branch: found[branch] for branch in used}

    def specs(self) -> list[DetectorSpec]:
        reading, layers = self.reading, self.layers()
        strides, anchors = reading.strides, reading.anchors
        count = check_levels(self.levels, len(strides), self.title)
        widths = {  # a layer that the levels share counts for each
            branch: [layer.in_channels for layer in found] * (len(strides) // len(found))
            for branch, found in layers.items()
        }
        if len(set(map(tuple, widths.values()))) > 1:
            raise ValueError(
                f"{self.title}: branch='combined' adds features of equal width, got {widths}"
            )
        return [
            DetectorSpec(
                name=self.title,
                num_classes=self.head.num_classes,
                channels=self._channels(count),
                strides=tuple(strides)[:count],
                pooled_size=self.pooled_size,
                representation_dim=feature_width(
                    next(iter(widths.values())), anchors, self.separate_anchors
                ),
                edge_bins=self.head.reg_max + 1 if isinstance(self.head, GFLHead) else None,
                scores="sigmoid" if reading.columns == self.head.num_classes else "softmax",
            )
        ]

    def _channels(self, count: int) -> int | tuple[int, ...]:
        channels = getattr(self.head, "in_channels", None)
        if channels is None:  # CenterNet's head does not keep it
            channels = next(m for m in self.head.modules() if isinstance(m, nn.Conv2d)).in_channels
        if isinstance(channels, int) or len(set(channels)) > 1:
            return channels if isinstance(channels, int) else tuple(channels)[:count]
        return channels[0]

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
            self.reading.forward(pyramid)
        return [self._outputs(tuple(pyramid), features, rois) for rois in boxes]

    def _outputs(
        self, pyramid: tuple[Tensor, ...], recorded: FeatureRecorder, rois: Tensor
    ) -> RoIOutputs:
        reading, strides = self.reading, self.reading.strides
        level = level_of(rois, reading.sides)
        features = [reduce(torch.add, maps) for maps in zip(*recorded.maps.values(), strict=True)]
        averaged = pool_from(features, rois, level, strides, self.pooled_size, blocks=True)
        logits = reading.logits(recorded.outputs)
        return RoIOutputs(
            rois=rois,
            pyramid=pyramid,
            pooled=pool_from(pyramid, rois, level, strides, self.pooled_size),
            representation=averaged.mean((2, 3)),
            logits=logits_at(logits, rois, level, strides, reading.anchors, self.head.num_classes),
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
        for branch, found in layers.items():
            for layer in found:
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
        adapter, recorded = self.adapter, self.recorded
        head, reading = adapter.head, adapter.reading
        scores, anchors = reading.logits(recorded.outputs), reading.anchors
        sizes = [sample.img_shape[:2] for sample in batch_data_samples]
        boxes = reading.boxes(recorded.outputs, sizes)
        labels = torch.stack(
            [
                matched_labels(
                    predicted,
                    get_box_tensor(sample.gt_instances.bboxes),
                    # To an RPN every object is of its one class.
                    sample.gt_instances.labels * (not isinstance(adapter.detector, RPN)),
                    head.num_classes,
                )
                for predicted, sample in zip(boxes, batch_data_samples, strict=True)
            ]
        )
        sampler, confidence = adapter.state, None
        if sampler.candidates is not None:
            confidence = best_scores(scores, reading.columns, head.num_classes)
        image, index = sampler(boxes, labels < head.num_classes, confidence)
        rows = [
            features_at(maps, image, index, anchors, adapter.separate_anchors)
            for maps in recorded.maps.values()
        ]
        return [
            RoIOutputs(
                rois=torch.cat([image[:, None].to(boxes), boxes[image, index]], 1),
                pyramid=recorded.pyramid[: adapter.levels],
                pooled=None,
                representation=reduce(torch.add, rows),
                logits=rows_at(scores, image, index, anchors),
                labels=labels[image, index],
                locations=location_of(scores, index, anchors),
                **edge_distributions(head, recorded.outputs),
            )
        ]


def edge_distributions(
    head: BaseDenseHead, outputs: Sequence[Sequence[Tensor]]
) -> dict[str, tuple[Tensor, ...]]:
    """The maps of a head that predicts distributions of edges, by their names in `RoIOutputs`."""
    if not isinstance(head, GFLHead):
        return {}
    return dict(class_maps=tuple(outputs[0]), edge_maps=tuple(outputs[1]))
