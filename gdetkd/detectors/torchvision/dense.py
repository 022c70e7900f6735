"""torchvision's detectors without RoIs: RetinaNet, FCOS, SSD and SSDlite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import clip_boxes_to_image

from gdetkd.detectors.adapter import Size, TrainingPass, register
from gdetkd.detectors.locations import as_rois, cells_of, features_at, level_of, pool_from
from gdetkd.detectors.sampling import BoxSampler, sample_boxes
from gdetkd.detectors.torchvision.base import PROBE, TorchvisionAdapter
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs

# An FCOS cell answers for boxes whose farthest edge is 4 to 8 strides away; its anchor is a stride.
SIDES_OF_FCOS = 8


@register
class SingleStageAdapter(TorchvisionAdapter):
    """RetinaNet, FCOS, SSD and SSDlite on any backbone of torchvision.

    As a student: the boxes are its own predictions, sampled (see `BoxSampler`); the representation
    of a box is the input of the class layer at the cell that predicted it. As a teacher: the box
    is pooled from the level made for its size, its representation is the mean of the class
    layer's input over it, and its logits are those of the cell at its center, of the anchor most
    certain of an object. SSD's levels are not of one width and each has layers of its own: they
    are filled up with zeros to the widest.

    Column 0 is the background's in torchvision, with softmax (SSD) and without (RetinaNet, FCOS,
    where it is never trained); here it becomes the last, or none.

    Args:
        boxes_per_image, positive_fraction, candidates, seed: Of a student's `BoxSampler`.
    """

    detector: RetinaNet | FCOS | SSD
    pooled_size = (7, 7)

    def __init__(self, detector: nn.Module, name: str, **sampling: Any) -> None:
        super().__init__(detector, name)
        self.state = BoxSampler(**sampling)

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        return isinstance(detector, RetinaNet | FCOS | SSD)

    @property
    def softmax(self) -> bool:
        return isinstance(self.detector, SSD)

    @property
    def num_classes(self) -> int:
        head = self.detector.head.classification_head
        return (head.num_columns if self.softmax else head.num_classes) - 1

    def class_layers(self) -> list[nn.Module]:
        """The layers that predict classes: one, or one for each level."""
        head = self.detector.head.classification_head
        if not self.softmax:
            return [head.cls_logits]
        return [m[-1] if isinstance(m, nn.Sequential) else m for m in head.module_list]

    def specs(self) -> list[DetectorSpec]:
        widths, strides, _ = self._levels
        return [
            DetectorSpec(
                name=self.title,
                num_classes=self.num_classes,
                channels=max(widths),
                strides=strides,
                pooled_size=self.pooled_size,
                representation_dim=max(layer.in_channels for layer in self.class_layers()),
                scores="softmax" if self.softmax else "sigmoid",
            )
        ]

    @cached_property
    def _levels(self) -> tuple[list[int], tuple[float, ...], list[float]]:
        """Widths, strides, and the side in pixels of the boxes that each level is made for."""
        height, width = self.detector.transform.fixed_size or (PROBE, PROBE)
        levels = list(self.probe(height, width).values())
        steps = getattr(self.detector.anchor_generator, "steps", None)
        strides = steps or [width / level.shape[-1] for level in levels]
        image = ImageList(levels[0].new_zeros(1, 3, height, width), [(height, width)])
        (anchors,) = self.detector.anchor_generator(image, levels)
        per_cell = self.detector.anchor_generator.num_anchors_per_location()
        counts = [
            level.shape[2] * level.shape[3] * anchors
            for level, anchors in zip(levels, per_cell, strict=True)
        ]
        scale = SIDES_OF_FCOS if isinstance(self.detector, FCOS) else 1
        sides = [
            scale * float((boxes[:, 2:] - boxes[:, :2]).log().mean().exp())
            for boxes in anchors.split(counts)
        ]
        return [level.shape[1] for level in levels], tuple(map(float, strides)), sides

    def training_pass(self, images: Any, targets: Any) -> TrainingPass:
        with self.recorded() as seen:
            losses = self.losses(images, targets)
        batch, resized = seen.transformed
        gt_boxes, labels = ([target[key] for target in resized] for key in ("boxes", "labels"))
        if any((each < 1).any() for each in labels):
            raise ValueError(
                f"{self.title}: expected labels from 1, since column 0 of torchvision's logits is "
                "the background's, got a label 0; add 1 to the labels and to num_classes"
            )
        boxes = self._boxes(seen, batch.image_sizes)
        drawn = sample_boxes(
            self.state, boxes, gt_boxes, [each - 1 for each in labels], self.num_classes
        )
        per_cell = self.detector.anchor_generator.num_anchors_per_location()
        cell = _cell_of_anchor(seen.levels, per_cell, drawn.index)
        outputs = RoIOutputs(
            rois=drawn.rois,
            pyramid=seen.levels,
            pooled=None,
            representation=features_at(_equally_wide(seen.features), drawn.image, cell),
            logits=self._without_first(seen.outputs["cls_logits"][drawn.image, drawn.index]),
            labels=drawn.labels,
            gt_boxes=as_rois(gt_boxes),
        )
        return TrainingPass(losses, batch.tensors, list(batch.image_sizes), [outputs])

    @torch.no_grad()
    def _boxes(self, seen: Recording, sizes: Sequence[Size]) -> Tensor:
        """All predicted boxes (B, n, 4), pixels, clipped to their images."""
        coder, deltas = self.detector.box_coder, seen.outputs["bbox_regression"].detach().float()
        decode = coder.decode if isinstance(self.detector, FCOS) else coder.decode_single
        return torch.stack(
            [
                clip_boxes_to_image(decode(own, anchors), size)
                for own, anchors, size in zip(deltas, seen.anchors, sizes, strict=True)
            ]
        )

    def forward_rois(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        stages: Sequence[int],
        sizes: Sequence[Size] | None = None,
    ) -> list[RoIOutputs]:
        levels = list(self.pyramid(images).values())
        with self.recorded() as seen:
            self.detector.head(levels)
        return [self._outputs(seen, rois) for rois in boxes]

    def _outputs(self, seen: Recording, rois: Tensor) -> RoIOutputs:
        _, strides, sides = self._levels
        features = _equally_wide(seen.features)
        level = level_of(rois, sides)
        pooled, averaged = (
            pool_from(maps, rois, level, strides, self.pooled_size)
            for maps in (seen.levels, features)
        )
        return RoIOutputs(
            rois=rois,
            pyramid=seen.levels,
            pooled=pooled,
            representation=averaged.mean((2, 3)),
            logits=self._logits_of(seen, rois, level),
        )

    def _logits_of(self, seen: Recording, rois: Tensor, level: Tensor) -> Tensor:
        """Of the cell with the box's center, at the anchor with the highest logit of an object."""
        anchors = torch.tensor(
            self.detector.anchor_generator.num_anchors_per_location(), device=rois.device
        )
        sizes = torch.tensor([m.shape[2] * m.shape[3] for m in seen.levels], device=rois.device)
        before = (sizes * anchors).cumsum(0) - sizes * anchors
        place, _ = cells_of(seen.levels, rois, level, self._levels[1])
        each = torch.arange(int(anchors.max()), device=rois.device)
        each = torch.minimum(each, anchors[level, None] - 1)  # a level of fewer repeats its last
        index = (before[level] + place * anchors[level])[:, None] + each
        logits = seen.outputs["cls_logits"][rois[:, :1].long(), index]
        surest = logits[..., 1:].amax(2).argmax(1)
        return self._without_first(logits[torch.arange(len(rois), device=rois.device), surest])

    def _without_first(self, logits: Tensor) -> Tensor:
        return logits.roll(-1, dims=1) if self.softmax else logits[:, 1:]

    def heads(self) -> dict[str, nn.Module]:
        return {"head": self.detector.head}

    def head_conventions(self, head: nn.Module) -> dict[str, object]:
        anchors = self.detector.anchor_generator
        names = ("sizes", "aspect_ratios", "scales", "steps", "clip")
        found = {name: getattr(anchors, name) for name in names if hasattr(anchors, name)}
        weights = getattr(self.detector.box_coder, "weights", None)
        return found | dict(box_coder=weights)

    @contextmanager
    def recorded(self) -> Iterator[Recording]:
        """Record a pass; hooks are on this detector, and removed after it."""
        seen = Recording()

        def on_transformed(_, __, output):
            seen.transformed = output

        def on_levels(_, inputs):
            # The head computes from what is imitated, so that its losses have a gradient there.
            seen.levels = _equally_wide(inputs[0])
            pairs = zip(seen.levels, inputs[0], strict=True)
            return [wide[:, : level.shape[1]] for wide, level in pairs], *inputs[1:]

        def on_head(_, __, output):
            seen.outputs = output

        def on_anchors(_, __, output):
            seen.anchors = output

        hooks = [
            self.detector.transform.register_forward_hook(on_transformed),
            self.detector.head.register_forward_pre_hook(on_levels),
            self.detector.head.register_forward_hook(on_head),
            self.detector.anchor_generator.register_forward_hook(on_anchors),
        ]
        for layer in self.class_layers():
            hooks.append(
                layer.register_forward_pre_hook(lambda _, inputs: seen.features.append(inputs[0]))
            )
        with ExitStack() as stack:
            for hook in hooks:
                stack.enter_context(hook)  # which removes it at the end
            yield seen


class Recording:
    """What passed through a detector, in torchvision's conventions."""

    transformed: tuple[Any, Any]
    levels: tuple[Tensor, ...]  # equally wide
    outputs: dict[str, Tensor]
    anchors: list[Tensor]

    def __init__(self) -> None:
        self.features: list[Tensor] = []  # of each level, before its class layer


def _equally_wide(levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
    width = max(level.shape[1] for level in levels)
    return tuple(pad(level, (0, 0, 0, 0, 0, width - level.shape[1])) for level in levels)


def _cell_of_anchor(levels: Sequence[Tensor], per_cell: Sequence[int], index: Tensor) -> Tensor:
    """The cell (N,), counted over all levels, of each anchor (N,), counted likewise."""
    cells, before, start = torch.zeros_like(index), 0, 0
    for level, anchors in zip(levels, per_cell, strict=True):
        count = level.shape[2] * level.shape[3]
        cells = torch.where(index >= start, before + (index - start) // anchors, cells)
        before, start = before + count, start + count * anchors
    return cells
