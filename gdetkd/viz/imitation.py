"""Pictures of semantic-guided imitation: an object on every pyramid level, the level weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ipywidgets import FloatLogSlider, IntSlider
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from gdetkd.losses import level_weights, semantic_guided_imitation
from gdetkd.viz.style import HIGHLIGHT, NEUTRAL, STUDENT, TEACHER, axes_or_new, panels
from gdetkd.viz.widgets import Explorer

# From fine to coarse, told apart by color-blind readers too (Tol's muted scheme).
LEVEL_COLORS = ("#332288", "#88CCEE", "#DDCC77", "#CC6677", "#44AA99")


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

    Args:
        picture: (H, W, 3) RGB.
        box: x1, y1, x2, y2 in its pixels.
        teacher: (C, h, w), the box as the teacher pooled it.
        levels: (C, h, w) a level, the same box in the student.
        weights: Of the levels, to be written beside their names.
    """
    figure, axes = panels(len(levels) + 2, height=2.1)
    x1, y1, x2, y2 = (float(value) for value in box)
    first = axes[0, 0]
    first.imshow(picture)
    first.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=HIGHLIGHT, lw=2))
    first.set_title(f"box of\n{x2 - x1:.0f} x {y2 - y1:.0f} px")
    axes[0, 1].imshow(_energy(teacher))
    axes[0, 1].set_title("teacher's\nfeature")
    shares = [""] * len(levels) if weights is None else [f"weight {w:.2f}" for w in weights]
    named = zip(axes[0, 2:], levels, level_names(len(levels)), shares, strict=True)
    for index, (ax, level, name, share) in enumerate(named):
        ax.imshow(_energy(level))
        ax.set_title(f"student {name}\n{share}", color="black")
        ax.add_patch(
            Rectangle((0, -0.09), 1, 0.06, transform=ax.transAxes, clip_on=False,
                      color=LEVEL_COLORS[index])
        )  # fmt: skip
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    figure.supxlabel(
        "brighter: larger norm over the channels, each panel on its own scale", fontsize=10
    )
    return figure


def weights_on_picture(
    picture: np.ndarray, boxes: Tensor, weights: Tensor, ax: Axes | None = None
) -> Axes:
    """Each box (n, 4) with a bar at its left: the shares of the levels in it, weights (n, L)."""
    ax = axes_or_new(ax, height=4.5)
    ax.imshow(picture)
    side = picture.shape[1]
    for box, shares in zip(boxes.tolist(), weights.tolist(), strict=True):
        x1, y1, x2, y2 = box
        top = LEVEL_COLORS[int(np.argmax(shares))]
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=top, lw=1.8))
        low = y2
        for share, color in zip(shares, LEVEL_COLORS, strict=False):
            height = share * (y2 - y1)
            ax.add_patch(Rectangle((x1, low - height), side / 24, height, color=color, lw=0))
            low -= height
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    return ax


def weights_on_pictures(
    pictures: Sequence[np.ndarray], rois: Tensor, weights: Tensor, title: str = ""
) -> Figure:
    """`weights_on_picture` for several images: rois (N, 5) by the pictures' order, weights (N, L).

    Boxes on images that are not shown are left out.
    """
    figure, axes = panels(len(pictures), height=9.0 / len(pictures) + 0.5)
    for index, (ax, picture) in enumerate(zip(axes[0], pictures, strict=True)):
        mine = rois[:, 0] == index
        weights_on_picture(picture, rois[mine, 1:], weights[mine], ax)
    _level_legend(figure, weights.shape[1], "outside lower center")
    figure.suptitle(title)
    return figure


def weights_by_size(
    sizes: Tensor,
    weights: Tensor,
    edges: Sequence[float],
    borders: Sequence[float] = (),
    ax: Axes | None = None,
) -> Axes:
    """Mean share of every level (N, L) in bins of box size (N,), pixels.

    borders: Sizes at which a detector's own rule goes on to the next level.
    """
    ax = axes_or_new(ax)
    which = np.digitize(sizes.numpy(), edges) - 1
    bins = [index for index in range(len(edges) - 1) if (which == index).any()]
    means = np.stack([weights.numpy()[which == index].mean(0) for index in bins])
    left = np.array([edges[index] for index in bins], float)
    width = np.array([edges[index + 1] for index in bins]) - left
    below = np.zeros(len(bins))
    for level, name in enumerate(level_names(weights.shape[1])):
        ax.bar(left, means[:, level], width, below, align="edge", color=LEVEL_COLORS[level],
               edgecolor="white", lw=0.8, label=name)  # fmt: skip
        below += means[:, level]
    for index, start, wide in zip(bins, left, width, strict=True):
        ax.text(start + wide / 2, 1.01, f"{(which == index).sum()}", ha="center", fontsize=9)
    for border in borders:
        ax.axvline(border, color="black", ls="--", lw=1.5)
    ax.set(xlabel="box size: square root of the area [px]; above the bars, how many boxes",
           ylabel="mean level weight", ylim=(0, 1.08))  # fmt: skip
    ax.grid(False)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def weights_by_size_panels(
    weights: Mapping[str, Tensor],
    sizes: Tensor,
    edges: Sequence[float],
    borders: Sequence[float] = (),
) -> Figure:
    """`weights_by_size` of several students beside each other, by name."""
    figure, axes = panels(len(weights), height=3.6)
    for ax, (name, shares) in zip(axes[0], weights.items(), strict=True):
        weights_by_size(sizes, shares, edges, borders, ax)
        ax.set_title(f"{name} student", pad=18)
        ax.get_legend().remove()
        ax.set_xlabel("box size [px]; on top, how many boxes")
    _level_legend(figure, shares.shape[1], "outside lower center")
    return figure


def fitting_curves(
    curves: Mapping[str, Sequence[float]],
    steps: Sequence[int],
    floor: float,
    ax: Axes | None = None,
) -> Axes:
    """Held-out imitation error of several learners against the steps taken.

    floor: The error of answering with the mean teacher feature, drawn as a reference.
    """
    ax = axes_or_new(ax)
    for (name, values), line in zip(curves.items(), ("-", "--", ":", "-."), strict=False):
        ax.plot(steps, values, line, label=name)
    ax.axhline(floor, color=NEUTRAL, lw=1.2, ls=(0, (1, 2)))
    ax.annotate("the teacher's mean feature", (steps[-1], floor), xytext=(0, 4),
                textcoords="offset points", ha="right", color=NEUTRAL, fontsize=10)  # fmt: skip
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="optimization steps", ylabel="mean squared error (log scale)")
    ax.legend(loc="upper right")
    return ax


def fitting_panels(
    curves: Mapping[tuple[str, str], Sequence[float]], steps: Sequence[int], floor: float
) -> Figure:
    """`fitting_curves` of several students: curves by (student, learner), on one scale."""
    students = list(dict.fromkeys(student for student, _ in curves))
    figure, axes = panels(len(students), height=3.6, sharey=True)
    for ax, student in zip(axes[0], students, strict=True):
        mine = {learner: values for (name, learner), values in curves.items() if name == student}
        fitting_curves(mine, steps, floor, ax).set_title(f"{student} student")
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    for ax in axes[0, :-1]:
        ax.get_legend().remove()
    return figure


def errors_by_rule(
    errors: Mapping[str, Tensor], sizes: Tensor, edges: Sequence[float], ax: Axes | None = None
) -> Axes:
    """Imitation error (N,) under several rules, in bins of box size; whiskers are standard errors.

    Bars of one bin speak of the same boxes.
    """
    ax = axes_or_new(ax)
    colors = [TEACHER, "#56B4E9", STUDENT, HIGHLIGHT, NEUTRAL]
    which = np.digitize(sizes.numpy(), edges) - 1
    width = 0.8 / len(errors)
    for place, (name, values) in enumerate(errors.items()):
        rows = [values.numpy()[which == index] for index in range(len(edges) - 1)]
        means = [row.mean() if len(row) else np.nan for row in rows]
        whiskers = [row.std() / max(1, len(row)) ** 0.5 if len(row) else np.nan for row in rows]
        at = np.arange(len(rows)) + (place - (len(errors) - 1) / 2) * width
        ax.bar(at, means, width * 0.92, yerr=whiskers, label=name, color=colors[place],
               error_kw=dict(lw=1, ecolor="#333333"))  # fmt: skip
    counts = [(which == index).sum() for index in range(len(edges) - 1)]
    ax.set_xticks(range(len(edges) - 1), [
        f"{low:g} to {high:g} px\n({count} boxes)"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ])  # fmt: skip
    ax.set(xlabel="box size", ylabel="mean squared error")
    ax.grid(axis="x", visible=False)
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

    largest: Mean over the boxes of each one's largest weight, 1 / L (all alike) to 1 (one alone).
    marked: A temperature to point at.
    """
    figure, axes = panels(2, height=3.2)
    shown = ((errors, "mean squared error"), (largest, "a box's largest weight, mean"))
    for ax, (values, label) in zip(axes[0], shown, strict=True):
        ax.semilogx(temperatures, values, "o-", color=TEACHER, ms=4)
        ax.axvline(learned, color="black", ls="--", lw=1.3)
        if marked is not None:
            height = np.interp(np.log(marked), np.log(temperatures), values)
            ax.plot([marked], [height], "o", color=HIGHLIGHT, ms=11, zorder=5)
        ax.set(xlabel="temperature τ", ylabel=label)
        ax.set_ylim(0)
        ax.text(learned, 0.06, "  learned", transform=ax.get_xaxis_transform())
    return figure


def level_gradients(gradients: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    """Norm of the gradient that each pyramid level receives, by loss."""
    ax = axes_or_new(ax, height=3.2)
    width = 0.8 / len(gradients)
    for place, ((name, values), color) in enumerate(
        zip(gradients.items(), (TEACHER, HIGHLIGHT, STUDENT), strict=False)
    ):
        at = np.arange(len(values)) + (place - (len(gradients) - 1) / 2) * width
        bars = ax.bar(at, values, width * 0.92, label=name, color=color)
        ax.bar_label(bars, fmt="%.2g", fontsize=9, padding=1)
    ax.set_xticks(range(len(values)), level_names(len(values)))
    ax.set(xlabel="pyramid level of the student", ylabel="norm of its gradient")
    ax.grid(axis="x", visible=False)
    ax.legend()
    return ax


def temperature_explorer(
    pictures: Sequence[np.ndarray],
    rois: Tensor,
    levels: Sequence[Tensor],
    target: Tensor,
    embeddings: tuple[Tensor, Tensor],
) -> Explorer:
    """A slider over tau: the weights on the pictures, and the error they leave on all boxes.

    levels: (N, C, h, w) each; target (N, C, h, w); embeddings: (N, L, E) of the student's levels
    and (N, E) of the teacher.
    """

    def draw(tau: float) -> Figure:
        weights = level_weights(*embeddings, tau)
        error = semantic_guided_imitation(list(levels), target, weights)
        return weights_on_pictures(
            pictures, rois, weights, f"τ = {tau:.2g}: mean squared error {error:.3f}"
        )

    explorer = Explorer(
        draw, tau=FloatLogSlider(1.0, base=10, min=-2, max=2, step=0.1, description="τ")
    )
    return explorer.add_class("gdetkd-imitation-temperature")


def proposal_explorer(
    pictures: Sequence[np.ndarray],
    rois: Tensor,
    levels: Sequence[Tensor],
    target: Tensor,
    weights: Tensor,
) -> Explorer:
    """A slider over the boxes: `object_on_levels` of each, with its level weights (N, L)."""

    def draw(proposal: int) -> Figure:
        picture = pictures[int(rois[proposal, 0])]
        maps = [level[proposal] for level in levels]
        return object_on_levels(
            picture, rois[proposal, 1:].tolist(), target[proposal], maps, weights[proposal].tolist()
        )

    explorer = Explorer(draw, proposal=IntSlider(0, 0, len(rois) - 1, description="proposal"))
    return explorer.add_class("gdetkd-imitation-proposal")


def _energy(feature: Tensor) -> np.ndarray:
    return feature.detach().float().norm(dim=0).numpy()


def _level_legend(figure: Figure, count: int, where: str) -> None:
    handles = [Rectangle((0, 0), 1, 1, color=LEVEL_COLORS[level]) for level in range(count)]
    figure.legend(handles, level_names(count), loc=where, ncols=count)
