"""Figures of the tour: the gap, predictions for one box, a map, a minute of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from gdetkd.viz import style
from gdetkd.viz.proposals import crop
from gdetkd.viz.style import detector_color
from gdetkd.viz.tables import seed_names


def plot_gap(precision: Mapping[str, float]) -> Axes:
    """Average precision (AP, 0 to 1) per detector, and the gap from baseline to teacher."""
    ax = style.new_axes(0.9 + 0.5 * len(precision))
    names = list(precision)
    percent = [100 * precision[name] for name in names]
    ax.barh(names, percent, color=[detector_color(name) for name in names], height=0.6)
    for place, value in enumerate(percent):
        inside = value > 0.15 * max(percent)  # the gap is drawn beside the bar
        options = dict(color="white", ha="right", weight="bold") if inside else dict(ha="left")
        ax.annotate(f"{value:.1f}", (value, place), xytext=(-6 if inside else 6, 0),
                    textcoords="offset points", va="center", **options)  # fmt: skip
    if {"baseline", "teacher"} <= set(names):
        low, high = (100 * precision[name] for name in ("baseline", "teacher"))
        place = names.index("baseline")
        ends = dict(arrowstyle="<->", lw=1.5, shrinkA=0, shrinkB=0)
        ax.annotate("", (high, place), (low, place), arrowprops=ends)
        ax.text((low + high) / 2, place, "the gap", ha="center", va="center",
                bbox=dict(fc="white", ec="none", pad=2))  # fmt: skip
        ax.axvline(high, color=style.NEUTRAL, lw=1, ls="--")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="AP on these images [%]", xlim=(0, 1.12 * max(*percent, 1)))
    return ax


def plot_budgets(
    records: pd.DataFrame, experiments: Mapping[str, str], teachers: Mapping[int, float]
) -> Axes:
    """AP by length of the training, of the student alone and distilled: every run, and the means.

    Args:
        records: One row per run, with `experiment`, `steps`, `seed` and `AP` (0 to 1).
        experiments: What an experiment's student is: 'baseline', 'distilled', or 'distilled' with
            more words, which is drawn hollow.
        teachers: AP of each teacher, by the steps of its training.
    """
    ax = style.new_axes(3.6)
    found = records[records["experiment"].isin(experiments)]
    found = found.assign(who=found["experiment"].map(experiments), AP=100 * found["AP"])
    for who, runs in found.groupby("who"):
        means = runs.groupby("steps").agg(AP=("AP", "mean"), seeds=("seed", seed_names))
        color = detector_color(who)
        fill = color if who in style.DETECTOR_COLORS else "white"
        ax.plot(runs["steps"], runs["AP"], "o", color=color, alpha=0.35, ms=5)
        ax.plot(
            means.index, means["AP"], "D-", color=color, mfc=fill, ms=8, label=f"student, {who}"
        )
        for steps, (mean, seeds) in means.iterrows():
            below = mean < 100 * min(teachers.values())
            place = (10, -14 if below else 6)  # away from the teacher's line
            ax.annotate(f"{mean:.1f} ({seeds})", (steps, mean), xytext=place,
                        textcoords="offset points", color=color,
                        bbox=dict(fc="white", ec="none", alpha=0.8, pad=1))  # fmt: skip
    for (steps, teacher), dashes in zip(teachers.items(), ("--", ":"), strict=False):
        label = f"teacher, {steps:,} steps"
        ax.axhline(100 * teacher, color=style.TEACHER, ls=dashes, lw=1.4, label=label)
    ax.set(xlabel="steps of training", ylabel="AP on digits [%]", ylim=(15, 60))
    ax.set_xlim(600, 1.25 * found["steps"].max())  # with space for the last seeds' names
    ax.legend(loc="lower right")
    return ax


def compare_predictions(
    pictures: Sequence[np.ndarray],
    rois: np.ndarray,
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> Figure:
    """One row per box: its pixels, and the class probabilities of each detector.

    rois: (n, 5) [image, x1, y1, x2, y2], pixels; labels: (n,), the object's class, framed;
    probabilities: (n, classes + 1) per detector, background last.
    """
    columns = [*classes, "bg"]
    figure, axes = style.panels(
        1 + len(probabilities), len(rois), height=1.55, sharey="col",
        gridspec_kw=dict(width_ratios=[0.6, *[1] * len(probabilities)]),
    )  # fmt: skip
    for row, roi, label, place in zip(axes, rois, labels, range(len(rois)), strict=True):
        row[0].imshow(crop(pictures[int(roi[0])], roi[1:]))
        row[0].set_axis_off()
        for ax, (name, values) in zip(row[1:], probabilities.items(), strict=True):
            bars = ax.bar(columns, values[place], color=detector_color(name), alpha=0.85)
            bars[int(label)].set(edgecolor="black", linewidth=1.8)
            ax.set_ylim(0, 1)
            ax.grid(axis="x", visible=False)
            ax.tick_params(axis="x", labelsize=9)
            if place == 0:
                ax.set_title(name, color=detector_color(name))
    axes[0, 0].set_title("the box")
    figure.supxlabel("class (framed: the correct one; bg: no object)", fontsize=11)
    figure.supylabel("probability", fontsize=11)
    return figure


def plot_minute(losses: Mapping[str, Sequence[Mapping[str, float]]], window: int = 8) -> Figure:
    """The losses of short trainings, one panel per loss; faint: raw values, bold: running means.

    losses: per training, the losses of every step. A loss need not be in all trainings.
    """
    found = dict.fromkeys(name for steps in losses.values() for name in steps[-1])
    kinds = [name for name in found if name in NAMES]
    rows = -(-len(kinds) // 4)
    figure, axes = style.panels(4, rows, height=2.2, sharex=True)
    for ax, kind in zip(axes.flat, kinds, strict=False):
        for name, steps in losses.items():
            if kind not in steps[-1]:
                continue
            raw, color = [step[kind] for step in steps], detector_color(name)
            count = range(1, len(raw) + 1)
            ax.plot(count, raw, color=color, alpha=0.25, lw=1)
            ax.plot(count, style.running_mean(raw, window), color=color, label=name)
        ax.set_title(NAMES[kind], fontsize=10)
        ax.set_ylim(bottom=0)
    for ax in axes.flat[len(kinds) :]:
        ax.set_axis_off()
    for ax in axes.flat[max(0, len(kinds) - 4) : len(kinds)]:  # the lowest of every column
        ax.set_xlabel("step")
        ax.tick_params(axis="x", labelbottom=True)
    figure.supylabel("loss", fontsize=11)
    axes[0, 0].legend(fontsize=9)
    return figure


# What figures call the losses of a step; those from the labels come first.
NAMES = {
    "loss_rpn_cls": "object or not (RPN)",
    "loss_cls": "class",
    "loss_bbox": "box",
    "kd_imitation_loss": "features (SGFI)",
    "kd_contrastive_loss": "contrast (CKD)",
    "kd_classification_loss": "class scores",
    "kd_regression_loss": "class-wise boxes (CAReg)",
}


def draw_map() -> Axes:
    """One step of distillation: what flows where, and which notebook explains it."""
    ax = style.new_axes(4.3)
    ax.set_axis_off()
    ax.set(xlim=(0, 100), ylim=(0, 48))
    places = (
        ("features", 29),
        ("representations\nof the boxes", 54),
        ("predictions:\nclass, box", 79),
    )
    for name, color, y in (("teacher (frozen)", style.TEACHER, 38), ("student", style.STUDENT, 6)):
        _card(ax, 3, y, 15, name, color)
        for (text, x), before in zip(places, (18, 46, 71), strict=True):
            _card(ax, x, y, 17, text, color)
            style.arrow(ax, (before, y + 2.5), (x - 0.6, y + 2.5))
    links = (
        ("imitation of regions, weighted\nover pyramid levels  (5)", 37.5),
        ("contrast: match each box\nto itself  (1 to 4)", 62.5),
        ("class distillation  (8, 9)\nclass-aware boxes  (6)", 87.5),
    )
    for text, x in links:
        style.arrow(ax, (x, 37.4), (x, 11.6), color=style.DISTILLED, lw=2)
        ax.text(x, 26.5, text, ha="center", va="center", fontsize=9.5, color=style.DISTILLED,
                bbox=dict(fc="white", ec="none", pad=2))  # fmt: skip
    style.arrow(ax, (10.5, 11.6), (10.5, 37.4))
    ax.text(10.5, 26.5, "the student's\nproposals: both see\nthe same boxes", ha="center",
            va="center", fontsize=9.5, bbox=dict(fc="white", ec="none", pad=2))  # fmt: skip
    others = ("dense students (7)", "one step (9, 10)", "a real training (11)", "the results (12)")
    ax.text(50, 1.2, "     ".join(others),
            ha="center", fontsize=9.5, color=style.NEUTRAL)  # fmt: skip
    return ax


def _card(ax: Axes, x: float, y: float, width: float, text: str, color: str) -> None:
    ax.add_patch(
        FancyBboxPatch((x, y), width, 5, boxstyle="round,pad=0.4", fc=color, ec="none", alpha=0.9)
    )
    ax.text(x + width / 2, y + 2.5, text, ha="center", va="center", color="white", fontsize=10)
