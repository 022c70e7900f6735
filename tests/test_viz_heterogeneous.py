"""Figures of dense students show their numbers, and their sliders change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from gdetkd.viz import heterogeneous as viz

UNSURE = torch.tensor([0.60, 0.25, 0.05, 0.10])
PICTURE = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def heights(ax):
    return np.float64([bar.get_height() for bar in ax.patches])


def edges(ax, color):
    """Left edges of the frames of a color, in the order they were drawn."""
    return [
        p.get_x() for p in ax.patches if p.get_edgecolor() == plt.matplotlib.colors.to_rgba(color)
    ]


def test_three_readings_by_hand():
    found = viz.readings(torch.tensor([[2.0, 0.0]]).log())  # odds of 2 and 0 to background's 1
    np.testing.assert_allclose(found["section D"], [[1, 0]])
    np.testing.assert_allclose(found["softmax with 0"], [[2 / 3, 0]], rtol=1e-6)
    np.testing.assert_allclose(found["sigmoid"], [[2 / 3, 0]], rtol=1e-6)
    # A background of log 4: odds of 1/2, and the background is the maximum.
    found = viz.readings(torch.tensor([[2.0]]).log(), background=float(np.log(4)))
    np.testing.assert_allclose([v.item() for v in found.values()], [1 / 2, 1 / 3, 1 / 3], rtol=1e-6)


def test_each_loss_is_least_where_the_text_says():
    teacher = UNSURE[None]
    odds, sigmoids = (teacher[:, :-1] / teacher[:, -1:]).log(), teacher[:, :-1].logit()
    tied = torch.ones(1, 3)
    assert viz.reading_losses(tied, teacher)["section D"] == 0
    for reading, copy in (("softmax with 0", odds), ("sigmoid", sigmoids)):
        copy = copy.clone().requires_grad_()
        loss = viz.reading_losses(copy, teacher)[reading]
        (gradient,) = torch.autograd.grad(loss, copy)
        assert gradient.abs().max() < 1e-6  # float32
        assert loss < viz.reading_losses(tied, teacher)[reading]


def test_nothing_rewards_background_in_section_d():
    """While background is the maximum, no logit is pushed down; the other losses push down."""
    logits = torch.tensor([[-4.0, -3.0, -5.0]], requires_grad=True)
    background = torch.tensor([[0.005, 0.004, 0.001, 0.99]])
    losses = viz.reading_losses(logits, background)
    pushes = {name: -torch.autograd.grad(loss, logits)[0][0] for name, loss in losses.items()}
    np.testing.assert_allclose(pushes["section D"], background[0, :-1], rtol=1e-5)
    assert all((pushes[name] < 0).all() for name in ("softmax with 0", "sigmoid"))


def test_totals_count_every_box():
    totals = torch.tensor([0.1, 0.9, 1.6, 1.6])
    figure = viz.score_totals({"student": totals}, torch.tensor([False, True, True, True]))
    counts = heights(figure.axes[0])
    background, objects = counts[: len(counts) // 2], counts[len(counts) // 2 :]
    assert background.sum() == 1 and objects.sum() == 3 and objects.max() == 2


def test_curves_meet_at_a_tie():
    figure = viz.score_curves([2.0])
    curves = {line.get_label(): line for line in figure.axes[0].lines}
    at = np.argmin(np.abs(curves["section D"].get_xdata() - 2.0))
    assert curves["section D"].get_ydata()[at] == pytest.approx(1.0, abs=1e-5)
    softmax = np.exp(2) / (2 * np.exp(2) + 1)
    assert curves["softmax with 0"].get_ydata()[at] == pytest.approx(softmax, abs=1e-5)


def test_one_box_has_scores_pushes_and_losses():
    figure = viz.one_box(torch.tensor([1.0, 0.0, -3.0]), UNSURE, ["4", "9", "7"])
    scores, pushes = figure.axes
    np.testing.assert_allclose(heights(scores)[:3], UNSURE[:3])
    np.testing.assert_allclose(heights(scores)[3:6], [1, np.exp(-1), np.exp(-4)], rtol=1e-5)
    # 4 is the maximum: 0.6 up and 0.6 + 0.25 + 0.05 down.
    np.testing.assert_allclose(heights(pushes)[:3], [-0.3, 0.25, 0.05], rtol=1e-5)
    # 0.25 * 1 + 0.05 * 4 = 0.45
    assert pushes.get_legend().texts[0].get_text() == "section D: 0.450"


def test_sliders_move_the_picture():
    explorer = viz.logits_explorer(UNSURE, ["4", "9", "7"])
    assert "gdetkd-heterogeneous-logits" in explorer._dom_classes
    assert [c.description for c in explorer.controls.values()] == ["4", "9", "7", "background"]
    seen = [bytes(explorer.picture.value)]
    for control in explorer.controls.values():
        control.value += 1
        seen.append(bytes(explorer.picture.value))
    # All four moved by the same amount: only differences count, so the first picture is back.
    assert seen[-1] == seen[0]
    assert len(set(seen)) == len(seen) - 1


def test_descent_draws_a_panel_a_column():
    history = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    figure = viz.descent({"section D": history}, [0.05, 0.9], ["background", "objects"])
    for ax, values, target in zip(figure.axes, history.T, (0.05, 0.9), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), values)
        np.testing.assert_allclose(ax.lines[1].get_ydata(), target)


def test_locations_show_the_positives_of_their_level():
    boxes = [torch.tensor([[1.0, 1, 9, 9], [2, 2, 9, 9]]), torch.tensor([[3.0, 3, 20, 20]])]
    centers = [torch.tensor([[4.0, 4], [4, 4]]), torch.tensor([[8.0, 8]])]
    hits = [torch.tensor([False, True]), torch.tensor([False])]
    figure = viz.locations(PICTURE, torch.tensor([[0.0, 0, 8, 8]]), centers, boxes, hits, [8, 16])
    fine, coarse, counts = figure.axes
    assert edges(fine, viz.POSITIVE) == [2.0] and edges(coarse, viz.POSITIVE) == []
    assert len(fine.collections[0].get_offsets()) == 1  # two anchors of one location
    assert heights(counts).tolist() == [2, 1, 1, 0]


def test_sampled_boxes_are_sorted_by_kind():
    boxes = torch.tensor([[1.0, 1, 9, 9], [2, 2, 9, 9], [3, 3, 9, 9]])
    positive = torch.tensor([False, True, False])
    figure = viz.sampled(PICTURE, torch.tensor([[0.0, 0, 8, 8]]), boxes, boxes[:, :2], positive)
    left, right = figure.axes
    assert edges(left, viz.POSITIVE) == [2.0] and edges(right, viz.NEGATIVE) == [1.0, 3.0]
    assert [ax.get_title()[:10] for ax in figure.axes] == ["1 positive", "2 negative"]


def test_level_pairs_are_counted():
    ax = viz.level_pairs(torch.tensor([0, 0, 2]), torch.tensor([1, 1, 0]), [4, 8, 16], [4, 8])
    assert ax.images[0].get_array().tolist() == [[0, 2], [0, 0], [1, 0]]
    assert [text.get_text() for text in ax.texts] == ["0", "2", "0", "0", "1", "0"]


def test_branches_have_their_mean():
    ax = viz.branch_information({"classification": [1.0, 2.0], "localization": [0.5]})
    assert [text.get_text() for text in ax.texts] == ["1.50", "0.50"]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "classification",
        "localization",
    ]
