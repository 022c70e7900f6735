"""Boxes on images in memory, and what a whole detector answers for them."""

from __future__ import annotations

import torch
from mmdet.structures.bbox import bbox2roi
from torch import Tensor, nn
from torchvision.ops import box_iou

from gdetkd.detectors import adapter_for
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs
from gdetkd.evaluation.images import Images


def rpn_proposals(detector: nn.Module, images: Images, per_image: int = 50) -> Tensor:
    """The best proposals of a detector's RPN: (N, 5) [image, x1, y1, x2, y2], pixels."""
    data = detector.data_preprocessor(images.data(), False)
    with torch.no_grad():
        features = detector.extract_feat(data["inputs"])
        found = detector.rpn_head.predict(features, data["data_samples"], rescale=False)
    return bbox2roi([boxes.bboxes[:per_image] for boxes in found])


def jittered_truth(images: Images, copies: int = 4, amount: float = 0.15, seed: int = 0) -> Tensor:
    """Ground-truth boxes, each moved and scaled `copies` times: (N, 5), pixels, in their order.

    Args:
        amount: Standard deviation of the shift as a share of the side, and of the log scale.
    """
    rois, _ = images.truth()
    rois = rois.repeat_interleave(copies, 0)
    noise = torch.randn(len(rois), 4, generator=torch.Generator().manual_seed(seed)) * amount
    center, side = (rois[:, 1:3] + rois[:, 3:]) / 2, rois[:, 3:] - rois[:, 1:3]
    center, side = center + noise[:, :2] * side, side * noise[:, 2:].exp()
    boxes = torch.cat([center - side / 2, center + side / 2], 1)
    height, width = images.pictures[0].shape[:2]
    boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    return torch.cat([rois[:, :1], boxes], 1)


def match_truth(rois: Tensor, images: Images, iou: float = 0.5) -> tuple[Tensor, Tensor]:
    """What each RoI shows: the class (N,), `len(images.classes)` = background, and the object.

    The object (N,) is the row of `images.truth()` with the largest IoU; -1 for background, whose
    IoU with every object is below `iou`.
    """
    truth, labels = images.truth()
    overlap = box_iou(rois[:, 1:], truth[:, 1:]) * (rois[:, :1] == truth[:, 0])
    best, which = overlap.max(1)
    shown = best >= iou
    background = labels.new_tensor(len(images.classes))
    return torch.where(shown, labels[which], background), torch.where(shown, which, -1)


def best_of_each_object(rois: Tensor, images: Images, iou: float = 0.5) -> Tensor:
    """The row (n,) of the RoI that fits each object best, for objects that one fits by `iou`."""
    truth, _ = images.truth()
    overlap = box_iou(truth[:, 1:], rois[:, 1:]) * (truth[:, :1] == rois[:, 0])
    best, which = overlap.max(1)
    return which[best >= iou].unique()


def forward_rois(detector: nn.Module, images: Images, rois: Tensor) -> RoIOutputs:
    """What a detector answers for boxes: features, representation, logits, deltas; no gradients.

    The detector's data preprocessor normalizes the images. rois: (N, 5), pixels.

    Raises:
        ValueError: No adapter knows the detector's family.
    """
    data = detector.data_preprocessor(images.data(), False)
    with torch.no_grad():
        adapter = adapter_for(detector, type(detector).__name__)
        return adapter.forward_rois(data["inputs"], [rois], [len(adapter.specs()) - 1])[0]


def spec_of(detector: nn.Module) -> DetectorSpec:
    """The shapes of its last stage, which distillation components are built from."""
    return adapter_for(detector, type(detector).__name__).specs()[-1]
