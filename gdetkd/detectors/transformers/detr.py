"""DETRs of transformers: RT-DETR, D-FINE, DEIMv2, DETR, Deformable DETR, RF-DETR and their kin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gdetkd.detectors.adapter import Adapter, Size, TrainingPass, register
from gdetkd.detectors.locations import as_rois, best_of_image, level_of, pool_from
from gdetkd.detectors.pixels import PixelFormat
from gdetkd.detectors.sampling import BoxSampler, sample_boxes
from gdetkd.detectors.transformers.inputs import (
    Inputs,
    from_images,
    from_processor,
    in_pixels,
    mask_of,
)
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # pixels in 0 to 1 as they are


class Family(NamedTuple):
    """What no layer of a model tells.

    Attributes:
        pixels: Mean and deviation by which its image processor normalizes pixels in 0 to 1.
        masked: Whether it is told where padding begins; its boxes are then shares of the image
            without padding, else of the whole tensor.
        softmax: Whether classes and 'no object' compete.
        divisor: Of height and width.
    """

    pixels: tuple[tuple[float, ...], tuple[float, ...]]
    masked: bool
    softmax: bool = False
    divisor: int = 1


FAMILIES = {
    "detr": Family(IMAGENET, masked=True, softmax=True),
    "table-transformer": Family(IMAGENET, masked=True, softmax=True),
    "conditional_detr": Family(IMAGENET, masked=True),
    "dab-detr": Family(IMAGENET, masked=True),
    "deformable_detr": Family(IMAGENET, masked=True),
    "lw_detr": Family(IMAGENET, masked=True),
    "rf_detr": Family(IMAGENET, masked=True),
    "rt_detr": Family(UNIT, masked=False, divisor=32),
    "rt_detr_v2": Family(UNIT, masked=False, divisor=32),
    "d_fine": Family(UNIT, masked=False, divisor=32),
    "deimv2": Family(UNIT, masked=False, divisor=32),
}
POOLED = (7, 7)
# The side, in cells of its level, of the boxes that a level is for: the middle of the 14 to 28 that
# Lin et al. (Feature Pyramid Networks, CVPR 2017, eq. 1) give it. Ours for these models.
CELLS = 20
PROBE = 256  # px, at least, of the empty image that shows the levels


@register
class QueryAdapter(Adapter):
    """A DETR of transformers: `...ForObjectDetection` of the model types in `FAMILIES`.

    A query is a location: its predicted box is the RoI, its last decoder embedding the
    representation, its class scores the logits. As a student it is sampled as dense detectors are
    (see `BoxSampler`); denoising queries are left out, and of groups of queries (Group DETR) the
    first counts, which predicts. As a teacher it answers for a given box by the query of its image
    whose box overlaps it most; below an IoU of 0.5 the box is not valid. The levels are the maps
    that enter the transformer, of RT-DETR, D-FINE and DEIMv2 those that leave the encoder.

    Images and targets of a student are those of its image processor, a `BatchFeature` with labels,
    or plain: a list of (3, H, W) RGB in 0 to 1, and a list of dicts with `boxes` (m, 4) x1, y1,
    x2, y2 in pixels and `labels` (m,) from 0. Plain images are normalized and padded, not resized.

    Args:
        processor: Its image processor, which says how pixels are normalized; by default that of
            the family.
        boxes_per_image, positive_fraction, candidates, seed: Of a student's `BoxSampler`.
    """

    iou = 0.5

    def __init__(
        self, detector: nn.Module, name: str, processor: Any = None, **sampling: Any
    ) -> None:
        super().__init__(detector, name)
        self.family, self.processor = FAMILIES[detector.config.model_type], processor
        self.state = BoxSampler(**sampling)

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        known = getattr(getattr(detector, "config", None), "model_type", None) in FAMILIES
        return known and type(detector).__name__.endswith("ForObjectDetection")

    def specs(self) -> list[DetectorSpec]:
        channels, strides = self._levels
        return [
            DetectorSpec(
                name=self.title,
                num_classes=self.detector.config.num_labels,
                channels=channels,
                strides=strides,
                pooled_size=POOLED,
                representation_dim=next(iter(self.class_layers())).in_features,
                scores="softmax" if self.family.softmax else "sigmoid",
            )
        ]

    @cached_property
    def divisor(self) -> int:
        """Height and width of a batch are multiples of it: of windows of patches (RF-DETR)."""
        backbone = getattr(self.detector.config, "backbone_config", None)
        patch = getattr(backbone, "patch_size", 1)
        windows = getattr(backbone, "num_windows", 1)  # RF-DETR's of a side, LW-DETR's of an image
        windows = getattr(backbone, "num_windows_side", windows)
        return max(self.family.divisor, patch * windows)

    @cached_property
    def _levels(self) -> tuple[int, tuple[float, ...]]:
        """Width and strides; an empty image shows them, and moves no statistics."""
        side = PROBE + -PROBE % self.divisor
        pixels = next(self.detector.parameters()).new_zeros(1, 3, side, side)
        training = {module: module.training for module in self.detector.modules()}
        self.detector.eval()
        with torch.no_grad(), self.recorded() as seen:
            self.detector(pixel_values=pixels)
        for module, mode in training.items():
            module.training = mode
        return seen.levels[0].shape[1], tuple(side / level.shape[-1] for level in seen.levels)

    def class_layers(self) -> set[nn.Linear]:
        """The layers that predict the classes of queries, one or one for each decoder layer."""
        decoder = self.detector.model.decoder
        owners = (self.detector, "class_labels_classifier"), (self.detector, "class_embed")
        found = [getattr(owner, name, None) for owner, name in (*owners, (decoder, "class_embed"))]
        layers = [layer for part in found if part is not None for layer in part.modules()]
        return {layer for layer in layers if isinstance(layer, nn.Linear)}

    def pixel_format(self) -> PixelFormat:
        mean, std = self.family.pixels
        if self.processor is not None:
            shown = self.processor
            normalizes = shown.do_normalize
            mean, std = (shown.image_mean, shown.image_std) if normalizes else UNIT
        mean, std = (torch.tensor(values, dtype=torch.float32) * 255 for values in (mean, std))
        return PixelFormat(mean, std, rgb=True, pad_divisor=self.divisor)

    def inputs(self, images: Any, targets: Any) -> Inputs:
        """Images and targets of a training as the model takes them."""
        if isinstance(images, list | tuple):
            return from_images(images, targets, self.pixel_format(), self.family.masked)
        return from_processor(images, targets, self.family.masked)

    def losses(self, images: Any, targets: Any) -> dict[str, Tensor]:
        return _losses(self.detector(**self.inputs(images, targets).arguments))

    @torch.no_grad()
    def predictions(
        self, images: Sequence[Tensor], count: int
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The best detections of plain images, as the family's image processors pick them.

        Returns:
            Of each image boxes (n, 4) x1, y1, x2, y2 in pixels, scores (n,) and labels (n,) from 0.
        """
        nothing = dict(boxes=images[0].new_zeros(0, 4), labels=images[0].new_zeros(0).long())
        inputs = self.inputs(images, [nothing] * len(images))
        del inputs.arguments["labels"]
        found = self.detector(**inputs.arguments)
        results = []
        for logits, boxes, extent in zip(
            found.logits, found.pred_boxes, inputs.extents, strict=True
        ):
            if self.family.softmax:
                scores, labels = logits.softmax(-1)[:, :-1].max(-1)
                queries = torch.arange(len(scores), device=scores.device)
            else:
                scores, classes = logits.sigmoid().flatten(), logits.shape[1]
                places = torch.arange(len(scores), device=scores.device)
                queries, labels = places // classes, places % classes
            scores, order = scores.topk(min(count, len(scores)))
            results.append((in_pixels(boxes[queries[order]], extent), scores, labels[order]))
        return results

    def training_pass(self, images: Any, targets: Any) -> TrainingPass:
        inputs = self.inputs(images, targets)
        with self.recorded() as seen:
            found = self.detector(**inputs.arguments)
        queries = self._queries(found)
        logits, predicted, states = (
            values[:, queries] for values in (found.logits, found.pred_boxes, seen.states)
        )
        gt_boxes, labels = inputs.gt_boxes(), inputs.arguments["labels"]
        drawn = sample_boxes(
            self.state,
            self._clipped(predicted, inputs.extents, inputs.sizes),
            gt_boxes,
            [label["class_labels"] for label in labels],
            self.detector.config.num_labels,
        )
        outputs = RoIOutputs(
            rois=drawn.rois,
            pyramid=tuple(seen.levels),
            pooled=None,
            representation=states[drawn.image, drawn.index],
            logits=logits[drawn.image, drawn.index],
            labels=drawn.labels,
            gt_boxes=as_rois(gt_boxes),
        )
        pixels = inputs.arguments["pixel_values"]
        return TrainingPass(_losses(found), pixels, inputs.sizes, [outputs])

    def _queries(self, found: Any) -> slice:
        """Those that predict: neither denoising ones nor further groups."""
        meta = getattr(found, "denoising_meta_values", None)
        start = meta["dn_num_split"][0] if meta and self.detector.training else 0
        groups = getattr(self.detector.config, "group_detr", 1) if self.detector.training else 1
        return slice(start, start + (found.logits.shape[1] - start) // groups)

    @staticmethod
    def _clipped(predicted: Tensor, extents: Sequence[Size], sizes: Sequence[Size]) -> Tensor:
        """Relative boxes (B, Q, 4) as x1, y1, x2, y2 in pixels, within their images."""
        relative = zip(predicted.detach(), extents, strict=True)
        boxes = torch.stack([in_pixels(*each) for each in relative])
        for image, (height, width) in zip(boxes, sizes, strict=True):
            image[:, 0::2].clamp_(0, width)
            image[:, 1::2].clamp_(0, height)
        return boxes

    def forward_rois(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        stages: Sequence[int],
        sizes: Sequence[Size] | None = None,
    ) -> list[RoIOutputs]:
        whole = [tuple(images.shape[-2:])] * len(images)
        sizes, arguments = sizes or whole, dict(pixel_values=images)
        if self.family.masked:
            arguments["pixel_mask"] = mask_of(sizes, images)
        with self.recorded() as seen:
            found = self.detector(**arguments)
        extents = sizes if self.family.masked else whole
        predicted = self._clipped(found.pred_boxes, extents, sizes)
        strides = self._levels[1]
        outputs = []
        for rois in boxes:
            query, overlap = best_of_image(rois, predicted)
            image = rois[:, 0].long()
            level = level_of(rois, [CELLS * stride for stride in strides])
            outputs.append(
                RoIOutputs(
                    rois=rois,
                    pyramid=tuple(seen.levels),
                    pooled=pool_from(seen.levels, rois, level, strides, POOLED),
                    representation=seen.states[image, query],
                    logits=found.logits[image, query],
                    valid_mask=overlap >= self.iou,
                )
            )
        return outputs

    @contextmanager
    def recorded(self) -> Iterator[Recording]:
        """Record a pass; hooks are on this detector, and removed after it."""
        seen, model = Recording(), self.detector.model

        def on_classes(_, inputs):
            # All layers at once, (layers, B, queries, D), is for losses of the earlier ones.
            if inputs[0].ndim == 3:
                seen.states = inputs[0]

        def on_maps(_, __, output):
            seen.levels.extend(_maps(output))

        if hasattr(model, "input_proj"):
            sources = list(model.input_proj)
        elif hasattr(model, "input_projection"):
            sources = [model.input_projection]
        else:
            sources = [model.encoder if hasattr(model, "encoder") else model.backbone]
        hooks = [source.register_forward_hook(on_maps) for source in sources]
        hooks += [layer.register_forward_pre_hook(on_classes) for layer in self.class_layers()]
        with ExitStack() as stack:
            for hook in hooks:
                stack.enter_context(hook)  # which removes it at the end
            yield seen


class Recording:
    """What passed through a detector: its levels, and the queries before their last scores."""

    states: Tensor

    def __init__(self) -> None:
        self.levels: list[Tensor] = []


def _maps(output: Any) -> list[Tensor]:
    """The feature maps among what a module gave; masks have three dimensions."""
    if isinstance(output, Tensor):
        return [output] if output.ndim == 4 else []
    parts = getattr(output, "last_hidden_state", getattr(output, "feature_maps", output))
    return [level for part in parts for level in _maps(part)]


def _losses(found: Any) -> dict[str, Tensor]:
    """The sum that the model trains on as 'loss'; its terms, which are in there, to be logged."""
    terms = {name.replace("loss_", ""): term.detach() for name, term in found.loss_dict.items()}
    return dict(loss=found.loss) | terms
