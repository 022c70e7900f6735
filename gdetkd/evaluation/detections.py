"""What a detector finds on pictures in memory, and its AP there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gdetkd.evaluation.images import Images
from gdetkd.evaluation.matches import evaluate

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes (n, 4) x1 y1 x2 y2, labels, scores


def detect(detector: nn.Module, images: Images, threshold: float = 0.0) -> list[Boxes]:
    """The detections of each picture whose score is at least the threshold, best first, pixels."""
    training = detector.training
    detector.eval()
    with torch.no_grad():
        found = [sample.pred_instances for sample in detector.test_step(images.data())]
    detector.train(training)
    return [_arrays(each[each.scores >= threshold].cpu()) for each in found]


def true_boxes(images: Images) -> list[Boxes]:
    """The ground truth of each picture in the form of detections, with a score of 1."""
    objects = [sample.gt_instances for sample in images.samples]
    return [(o.bboxes.numpy(), o.labels.numpy(), np.ones(len(o.labels))) for o in objects]


def average_precision(found: Sequence[Boxes], images: Images) -> dict[str, float]:
    """COCO's AP and AP50 in [0, 1] of the detections of each picture, by pycocotools."""
    truth = dict(
        images=[dict(id=index) for index in range(len(images))],
        categories=[dict(id=index, name=name) for index, name in enumerate(images.classes)],
        annotations=_annotations(true_boxes(images)),
    )
    stats = evaluate(truth, _annotations(found)).stats
    return dict(zip(("AP", "AP50"), map(float, stats[:2]), strict=True))


def _annotations(found: Sequence[Boxes]) -> list[dict]:
    """In COCO's format."""
    lines = []
    for image, (boxes, labels, scores) in enumerate(found):
        for (x1, y1, x2, y2), label, score in zip(boxes, labels, scores, strict=True):
            box = [float(side) for side in (x1, y1, x2 - x1, y2 - y1)]
            lines.append(
                dict(
                    image_id=image,
                    category_id=int(label),
                    bbox=box,
                    area=box[2] * box[3],
                    score=float(score),
                    iscrowd=0,
                )  # fmt: skip
            )
    return lines


def _arrays(instances) -> Boxes:
    return instances.bboxes.numpy(), instances.labels.numpy(), instances.scores.numpy()
