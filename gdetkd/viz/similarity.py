"""Who resembles whom: similarity matrices of proposals, and the proposals on their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from gdetkd.viz.style import (
    CLASS_COLORS,
    DISTILLED,
    HIGHLIGHT,
    NEUTRAL,
    SEQUENTIAL,
    STUDENT,
    TEACHER,
    WIDTH,
    axes_or_new,
)

BACKGROUND = "#dddddd"
MATRIX_LIMITS = (0.0, 0.9)  # the diagonal is 1 and need not be told from 0.9
GLOW = "inferno"  # boxes on a darkened photograph: from unseen to bright
DETECTOR_COLORS = dict(teacher=TEACHER, baseline=STUDENT, distilled=DISTILLED)


def color_of(label: int, classes: Sequence[str]) -> str:
    """The color of a class; gray for the background, whose label is `len(classes)`."""
    return BACKGROUND if label >= len(classes) else CLASS_COLORS[label % len(CLASS_COLORS)]


def order_by_class(similarities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows (n,) by class, and within a class so that neighbors in the list are alike."""
    order = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 2:
            distances = _distances(similarities[np.ix_(rows, rows)])
            rows = rows[leaves_list(linkage(distances, "average", optimal_ordering=True))]
        order.extend(rows)
    return np.array(order)


def draw_similarities(
    similarities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    title: str = "",
    picked: int | None = None,
    limits: tuple[float, float] = MATRIX_LIMITS,
    ax: Axes | None = None,
) -> Axes:
    """A similarity matrix (n, n), rows as they come; class colors beside and above it.

    `picked` marks one row and column. Rows of one class should stand together: `order_by_class`.
    """
    ax = axes_or_new(ax, height=6)
    n = len(labels)
    ax.imshow(np.asarray(similarities), cmap=SEQUENTIAL, vmin=limits[0], vmax=limits[1])
    band = 0.045 * n
    colors = ListedColormap([color_of(c, classes) for c in range(len(classes) + 1)])
    strip = dict(cmap=colors, vmin=-0.5, vmax=len(classes) + 0.5, aspect="auto", zorder=3)
    ax.imshow(labels[None], extent=(-0.5, n - 0.5, -1 - band / 3, -1 - band), **strip)
    ax.imshow(labels[::-1, None], extent=(-1 - band, -1 - band / 3, -0.5, n - 0.5), **strip)
    ax.set(xlim=(-1 - band, n - 0.5), ylim=(n - 0.5, -1 - band), aspect="equal")
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        name = classes[label] if label < len(classes) else "bg"
        ax.text(-1.5 - 1.2 * band, rows.mean(), name, ha="right", va="center", fontsize=9)
    if picked is not None:
        for line in (ax.axhline, ax.axvline):
            line(picked, color=HIGHLIGHT, lw=1.4)
    ax.set_title(title)
    ax.set_axis_off()
    return ax


def compare_similarities(
    similarities: Mapping[str, np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    notes: Mapping[str, str] | None = None,
    picked: int | None = None,
    sides: str = "rows and columns: proposals, by class",
) -> Figure:
    """The matrices of several detectors side by side: same proposals, same order, same scale.

    The first detector decides the order within a class. notes: a line below each matrix; sides:
    what its rows and columns are.
    """
    order = order_by_class(next(iter(similarities.values())), labels)
    place = None if picked is None else int(np.flatnonzero(order == picked)[0])
    fig, axes = plt.subplots(1, len(similarities), figsize=(WIDTH, 0.41 * WIDTH), squeeze=False)
    for ax, (name, matrix) in zip(axes[0], similarities.items(), strict=True):
        draw_similarities(matrix[np.ix_(order, order)], labels[order], classes, name, place, ax=ax)
        if notes:
            ax.text(0.52, -0.02, notes[name], transform=ax.transAxes, ha="center", va="top")
    _bar(fig, axes[0], SEQUENTIAL, "cosine similarity", MATRIX_LIMITS, shrink=0.8, extend="max")
    fig.supxlabel(sides, fontsize=10)
    return fig


def cluster_similarities(
    similarities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Figure:
    """A matrix ordered by hierarchical clustering that knows no labels; colors show them."""
    matrix = np.asarray(similarities)
    tree = linkage(_distances(matrix), "average", optimal_ordering=True)
    colors = np.array([to_rgb(color_of(label, classes)) for label in labels])
    with plt.rc_context({"figure.constrained_layout.use": False, "axes.grid": False}):
        grid = seaborn.clustermap(
            matrix, row_linkage=tree, col_linkage=tree, row_colors=[*colors], col_colors=[*colors],
            cmap=SEQUENTIAL, vmin=0, vmax=MATRIX_LIMITS[1], figsize=(0.72 * WIDTH, 0.72 * WIDTH),
            xticklabels=False, yticklabels=False, rasterized=True, dendrogram_ratio=0.14,
            colors_ratio=0.022, cbar_pos=(0.03, 0.88, 0.1, 0.02),
            cbar_kws=dict(orientation="horizontal", ticks=[0, 0.4, 0.8], extend="max"),
        )  # fmt: skip
    grid.ax_cbar.set_title("cosine similarity", fontsize=9)
    grid.ax_heatmap.set(xlabel="proposals, in the same order",
                        ylabel="proposals, ordered by the clustering")  # fmt: skip
    present = [c for c in range(len(classes) + 1) if c in labels]
    handles = [Rectangle((0, 0), 1, 1, color=color_of(c, classes)) for c in present]
    names = [classes[c] if c < len(classes) else "background" for c in present]
    grid.figure.legend(handles, names, loc="center left", bbox_to_anchor=(1.0, 0.45), title="class",
                       frameon=False)  # fmt: skip
    return grid.figure


def draw_on_image(
    picture: np.ndarray,
    boxes: np.ndarray,
    values: np.ndarray,
    picked: int | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    ax: Axes | None = None,
) -> Axes:
    """Boxes (n, 4) on a darkened picture (h, w, 3), the brighter the larger their values (n,)."""
    ax = axes_or_new(ax)
    gray = np.asarray(picture, float).mean(2) / 255
    ax.imshow(0.62 * gray, cmap="gray", vmin=0, vmax=1)
    shade = Normalize(*limits, clip=True)
    for index in np.argsort(values):
        if index == picked:
            continue
        share = float(shade(values[index]))
        color = plt.get_cmap(GLOW)(0.15 + 0.8 * share)
        ax.add_patch(_box(boxes[index], ec=color, lw=0.8 + 2.2 * share, alpha=0.25 + 0.75 * share))
    if picked is not None:
        outline = [effects.withStroke(linewidth=5, foreground="white")]
        ax.add_patch(_box(boxes[picked], ec=HIGHLIGHT, lw=3, path_effects=outline))
    ax.set_axis_off()
    return ax


def compare_on_images(
    pictures: Sequence[np.ndarray],
    rois: np.ndarray,
    similarities: Mapping[str, np.ndarray],
    picked: int,
    columns: int = 5,
) -> Figure:
    """All proposals of some images colored by their similarity to the picked one.

    A row a detector, a column an image: that of the picked proposal, then those with the proposals
    that the first detector finds most alike. rois: (n, 5) [image, x1, y1, x2, y2]; similarities:
    one (n, n) matrix a detector. Every row is scaled to its own values, from the median up.
    """
    shown = images_alike(rois, next(iter(similarities.values())), picked, columns)
    shape = len(similarities), len(shown)
    fig, axes = plt.subplots(*shape, figsize=(WIDTH, 0.98 * WIDTH * shape[0] / shape[1]),
                             squeeze=False)  # fmt: skip
    for row, (name, matrix) in zip(axes, similarities.items(), strict=True):
        values = np.asarray(matrix)[picked]
        others = np.delete(values, picked)
        limits = float(np.quantile(others, 0.5)), float(others.max())
        for ax, image in zip(row, shown, strict=True):
            here = np.flatnonzero(rois[:, 0] == image)
            own = np.flatnonzero(here == picked)
            draw_on_image(pictures[image], rois[here, 1:], values[here],
                          int(own[0]) if len(own) else None, limits, ax)  # fmt: skip
        _name_row(row[0], name)
        _bar(fig, row, GLOW, "cosine", limits).ax.tick_params(labelsize=9)
    return fig


def images_alike(rois: np.ndarray, similarities: np.ndarray, picked: int, count: int) -> list[int]:
    """The image of the picked proposal, then those with the proposals most alike to it."""
    best = np.argsort(-np.asarray(similarities)[picked], kind="stable")
    order = [int(rois[picked, 0]), *rois[best, 0].astype(int).tolist()]
    return list(dict.fromkeys(order))[:count]


def nearest_proposals(
    pictures: Sequence[np.ndarray],
    rois: np.ndarray,
    labels: np.ndarray,
    similarities: Mapping[str, np.ndarray],
    picked: int,
    classes: Sequence[str],
    count: int = 9,
) -> Figure:
    """The picked proposal and, a row a detector, those it finds most alike, best first.

    Only proposals of other images. A frame has the color of the class, its number is the cosine;
    bold ones are of the picked one's class.
    """
    fig, axes = plt.subplots(
        len(similarities), count + 1, squeeze=False,
        figsize=(WIDTH, 1.16 * WIDTH * len(similarities) / (count + 1)),
    )  # fmt: skip
    for row, (name, matrix) in zip(axes, similarities.items(), strict=True):
        _draw_nearest(row, pictures, rois, labels, matrix, picked, classes)
        row[0].set_ylabel(name)
    return fig


def signature(
    pictures: Sequence[np.ndarray],
    rois: np.ndarray,
    labels: np.ndarray,
    similarities: Mapping[str, np.ndarray],
    picked: int,
    classes: Sequence[str],
    notes: Mapping[str, str],
) -> Figure:
    """A column a detector: its matrix with the picked proposal's row marked, and what that finds.

    Below a matrix stand the picked proposal (first) and the nine of other images most alike to it.
    """
    order = order_by_class(next(iter(similarities.values())), labels)
    place = int(np.flatnonzero(order == picked)[0])
    fig = plt.figure(figsize=(WIDTH, 0.59 * WIDTH))
    top, bottom = fig.subfigures(2, 1, height_ratios=[1.5, 1])
    axes = top.subplots(1, len(similarities), squeeze=False)[0]
    groups = bottom.subfigures(1, len(similarities), squeeze=False, wspace=0.06)[0]
    for ax, group, (name, matrix) in zip(axes, groups, similarities.items(), strict=True):
        matrix = np.asarray(matrix)
        draw_similarities(matrix[np.ix_(order, order)], labels[order], classes, name, place, ax=ax)
        cells = group.subplots(2, 5, gridspec_kw=dict(wspace=0.02, hspace=0.02)).ravel()
        _draw_nearest(cells, pictures, rois, labels, matrix, picked, classes)
        group.suptitle(notes[name], fontsize=11)
    _bar(top, axes, SEQUENTIAL, "cosine similarity", MATRIX_LIMITS, shrink=0.8, extend="max")
    top.supxlabel("rows and columns: proposals, by class", fontsize=10)
    return fig


def _draw_nearest(axes, pictures, rois, labels, similarities, picked, classes) -> None:
    """The picked proposal on the first of the axes, the most alike of other images on the rest."""
    values = np.asarray(similarities)[picked]
    elsewhere = np.flatnonzero(rois[:, 0] != rois[picked, 0])
    best = elsewhere[np.argsort(-values[elsewhere], kind="stable")][: len(axes) - 1]
    for ax in axes[len(best) + 1 :]:
        ax.set_axis_off()
    for ax, index in zip(axes, [picked, *best], strict=False):
        ax.imshow(crop(pictures[int(rois[index, 0])], rois[index, 1:]))
        ax.set(xticks=[], yticks=[])
        color = HIGHLIGHT if index == picked else color_of(labels[index], classes)
        for side in ax.spines.values():
            side.set(visible=True, color=color, linewidth=4)
        what = classes[labels[index]] if labels[index] < len(classes) else "bg"
        text = what if index == picked else f"{what}  {values[index]:.2f}"
        weight = "bold" if labels[index] == labels[picked] else "normal"
        ax.set_title(text, fontsize=9, weight=weight, pad=4)


def crop(picture: np.ndarray, box: np.ndarray, size: int = 48, context: float = 0.15) -> np.ndarray:
    """A box with a little of what surrounds it, (size, size, 3), nearest pixels, edges repeated."""
    x1, y1, x2, y2 = np.asarray(box, float)
    side = max(x2 - x1, y2 - y1) * (1 + 2 * context)
    steps = (np.arange(size) + 0.5) / size - 0.5
    columns = ((x1 + x2) / 2 + side * steps).clip(0, picture.shape[1] - 1).astype(int)
    rows = ((y1 + y2) / 2 + side * steps).clip(0, picture.shape[0] - 1).astype(int)
    return picture[rows[:, None], columns]


def compare_class_similarities(
    means: Mapping[str, np.ndarray], classes: Sequence[str], marked: Sequence[tuple[int, int]] = ()
) -> Figure:
    """Mean similarity (C, C) of the proposals of two classes; a frame around marked pairs."""
    fig, axes = plt.subplots(1, len(means), figsize=(WIDTH, 0.46 * WIDTH), squeeze=False)
    for ax, (name, matrix) in zip(axes[0], means.items(), strict=True):
        matrix = np.asarray(matrix)
        off = matrix[~np.eye(len(matrix), dtype=bool)]
        image = ax.imshow(matrix, cmap=SEQUENTIAL, vmin=np.nanmin(off), vmax=np.nanmax(off))
        for i, j in marked:
            for row, column in ((i, j), (j, i)):
                ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=HIGHLIGHT,
                                       lw=2))  # fmt: skip
        ax.set(xticks=range(len(classes)), yticks=range(len(classes)), title=name)
        ax.set(xticklabels=classes, yticklabels=classes, xlabel="class")
        ax.tick_params(length=0)
        ax.grid(False)
        fig.colorbar(image, ax=ax, orientation="horizontal", shrink=0.8, extend="max",
                     label="mean cosine")  # fmt: skip
    axes[0][0].set_ylabel("class")
    return fig


def draw_pair_histogram(
    similarities: np.ndarray,
    labels: np.ndarray,
    apart: np.ndarray,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """How similar pairs of one class and pairs of two are; apart (n, n): the pairs that count."""
    ax = axes_or_new(ax)
    same = labels[:, None] == labels
    bins = np.linspace(0, 1, 41)
    kinds = (("one class", apart & same, TEACHER), ("two classes", apart & ~same, NEUTRAL))
    for name, chosen, color in kinds:
        values = np.asarray(similarities)[chosen]
        ax.hist(values, bins, density=True, color=color, alpha=0.55, label=name)
        ax.axvline(values.mean(), color=color, lw=2, ls="--")
    ax.set(xlabel="cosine similarity of a pair", title=title, xlim=(0, 1))
    ax.legend(title="pairs of")
    return ax


def compare_pair_histograms(
    similarities: Mapping[str, np.ndarray], labels: np.ndarray, apart: np.ndarray
) -> Figure:
    """`draw_pair_histogram` for several detectors; dashed: the means."""
    fig, axes = plt.subplots(1, len(similarities), figsize=(WIDTH, 0.33 * WIDTH), sharey=True)
    for ax, (name, matrix) in zip(np.atleast_1d(axes), similarities.items(), strict=True):
        draw_pair_histogram(matrix, labels, apart, name, ax)
    fig.axes[0].set_ylabel("density of pairs")
    for ax in fig.axes[:-1]:
        ax.get_legend().remove()
    return fig


def draw_scores(
    scores: Mapping[str, Mapping[str, float]],
    chance: Mapping[str, float],
    axes: Sequence[Axes] | None = None,
) -> Figure:
    """Bars: one panel a score, one bar a detector; a dashed line where chance is."""
    names = list(next(iter(scores.values())))
    if axes is None:
        _, axes = plt.subplots(1, len(names), figsize=(WIDTH, 0.34 * WIDTH))
    for ax, name in zip(axes, names, strict=True):
        values = [scores[detector][name] for detector in scores]
        colors = [DETECTOR_COLORS.get(detector, NEUTRAL) for detector in scores]
        bars = ax.bar(list(scores), values, color=colors, width=0.65)
        ax.bar_label(bars, fmt="%.2f", padding=2)
        ax.axhline(chance[name], color="black", ls="--", lw=1.2, label="chance")
        ax.set(title=name, ylim=(-0.03, 1.12))
        ax.grid(axis="x", visible=False)
        ax.tick_params(axis="x", labelsize=10)
    axes[0].set_ylabel("likeness to the teacher")
    axes[0].legend(loc="upper left")
    return axes[0].figure


def _distances(similarities: np.ndarray) -> np.ndarray:
    distances = 1 - np.asarray(similarities, float)
    np.fill_diagonal(distances, 0)
    return squareform((distances + distances.T) / 2, checks=False).clip(min=0)


def _box(box: np.ndarray, **look) -> Rectangle:
    x1, y1, x2, y2 = box
    return Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **look)


def _name_row(ax: Axes, name: str) -> None:
    """A y label for axes that are switched off."""
    ax.text(-0.06, 0.5, name, transform=ax.transAxes, rotation=90, va="center", ha="right")


def _bar(fig, axes, cmap: str, label: str, limits: tuple[float, float], **options):
    shade = ScalarMappable(Normalize(*limits), cmap)
    return fig.colorbar(shade, ax=list(axes), label=label, pad=0.015, aspect=18, **options)
