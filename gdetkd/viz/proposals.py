"""Which proposals a detector considers similar to a picked one: on the images, and as crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gdetkd.viz import style
from gdetkd.viz.similarity import draw_matrices

GLOW = "inferno"  # boxes on a darkened photograph: the brighter, the more similar


def draw_on_image(
    picture: np.ndarray,
    boxes: np.ndarray,
    values: np.ndarray,
    picked: int | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    ax: Axes | None = None,
    names: Sequence[str] | None = None,
) -> Axes:
    """Boxes (n, 4) on a darkened picture (h, w, 3), brighter for larger values (n,).

    names: of the classes that the boxes show, "" for the background, whose boxes are dotted. The
    brightest box of each object has its name at the upper left corner.
    """
    ax = ax or style.new_axes()
    ax.imshow(0.62 * np.asarray(picture, float).mean(2) / 255, cmap="gray", vmin=0, vmax=1)
    shades = np.asarray(Normalize(*limits, clip=True)(values), float)
    for index in np.argsort(values):
        if index != picked:
            shade = shades[index]
            color = plt.get_cmap(GLOW)(0.25 + 0.7 * shade)
            line = "-" if names is None or names[index] else ":"
            style.draw_box(ax, boxes[index], color, 0.8 + 2.2 * shade, alpha=0.35 + 0.65 * shade,
                           ls=line)  # fmt: skip
    if picked is not None:
        outline = [effects.withStroke(linewidth=5, foreground="white")]
        style.draw_box(ax, boxes[picked], style.HIGHLIGHT, 3, path_effects=outline)
    _name_objects(ax, boxes, values, names)
    ax.set_axis_off()
    return ax


def compare_on_images(
    pictures: Sequence[np.ndarray],
    rois: np.ndarray,
    similarities: Mapping[str, np.ndarray],
    picked: int,
    labels: np.ndarray,
    classes: Sequence[str],
    columns: int = 5,
) -> Figure:
    """All proposals of some images, colored by their similarity to the picked one.

    There is one row per detector and one column per image: the image of the picked proposal, then
    those with the proposals that the first detector considers most similar. Every row has its own
    color scale, which starts at the median.

    Args:
        pictures: (H, W, 3) RGB each.
        rois: (n, 5) [image, x1, y1, x2, y2], pixels.
        similarities: One (n, n) matrix per detector.
        labels: (n,), what the proposals show; `len(classes)` is the background, drawn dotted.
    """
    shown = most_similar_images(rois, next(iter(similarities.values())), picked, columns)
    rows = len(similarities)
    figure, axes = style.panels(len(shown), rows, height=0.98 * style.WIDTH / len(shown))
    for row, (name, matrix) in zip(axes, similarities.items(), strict=True):
        values = np.asarray(matrix)[picked]
        others = np.delete(values, picked)
        limits = float(np.median(others)), float(others.max())
        for ax, image in zip(row, shown, strict=True):
            here = np.flatnonzero(rois[:, 0] == image)
            place = next(iter(np.flatnonzero(here == picked).tolist()), None)
            names = [classes[label] if label < len(classes) else "" for label in labels[here]]
            draw_on_image(pictures[image], rois[here, 1:], values[here], place, limits, ax, names)
        style.row_name(row[0], name)
        bar = style.color_bar(figure, row, GLOW, "cosine", limits, pad=0.015, aspect=18)
        bar.ax.tick_params(labelsize=9)
    return figure


def most_similar_images(
    rois: np.ndarray, similarities: np.ndarray, picked: int, count: int
) -> list[int]:
    """The image of the picked proposal, then those with the proposals most similar to it."""
    best = np.argsort(-np.asarray(similarities)[picked], kind="stable")
    order = [int(rois[picked, 0]), *rois[best, 0].astype(int).tolist()]
    return list(dict.fromkeys(order))[:count]


def similarity_overview(
    pictures: Sequence[np.ndarray],
    rois: np.ndarray,
    labels: np.ndarray,
    similarities: Mapping[str, np.ndarray],
    picked: int,
    classes: Sequence[str],
    notes: Mapping[str, str],
) -> Figure:
    """One column per detector: its matrix, and below it the crops most similar to the picked one.

    The picked proposal's row is marked in the matrix; its crop comes first.
    """
    figure = plt.figure(figsize=(style.WIDTH, 0.59 * style.WIDTH))
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.5, 1])
    axes = top.subplots(1, len(similarities), squeeze=False)[0]
    draw_matrices(top, axes, similarities, labels, classes, picked)
    groups = bottom.subfigures(1, len(similarities), squeeze=False, wspace=0.06)[0]
    for group, (name, matrix) in zip(groups, similarities.items(), strict=True):
        cells = group.subplots(2, 5, gridspec_kw=dict(wspace=0.02, hspace=0.02)).ravel()
        _draw_nearest(cells, pictures, rois, labels, matrix, picked, classes)
        group.suptitle(notes[name], fontsize=11)
    return figure


def crop(picture: np.ndarray, box: np.ndarray, size: int = 48, context: float = 0.15) -> np.ndarray:
    """A box with some of its surroundings, (size, size, 3), nearest pixels, edges repeated."""
    x1, y1, x2, y2 = np.asarray(box, float)
    side = max(x2 - x1, y2 - y1) * (1 + 2 * context)
    steps = (np.arange(size) + 0.5) / size - 0.5
    columns = ((x1 + x2) / 2 + side * steps).clip(0, picture.shape[1] - 1).astype(int)
    rows = ((y1 + y2) / 2 + side * steps).clip(0, picture.shape[0] - 1).astype(int)
    return picture[rows[:, None], columns]


def _name_objects(
    ax: Axes, boxes: np.ndarray, values: np.ndarray, names: Sequence[str] | None
) -> None:
    """The class beside the brightest box of each object: boxes that hardly overlap."""
    named = np.empty((0, 4))
    for index in np.argsort(-values) if names is not None else ():
        x1, y1, x2, y2 = box = boxes[index]
        sides = np.minimum(named[:, 2:], box[2:]) - np.maximum(named[:, :2], box[:2])
        if not names[index] or (sides.clip(min=0).prod(1) > 0.25 * (x2 - x1) * (y2 - y1)).any():
            continue
        named = np.vstack([named, box])
        ax.annotate(names[index], (max(x1, 0), max(y1, 0)), xytext=(2, -2), color="white",
                    textcoords="offset points", va="top", fontsize=8, weight="bold",
                    bbox=dict(boxstyle="round,pad=0.15", fc="black", alpha=0.7))  # fmt: skip


def _draw_nearest(axes, pictures, rois, labels, similarities, picked, classes) -> None:
    """The picked proposal on the first Axes, the most similar ones of other images on the rest."""
    values = np.asarray(similarities)[picked]
    elsewhere = np.flatnonzero(rois[:, 0] != rois[picked, 0])
    best = elsewhere[np.argsort(-values[elsewhere], kind="stable")][: len(axes) - 1]
    for ax in axes[len(best) + 1 :]:
        ax.set_axis_off()
    for ax, index in zip(axes, [picked, *best], strict=False):
        ax.imshow(crop(pictures[int(rois[index, 0])], rois[index, 1:]))
        ax.set(xticks=[], yticks=[])
        color = (
            style.HIGHLIGHT if index == picked else style.class_color(labels[index], len(classes))
        )
        ax.spines[:].set(visible=True, color=color, linewidth=4)
        name = style.class_name(labels[index], classes)
        text = name if index == picked else f"{name}  {values[index]:.2f}"
        weight = "bold" if labels[index] == labels[picked] else "normal"
        ax.set_title(text, fontsize=9, weight=weight, pad=4)
