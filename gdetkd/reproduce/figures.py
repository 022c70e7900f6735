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
    """Draw both curves, the paper's above ours (with 95% intervals); the same bytes every time."""
    curves = {
        "table1": (MEMORIES, "memory K [gathered batches]"),
        "table2": (tuple(THRESHOLDS), "IoU above which proposals are no negatives"),
    }
    with style.context("default"):  # whatever the process has set
        figure = Figure(figsize=(9, 5.2), dpi=100, layout="constrained")
        axes = figure.subplots(2, 2, sharex="col")
        for column, (name, (values, label)) in zip(axes.T, curves.items(), strict=True):
            _curve(*column, frame, name, values)
            column[-1].set_xlabel(label)
        for row, whose in zip(axes, ("paper, COCO", "ours, digits"), strict=True):
            row[0].set_ylabel(f"AP [%], {whose}")
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
                  label="paper, COCO")  # fmt: skip
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
    above: Axes, below: Axes, frame: pd.DataFrame, name: str, values: tuple[float, ...]
) -> None:
    """One of the two: two scales would make one picture of both say what neither does."""
    rows = TABLES[name].rows[1 : 1 + len(values)]  # the first is the baseline
    above.plot(values, [row.paper for row in rows], "D-", color=PAPER)
    points = []
    for value, row in zip(values, rows, strict=True):
        found = frame.loc[frame["experiment"] == row.experiment, "AP"]
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
