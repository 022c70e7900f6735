"""Detections are judged as COCO judges them, and drawn."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex

from gdetkd.viz import compare_detectors, draw_detections
from gdetkd.viz.detections import CORRECT, WRONG, matched


def boxes(*rows):
    found = np.array(rows, float).reshape(-1, 6)
    return found[:, :4], found[:, 4].astype(int), found[:, 5]


TRUTH = boxes((0, 0, 10, 10, 1, 1), (20, 20, 30, 30, 2, 1))


def test_each_object_is_found_once_by_the_best_score():
    found = boxes((0, 0, 10, 10, 1, 0.6), (0, 0, 10, 9, 1, 0.9), (20, 20, 30, 30, 2, 0.5))
    assert matched(found, TRUTH).tolist() == [False, True, True]


def test_class_and_overlap_must_be_right():
    # 10 x 4 of 10 x 10: IoU 0.4.
    found = boxes((0, 0, 10, 4, 1, 0.9), (20, 20, 30, 30, 1, 0.9))
    assert matched(found, TRUTH).tolist() == [False, False]


def test_nothing_found_and_nothing_there():
    assert matched(boxes(), TRUTH).tolist() == []
    assert matched(boxes((0, 0, 5, 5, 1, 0.9)), boxes()).tolist() == [False]


def test_colors_say_right_or_wrong():
    _, ax = plt.subplots()
    found = boxes((0, 0, 10, 10, 1, 0.9), (0, 20, 3, 23, 1, 0.8))
    draw_detections(np.zeros((40, 40, 3), np.uint8), found, TRUTH, list("0123"), ax)
    assert [to_hex(p.get_edgecolor()) for p in ax.patches] == [CORRECT.lower(), WRONG.lower()]
    assert [text.get_text() for text in ax.texts] == ["1  0.90", "1  0.80"]


def test_of_labels_that_would_cover_each_other_the_better_is_written():
    _, ax = plt.subplots()
    found = boxes((1, 20, 9, 30, 1, 0.6), (0, 20, 10, 30, 1, 0.9), (25, 20, 38, 30, 1, 0.7))
    draw_detections(np.zeros((40, 40, 3), np.uint8), found, TRUTH, list("0123"), ax)
    assert [text.get_text() for text in ax.texts] == ["1  0.90", "1  0.70"]
    assert len(ax.patches) == 3


def test_comparison_has_one_row_per_detector():
    images = [np.zeros((40, 40, 3), np.uint8)] * 3
    figure = compare_detectors(images, [TRUTH] * 3, {"A": [boxes()] * 3, "B": [TRUTH] * 3})
    assert len(figure.axes) == 9
