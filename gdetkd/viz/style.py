"""The style that all figures share: 900 px wide, in colors safe for color-blind readers.

It also holds what several figures need: panels, boxes, color bars, running means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

# Roles, from Okabe and Ito's palette. A detector keeps its color in all notebooks.
TEACHER = "#0072B2"
STUDENT = "#D55E00"  # without distillation
DISTILLED = "#009E73"
HIGHLIGHT = "#CC79A7"
ORANGE, SKY_BLUE = "#E69F00", "#56B4E9"  # no fixed role
NEUTRAL = "#767676"  # references and limits
DETECTOR_COLORS = dict(baseline=STUDENT, distilled=DISTILLED, teacher=TEACHER)
SERIES = (TEACHER, STUDENT, DISTILLED, HIGHLIGHT, ORANGE, SKY_BLUE, NEUTRAL)

# One color per class (the ten digits): Petroff's sequence ("petroff10" of Matplotlib) with a lime
# and a navy in place of its two grays, since gray is the background.
CLASS_COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#c5e063", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#1d2b53", "#92dadd",
)  # fmt: skip
BACKGROUND = "#dddddd"

SEQUENTIAL = "viridis"  # from small to large values
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
            "axes.prop_cycle": plt.cycler(color=SERIES),
        }
    )


def panels(
    columns: int = 1, rows: int = 1, height: float = 3.6, **options
) -> tuple[Figure, np.ndarray]:
    """A figure of full width with (rows, columns) Axes, each row ``height`` inches tall."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False, **options)


def panel_per_item(
    items: Mapping[Any, Any], height: float = 3.6, **options
) -> tuple[Figure, list[tuple[Axes, Any, Any]]]:
    """A figure with one panel per item, side by side, and (Axes, key, value) for each of them."""
    figure, axes = panels(len(items), height=height, **options)
    return figure, [(ax, *item) for ax, item in zip(axes[0], items.items(), strict=True)]


def new_axes(height: float = 3.8) -> Axes:
    """The only Axes of a new figure of full width."""
    return panels(height=height)[1][0, 0]


def draw_box(ax: Axes, box: Iterable[float], color: str, width: float = 2.0, **options) -> None:
    """Outline a box x1, y1, x2, y2; options as of `matplotlib.patches.Rectangle`."""
    x1, y1, x2, y2 = (float(value) for value in box)
    size = x2 - x1, y2 - y1
    ax.add_patch(Rectangle((x1, y1), *size, fill=False, ec=color, lw=width, **options))


def color_legend(figure: Figure, colors: Sequence[str], names: Sequence[str], **options) -> None:
    """A legend that names the colors; options as of `Figure.legend`."""
    figure.legend([Rectangle((0, 0), 1, 1, color=color) for color in colors], names, **options)


def color_bar(
    figure: Figure, axes: Iterable[Axes], cmap: str, label: str, limits: tuple, **options
) -> Colorbar:
    """A color bar from limits[0] to limits[1] that all the axes share."""
    mappable = ScalarMappable(Normalize(*limits), cmap)
    return figure.colorbar(mappable, ax=list(axes), label=label, **options)


def grouped_bars(
    ax: Axes, rows: Mapping[str, Sequence[float]], ticks: Sequence, colors: Sequence[str], **options
) -> list[BarContainer]:
    """At each tick one bar per row, side by side; rows are named in the legend.

    options: as of `pandas.DataFrame.plot.bar`.
    """
    frame = pd.DataFrame({name: np.asarray(values) for name, values in rows.items()}, ticks)
    frame.plot.bar(ax=ax, width=0.8, color=colors[: len(rows)], edgecolor="white", rot=0, **options)
    ax.grid(axis="x", visible=False)
    return [bars for bars in ax.containers if isinstance(bars, BarContainer)]


def heat_map(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[Any],
    columns: Sequence[Any],
    number: str | None = None,
    **options,
) -> AxesImage:
    """Values (rows, columns) as colors, and in their cells as numbers of that format, if any.

    options: as of `Axes.imshow`.
    """
    image = ax.imshow(values, **options)
    for (row, column), value in np.ndenumerate(np.asarray(values)) if number else ():
        dark = np.dot(image.to_rgba(value)[:3], (0.3, 0.59, 0.11)) < 0.5
        ax.text(column, row, number.format(value), ha="center", va="center", fontsize=9,
                color="white" if dark else "black")  # fmt: skip
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    return image


def arrow(ax: Axes, start: tuple, end: tuple, color: str = "black", lw: float = 1.5) -> None:
    """An arrow between two points of the data."""
    ax.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=color, lw=lw))


def row_name(ax: Axes, name: str) -> None:
    """A name left of Axes whose own label `Axes.set_axis_off` has hidden."""
    ax.text(-0.06, 0.5, name, transform=ax.transAxes, rotation=90, va="center", ha="right",
            fontsize=11)  # fmt: skip


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """The mean of each value and of those before it, at most ``window`` of them."""
    return pd.Series(np.asarray(values)).rolling(window, min_periods=1).mean().to_numpy()


def detector_color(name: str) -> str:
    """The color of the first role that a name contains (baseline, distilled, teacher), or gray."""
    return next((color for role, color in DETECTOR_COLORS.items() if role in name), NEUTRAL)


def class_color(label: int, count: int) -> str:
    """The color of a class; light gray for the background, whose label is ``count``."""
    return BACKGROUND if label >= count else CLASS_COLORS[label % len(CLASS_COLORS)]


def class_name(label: int, classes: Sequence[str]) -> str:
    """The name of a class; "bg" for the background, whose label is ``len(classes)``."""
    return "bg" if label >= len(classes) else classes[label]
