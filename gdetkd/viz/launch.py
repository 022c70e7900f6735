"""A launched run: its curves, the checkpoints it can resume from, where it was killed."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from gdetkd.viz import style
from gdetkd.viz.curves import curves


def plot_run(
    scalars: pd.DataFrame, steps: int, saved_every: int, killed: int | None = None
) -> Axes:
    """Loss and AP by step, over the whole schedule.

    Args:
        scalars: The logged values, as of `gdetkd.viz.curves.curves`.
        steps: The length of the whole training.
        saved_every: Steps between two checkpoints; those up to the last logged step are dotted.
        killed: The step after which a process was killed, if any.
    """
    ax = curves(scalars, style.new_axes())
    ax.set_xlim(0.5, steps + 0.5)  # the first step is 1
    ax.margins(y=0.12)
    last = int(scalars.index.max()) if len(scalars) else 0
    for step in range(saved_every, last + 1, saved_every):
        ax.axvline(step, color=style.NEUTRAL, lw=1, ls=":")
        if step == saved_every:
            _label(ax, step, 1.02, "checkpoints", style.NEUTRAL)  # above every line
    if killed is not None:
        ax.axvline(killed, color=style.HIGHLIGHT, lw=1.5)
        _label(ax, killed, 0.1, "killed", style.HIGHLIGHT)
    for other in ax.figure.axes:
        if other is not ax and ax.get_shared_x_axes().joined(ax, other):  # the axis of the AP
            other.grid(False)
            other.set_ylim(0, max(0.1, other.get_ylim()[1]))  # so that a tiny AP looks tiny
    return ax


def _label(ax: Axes, step: int, height: float, text: str, color: str) -> None:
    ax.annotate(f" {text}", (step, height), xycoords=("data", "axes fraction"), color=color,
                bbox=dict(fc="white", ec="none", pad=0.5))  # fmt: skip
