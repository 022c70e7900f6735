"""What a detector of transformers takes: pixels, masks and relative boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.ops import box_convert

from gdetkd.detectors.adapter import Size
from gdetkd.detectors.pixels import PixelFormat


@dataclass
class Inputs:
    """A batch as the model takes it, with what its numbers refer to.

    Attributes:
        arguments: Of the model's forward: pixel_values, labels, and pixel_mask if there is one.
        sizes: Of each image (height, width) before it was padded.
        extents: Of each image (height, width) that its relative boxes are shares of.
    """

    arguments: dict[str, Any]
    sizes: list[Size]
    extents: list[Size]

    def gt_boxes(self) -> list[Tensor]:
        """Of each image (m, 4) x1, y1, x2, y2 in pixels."""
        return [
            in_pixels(label["boxes"], extent)
            for label, extent in zip(self.arguments["labels"], self.extents, strict=True)
        ]


def in_pixels(boxes: Tensor, extent: Size) -> Tensor:
    """Relative boxes (n, 4) cx, cy, w, h as x1, y1, x2, y2 in pixels."""
    height, width = extent
    scale = boxes.new_tensor([width, height, width, height], dtype=torch.float32)
    return box_convert(boxes.float(), "cxcywh", "xyxy") * scale


def from_processor(images: Any, labels: Any, masked: bool) -> Inputs:
    """A batch that an image processor of transformers made.

    images: Its `BatchFeature`, or `pixel_values` (B, 3, H, W) alone; labels: its labels, by default
    those within `images`. Their `size`, where it is there, is what their boxes are shares of: the
    processor of DETR counts the padding in.
    """
    arguments = dict(images) if isinstance(images, Mapping) else dict(pixel_values=images)
    labels = arguments.pop("labels", None) if labels is None else labels
    arguments = {k: arguments[k] for k in ("pixel_values", "pixel_mask") if k in arguments}
    pixels, mask = arguments["pixel_values"], arguments.get("pixel_mask")
    sizes = [tuple(pixels.shape[-2:])] * len(pixels)
    if mask is not None:
        rows, columns = mask.bool().any(2).sum(1).tolist(), mask.bool().any(1).sum(1).tolist()
        sizes = list(zip(rows, columns, strict=True))
    extents = sizes if masked else [tuple(pixels.shape[-2:])] * len(pixels)
    stated = [label["size"] if "size" in label else None for label in labels]
    extents = [
        extent if size is None else tuple(int(side) for side in size)
        for extent, size in zip(extents, stated, strict=True)
    ]
    return Inputs(arguments | dict(labels=labels), sizes, extents)


def from_images(
    images: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    form: PixelFormat,
    masked: bool,
) -> Inputs:
    """A batch of plain images: normalized, padded at the right and the bottom, with relative boxes.

    images: Of each image (3, H, W) RGB in 0 to 1; targets: `boxes` (m, 4) x1, y1, x2, y2 in pixels
    and `labels` (m,) from 0. `form` has what the model expects; a model without a mask sees
    padding as a part of the image, and its boxes are shares of the whole.
    """
    sizes = [tuple(image.shape[-2:]) for image in images]
    height, width = (
        side + -side % form.pad_divisor
        for side in (max(size[axis] for size in sizes) for axis in (0, 1))
    )
    mean, std = ((v / 255).to(images[0])[:, None, None] for v in (form.mean, form.std))
    pixels = torch.stack(
        [
            pad((image - mean) / std, (0, width - image.shape[2], 0, height - image.shape[1]))
            for image in images
        ]
    )
    extents = sizes if masked else [(height, width)] * len(sizes)
    labels = []
    for target, (rows, columns) in zip(targets, extents, strict=True):
        boxes = box_convert(target["boxes"].float(), "xyxy", "cxcywh")
        scale = boxes.new_tensor([columns, rows, columns, rows])
        labels.append(dict(class_labels=target["labels"], boxes=boxes / scale))
    arguments = dict(pixel_values=pixels, labels=labels)
    if masked:
        arguments["pixel_mask"] = mask_of(sizes, pixels)
    return Inputs(arguments, sizes, extents)


def mask_of(sizes: Sequence[Size], pixels: Tensor) -> Tensor:
    """(B, H, W) int64: 1 within the images, 0 in their padding."""
    mask = torch.zeros(len(sizes), *pixels.shape[-2:], dtype=torch.int64, device=pixels.device)
    for each, (height, width) in zip(mask, sizes, strict=True):
        each[:height, :width] = 1
    return mask
