"""Tables as figures: gains with intervals, pairs by seed, the seeds that a difference needs."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gdetkd.viz import style

LABEL = 40  # characters per line of a label; leaves two thirds of the width to the plot


def plot_gains(gains: Mapping[str, pd.DataFrame]) -> Figure:
    """Our gains and the paper's, one row of panels per table; what has not run is labeled so.

    Digits is on the left and COCO on the right, each on an axis of its own: their points cannot be
    compared. The axis is as wide as the gains need. A wider interval is cut, and its half width is
    printed.

    gains: title -> columns row, paper, ours, half (of the 95% interval), seeds; in points of AP
    (average precision). NaN is not drawn.
    """
    lines = [sum(1 + (len(row) > LABEL) for row in frame["row"]) for frame in gains.values()]
    height = 1.2 + 0.32 * sum(lines) + 0.75 * len(lines)
    with_paper = any(frame["paper"].notna().any() for frame in gains.values())
    figure, axes = style.panels(
        1 + with_paper, len(gains), height / len(gains), sharex="col", sharey="row",
        gridspec_kw=dict(
            height_ratios=[n + 1 for n in lines], width_ratios=(2, 1)[: 1 + with_paper]
        ),
    )  # fmt: skip
    axes[0, 0].set_xlim(_limits(gains.values()))
    for row, (title, frame) in zip(axes, gains.items(), strict=True):
        _draw_gains(row[0], frame)
        row[0].set_title(title, loc="left")
        for ax in row[1:]:
            ax.plot(frame["paper"], range(len(frame)), "D", color=style.STUDENT, ms=7)
            ax.axvline(0, color="black", lw=1)
    axes[-1, 0].set_xlabel("gain on digits [AP points], 95% interval")
    for ax in axes[-1, 1:]:
        ax.set_xlabel("gain on COCO")
    return figure


def _limits(frames: Iterable[pd.DataFrame]) -> tuple[float, float]:
    """Limits with room around 0, all gains, and intervals that are not wider than these."""
    rows = pd.concat(frames)
    seen = rows["ours"].dropna()
    low, high = min(0.0, 0.0, *seen), max(0.0, 0.0, *seen)
    span = max(2.0, high - low)
    narrow = rows[rows["half"] <= span]
    ends = [*(narrow["ours"] - narrow["half"]), *(narrow["ours"] + narrow["half"])]
    room = 0.05 * span
    ends += [low - 5 * room, high + 5 * room]  # some points have text beside them
    return min(ends) - room, max(ends) + room


def _draw_gains(ax: Axes, frame: pd.DataFrame) -> None:
    places = list(range(len(frame)))
    run = frame["ours"].notna()
    ax.errorbar(frame["ours"], places, xerr=frame["half"].fillna(0), fmt="o", capsize=4,
                color=style.TEACHER)  # fmt: skip
    low, high = ax.get_xlim()
    cut = (frame["ours"] - frame["half"] < low) | (frame["ours"] + frame["half"] > high)
    beside = {place: " not run" for place in frame.index[~run]}
    beside |= {place: " one seed" for place in frame.index[frame["seeds"] == 1]}
    beside |= {place: f" ± {frame['half'][place]:.1f}" for place in frame.index[cut]}
    for place, text in beside.items():
        ax.annotate(text, (1, place), xycoords=("axes fraction", "data"), va="center",
                    color=style.NEUTRAL, annotation_clip=False)  # fmt: skip
    ax.axvline(0, color="black", lw=1)
    ax.set_yticks(places, [textwrap.fill(row, LABEL) for row in frame["row"]])
    ax.set_ylim(len(frame) - 0.4, -0.6)


def seed_names(seeds: Iterable[int]) -> str:
    """Seeds in words: "seed 0", "seeds 0 to 4", "seeds 0, 2"."""
    seeds = sorted(seeds)
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


def plot_pairs(by_seed: pd.DataFrame) -> Axes:
    """AP by seed (rows) of several experiments (columns), minus the experiment's mean.

    Runs of one seed are joined: a level line means that both deviate in the same way.
    """
    ax = style.new_axes()
    means = by_seed.mean()
    places = range(len(means))
    marks = zip((by_seed - means).iterrows(), itertools.cycle("os^Dv"), strict=False)
    for (seed, values), mark in marks:
        ax.plot(places, values, f"{mark}-", lw=1.2, ms=7, label=f"seed {seed}")
    ax.set_xticks(places, [f"{name}\n(mean {mean:.1f})" for name, mean in means.items()])
    ax.set_xlim(-0.4, len(means) - 0.6)
    ax.set_ylabel("AP on digits minus the mean [points]")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_half_widths(
    seeds: Sequence[int], half_widths: Sequence[float], differences: Mapping[str, float]
) -> Axes:
    """The half width of the interval by number of seeds, and the differences it has to resolve."""
    ax = style.new_axes()
    ax.plot(seeds, half_widths, "o-", color=style.TEACHER, label="half width of the 95% interval")
    for name, difference in differences.items():
        ax.axhline(difference, color=style.NEUTRAL, ls="--", lw=1)
        ax.annotate(f" {name}: {difference:.1f}", (1, difference), va="center",
                    xycoords=("axes fraction", "data"), annotation_clip=False)  # fmt: skip
    ax.set(xlabel="seeds of each experiment", ylabel="difference [AP points]")
    ax.set(xscale="log", yscale="log")
    ax.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    ax.set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10], "0.05 0.1 0.2 0.5 1 2 5 10".split())
    ax.minorticks_off()
    ax.legend()
    return ax
