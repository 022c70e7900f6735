"""Figures of the contrastive loss show their data, and their controls change them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Wedge

from gdetkd.distillation.overlap import overlap_mask
from gdetkd.distillation.queue import FeatureQueue
from gdetkd.viz import contrastive as viz

PICTURE = np.full((40, 40, 3), 128, np.uint8)
# Boxes 0 and 1 overlap by 9/11, 2 lies apart, 3 is box 0 in another image.
ROIS = np.array([[0, 0, 0, 10, 10], [0, 1, 0, 11, 10], [0, 20, 20, 30, 30], [1, 0, 0, 10, 10.0]])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def moved(explorer, **values):
    """The pictures at first and after each control was set."""
    seen = [bytes(explorer.picture.value)]
    for name, value in values.items():
        explorer.controls[name].value = value
        seen.append(bytes(explorer.picture.value))
    return seen


def history(capacity=5, batch=2, steps=6):
    queue, found = FeatureQueue(capacity, 1), {}
    for step in range(steps):
        queue.enqueue(torch.full((batch, 1), float(step)))
        found[step] = queue.rows[:, 0].numpy().copy()
    return found


def test_fits_show_both_curves_of_every_loss():
    curves = dict(positives=[0.1, 0.9], negatives=[0.1, 0.5])
    figure = viz.compare_fits(dict(a=curves, b=curves))
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[0.1, 0.9], [0.1, 0.5]]


def test_shares_stand_hardest_first():
    ax = viz.draw_shares(np.array([0.1, 0.6, 0.3]), count=2)
    assert [bar.get_height() for bar in ax.patches] == [0.6, 0.3]
    figure = viz.compare_shares({0.1: np.array([1.0, 0]), 1.0: np.array([0.5, 0.5])})
    assert [ax.get_ylim() for ax in figure.axes][0] == figure.axes[1].get_ylim()
    assert "50.0%" in figure.axes[1].get_title()


def test_colors_distinguish_positive_negatives_and_excluded_boxes():
    out = {0.5: np.array([False, True, False]), 0.9: np.zeros(3, bool)}
    figure = viz.compare_negatives(PICTURE, ROIS[:3, 1:], 0, out)
    assert [ax.get_title()[-10:] for ax in figure.axes] == ["1 excluded", "0 excluded"]
    colors = [to_hex(patch.get_edgecolor()).upper() for patch in figure.axes[0].patches]
    assert colors == [viz.POSITIVE, viz.IGNORED, viz.NEGATIVE]


def test_ring_marks_the_newest_rows_and_leaves_empty_slots_white():
    ax = viz.draw_ring(history()[1], capacity=5, step=1, oldest=3)
    *cells, newest = [patch for patch in ax.patches if isinstance(patch, Wedge)]
    white = [to_hex(cell.get_facecolor()) == "#ffffff" for cell in cells]
    assert white == [False] * 4 + [True]
    # Rows 2 and 3 of 5 are the second batch: from two to four fifths, clockwise from the top.
    assert (90 - newest.theta2) % 360 == pytest.approx(144)
    assert (90 - newest.theta1) % 360 == pytest.approx(288)


def test_newest_rows_may_go_over_the_end_of_the_ring():
    third = history()[2]  # slots 4 and 0
    assert third.tolist() == [2, 0, 1, 1, 2]
    newest = viz.draw_ring(third, capacity=5, step=2, oldest=3).patches[-1]
    # From four fifths to six fifths, clockwise from the top.
    assert (90 - newest.theta2) % 360 == pytest.approx(288)
    assert (90 - newest.theta1) % 360 == pytest.approx(72)


def test_drift_marks_the_oldest_key_of_every_memory():
    cosines = np.linspace(1, 0, 11)[:, None].repeat(3, 1)
    figure = viz.draw_drift({"a": cosines}, {1: 0, 5: 4, 99: 98}, [1.0, 2.0, 3.0])
    (marks,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    np.testing.assert_allclose(marks.get_xydata(), [(0, 1), (4, 0.6)])
    assert figure.axes[1].lines[0].get_ydata().tolist() == [1, 2, 3]


def test_other_curves_show_their_values():
    ax = viz.draw_staleness([0, 1], dict(a=[1.0, 0.5]))
    assert ax.lines[0].get_ydata().tolist() == [100, 50]
    figure = viz.draw_filter([0.1, 0.5], dict(a=[1, 2], b=[3, 4]), [36.8, 37.1])
    assert figure.axes[0].lines[1].get_ydata().tolist() == [3, 4]
    curves = {"training": [2, 1], "validation": [2, 3]}
    figure = viz.compare_heads(dict(linear=curves, nonlinear=curves))
    assert figure.axes[1].lines[1].get_ydata().tolist() == [2, 3]


def test_temperature_and_query_move_the_picture():
    random = np.random.default_rng(0).random((3, 20))

    def shares(query, temperature):
        raised = np.exp(random[query] / temperature)
        return raised / raised.sum()

    explorer = viz.explore_temperature(shares, queries=3)
    assert "gdetkd-temperature" in explorer._dom_classes
    assert len(set(moved(explorer, temperature=0.5, query=2))) == 3


def test_threshold_and_proposal_move_the_picture():
    rois = torch.tensor(ROIS)
    explorer = viz.explore_negatives(
        [PICTURE] * 2, ROIS, lambda iou: overlap_mask(rois, iou).numpy()
    )
    assert "gdetkd-negatives" in explorer._dom_classes
    assert len(set(moved(explorer, iou=0.9, proposal=2))) == 3


def test_steps_move_the_queue():
    explorer = viz.explore_queue(history(), capacity=5)
    assert "gdetkd-queue" in explorer._dom_classes
    assert len(set(moved(explorer, step=4))) == 2
