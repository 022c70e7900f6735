"""What the adapters of torchvision's families share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gdetkd.detectors.adapter import Adapter
from gdetkd.detectors.pixels import PixelFormat

PROBE = 256  # px, of the empty image that shows the levels


class TorchvisionAdapter(Adapter):
    """A detector of torchvision's, which normalizes and resizes its images itself.

    Images and targets are torchvision's: a list of (3, H, W) in 0 to 1, and a list of dicts with
    `boxes` (n, 4) x1, y1, x2, y2 in pixels and `labels` (n,) from 1. The boxes of distillation are
    in pixels of the images as the model's own transform resizes them. Losses that torchvision
    calls `classification` and so on come back as `loss_classification`: by that word the losses
    are told from what is only to be logged.
    """

    def losses(self, images: Any, targets: Any) -> dict[str, Tensor]:
        losses = self.detector(images, targets)
        return {n if "loss" in n else f"loss_{n}": value for n, value in losses.items()}

    def pixel_format(self) -> PixelFormat:
        transform = self.detector.transform
        mean, std = (torch.tensor(v) * 255 for v in (transform.image_mean, transform.image_std))
        return PixelFormat(mean=mean, std=std, rgb=True, pad_divisor=transform.size_divisible)

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """The backbone's levels by name, finest first."""
        features = self.detector.backbone(images)
        return {"0": features} if isinstance(features, Tensor) else features

    @torch.no_grad()
    def probe(self, height: int = PROBE, width: int = PROBE) -> dict[str, Tensor]:
        """The levels of an empty image; moves no statistics."""
        parameter = next(self.detector.parameters())
        training = self.detector.backbone.training
        self.detector.backbone.eval()
        levels = self.pyramid(parameter.new_zeros(1, 3, height, width))
        self.detector.backbone.train(training)
        return levels
