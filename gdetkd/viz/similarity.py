"""Similarity matrices of proposals: as they are, by class, as histograms, as scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from gdetkd.viz import style

LIMITS = (0.0, 0.9)  # of the color scale; the diagonal is 1 and may look like 0.9


def order_by_class(similarities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Row indices (n,) sorted by class, and within a class with similar proposals side by side."""
    order = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 2:
            rows = rows[leaves_list(_cluster(similarities[np.ix_(rows, rows)]))]
        order.extend(rows)
    return np.array(order)


def draw_matrices(
    figure: Figure,
    axes: Sequence[Axes],
    similarities: Mapping[str, np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    picked: int | None = None,
    sides: str = "rows and columns: proposals, by class",
) -> None:
    """One similarity matrix (n, n) per detector, with class colors beside and above it.

    Rows and columns are in the order that the first detector gives to each class.

    Args:
        figure: The figure or subfigure of the axes.
        similarities: By detector; its name becomes the title.
        labels: (n,) class of each row; `len(classes)` is the background.
        picked: A row to mark.
        sides: What rows and columns are, written below the figure.
    """
    order = order_by_class(next(iter(similarities.values())), labels)
    n, labels, band = len(order), labels[order], 0.045 * len(order)
    colors = ListedColormap([style.class_color(c, len(classes)) for c in range(len(classes) + 1)])
    strip = dict(cmap=colors, vmin=-0.5, vmax=len(classes) + 0.5, aspect="auto", zorder=3)
    for ax, (name, matrix) in zip(axes, similarities.items(), strict=True):
        matrix = np.asarray(matrix)[np.ix_(order, order)]
        ax.imshow(matrix, cmap=style.SEQUENTIAL, vmin=LIMITS[0], vmax=LIMITS[1])
        ax.imshow(labels[None], extent=(-0.5, n - 0.5, -1 - band / 3, -1 - band), **strip)
        ax.imshow(labels[::-1, None], extent=(-1 - band, -1 - band / 3, -0.5, n - 0.5), **strip)
        ax.set(xlim=(-1 - band, n - 0.5), ylim=(n - 0.5, -1 - band), aspect="equal", title=name)
        ax.set_axis_off()
        for label in np.unique(labels):
            middle = np.flatnonzero(labels == label).mean()
            ax.text(-1.5 - 1.2 * band, middle, style.class_name(label, classes), ha="right",
                    va="center", fontsize=9)  # fmt: skip
        if picked is not None:
            for line in (ax.axhline, ax.axvline):
                line(int(np.flatnonzero(order == picked)[0]), color=style.HIGHLIGHT, lw=1.4)
    options = dict(shrink=0.8, extend="max", pad=0.015, aspect=18)
    style.color_bar(figure, axes, style.SEQUENTIAL, "cosine similarity", LIMITS, **options)
    figure.supxlabel(sides, fontsize=10)


def compare_similarities(
    similarities: Mapping[str, np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    notes: Mapping[str, str] | None = None,
    picked: int | None = None,
    sides: str = "rows and columns: proposals, by class",
) -> Figure:
    """The matrices of several detectors side by side: same proposals, same order, same scale.

    notes: a line of text below each matrix. The other arguments are those of `draw_matrices`.
    """
    figure, axes = style.panels(len(similarities), height=0.41 * style.WIDTH)
    draw_matrices(figure, axes[0], similarities, labels, classes, picked, sides)
    for ax, name in zip(axes[0], similarities if notes else (), strict=False):
        ax.text(0.52, -0.02, notes[name], transform=ax.transAxes, ha="center", va="top")
    return figure


def cluster_similarities(
    similarities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Figure:
    """A matrix ordered by hierarchical clustering without labels, which only color the edges."""
    matrix = np.asarray(similarities)
    tree = _cluster(matrix)
    colors = [to_rgb(style.class_color(label, len(classes))) for label in labels]
    side = 0.72 * style.WIDTH
    with plt.rc_context({"figure.constrained_layout.use": False, "axes.grid": False}):
        grid = seaborn.clustermap(
            matrix, row_linkage=tree, col_linkage=tree, row_colors=colors, col_colors=colors,
            cmap=style.SEQUENTIAL, vmin=0, vmax=LIMITS[1], figsize=(side, side),
            xticklabels=False, yticklabels=False, rasterized=True, dendrogram_ratio=0.14,
            colors_ratio=0.022, cbar_pos=(0.03, 0.88, 0.1, 0.02),
            cbar_kws=dict(orientation="horizontal", ticks=[0, 0.4, 0.8], extend="max"),
        )  # fmt: skip
    grid.ax_cbar.set_title("cosine similarity", fontsize=9)
    grid.ax_heatmap.set(xlabel="proposals, in the same order",
                        ylabel="proposals, ordered by the clustering")  # fmt: skip
    present = np.unique(labels)
    style.color_legend(
        grid.figure,
        [style.class_color(c, len(classes)) for c in present],
        [style.class_name(c, classes) for c in present],
        loc="center left", bbox_to_anchor=(1.0, 0.45), title="class", frameon=False,
    )  # fmt: skip
    return grid.figure


def compare_class_similarities(
    means: Mapping[str, np.ndarray], classes: Sequence[str], marked: Sequence[tuple[int, int]] = ()
) -> Figure:
    """Mean similarity (C, C) of the proposals of two classes; a frame around the marked pairs."""
    figure, drawn = style.panel_per_item(means, height=0.46 * style.WIDTH)
    for ax, name, matrix in drawn:
        matrix = np.asarray(matrix)
        off = matrix[~np.eye(len(matrix), dtype=bool)]
        limits = dict(vmin=np.nanmin(off), vmax=np.nanmax(off))
        image = style.heat_map(ax, matrix, classes, classes, **limits)
        for row, column in [*marked, *(pair[::-1] for pair in marked)]:
            corner = column - 0.5, row - 0.5
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, ec=style.HIGHLIGHT, lw=2))
        ax.set(title=name, xlabel="class")
        ax.tick_params(length=0)
        figure.colorbar(image, ax=ax, orientation="horizontal", shrink=0.8, extend="max",
                        label="mean cosine")  # fmt: skip
    figure.axes[0].set_ylabel("class")
    return figure


def compare_pair_histograms(
    similarities: Mapping[str, np.ndarray], labels: np.ndarray, pair_mask: np.ndarray
) -> Figure:
    """The similarities of same-class pairs and of other pairs, one panel per detector.

    pair_mask: (n, n) bool, the pairs that count. Dashed lines are the means.
    """
    figure, drawn = style.panel_per_item(similarities, height=0.33 * style.WIDTH, sharey=True)
    same = labels[:, None] == labels
    kinds = (
        ("one class", pair_mask & same, style.TEACHER),
        ("two classes", pair_mask & ~same, style.NEUTRAL),
    )
    for ax, name, matrix in drawn:
        for kind, chosen, color in kinds:
            values = np.asarray(matrix)[chosen]
            ax.hist(values, np.linspace(0, 1, 41), density=True, color=color, alpha=0.55,
                    label=kind)  # fmt: skip
            ax.axvline(values.mean(), color=color, lw=2, ls="--")
        ax.set(xlabel="cosine similarity of a pair", title=name, xlim=(0, 1))
    figure.axes[0].set_ylabel("density of pairs")
    figure.axes[-1].legend(title="pairs of")
    return figure


def draw_scores(scores: Mapping[str, Mapping[str, float]], chance: Mapping[str, float]) -> Figure:
    """One panel per score and one bar per detector; a dashed line marks the chance level."""
    figure, drawn = style.panel_per_item(chance, height=0.34 * style.WIDTH)
    for ax, name, by_chance in drawn:
        colors = [style.detector_color(detector) for detector in scores]
        values = [scores[detector][name] for detector in scores]
        ax.bar_label(ax.bar(list(scores), values, color=colors, width=0.65), fmt="%.2f", padding=2)
        ax.axhline(by_chance, color="black", ls="--", lw=1.2, label="chance")
        ax.set(title=name, ylim=(-0.03, 1.12))
        ax.grid(axis="x", visible=False)
        ax.tick_params(axis="x", labelsize=10)
    figure.axes[0].set_ylabel("similarity to the teacher")
    figure.axes[0].legend(loc="upper left")
    return figure


def _cluster(similarities: np.ndarray) -> np.ndarray:
    """Average linkage of the distances 1 - similarity."""
    distances = 1 - np.asarray(similarities, float)
    np.fill_diagonal(distances, 0)
    condensed = squareform((distances + distances.T) / 2, checks=False).clip(min=0)
    return linkage(condensed, "average", optimal_ordering=True)
