"""Figures of level weights show the numbers they are given, and their sliders move them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from gdetkd.losses import level_weights
from gdetkd.viz import imitation as viz


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def material(n=6, levels=3, width=5):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(n, 2, generator=generator) * 20
    size = torch.rand(n, 2, generator=generator) * 30 + 8
    rois = torch.cat([torch.arange(n)[:, None] % 2, corner, corner + size], 1)
    maps = [torch.randn(n, 4, 7, 7, generator=generator) for _ in range(levels)]
    embeddings = (
        torch.randn(n, levels, width, generator=generator),
        torch.randn(n, width, generator=generator),
    )
    pictures = [np.zeros((64, 64, 3), np.uint8)] * 2
    return pictures, rois, maps, torch.randn(n, 4, 7, 7, generator=generator), embeddings


def test_size_of_a_box_is_the_root_of_its_area():
    rois = torch.tensor([[0, 1.0, 2.0, 5.0, 11.0], [1, 0.0, 0.0, 3.0, 3.0]])
    assert viz.box_sizes(rois).tolist() == [6.0, 3.0]  # 4 x 9 px, 3 x 3 px


def test_bars_in_a_box_are_its_weights_from_the_bottom():
    rois, weights = torch.tensor([[0, 10.0, 20.0, 30.0, 60.0]]), torch.tensor([[0.25, 0.75]])
    figure = viz.weights_on_pictures([np.zeros((80, 80, 3), np.uint8)], rois, weights)
    frame, fine, coarse = (p for p in figure.axes[0].patches if isinstance(p, Rectangle))
    assert to_hex(frame.get_edgecolor()) == viz.LEVEL_COLORS[1].lower()  # the larger weight
    assert (fine.get_y(), fine.get_height()) == (50, 10)  # a quarter of 40 px, at the bottom
    assert (coarse.get_y(), coarse.get_height()) == (20, 30)


def test_every_picture_has_its_own_boxes():
    pictures, rois, *_ = material()
    figure = viz.weights_on_pictures(pictures[:1], rois, torch.full((6, 3), 1 / 3))
    assert len(figure.axes[0].patches) == 3 * (1 + 3)  # image 0 has half of six boxes


def test_mean_weights_by_size():
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    sizes, edges = torch.tensor([5.0, 8.0, 30.0]), [0, 10, 20, 40]
    (ax,) = viz.weights_by_size({"a": weights}, sizes, edges, borders=[20]).axes
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == [0.75, 0.0, 0.25, 1.0]  # the bin without boxes is left out
    assert [text.get_text() for text in ax.texts] == ["2", "1"]


def test_curves_and_bars_hold_what_they_are_given():
    curves = {("s", "a"): [4.0, 2.0], ("s", "b"): [3.0, 1.0], ("t", "a"): [5.0, 1.0]}
    figure = viz.fitting_panels(curves, [0, 20], 2.5)
    assert [ax.get_title() for ax in figure.axes] == ["s student", "t student"]
    lines = figure.axes[0].lines[:2]
    assert [list(line.get_ydata()) for line in lines] == [[4.0, 2.0], [3.0, 1.0]]
    errors = {"one": torch.tensor([1.0, 3.0, 5.0]), "two": torch.tensor([2.0, 2.0, 8.0])}
    ax = viz.errors_by_rule(errors, torch.tensor([5.0, 6.0, 30.0]), [0, 10, 40])
    assert [bar.get_height() for bar in ax.patches] == [2.0, 5.0, 2.0, 8.0]
    ax = viz.level_gradients({"rigid": [1.0, 0.0], "guided": [0.5, 0.25]})
    assert [bar.get_height() for bar in ax.patches] == [1.0, 0.0, 0.5, 0.25]


def test_one_object_has_a_panel_for_each_detector_level():
    pictures, rois, maps, target, _ = material()
    figure = viz.object_on_levels(
        pictures[0], rois[0, 1:], target[0], [m[0] for m in maps], [0.2, 0.3, 0.5]
    )
    assert len(figure.axes) == 2 + 3 + 1  # the color bar
    assert "weight 0.50" in figure.axes[-2].get_title()
    norms = target[0].square().sum(0).sqrt()
    shown = figure.axes[1].images[1].get_array()
    np.testing.assert_allclose(shown, norms / norms.mean(), rtol=1e-5)


def test_temperature_curve_marks_a_point_on_itself():
    figure = viz.temperature_curve([0.1, 1.0, 10.0], [3.0, 1.0, 2.0], [1, 0.8, 0.4], 1.0, marked=1)
    assert list(figure.axes[0].lines[-1].get_ydata()) == [1.0]


def test_temperature_slider_moves_the_weights():
    pictures, rois, maps, target, embeddings = material()
    explorer = viz.temperature_explorer(pictures, rois, maps, target, embeddings)
    assert "gdetkd-imitation-temperature" in explorer._dom_classes
    before = bytes(explorer.picture.value)
    explorer.controls["tau"].value = 0.01
    assert bytes(explorer.picture.value) != before
    assert level_weights(*embeddings, 0.01).amax(1).mean() > 0.9  # what the picture now shows


def test_proposal_slider_shows_another_box():
    pictures, rois, maps, target, embeddings = material()
    weights = level_weights(*embeddings, 1.0)
    explorer = viz.proposal_explorer(pictures, rois, maps, target, weights)
    assert "gdetkd-imitation-proposal" in explorer._dom_classes
    assert explorer.controls["proposal"].max == 5
    before = bytes(explorer.picture.value)
    explorer.controls["proposal"].value = 3
    assert bytes(explorer.picture.value) != before
