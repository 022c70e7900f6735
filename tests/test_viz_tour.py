"""Figures of the tour and of a launched run show the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from gdetkd.viz import style, tour
from gdetkd.viz.launch import plot_run


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_gap_is_between_baseline_and_teacher():
    ax = tour.plot_gap({"teacher": 0.5, "baseline": 0.2})
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == [50, 20]
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == [
        style.TEACHER.lower(), style.STUDENT.lower(),
    ]  # fmt: skip
    assert "the gap" in [text.get_text() for text in ax.texts]
    alone = tour.plot_gap({"teacher": 0.5})
    assert "the gap" not in [text.get_text() for text in alone.texts]


def test_budgets_have_every_run_and_the_means_with_their_seeds():
    runs = [("short", 800, 0, 0.2), ("short", 800, 1, 0.3), ("long", 3000, 0, 0.4),
            ("late", 6000, 0, 0.5)]  # fmt: skip
    frame = pd.DataFrame(runs, columns=["experiment", "steps", "seed", "AP"])
    whose = {"short": "baseline", "long": "baseline", "late": "distilled later", "other": "x"}
    ax = tour.plot_budgets(frame, whose, {3000: 0.5, 6000: 0.6})
    every, means, _, later, teacher, longer = ax.lines
    assert every.get_xydata().tolist() == [[800, 20], [800, 30], [3000, 40]]
    assert means.get_xydata().tolist() == [[800, 25], [3000, 40]]
    assert [text.get_text() for text in ax.texts] == [
        "25.0 (seeds 0, 1)", "40.0 (seed 0)", "50.0 (seed 0)",
    ]  # fmt: skip
    assert later.get_markerfacecolor() == "white" != means.get_markerfacecolor()
    assert set(teacher.get_ydata()) == {50} and set(longer.get_ydata()) == {60}


def test_predictions_are_probabilities_with_the_correct_class_framed():
    pictures = [np.zeros((20, 20, 3), np.uint8)]
    rois = np.array([[0, 2, 2, 9, 9], [0, 5, 5, 12, 15]], float)
    chances = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    figure = tour.compare_predictions(
        pictures, rois, np.array([1, 0]), {"teacher": chances, "baseline": chances[::-1]}, "ab"
    )
    assert len(figure.axes) == 6
    teacher = figure.axes[4]  # of the second box
    assert [bar.get_height() for bar in teacher.patches] == [0.1, 0.3, 0.6]
    assert [bar.get_linewidth() > 1 for bar in teacher.patches] == [True, False, False]


def test_a_minute_has_one_panel_per_loss():
    plain = [dict(loss=3.0, loss_cls=2.0, acc=50.0), dict(loss=1.0, loss_cls=1.0, acc=60.0)]
    more = [dict(step, kd_imitation_loss=4.0) for step in plain]
    figure = tour.plot_minute({"baseline": plain, "distilled": more}, window=2)
    shown = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title() for ax in shown] == ["class", "features (SGFI)"]
    assert [len(ax.lines) for ax in shown] == [4, 2]  # raw and smooth
    assert shown[0].lines[1].get_ydata().tolist() == [2.0, 1.5]


def test_the_map_names_every_stage():
    text = " ".join(text.get_text() for text in tour.draw_map().texts)
    for stage in (*range(4, 13), "1 to 4"):
        assert str(stage) in text


def test_a_run_marks_its_checkpoints_and_the_kill():
    frame = pd.DataFrame({"loss": np.linspace(3, 1, 7)}, index=range(1, 8))
    ax = plot_run(frame, steps=12, saved_every=3, killed=5)
    upright = [line.get_xdata()[0] for line in ax.lines[1:]]
    assert upright == [3, 6, 5]
    assert ax.get_xlim()[0] < 1 and ax.get_xlim()[1] >= 12
    assert ax.get_ylim()[0] < 1 < 3 < ax.get_ylim()[1]  # no point is cut
    assert [text.get_text().strip() for text in ax.texts] == ["checkpoints", "killed"]
    assert plot_run(pd.DataFrame(), steps=12, saved_every=3).texts
