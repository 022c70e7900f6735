"""Pictures of class-aware regression show the numbers they are given, and their sliders move."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from gdetkd.viz import regression as viz

CLASSES = tuple("0123456789")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_mean_iou_by_confidence():
    confidence = torch.tensor([0.1, 0.3, 0.8, 0.9, 0.7])
    iou = torch.tensor([0.4, 0.6, 0.7, 0.9, 0.8])
    ax = viz.confidence_and_iou(confidence, {"teacher": iou}, [0, 0.5, 1])
    line = ax.containers[0].lines[0]
    np.testing.assert_allclose(np.float64(line.get_xdata()), [0.2, 0.8], rtol=1e-6)
    np.testing.assert_allclose(np.float64(line.get_ydata()), [0.5, 0.8], rtol=1e-6)
    assert [text.get_text() for text in ax.texts] == ["2", "3"]


def test_an_ambiguous_proposal_has_the_boxes_of_its_likeliest_classes():
    confidences = torch.tensor([0.0, 0.4, 0.0, 0.3, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2])
    boxes = torch.arange(10)[:, None] + torch.tensor([5.0, 5.0, 25.0, 35.0])
    figure = viz.ambiguous_proposal(
        np.zeros((64, 64, 3), np.uint8), [6, 6, 26, 36], boxes, confidences, CLASSES, shown=2
    )
    image, bars = figure.axes
    assert [patch.get_label() for patch in image.patches] == ["proposal", "box if 1", "box if 3"]
    assert [patch.get_x() for patch in image.patches] == [6, 6, 8]
    assert [text.get_text() for text in image.texts] == ["if 1", "if 3"]
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], confidences)


def test_gains_are_drawn_over_the_push():
    rows = [("1", "plain", 4.0, -11.0, 2.0), ("1", "aware", 1.4, -2.0, 1.0)]
    rows = pd.DataFrame(rows, columns=["", "loss", "push", "gain", "half"]).set_index("")
    ax = viz.push_and_gain(rows)
    points = [bars.lines[0].get_xydata().tolist() for bars in ax.containers]
    assert points == [[[1.4, -2.0]], [[4.0, -11.0]]]


def test_contributions_are_confidence_times_gap_and_the_diamonds_their_sum():
    gaps = torch.tensor([[0.2, 0.1, 0.0, 0.0], [-0.1, 0.1, 0.0, 0.4]])
    ax = viz.weighted_gaps(gaps, torch.tensor([0.5, 0.25]), ["4", "9"])
    np.testing.assert_allclose(
        [bar.get_height() for bar in ax.patches],
        [0.1, 0.05, 0.0, 0.0, -0.025, 0.025, 0.0, 0.1],
        rtol=1e-5,
    )
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.075, 0.075, 0.0, 0.1], rtol=1e-5)


def test_gradients_have_a_row_a_proposal_and_a_ring_at_the_truth():
    values = torch.rand(2, 10, generator=torch.Generator().manual_seed(0))
    figure = viz.class_gradients(values, {"plain": 2 * values}, [3, 10], CLASSES)
    first, second = figure.axes[:2]
    np.testing.assert_allclose(second.images[0].get_array(), 2 * values)
    rings = [(line.get_xdata()[0], line.get_ydata()[0]) for line in first.lines]
    assert rings == [(3, 0)]  # the second row is background
    assert [label.get_text() for label in first.get_yticklabels()] == ["3", "background"]


def test_two_classes_show_both_losses():
    gaps = torch.tensor([[0.2, 0.0, 0.0, 0.0], [-0.1, 0.0, 0.0, 0.0]])
    figure = viz.two_classes(gaps, torch.tensor([0.6, 0.3]), ["4", "9"])
    # |0.6 * 0.2 - 0.3 * 0.1| = 0.09; plain: 0.2.
    assert [text.get_text() for text in figure.axes[1].texts] == [
        "class-aware: loss 0.090",
        "plain: loss 0.200",
    ]


def test_sliders_move_the_confidences_and_cannot_exceed_one():
    gaps = torch.tensor([[0.2, 0.1, -0.05, 0.1], [-0.15, 0.1, -0.15, -0.08]])
    explorer = viz.confidence_explorer(gaps, ["4", "9"])
    assert "gdetkd-regression-confidence" in explorer._dom_classes
    assert explorer.controls["first"].description == "confidence in 4"
    before = bytes(explorer.picture.value)
    explorer.controls["first"].value = 1.0
    explorer.controls["second"].value = 1.0
    scaled = bytes(explorer.picture.value)
    assert scaled != before
    explorer.controls["first"].value = explorer.controls["second"].value = 0.5
    assert bytes(explorer.picture.value) == scaled
