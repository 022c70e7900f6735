"""Loss and AP of a training by step."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

LOSS, AP = "#56B4E9", "#E69F00"  # of Okabe and Ito's palette
METRICS = ("coco/bbox_mAP", "pascal_voc/mAP", "pascal_voc/AP50")


def curves(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the total loss and, on a second axis, the validation's AP.

    Args:
        frame: A row a step (the index), a column a scalar; `loss` and one of `METRICS` are drawn,
            where they are there.
        ax: Where to; the current axes by default.
    """
    ax = plt.gca() if ax is None else ax
    ax.set_xlabel("step")
    ax.set_ylabel("loss", color=LOSS)
    loss = frame["loss"].dropna() if "loss" in frame else pd.Series(dtype=float)
    if loss.empty:
        ax.text(0.5, 0.5, "nothing logged yet", transform=ax.transAxes, ha="center", va="center")
        return ax
    ax.plot(loss.index, loss.to_numpy(), color=LOSS, marker="." if len(loss) < 20 else None)
    metric = next((name for name in METRICS if name in frame), None)
    if metric is not None:
        measured = frame[metric].dropna()
        right = ax.twinx()
        right.plot(measured.index, measured.to_numpy(), color=AP, marker="o")
        right.set_ylabel(metric.split("/")[-1].replace("bbox_mAP", "AP"), color=AP)
        right.yaxis.set_major_formatter(PercentFormatter(1))  # logged as a fraction
        right.set_ylim(bottom=0)
    return ax
