"""Detectors, pictures and proposals to look at: what the notebooks start from.

Nothing here trains or writes files. The pictures are those of the embedded benchmark, generated
in memory, so that no data set has to be built first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import box_iou

from gdetkd.datasets import digits
from gdetkd.detectors import adapter_for
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs


@dataclass
class Images:
    """Pictures with their ground truth.

    Attributes:
        pictures: (h, w, 3) uint8 RGB each, to draw on.
        samples: MMDetection's data samples; `gt_instances` holds boxes (n, 4) x1 y1 x2 y2 in
            pixels and labels (n,).
        classes: Names of the classes.
    """

    pictures: list[np.ndarray]
    samples: list[DetDataSample]
    classes: tuple[str, ...] = digits.CLASSES

    def __len__(self) -> int:
        return len(self.pictures)

    def data(self) -> dict:
        """As a data loader gives them, to a detector's `data_preprocessor` or `test_step`."""
        inputs = [
            torch.from_numpy(np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1)))
            for picture in self.pictures
        ]
        return dict(inputs=inputs, data_samples=[sample.clone() for sample in self.samples])

    def truth(self) -> tuple[Tensor, Tensor]:
        """All objects as RoIs (n, 5) [image, x1, y1, x2, y2], and their labels (n,)."""
        objects = [sample.gt_instances for sample in self.samples]
        rois = [as_rois(index, found.bboxes) for index, found in enumerate(objects)]
        return torch.cat(rois), torch.cat([found.labels for found in objects])


def val_images(count: int, start: int = 0, split: str = "val") -> Images:
    """Images of digits, pixel for pixel those of `gdetkd data digits` with seed 0.

    Args:
        count: How many, from number `start` of the split on.
        split: 'val', or 'train' for what a short training in a notebook needs.

    Raises:
        ValueError: The split has no such images.
    """
    size = digits.SPLITS.get(split, 0)
    if count < 1 or start < 0 or start + count > size:
        raise ValueError(
            f"expected images within 0..{size} of a split among {sorted(digits.SPLITS)}, "
            f"got {count} from {start} of {split!r}"
        )
    drawn = [_draw(split, index) for index in range(start, start + count)]
    return Images([picture for picture, _ in drawn], [sample for _, sample in drawn])


def rpn_proposals(detector: nn.Module, images: Images, per_image: int = 50) -> Tensor:
    """The best proposals of a detector's own RPN: (N, 5) [image, x1, y1, x2, y2], pixels."""
    data = detector.data_preprocessor(images.data(), False)
    with torch.no_grad():
        features = detector.extract_feat(data["inputs"])
        found = detector.rpn_head.predict(features, data["data_samples"], rescale=False)
    return torch.cat([as_rois(i, boxes.bboxes[:per_image]) for i, boxes in enumerate(found)])


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
    """What a detector makes of given boxes: features, representation, logits, deltas.

    Preprocesses the pictures its way; without gradients. rois: (N, 5), pixels.

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


def as_rois(image: int, boxes: Tensor) -> Tensor:
    """Boxes (n, 4) of one image as RoIs (n, 5)."""
    return torch.cat([boxes.new_full((len(boxes), 1), image), boxes], 1)


def _draw(split: str, index: int) -> tuple[np.ndarray, DetDataSample]:
    """One image through JPEG, as the data set on disk holds it, and its ground truth."""
    glyphs, photos = _material()
    drawn = digits.draw_digits(0, split, index, glyphs)
    image = digits.render(0, split, index, drawn, glyphs, photos)
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    picture = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    boxes = torch.tensor([digit.box for digit in drawn], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.tensor([digit.label for digit in drawn])
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    sample = DetDataSample(
        gt_instances=InstanceData(bboxes=boxes, labels=labels), ignored_instances=nothing
    )
    side = (digits.IMAGE_SIZE, digits.IMAGE_SIZE)
    meta = dict(img_id=index, img_shape=side, ori_shape=side, scale_factor=(1.0, 1.0))
    sample.set_metainfo(meta)
    return picture, sample


@cache
def _material() -> tuple[list, list]:
    return digits.load_glyphs(), digits.load_photos()
