"""Figure 1 of the supplement, the paper's claims beside ours, and the explosion, as figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gdetkd.reproduce.explosion import SETTINGS, SIZES
from gdetkd.reproduce.registry import TABLES
from gdetkd.reproduce.statistics import claim_differences, interval
from gdetkd.viz.tour import plot_budgets

# Distinguishable with color-vision deficiencies and in grayscale.
OURS, PAPER, UNSETTLED = "#0072B2", "#D55E00", "#767676"
# The trainings of both students, short and long.
BUDGETS = dict(baseline="baseline", baseline_1400="baseline", baseline_3000="baseline",
               baseline_6000="baseline", gdetkd="distilled", gdetkd_3000="distilled",
               gdetkd_6000="distilled",
               gdetkd_6000_teacher_6000="distilled by the teacher of 6,000 steps")  # fmt: skip
VERDICTS = {  # color and mark
    "confirmed": (OURS, "o"),
    "contradicted": ("#CC79A7", "X"),
    "not distinguishable": (UNSETTLED, "o"),
    "one seed": (UNSETTLED, "."),
}


def figure1(frame: pd.DataFrame, out: Path) -> Path:
    """Draw both curves, the paper's above ours (with 95% intervals); the same bytes every time."""
    curves = {
        "table1": "memory K [gathered batches]",
        "table2": "IoU above which proposals are not negatives",
    }
    with style.context("default"):  # whatever the process has set
        figure = Figure(figsize=(9, 5.2), dpi=100, layout="constrained")
        axes = figure.subplots(2, 2, sharex="col")
        for column, (name, label) in zip(axes.T, curves.items(), strict=True):
            _curve(*column, frame, name)
            column[-1].set_xlabel(label)
        for row, whose in zip(axes, ("paper, COCO", "ours, digits"), strict=True):
            row[0].set_ylabel(f"AP [%], {whose}")
        return save(figure, out)


def budgets_figure(frame: pd.DataFrame, teachers: Mapping[int, float], out: Path) -> Path:
    """Draw AP by length of the training, alone and distilled; the same bytes every time.

    `teachers` are their AP, in [0, 1], by the steps of their trainings.
    """
    with style.context("default"):
        figure = plot_budgets(frame, BUDGETS, teachers).figure
        figure.set_layout_engine("constrained")
        return save(figure, out)


def claims_figure(frame: pd.DataFrame, out: Path) -> Path:
    """Draw every direction that the paper has a figure for, its own beside ours.

    A claim that says "a beats b" is the point AP(a) - AP(b), right of 0 where it holds; an interval
    that holds 0 is drawn hollow. COCO and digits have axes of their own. The same bytes every time.
    """
    found = claim_differences(frame)
    found = found[found["paper"].notna()].reset_index(drop=True)
    with style.context("default"):
        figure = Figure(figsize=(9, 0.8 + 0.27 * len(found)), dpi=100, layout="constrained")
        paper, axes = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2))
        paper.plot(found["paper"], found.index, "D", color=PAPER, ms=5, label="paper, COCO")
        for verdict, (color, mark) in VERDICTS.items():
            rows = found[found["verdict"] == verdict]
            if len(rows):
                axes.errorbar(
                    rows["mean"], rows.index, xerr=rows["half"].fillna(0), fmt=mark, color=color,
                    capsize=3, ms=7, mfc="white" if verdict == "not distinguishable" else color,
                    label=f"ours, digits: {verdict}",
                )  # fmt: skip
        names = found["table"].str.replace("table", "Table ") + ":  " + found["claim"]
        paper.set_yticks(found.index, names, fontsize=9)
        paper.set_ylim(len(found) - 0.4, -0.6)
        for each in (paper, axes):
            each.axvline(0, color="black", lw=1)
            each.grid(axis="x", alpha=0.25)
            each.spines[["top", "right"]].set_visible(False)
        paper.set_xlabel("COCO [AP points]")
        axes.set_xlabel("digits [AP points], 95% interval over seeds")
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
        return save(figure, out)


def save(figure: Figure, out: Path) -> Path:
    """Write a PNG without the version of Matplotlib, so that equal figures are equal files."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Software": None})
    return out


def _curve(above: Axes, below: Axes, frame: pd.DataFrame, name: str) -> None:
    """Paper and digits in panels of their own: the scales of their AP have nothing in common."""
    rows = [row for row in TABLES[name].rows if row.value is not None]
    values = [row.value for row in rows]
    above.plot(values, [row.paper for row in rows], "D-", color=PAPER)
    points = []
    for value, row in zip(values, rows, strict=True):
        found = frame.loc[frame["experiment"] == row.name, "AP"]
        if len(found):
            points.append((value, *interval(100 * found)))
    if points:
        x, mean, half = zip(*points, strict=True)
        below.errorbar(x, mean, half, fmt="o-", color=OURS, capsize=3)
    else:
        below.text(0.5, 0.5, "not run on digits", transform=below.transAxes, ha="center")
        below.set_yticks([])
    below.set_xticks(values)
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)


def draw_explosion(found: Iterable[dict], out: Path) -> Path:
    """Write `explosion_figure`; the same bytes every time."""
    with style.context("default"):
        return save(explosion_figure(found), out)


def explosion_figure(found: Iterable[dict]) -> Figure:
    """Losses of seed 0 over the steps by critic, and what the student learns by memory size."""
    frame = pd.DataFrame(found)
    # K has an order and gets a sequential map; critics have none (palette of Okabe and Ito).
    shades = colormaps["viridis_r"](np.linspace(0.17, 1, len(SIZES)))
    figure = Figure(figsize=(9, 4.2), dpi=100, layout="constrained")
    product, cosine, learned = figure.subplots(1, 3)
    for axes, name in ((product, "product"), (cosine, "cosine")):
        for size, shade in zip(SIZES, shades, strict=True):
            chosen = frame.query("setting == @name and batches == @size and seed == 0")
            for losses in chosen["losses"]:
                axes.plot(losses, color=shade, lw=1.2, label=f"{size}")
        axes.set(title=SETTINGS[name].label, xlabel="step", ylabel="contrastive loss [nats]")
    product.set_yscale("log")
    cosine.set_ylim(0, None)
    figure.legend(
        *cosine.get_legend_handles_labels(), title="K, batches (left and middle)",
        loc="outside lower left", ncols=len(SIZES), fontsize="small", title_fontsize="small",
    )  # fmt: skip
    lines = dict(
        cosine_reencoded_gradient=("D-", "#009E73", "re-encoded with a gradient"),
        cosine_reencoded=("s--", "#E69F00", "re-encoded"),
        cosine=("o-", "#0072B2", "stale keys (the paper's)"),
        cosine_constant=("^:", "#CC79A7", "all keys constants"),
    )
    for name, (marker, color, label) in lines.items():
        some = frame[(frame["setting"] == name) & frame["exploded"].isna()]
        by_size = some.groupby("batches")["information_bound"]
        means, halves = zip(*(interval(values) for _, values in by_size), strict=True)
        learned.errorbar(list(by_size.groups), means, halves, fmt=marker, color=color, capsize=3,
                       label=label)  # fmt: skip
    learned.set_xscale("log")
    learned.set_xticks(SIZES, [str(size) for size in SIZES])
    learned.minorticks_off()
    learned.set(
        title="cosine: what is learned", xlabel="memory K, batches",
        ylabel="information bound [nats]", ylim=(0, None),
    )  # fmt: skip
    figure.legend(*learned.get_legend_handles_labels(), title="critic's keys (right)",
                loc="outside lower right", ncols=2, fontsize="small",
                title_fontsize="small")  # fmt: skip
    return figure
