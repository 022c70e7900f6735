"""One look for every figure: 900 px wide, colors that color-blind readers tell apart."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Roles, from Okabe and Ito's palette. A detector keeps its color through all notebooks.
TEACHER = "#0072B2"
STUDENT = "#D55E00"  # without distillation
DISTILLED = "#009E73"
HIGHLIGHT = "#CC79A7"
NEUTRAL = "#767676"  # references, limits, whatever is not the point

# One color a class (the ten digits), from Petroff's sequence of ten ("petroff10" of Matplotlib).
CLASS_COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip

SEQUENTIAL = "viridis"  # from little to much
DIVERGING = "RdBu_r"  # around a meaningful zero

WIDTH = 9.0  # inches; with DPI it gives the 900 px that a code host shows without scaling
DPI = 100


def use_style() -> None:
    """Set Matplotlib's defaults for the notebooks: size, resolution, fonts, colors."""
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 0.42 * WIDTH),
            "figure.dpi": DPI,
            "savefig.dpi": DPI,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.labelsize": 11,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.alpha": 0.25,
            "image.cmap": SEQUENTIAL,
            "image.interpolation": "nearest",
            "lines.linewidth": 2.0,
            "axes.prop_cycle": plt.cycler(
                color=[TEACHER, STUDENT, DISTILLED, HIGHLIGHT, "#E69F00", "#56B4E9", NEUTRAL]
            ),
        }
    )


def panels(
    columns: int = 1, rows: int = 1, height: float = 3.6, **options
) -> tuple[Figure, np.ndarray]:
    """A figure of full width with (rows, columns) Axes, each row ``height`` inches tall."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False, **options)


def axes_or_new(ax: Axes | None, height: float = 3.8) -> Axes:
    """The Axes given, or the one of a new figure of full width."""
    return ax if ax is not None else panels(height=height)[1][0, 0]
