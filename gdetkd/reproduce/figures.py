"""Figure 1 of the supplement, and every direction of the paper beside ours, as pictures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gdetkd.reproduce.claims import TABLES
from gdetkd.reproduce.experiments import MEMORIES, THRESHOLDS
from gdetkd.reproduce.tables import claim_differences, interval

# These differ for every eye and in grey.
OURS, PAPER, UNSETTLED = "#0072B2", "#D55E00", "#767676"
VERDICTS = {  # color and mark
    "confirmed": (OURS, "o"),
    "contradicted": ("#CC79A7", "X"),
    "not told apart": (UNSETTLED, "o"),
    "one seed": (UNSETTLED, "."),
}


def figure1(frame: pd.DataFrame, out: Path) -> Path:
    """Draw both curves, ours with 95% intervals beside the paper's; the same bytes every time."""
    with style.context("default"):  # whatever the process has set
        figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
        left, right = figure.subplots(1, 2)
        _curve(left, frame, "table1", MEMORIES, "memory K, gathered batches")
        _curve(
            right, frame, "table2", tuple(THRESHOLDS), "IoU above which proposals are no negatives"
        )
        return _save(figure, out)


def claims_figure(frame: pd.DataFrame, out: Path) -> Path:
    """Draw every direction that the paper has a figure for, its own beside ours.

    A claim that says "a beats b" is the point AP(a) - AP(b), right of 0 where it holds; an interval
    that holds 0 is drawn hollow. The same bytes every time.
    """
    found = claim_differences(frame)
    found = found[found["paper"].notna()].reset_index(drop=True)
    with style.context("default"):
        figure = Figure(figsize=(9, 0.8 + 0.27 * len(found)), dpi=100, layout="constrained")
        axes = figure.subplots()
        axes.plot(found["paper"], found.index, "D", color=PAPER, ms=5, zorder=3,
                  label="paper, COCO, one run each")  # fmt: skip
        for verdict, (color, mark) in VERDICTS.items():
            rows = found[found["verdict"] == verdict]
            if len(rows):
                axes.errorbar(
                    rows["mean"], rows.index, xerr=rows["half"].fillna(0), fmt=mark, color=color,
                    capsize=3, ms=7, mfc="white" if verdict == "not told apart" else color,
                    label=f"ours, digits: {verdict}",
                )  # fmt: skip
        names = found["table"].str.replace("table", "Table ") + ":  " + found["claim"]
        axes.set_yticks(found.index, names, fontsize=9)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.axvline(0, color="black", lw=1)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("difference [AP points], mean and 95% interval over seeds")
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
        return _save(figure, out)


def _save(figure: Figure, out: Path) -> Path:
    """Without the version of Matplotlib, so that equal pictures are equal files."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Software": None})
    return out


def _curve(
    axes: Axes, frame: pd.DataFrame, name: str, values: tuple[float, ...], label: str
) -> None:
    rows = TABLES[name].rows[1 : 1 + len(values)]  # the first is the baseline
    paper = axes.twinx()
    paper.plot(values, [row.paper for row in rows], "s--", color=PAPER, label="paper, COCO")
    paper.set_ylabel("AP on COCO [%]", color=PAPER)
    points = []
    for value, row in zip(values, rows, strict=True):
        found = frame.loc[frame["experiment"] == row.experiment, "AP"]
        if len(found):
            points.append((value, *interval(100 * found)))
    if points:
        x, mean, half = zip(*points, strict=True)
        axes.errorbar(x, mean, half, fmt="o-", color=OURS, capsize=3)
    else:
        axes.text(0.5, 0.5, "not run on digits", transform=axes.transAxes, ha="center")
        axes.set_yticks([])
    axes.set_xticks(values)
    axes.set_xlabel(label)
    axes.set_ylabel("AP on digits [%]", color=OURS)
