"""Figures of the bound show what they are given, and the sliders move them."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from gdetkd import theory
from gdetkd.viz import bound

TOY = torch.tensor([[0.3, 0.1], [0.2, 0.4]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_joint_prints_both_tables():
    left, right = bound.plot_joint(TOY, ["a", "b"]).axes[:2]
    assert [text.get_text() for text in left.texts] == ["0.30", "0.10", "0.20", "0.40"]
    # 0.3 / (0.4 * 0.5) = 1.5, 0.1 / (0.4 * 0.5) = 0.5, 0.2 / (0.6 * 0.5), 0.4 / (0.6 * 0.5)
    assert [text.get_text() for text in right.texts] == ["1.50", "0.50", "0.67", "1.33"]


def test_terms_are_stacked_to_the_information():
    terms = {k: theory.bound_terms(TOY, k, torch.zeros(2, 2)) for k in (1, 2)}
    left, right = bound.plot_terms({"ignorant": terms, "again": terms}).axes
    for ax in (left, right):
        tops = [bar.get_y() + bar.get_height() for bar in ax.containers[-1]]
        assert tops == pytest.approx([terms[1].information] * 2)


def test_bias_and_spread():
    measured = {2.0: np.array([[0.5, 1.0], [0.7, 2.0]])}
    left, right = bound.plot_bias_and_spread(measured, [1, 7]).axes
    assert left.lines[0].get_xydata().tolist() == pytest.approx(np.array([[2, -1.4], [8, -0.5]]))
    assert right.lines[0].get_ydata() == pytest.approx([0.1, 0.5])


def test_agreement_and_conditionals_draw_their_input():
    x = torch.tensor([0.2, 0.8])
    left, right = bound.plot_agreement(x, {"equal": x, "thrice": 3 * x}).axes
    assert left.collections[0].get_offsets()[1].tolist() == pytest.approx([0.8, 0.8])
    assert right.collections[0].get_offsets()[1].tolist() == pytest.approx([0.8, 2.4])
    density = {0.5: torch.tensor([0.1, 0.3, 0.1])}
    ax = bound.plot_conditionals(torch.linspace(-1, 1, 3), density, density)
    assert ax.lines[0].get_ydata() == pytest.approx([0.1, 0.3, 0.1])


def test_training_shows_running_means():
    history = torch.tensor([[1.0, 0.5], [0.5, 0.25]])
    figure = bound.plot_temperature({4.0: history}, {4.0: 0.9}, 7)
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([0.5, 0.25])
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx(
        [math.log(8) - 1, math.log(8) - 0.75]
    )


def test_sliders_move_the_picture():
    explorer = bound.explore_bound()
    pictures = [bytes(explorer.picture.value)]
    for name, value in (("negatives", 4095), ("information", 7.5)):
        explorer.controls[name].value = value
        pictures.append(bytes(explorer.picture.value))
    assert len(set(pictures)) == 3
    assert not plt.get_fignums()


def test_the_title_says_what_the_loss_proves():
    title = bound.draw_bound(information=8, negatives=15).get_title()
    proved = float(title.split("proves ")[1].split(" of")[0])
    assert proved < math.log(16) and title.endswith("2.77")
