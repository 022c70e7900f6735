"""Detectors of queries, of which each finds one box: what DETRs and Sparse R-CNNs share.

A query is a location, like a cell of a dense detector: its predicted box is the RoI, the input of
the layer that classifies it the representation. The last layer or stage of a decoder counts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from mmdet.structures import DetDataSample, SampleList
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from gdetkd.detectors.adapter import Size
from gdetkd.detectors.locations import best_of_image, level_of, pool_from
from gdetkd.detectors.mmdet.base import MMDetAdapter, check_levels
from gdetkd.detectors.sampling import BoxSampler, sample_boxes
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs

POOLED = (7, 7)  # bins of a pooled box, as in R-CNNs with FPN
PROBE = 256  # px, of the empty image that shows the neck's levels
# The side, in cells of its level, of the boxes that a level is for: the middle of the 14 to 28 that
# Lin et al. (Feature Pyramid Networks, CVPR 2017, eq. 1) give it. Ours for a neck without heads.
CELLS = 20


@dataclass
class Queries:
    """What the queries of a batch found: representation (B, Q, D), logits (B, Q, columns) and boxes
    (B, Q, 4) in pixels, of the pyramid that they read."""

    pyramid: tuple[Tensor, ...]
    representation: Tensor
    logits: Tensor
    boxes: Tensor


class QueryAdapter(MMDetAdapter):
    """A detector of queries; a family says how its queries are recorded and run.

    As a student: its predicted boxes are matched to the truth and sampled as a dense student's are.
    As a teacher it has no features of a given box, but queries. Ours are these two readings: the
    representation and the logits are those of the query whose predicted box overlaps the given one
    best; where none does by an IoU of 0.5, the box is not valid, and contrastive and class
    distillation leave it out. The pooled feature, of every box, is RoIAlign of the neck's level for
    boxes of its size. There are no deltas: those of a query belong to its own box.

    Args:
        boxes_per_image, positive_fraction, seed: Of a student's `BoxSampler`.
        levels: Of the neck's maps, finest first, so many take part; all by default.
    """

    iou = 0.5

    def __init__(
        self,
        detector: nn.Module,
        name: str,
        boxes_per_image: int = 512,
        positive_fraction: float = 0.25,
        seed: int = 0,
        levels: int | None = None,
    ) -> None:
        super().__init__(detector, name)
        self.levels = levels
        self.state = BoxSampler(boxes_per_image, positive_fraction, seed=seed)

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """The head of the last decoder layer."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Of a query's representation."""

    @abstractmethod
    def recorded(self) -> AbstractContextManager[list[Queries]]:
        """Record the queries of one pass while the block runs, the last one at the end."""

    @abstractmethod
    def run(self, pyramid: tuple[Tensor, ...], samples: SampleList) -> None:
        """Run decoder and head on a pyramid, to be recorded."""

    @cached_property
    def _pyramid(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Widths and strides of the neck's levels, which no config says: an empty image shows."""
        device = next(self.detector.parameters()).device
        modes = {module: module.training for module in self.detector.modules()}
        self.detector.eval()  # or BatchNorm would count the image
        with torch.no_grad():
            levels = self.detector.extract_feat(torch.zeros(1, 3, PROBE, PROBE, device=device))
        for module, mode in modes.items():
            module.training = mode
        return (
            tuple(level.shape[1] for level in levels),
            tuple(PROBE // level.shape[-1] for level in levels),
        )

    def specs(self) -> list[DetectorSpec]:
        channels, strides = self._pyramid
        count = check_levels(self.levels, len(strides), self.title)
        sigmoid = getattr(self.head.loss_cls, "use_sigmoid", False)
        return [
            DetectorSpec(
                name=self.title,
                num_classes=self.head.num_classes,
                channels=channels[0] if len(set(channels)) == 1 else channels[:count],
                strides=strides[:count],
                pooled_size=POOLED,
                representation_dim=self.width,
                scores="sigmoid" if sigmoid else "softmax",
            )
        ]

    @contextmanager
    def hook_outputs(self) -> Iterator[QueryRecorder]:
        with self.recorded() as found:
            yield QueryRecorder(self, found)

    def forward_rois(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        stages: Sequence[int],
        sizes: Sequence[Size] | None = None,
    ) -> list[RoIOutputs]:
        padded = tuple(images.shape[-2:])
        samples = [
            DetDataSample(
                metainfo=dict(img_shape=size, batch_input_shape=padded, scale_factor=(1.0, 1.0))
            )
            for size in sizes or [padded] * len(images)
        ]
        pyramid = tuple(self.detector.extract_feat(images))
        with self.recorded() as found:
            self.run(pyramid, samples)
        return [self._outputs(rois, pyramid, found[-1]) for rois in boxes]

    def _outputs(self, rois: Tensor, pyramid: tuple[Tensor, ...], found: Queries) -> RoIOutputs:
        query, overlap = best_of_image(rois, found.boxes)
        image, strides = rois[:, 0].long(), self._pyramid[1]
        level = level_of(rois, [CELLS * stride for stride in strides])
        return RoIOutputs(
            rois=rois,
            pyramid=pyramid,
            pooled=pool_from(pyramid, rois, level, strides, POOLED),
            representation=found.representation[image, query],
            logits=found.logits[image, query],
            valid_mask=overlap >= self.iou,
        )


class QueryRecorder:
    """What the queries found, sampled."""

    def __init__(self, adapter: QueryAdapter, found: list[Queries]) -> None:
        self.adapter, self.found = adapter, found

    def outputs(self, batch_data_samples: SampleList) -> list[RoIOutputs]:
        found = self.found[-1]
        boxes = found.boxes.detach().float().clone()
        for own, sample in zip(boxes, batch_data_samples, strict=True):
            height, width = sample.img_shape[:2]
            own[:, 0::2].clamp_(0, width)
            own[:, 1::2].clamp_(0, height)
        truth = [sample.gt_instances for sample in batch_data_samples]
        drawn = sample_boxes(
            self.adapter.state,
            boxes,
            [get_box_tensor(each.bboxes) for each in truth],
            [each.labels for each in truth],
            self.adapter.head.num_classes,
        )
        return [
            RoIOutputs(
                rois=drawn.rois,
                pyramid=found.pyramid[: self.adapter.levels],
                pooled=None,
                representation=found.representation[drawn.image, drawn.index],
                logits=found.logits[drawn.image, drawn.index],
                labels=drawn.labels,
            )
        ]
