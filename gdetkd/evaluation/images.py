"""Images in memory with their ground truth: of data on disk, or of the embedded benchmark.

The latter are rendered as `gdetkd data digits` writes them: no data set has to be built first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor

from gdetkd.datasets import digits


@dataclass
class Images:
    """Images with their ground truth.

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
        rois = bbox2roi([found.bboxes for found in objects])
        return rois, torch.cat([found.labels for found in objects])


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


def stored_images(folder: Path, split: str = "val") -> Images:
    """The images of a split that `gdetkd data` has prepared in a folder, without crowd regions.

    Raises:
        FileNotFoundError: The folder has no `dataset.json`, or an image is missing.
        KeyError: There is no such split.
    """
    described = json.loads((Path(folder) / "dataset.json").read_text())
    where = described["splits"][split]
    content = json.loads(Path(where["annotations"]).read_text())
    labels = {category["id"]: place for place, category in enumerate(content["categories"])}
    pictures, samples = [], []
    for image in content["images"]:
        pixels = cv2.imread(str(Path(where["images"]) / image["file_name"]))
        if pixels is None:
            raise FileNotFoundError(f"{where['images']}: no image {image['file_name']}")
        objects = [each for each in content["annotations"]
                   if each["image_id"] == image["id"] and not each["iscrowd"]]  # fmt: skip
        boxes = torch.tensor([each["bbox"] for each in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        known = torch.tensor([labels[each["category_id"]] for each in objects], dtype=torch.long)
        pictures.append(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
        samples.append(_sample(image["id"], boxes, known, pixels.shape[:2]))
    return Images(pictures, samples, tuple(described["classes"]))


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
    return picture, _sample(index, boxes, labels, (digits.IMAGE_SIZE, digits.IMAGE_SIZE))


def _sample(number: int, boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> DetDataSample:
    """Ground truth of an image of (height, width) pixels: boxes (n, 4) x1 y1 x2 y2, labels (n,)."""
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    sample = DetDataSample(
        gt_instances=InstanceData(bboxes=boxes, labels=labels), ignored_instances=nothing
    )
    sample.set_metainfo(
        dict(img_id=number, img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    )
    return sample


@cache
def _material() -> tuple[list, list]:
    return digits.load_glyphs(), digits.load_photos()
