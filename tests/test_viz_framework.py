"""Pictures of a whole step show the shapes, norms and cosines that they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from gdetkd.distillation.structures import RoIOutputs
from gdetkd.viz import framework as viz


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def view(channels, width):
    return RoIOutputs(
        rois=torch.zeros(6, 5),
        pyramid=tuple(torch.zeros(2, channels, 32 // 2**i, 32 // 2**i) for i in range(3)),
        pooled=torch.zeros(6, channels, 7, 7),
        representation=torch.zeros(6, width),
        logits=torch.zeros(6, 11),
        deltas=torch.zeros(6, 10, 4),
    )


def test_data_flow_names_the_shapes_of_both_sides():
    figure = viz.data_flow(torch.zeros(2, 3, 128, 128), view(8, 20), view(12, 30))
    texts = [text.get_text() for text in figure.axes[0].texts]
    for expected in (
        "images  2 x 3 x 128 x 128",
        "the same boxes  6 x 5",
        "pyramid\n3 levels, 8 ch., 32 to 8 cells",
        "pooled\n6 x 12 x 7 x 7",
        "representation\n6 x 20",
        "representation\n6 x 30",
    ):
        assert expected in texts


def test_bars_are_the_norms():
    norms = {
        "first": {"loss_cls": 2.0, "kd_x_loss": 1.0},
        "last": {"loss_cls": 0.5, "kd_x_loss": 3.0},
    }
    first, last = viz.gradient_shares(norms).axes
    assert [bar.get_width() for bar in first.patches] == [2.0, 1.0]
    assert [bar.get_width() for bar in last.patches] == [0.5, 3.0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["loss_cls", "kd_x"]


def test_cosines_stand_in_their_cells():
    ax = viz.gradient_cosines(np.array([[1.0, -0.25], [-0.25, 1.0]]), ["a_loss", "b_loss"])
    assert [text.get_text() for text in ax.texts] == ["1.00", "-0.25", "-0.25", "1.00"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]


def test_losses_start_at_one():
    ax = viz.losses_over_steps({"a": [4.0, 2.0], "b": [5.0, 10.0]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[1.0, 0.5], [1.0, 2.0]]
