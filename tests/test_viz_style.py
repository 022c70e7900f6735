"""One style for all figures, and figures that follow their controls."""

import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import colors
from PIL import Image

from gdetkd.viz import style
from gdetkd.viz.widgets import Explorer


@pytest.fixture(autouse=True)
def defaults():
    with plt.rc_context():
        style.use_style()
        yield
    plt.close("all")


def test_a_figure_is_as_wide_as_a_code_host_shows_it():
    figure, axes = style.panels(2, rows=2, height=2.0)
    assert axes.shape == (2, 2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert Image.open(buffer).size == (900, 400)


def test_running_mean_covers_the_last_values():
    assert style.running_mean([4.0, 2.0, 0.0], window=2).tolist() == [4, 3, 1]


def test_grouped_bars_stand_side_by_side():
    ax = style.new_axes()
    rows = {"a": [1, 2], "b": [3, 4]}
    style.grouped_bars(ax, rows, ["x", "y"], ("black", "white"), yerr={"a": [0.1, 0.2]})
    assert [bar.get_height() for bar in ax.patches] == [1, 2, 3, 4]
    centers = [bar.get_x() + bar.get_width() / 2 for bar in ax.patches]
    assert centers == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y"]


# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
DEFICIENCIES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip


def perceived(names, matrix):
    """CIELAB of colors as seen through a deficiency."""
    rgb = np.array([colors.to_rgb(name) for name in names])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(matrix).T).clip(0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
                           [0.0193, 0.1192, 0.9505]]).T / [0.9505, 1, 1.089]  # fmt: skip
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("matrix", DEFICIENCIES.values(), ids=DEFICIENCIES)
@pytest.mark.parametrize(
    "palette, least",
    # A difference of 2 is just noticed; ten classes leave less room than three detectors do.
    [(style.CLASS_COLORS, 5), ((style.TEACHER, style.STUDENT, style.DISTILLED), 15)],
)
def test_colors_differ_for_color_blind_readers(palette, least, matrix):
    lab = perceived(palette, matrix)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert apart[~np.eye(len(lab), dtype=bool)].min() > least


def test_explorer_draws_again_when_a_control_moves():
    def draw(height, label):
        figure, axes = style.panels()
        axes[0, 0].bar([0], [height], label=label)
        axes[0, 0].set_ylim(0, 10)
        return axes[0, 0]

    explorer = Explorer(
        draw, height=ipywidgets.IntSlider(2, 0, 9), label=ipywidgets.Dropdown(options=["a", "b"])
    )
    before = bytes(explorer.picture.value)
    assert before.startswith(b"\x89PNG")
    explorer.controls["height"].value = 8
    assert bytes(explorer.picture.value) != before
    explorer.controls["height"].value = 2
    assert bytes(explorer.picture.value) == before
    assert not plt.get_fignums()
