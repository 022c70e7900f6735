"""Pictures of tables show every row, run or not."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from gdetkd.viz.tables import plot_gains, plot_half_widths, plot_pairs, seed_names


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_gains_show_what_ran_and_say_what_did_not():
    rows = [("both", 3.0, 14.0, 0.5, 5), ("one", 2.0, 7.0, math.nan, 1),
            ("none", 1.0, math.nan, math.nan, 0)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["row", "paper", "ours", "half", "seeds"])
    ax, paper = plot_gains({"A table": frame}).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["both", "one", "none"]
    assert {text.get_text().strip(): text.xy[1] for text in ax.texts} == {
        "one seed": 1,
        "not run": 2,
    }
    assert list(paper.lines[0].get_xdata()) == [3, 2, 1]
    assert ax.get_shared_x_axes().joined(ax, paper) is False  # COCO and digits
    (bars,) = ax.containers
    assert bars.lines[2][0].get_segments()[0][:, 0].tolist() == [13.5, 14.5]


def test_an_interval_wider_than_the_gains_is_cut_and_said():
    rows = [("wide", math.nan, 5.0, 24.0, 2), ("narrow", math.nan, 4.0, 0.5, 5)]
    frame = pd.DataFrame(rows, columns=["row", "paper", "ours", "half", "seeds"])
    (ax,) = plot_gains({"A table": frame}).axes
    assert [(text.get_text(), text.xy[1]) for text in ax.texts] == [(" ± 24.0", 0)]
    low, high = ax.get_xlim()
    assert -10 < low < 0 and 5 < high < 10


def test_pairs_join_the_runs_of_a_seed():
    ax = plot_pairs(pd.DataFrame({"baseline": [23, 25], "distilled": [40, 42]}, index=[0, 3]))
    assert [list(line.get_ydata()) for line in ax.lines] == [[-1, -1], [1, 1]]
    assert [text.get_text() for text in ax.get_xticklabels()] == [
        "baseline\n(mean 24.0)",
        "distilled\n(mean 41.0)",
    ]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["seed 0", "seed 3"]


def test_seeds_in_words():
    named = [seed_names(seeds) for seeds in ([3], [0, 2], [2, 0, 1], [0, 1])]
    assert named == ["seed 3", "seeds 0, 2", "seeds 0 to 2", "seeds 0, 1"]


def test_half_widths_beside_the_differences_to_resolve():
    ax = plot_half_widths([2, 5], [4.0, 1.0], {"Table 1": 0.1})
    assert list(ax.lines[0].get_ydata()) == [4, 1]
    assert [text.get_text() for text in ax.texts] == [" Table 1: 0.1"]
