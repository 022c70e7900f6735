"""Figures of semantic-guided imitation: an object on every pyramid level, the level weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from ipywidgets import FloatLogSlider, IntSlider
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from gdetkd.losses import level_weights, semantic_guided_imitation
from gdetkd.viz import style
from gdetkd.viz.widgets import Explorer

# From fine to coarse, distinguishable for color-blind readers too (Tol's muted scheme).
LEVEL_COLORS = ("#332288", "#88CCEE", "#DDCC77", "#CC6677", "#44AA99")
NORMS = 0.6, 1.4  # of a feature's cells, relative to their mean


def level_names(count: int) -> list[str]:
    """P2, P3, ... as feature pyramids count them."""
    return [f"P{level + 2}" for level in range(count)]


def box_sizes(rois: Tensor) -> Tensor:
    """Square root of the area of RoIs (N, 5), pixels: (N,)."""
    return (rois[:, 3:] - rois[:, 1:3]).prod(1).sqrt()


def object_on_levels(
    picture: np.ndarray,
    box: Sequence[float],
    teacher: Tensor,
    levels: Sequence[Tensor],
    weights: Sequence[float] | None = None,
) -> Figure:
    """One object in the image, in the teacher's feature and on every level of the student.

    Over the pixels of the box lies the norm of each cell's feature over the channels, divided by
    its mean over the box: all maps share one scale.

    Args:
        picture: (H, W, 3) RGB.
        box: x1, y1, x2, y2 in its pixels.
        teacher: (C, h, w), the box as the teacher pooled it.
        levels: (C, h, w) per level, the same box in the student.
        weights: Of the levels, written beside their names.
    """
    figure, axes = style.panels(len(levels) + 2, height=2.1)
    x1, y1, x2, y2 = (float(value) for value in box)
    axes[0, 0].imshow(picture)
    style.draw_box(axes[0, 0], box, style.HIGHLIGHT)
    axes[0, 0].set_title(f"box of\n{x2 - x1:.0f} x {y2 - y1:.0f} px")
    notes = [""] * len(levels) if weights is None else [f"weight {w:.2f}" for w in weights]
    named = zip(level_names(len(levels)), notes, strict=True)
    titles = ["teacher's\nfeature", *(f"student {name}\n{note}" for name, note in named)]
    extent = (x1, x2, y2, y1)
    for ax, feature, title in zip(axes[0, 1:], (teacher, *levels), titles, strict=True):
        norms = feature.detach().float().norm(dim=0)
        ax.imshow(np.asarray(picture, float).mean(2), cmap="gray", vmin=0, vmax=255)
        ax.imshow((norms / norms.mean()).numpy(), cmap="plasma", vmin=NORMS[0], vmax=NORMS[1],
                  extent=extent, alpha=0.62)  # fmt: skip
        ax.set(title=title, xlim=extent[:2], ylim=extent[2:], aspect="auto", box_aspect=1)
    for ax, color in zip(axes[0, 2:], LEVEL_COLORS, strict=False):
        ax.add_patch(Rectangle((0, -0.09), 1, 0.06, transform=ax.transAxes, clip_on=False,
                               color=color))  # fmt: skip
    for ax in axes[0]:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    style.color_bar(figure, axes[0], "plasma", "norm / its mean", NORMS, aspect=12, pad=0.015,
                    extend="both")  # fmt: skip
    return figure


def weights_on_pictures(
    pictures: Sequence[np.ndarray], rois: Tensor, weights: Tensor, title: str = ""
) -> Figure:
    """Boxes on their images, each with a stacked bar of its level weights at its left edge.

    rois: (N, 5), their first column indexes the pictures, and boxes of others are skipped; weights:
    (N, L). The frame has the color of the level with the largest weight.
    """
    figure, axes = style.panels(len(pictures), height=9.0 / len(pictures) + 0.5)
    for ax, picture in zip(axes[0], pictures, strict=True):
        ax.imshow(picture)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    for (image, *box), shares in zip(rois.tolist(), weights.tolist(), strict=True):
        if image >= len(pictures):
            continue
        ax, (x1, y1, _, low) = axes[0, int(image)], box
        style.draw_box(ax, box, LEVEL_COLORS[int(np.argmax(shares))], 1.8)
        size = np.array([pictures[int(image)].shape[1] / 24, low - y1])
        for share, color in zip(shares, LEVEL_COLORS, strict=False):
            low -= share * size[1]
            ax.add_patch(Rectangle((x1, low), size[0], share * size[1], color=color, lw=0))
    _level_legend(figure, weights.shape[1])
    figure.suptitle(title)
    return figure


def weights_by_size(
    weights: Mapping[str, Tensor],
    sizes: Tensor,
    edges: Sequence[float],
    borders: Sequence[float] = (),
) -> Figure:
    """Mean weight of every level in bins of box size (N,), pixels; one panel per student.

    weights: By student, (N, L). borders: Sizes at which a detector's assignment rule moves on to
    the next level.
    """
    figure, drawn = style.panel_per_item(weights)
    which = np.digitize(sizes.numpy(), edges) - 1
    bins = [index for index in range(len(edges) - 1) if (which == index).any()]
    left, width = np.array(edges, float)[bins], np.diff(edges)[bins]
    for ax, name, shares in drawn:
        means = np.stack([shares.numpy()[which == index].mean(0) for index in bins], 1)
        bottoms = np.cumsum(means, 0) - means
        for heights, bottom, color in zip(means, bottoms, LEVEL_COLORS, strict=False):
            ax.bar(left, heights, width, bottom, align="edge", color=color, edgecolor="white",
                   lw=0.8)  # fmt: skip
        for index, middle in zip(bins, left + width / 2, strict=True):
            ax.text(middle, 1.01, f"{(which == index).sum()}", ha="center", fontsize=9)
        for border in borders:
            ax.axvline(border, color="black", ls="--", lw=1.5)
        ax.set(xlabel="box size [px]; on top, the number of boxes", ylabel="mean level weight")
        ax.set_ylim(0, 1.08)
        ax.set_title(f"{name} student", pad=18)
        ax.grid(False)
    _level_legend(figure, shares.shape[1])
    return figure


def fitting_panels(
    curves: Mapping[tuple[str, str], Sequence[float]], steps: Sequence[int], floor: float
) -> Figure:
    """Validation error of imitation against the steps, one panel per student, on one scale.

    Args:
        curves: By (student, learner), one error per step.
        steps: At which the errors were measured.
        floor: The error of predicting the mean teacher feature, drawn as a reference.
    """
    students = dict.fromkeys(student for student, _ in curves)
    figure, drawn = style.panel_per_item(students, sharey=True)
    for ax, student, _ in drawn:
        lines = iter(("-", "--", ":", "-."))
        for (name, learner), values in curves.items():
            if name == student:
                ax.plot(steps, values, next(lines), label=learner)
        ax.axhline(floor, color=style.NEUTRAL, lw=1.2, ls=(0, (1, 2)))
        ax.annotate("the teacher's mean feature", (steps[-1], floor), xytext=(0, 4), fontsize=10,
                    textcoords="offset points", ha="right", color=style.NEUTRAL)  # fmt: skip
        ax.set(title=f"{student} student", xlabel="optimization steps", yscale="log")
    low, high = ax.get_ylim()
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= tick <= high]
    for ax in figure.axes:
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    figure.axes[0].set_ylabel("mean squared error (log scale)")
    figure.axes[-1].legend(loc="upper right")
    return figure


def errors_by_rule(errors: Mapping[str, Tensor], sizes: Tensor, edges: Sequence[float]) -> Axes:
    """Imitation error (N,) under several rules, in bins of box size; whiskers are standard errors.

    All bars of a bin are about the same boxes.
    """
    ax = style.new_axes()
    frame = pd.DataFrame({name: values.numpy() for name, values in errors.items()})
    bins = frame.groupby(pd.cut(sizes.numpy(), edges, right=False), observed=False)
    ticks = [
        f"{bin.left:g} to {bin.right:g} px\n({count} boxes)" for bin, count in bins.size().items()
    ]
    colors = [style.TEACHER, style.SKY_BLUE, style.STUDENT, style.HIGHLIGHT, style.NEUTRAL]
    whiskers = dict(yerr=bins.sem(ddof=0).to_numpy().T, error_kw=dict(lw=1, ecolor="#333333"))
    style.grouped_bars(ax, bins.mean(), ticks, colors, **whiskers)
    ax.set(xlabel="box size", ylabel="mean squared error")
    ax.legend(loc="upper left")
    return ax


def temperature_curve(
    temperatures: Sequence[float],
    errors: Sequence[float],
    largest: Sequence[float],
    learned: float,
    marked: float | None = None,
) -> Figure:
    """Error and sharpness of the level weights against tau; the learned one is dashed.

    largest: The mean over the boxes of the largest weight, from 1 / L (all equal) to 1 (one level).
    marked: A temperature to mark.
    """
    figure, axes = style.panels(2, height=3.2)
    shown = ((errors, "mean squared error"), (largest, "a box's largest weight, mean"))
    for ax, (values, label) in zip(axes[0], shown, strict=True):
        ax.semilogx(temperatures, values, "o-", color=style.TEACHER, ms=4)
        ax.axvline(learned, color="black", ls="--", lw=1.3)
        if marked is not None:
            height = np.interp(np.log(marked), np.log(temperatures), values)
            ax.plot([marked], [height], "o", color=style.HIGHLIGHT, ms=11, zorder=5)
        ax.set(xlabel="temperature τ", ylabel=label)
        ax.set_ylim(0)
        ax.text(learned, 0.06, "  learned", transform=ax.get_xaxis_transform())
    return figure


def level_gradients(gradients: Mapping[str, Sequence[float]]) -> Axes:
    """Norm of the gradient that each pyramid level receives, by loss."""
    ax = style.new_axes(3.2)
    ticks = level_names(len(next(iter(gradients.values()))))
    colors = style.TEACHER, style.HIGHLIGHT, style.STUDENT
    for bars in style.grouped_bars(ax, gradients, ticks, colors):
        ax.bar_label(bars, fmt="%.2g", fontsize=9, padding=1)
    ax.set(xlabel="pyramid level of the student", ylabel="norm of its gradient")
    ax.legend()
    return ax


def temperature_explorer(
    pictures: Sequence[np.ndarray],
    rois: Tensor,
    levels: Sequence[Tensor],
    target: Tensor,
    embeddings: tuple[Tensor, Tensor],
) -> Explorer:
    """A slider over tau: the weights on the pictures, and the remaining error over all boxes.

    levels: (N, C, h, w) each; target: (N, C, h, w); embeddings: (N, L, E) of the student's levels
    and (N, E) of the teacher.
    """

    def draw(tau: float) -> Figure:
        weights = level_weights(*embeddings, tau)
        error = semantic_guided_imitation(list(levels), target, weights)
        title = f"τ = {tau:.2g}: mean squared error {error:.3f}"
        return weights_on_pictures(pictures, rois, weights, title)

    slider = FloatLogSlider(1.0, base=10, min=-2, max=2, step=0.1, description="τ")
    return Explorer(draw, tau=slider).add_class("gdetkd-imitation-temperature")


def proposal_explorer(
    pictures: Sequence[np.ndarray],
    rois: Tensor,
    levels: Sequence[Tensor],
    target: Tensor,
    weights: Tensor,
) -> Explorer:
    """A slider over the boxes: `object_on_levels` of each, with its level weights (N, L)."""

    def draw(proposal: int) -> Figure:
        picture, box = pictures[int(rois[proposal, 0])], rois[proposal, 1:].tolist()
        maps = [level[proposal] for level in levels]
        return object_on_levels(picture, box, target[proposal], maps, weights[proposal].tolist())

    slider = IntSlider(0, 0, len(rois) - 1)
    return Explorer(draw, proposal=slider).add_class("gdetkd-imitation-proposal")


def _level_legend(figure: Figure, count: int) -> None:
    style.color_legend(figure, LEVEL_COLORS[:count], level_names(count), loc="outside lower center",
                 ncols=count)  # fmt: skip
