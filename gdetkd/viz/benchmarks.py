"""Time and memory of a loss against the number of keys."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gdetkd.viz import style

LINES = {  # label, color and mark
    "ours": ("ours", style.TEACHER, "o"),
    "loop": ("ours, by its own loop", style.SKY_BLUE, "D"),
    "naive": ("naive", style.STUDENT, "s"),
}


def plot_time_and_memory(measured: pd.DataFrame) -> Figure:
    """Time and peak memory of a step against K: one line per form, one row of panels per device.

    Args:
        measured: One row per measurement, with the columns device, form, K, seconds, fastest,
            slowest and peak_bytes (or None).
    """
    devices = list(dict.fromkeys(measured["device"]))
    fig, axes = style.panels(2, len(devices), layout="constrained")
    for (left, right), device in zip(axes, devices, strict=True):
        rows = measured[measured["device"] == device]
        _lines(left, rows, rows["peak_bytes"].astype(float) / 1e6)
        _lines(right, rows, rows["seconds"], spread=True)
        left.set_ylabel("peak memory of a step [MB]")
        right.set_ylabel("time of a step [s]")
        left.set_title(f"Memory, {device.upper()}")
        right.set_title(f"Time, {device.upper()}" + (", one thread" if device == "cpu" else ""))
        left.set_yscale("log")
        right.set_ylim(bottom=0)
        right.legend(frameon=False)
    return fig


def _lines(ax: Axes, rows: pd.DataFrame, values: pd.Series, spread: bool = False) -> None:
    for form in dict.fromkeys(rows["form"]):
        here = rows[rows["form"] == form].sort_values("K")
        chunked = f"linear_cross_entropy ({form.split()[-1]} rows)", style.NEUTRAL, "^"
        label, color, mark = LINES.get(form, chunked)
        ax.plot(here["K"] / 1024, values[here.index], color=color, marker=mark, ms=5, label=label)
        if spread:
            ax.fill_between(
                here["K"] / 1024, here["fastest"], here["slowest"], color=color, alpha=0.2, lw=0
            )
    ax.set_xlabel("keys K [x 1,024]")
    ax.set_xlim(left=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", lw=0.5, alpha=0.5)
