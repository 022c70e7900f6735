"""Detections on pictures in memory, and their AP, are those of a whole evaluation."""

import contextlib
import io

import numpy as np
import pytest
import torch
from helpers import build, faster_rcnn
from mmdet.evaluation import CocoMetric

from gdetkd.evaluation.detections import average_precision, detect, true_boxes
from gdetkd.evaluation.images import val_images


@pytest.fixture(scope="module")
def images():
    return val_images(4)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build(faster_rcnn())


def shifted(images, share):
    """The truth, its boxes moved to the right by a share of their width, the scores mixed."""
    moved = []
    for index, (boxes, labels, _) in enumerate(true_boxes(images)):
        step = share * (boxes[:, 2] - boxes[:, 0])
        boxes = boxes + np.stack([step, 0 * step, step, 0 * step], 1)
        moved.append((boxes, labels, np.linspace(0.3, 0.9, len(boxes)) - 0.01 * index))
    return moved


def test_the_truth_is_perfect_and_nothing_is_worth_nothing(images):
    assert average_precision(true_boxes(images), images) == dict(AP=1.0, AP50=1.0)
    nothing = [(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))] * len(images)
    assert average_precision(nothing, images) == dict(AP=0.0, AP50=0.0)


def test_a_tenth_aside(images):
    # IoU 0.9 / 1.1 = 0.818: right at 0.5, 0.55 ... 0.8, seven of the ten thresholds.
    found = average_precision(shifted(images, 0.1), images)
    assert found["AP50"] == pytest.approx(1) and found["AP"] == pytest.approx(0.7)


def test_it_is_what_a_training_measures(images, tmp_path):
    """MMDetection's metric, which reads the truth from a file as `gdetkd data digits` writes it."""
    from gdetkd.datasets.digits import build_digits

    build_digits(tmp_path, splits={"val": len(images)})
    found = shifted(images, 0.2)
    with contextlib.redirect_stdout(io.StringIO()):
        metric = CocoMetric(ann_file=str(tmp_path / "annotations" / "val.json"), metric="bbox")
        metric.dataset_meta = dict(classes=images.classes)
        for index, (boxes, labels, scores) in enumerate(found):
            predicted = dict(
                bboxes=torch.tensor(boxes), labels=torch.tensor(labels), scores=torch.tensor(scores)
            )
            sample = dict(img_id=index, ori_shape=(128, 128), pred_instances=predicted)
            metric.process({}, [sample])
        theirs = metric.evaluate(len(images))
    ours = average_precision(found, images)
    # Theirs is rounded to three places.
    assert ours["AP"] == pytest.approx(theirs["coco/bbox_mAP"], abs=5.1e-4)
    assert ours["AP50"] == pytest.approx(theirs["coco/bbox_mAP_50"], abs=5.1e-4)
    assert 0.1 < ours["AP"] < ours["AP50"]


def test_detections_are_those_of_the_detector_above_a_score(detector, images):
    detector.train()
    everything = detect(detector, images)
    assert detector.training  # as it was
    with torch.no_grad():
        samples = detector.eval().test_step(images.data())
    for (boxes, labels, scores), sample in zip(everything, samples, strict=True):
        assert np.array_equal(boxes, sample.pred_instances.bboxes.numpy())
        assert np.array_equal(labels, sample.pred_instances.labels.numpy())
        assert (np.diff(scores) <= 0).all()
    threshold = float(np.median(np.concatenate([each[2] for each in everything])))
    for whole, part in zip(everything, detect(detector, images, threshold), strict=True):
        kept = whole[2] >= threshold
        assert all(np.array_equal(a[kept], b) for a, b in zip(whole, part, strict=True))
