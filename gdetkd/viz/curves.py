"""Loss and average precision (AP) of a training by step."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

LOSS, AP = "#56B4E9", "#E69F00"  # of Okabe and Ito's palette
# Names of a validation's main metric, the best one first, after the prefix of its evaluator: COCO's
# is coco/bbox_mAP; VOC's is pascal_voc/mAP, or voc07_11points/mAP in a config of 2007's rule.
METRICS = {"bbox_mAP": "AP", "mAP": "mAP", "AP50": "AP50"}


def main_metric(names) -> str | None:
    """The name under which a validation's AP was logged, among all that was; None without one."""
    for metric in METRICS:
        for name in names:
            if name.rpartition("/")[0] and name.rpartition("/")[2] == metric:
                return name
    return None


def curves(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the total loss and, on a second axis, the validation's AP.

    Args:
        frame: One row per step (the index), one column per scalar; `loss` and the `main_metric`
            are drawn if they are there.
        ax: Where to draw; the current axes by default.
    """
    ax = plt.gca() if ax is None else ax
    ax.set_xlabel("step")
    ax.set_ylabel("loss", color=LOSS)
    loss = frame["loss"].dropna() if "loss" in frame else pd.Series(dtype=float)
    if loss.empty:
        ax.text(0.5, 0.5, "nothing logged yet", transform=ax.transAxes, ha="center", va="center")
        return ax
    ax.plot(loss.index, loss.to_numpy(), color=LOSS, marker="." if len(loss) < 20 else None)
    metric = main_metric(frame.columns)
    if metric is not None:
        measured = frame[metric].dropna()
        right = ax.twinx()
        right.plot(measured.index, measured.to_numpy(), color=AP, marker="o")
        right.set_ylabel(METRICS[metric.rpartition("/")[2]], color=AP)
        right.yaxis.set_major_formatter(PercentFormatter(1))  # logged as a fraction
        right.set_ylim(bottom=0)
    return ax
