"""pycocotools' matches of detections with objects as arrays, and its twelve figures of resamples.

pycocotools matches every image by itself. So another choice of images, in which some occur several
times and others never, needs no new matching: only weights, how often each image occurs.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

FIGURES = (
    "AP", "AP50", "AP75", "AP small", "AP medium", "AP large",
    "AR 1", "AR 10", "AR 100", "AR small", "AR medium", "AR large",
)  # fmt: skip
AREAS = ("all", "small", "medium", "large")
RECALLS = np.linspace(0.0, 1.0, 101)  # as pycocotools writes them
BLOCK = 200_000  # detections times resamples at a time, so that they fit the cache


def evaluate(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> COCOeval:
    """pycocotools' evaluation of boxes, summarized without printing.

    Args:
        truth: The content of a COCO annotation file. Its annotations are numbered from 1, since
            pycocotools takes an id of 0 for "not matched".
        detections: COCO's result format: `image_id`, `category_id`, `bbox` (x, y, width, height)
            in pixels, `score`.
    """
    found = [
        dict(
            image_id=each["image_id"], category_id=each["category_id"], score=each["score"],
            bbox=each["bbox"], area=each["bbox"][2] * each["bbox"][3], iscrowd=0,
        )
        for each in detections
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_index(truth, truth["annotations"]), _index(truth, found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _index(truth: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = dict(
        images=truth["images"],
        categories=truth["categories"],
        annotations=[dict(each, id=number) for number, each in enumerate(annotations, 1)],
    )
    coco.createIndex()
    return coco


@dataclass(frozen=True)
class Matches:
    """N detections (the best 100 of each class and image) and M objects of one range of areas.

    Attributes:
        image: (N,) place of the image among the sorted ids.
        label: (N,) place of the class among the sorted ids.
        score: (N,).
        box: (N, 4) x, y, width, height in pixels.
        rank: (N,) place among the detections of its class and image, the best first.
        object: (T, N) the object it is matched with at each IoU from 0.5 to 0.95; -1 for none.
        ignored: (T, N) does not count: matched with an object that is ignored, or of another size.
        object_image, object_label, object_box: (M,), (M,), (M, 4) as above.
        counted: (M,) objects that count; the others are crowds, or of another size.
        images, classes: Number of images and of classes.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray
    rank: np.ndarray
    object: np.ndarray
    ignored: np.ndarray
    object_image: np.ndarray
    object_label: np.ndarray
    object_box: np.ndarray
    counted: np.ndarray
    images: int
    classes: int

    @property
    def correct(self) -> np.ndarray:
        return (self.object >= 0) & ~self.ignored

    def objects(self, counted: np.ndarray | None = None) -> np.ndarray:
        """(classes, images) objects that count, of all or of those that a mask (M,) selects."""
        found = self.counted if counted is None else counted
        total = np.zeros((self.classes, self.images), int)
        np.add.at(total, (self.object_label[found], self.object_image[found]), 1)
        return total

    def curves(self, ranks: int = 100) -> list[Curve]:
        """One curve per class, of the best `ranks` detections of each image."""
        rows = np.flatnonzero(self.rank < ranks)
        return curves(self.image[rows], self.label[rows], self.score[rows], self.correct[:, rows],
                      self.ignored[:, rows], self.objects())  # fmt: skip


def matches(evaluation: COCOeval) -> dict[str, Matches]:
    """The matches of an evaluation by range of areas; a row is its annotation's id minus 1."""
    params, truth = evaluation.params, evaluation.cocoGt.dataset["annotations"]
    image_of = {number: place for place, number in enumerate(params.imgIds)}
    class_of = {number: place for place, number in enumerate(params.catIds)}
    boxes = np.array([a["bbox"] for a in evaluation.cocoDt.dataset["annotations"]]).reshape(-1, 4)
    objects = dict(
        object_image=np.array([image_of.get(a["image_id"], -1) for a in truth], int),
        object_label=np.array([class_of.get(a["category_id"], -1) for a in truth], int),
        object_box=np.array([a["bbox"] for a in truth], float).reshape(-1, 4),
        images=len(image_of),
        classes=len(class_of),
    )
    found = {}
    per_area = len(image_of)
    per_class = per_area * len(AREAS)
    for place, area in enumerate(AREAS):
        counted, parts = np.zeros(len(truth), bool), []
        for label in range(len(class_of)):
            start = label * per_class + place * per_area
            for image, entry in enumerate(evaluation.evalImgs[start : start + per_area]):
                if entry is None:
                    continue
                counted[np.asarray(entry["gtIds"], int) - 1] = np.asarray(entry["gtIgnore"]) == 0
                count = len(entry["dtIds"])
                parts.append((
                    np.full(count, image), np.full(count, label), np.asarray(entry["dtScores"]),
                    np.asarray(entry["dtIds"], int) - 1, np.arange(count),
                    entry["dtMatches"].astype(int).T - 1, entry["dtIgnore"].astype(bool).T,
                ))  # fmt: skip
        counts = len(params.iouThrs)
        none = (np.zeros(0, int),) * 2 + (np.zeros(0),) + (np.zeros(0, int),) * 2
        none += (np.zeros((0, counts), int), np.zeros((0, counts), bool))
        image, label, score, row, rank, match, ignored = (
            np.concatenate(column) for column in zip(none, *parts, strict=True)
        )
        found[area] = Matches(
            image, label, score, boxes[row], rank, match.T, ignored.T, counted=counted, **objects
        )
    return found


@dataclass(frozen=True)
class Curve:
    """What one precision-recall curve is made of, N detections by falling score.

    Attributes:
        image: (N,) place of the image.
        correct, ignored: (T, N), at T thresholds of the IoU.
        objects: (I,) objects of each image that are to be found.
    """

    image: np.ndarray
    correct: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """COCO's AP (B, T) at 101 recalls, for images that occur weights (B, I) times.

        It equals pycocotools' on images that are there as often; NaN where no object is.
        """
        # What is ignored everywhere, and what follows the last correct detection, changes nothing.
        kept = ~self.ignored.all(0)
        kept &= np.arange(len(kept)) <= np.max(np.nonzero(self.correct)[1], initial=-1)
        image, correct, ignored = self.image[kept], self.correct[:, kept], self.ignored[:, kept]
        found = np.zeros((len(weights), len(correct)))
        size = max(1, BLOCK // max(1, len(image)))
        for start in range(0, len(weights), size):
            block = np.ascontiguousarray(weights[start : start + size].T, float)
            times, total = block[image], self.objects @ block
            seen = np.cumsum(times, 0)
            for place in range(len(correct)):
                rows = np.flatnonzero(correct[place]), np.flatnonzero(ignored[place])
                found[start : start + size, place] = _precision(seen, times, *rows, total)
        return found

    def recall(self, weights: np.ndarray) -> np.ndarray:
        """The share (B, T) of the objects that is found, for weights (B, I) of the images."""
        images = len(self.objects)
        found = [np.bincount(self.image[hit], minlength=images) for hit in self.correct]
        weights = weights.astype(float)  # a product of integers is slow
        return ratio(weights @ np.stack(found, 1).astype(float), (weights @ self.objects)[:, None])


def _precision(seen, times, hits, ignored, total) -> np.ndarray:
    """COCO's AP (B,) of detections that occur times (N, B), whose running sum is seen."""
    if not len(hits):
        return np.where(total > 0, 0.0, np.nan)
    counted = seen[hits]  # between the correct detections precision falls and recall stays
    if len(ignored):
        before = np.concatenate([np.zeros((1, times.shape[1])), np.cumsum(times[ignored], 0)])
        counted = counted - before[np.searchsorted(ignored, hits)]
    right = np.cumsum(times[hits], 0)
    envelope = right / (counted + np.spacing(1))
    envelope = np.maximum.accumulate(envelope[::-1], 0)[::-1]
    reached = np.searchsorted(RECALLS, ratio(right, total), "right")
    steps = np.diff(reached, axis=0, prepend=0)
    return np.where(total > 0, (envelope * steps).sum(0) / len(RECALLS), np.nan)


def curves(image, label, score, correct, ignored, objects) -> list[Curve]:
    """One curve per class: detections (N,) and (T, N), and the objects (classes, images)."""
    order = np.argsort(-score, kind="stable")
    found = []
    for place, count in enumerate(objects):
        rows = order[label[order] == place]
        found.append(Curve(image[rows], correct[:, rows], ignored[:, rows], count))
    return found


def ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """part / total; NaN where the total is 0."""
    part, total = np.broadcast_arrays(part, total)
    return np.divide(part, total, out=np.full(part.shape, np.nan), where=total > 0)


def mean(values: np.ndarray, axis=None) -> np.ndarray:
    """The mean of what is not NaN; NaN where nothing else is."""
    there = ~np.isnan(values)
    count = there.sum(axis)
    return ratio(np.where(there, values, 0).sum(axis), count)


def class_precision(found: Sequence[Curve], weights: np.ndarray) -> np.ndarray:
    """AP (classes, B, T)."""
    return np.stack([curve.average_precision(weights) for curve in found])


def figures(areas: Mapping[str, Matches], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """COCO's figures (B, 12) and AP by class (B, classes), for weights (B, I) of the images.

    NaN where there is no object.
    """
    by_area = {area: class_precision(areas[area].curves(), weights) for area in AREAS}
    precision = [mean(by_class, (0, 2)) for by_class in by_area.values()]
    precision[1:1] = [mean(by_area["all"][..., at], 0) for at in (0, 5)]  # IoU 0.5 and 0.75
    recall = [
        mean(np.stack([curve.recall(weights) for curve in areas[area].curves(ranks)]), (0, 2))
        for area, ranks in [("all", 1), ("all", 10), *((area, 100) for area in AREAS)]
    ]
    return np.stack([*precision, *recall], 1), mean(by_area["all"], 2).T
