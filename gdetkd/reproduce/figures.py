"""Figure 1 of the supplement: AP against the memory's size and against the IoU threshold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gdetkd.reproduce.claims import TABLES
from gdetkd.reproduce.experiments import MEMORIES, THRESHOLDS
from gdetkd.reproduce.tables import interval

# The paper's colours do not matter; these two differ for every eye and in grey.
OURS, PAPER = "#0072B2", "#D55E00"


def figure1(frame: pd.DataFrame, out: Path) -> Path:
    """Draw both curves, ours with 95% intervals beside the paper's; the same bytes every time."""
    with style.context("default"):  # whatever the process has set
        figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
        left, right = figure.subplots(1, 2)
        _curve(left, frame, "table1", MEMORIES, "memory K, gathered batches")
        _curve(
            right, frame, "table2", tuple(THRESHOLDS), "IoU above which proposals are no negatives"
        )
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
