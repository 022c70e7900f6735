"""Figures of class-aware regression: how sure the teacher is, and what it therefore teaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from ipywidgets import FloatSlider
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gdetkd.losses import class_aware_regression, ground_truth_class_regression
from gdetkd.viz import style
from gdetkd.viz.widgets import Explorer

DELTAS = ("dx", "dy", "dw", "dh")
DELTA_UNIT = "share of the box side; log of its scale"


def confidence_and_iou(
    confidence: Tensor, ious: Mapping[str, Tensor], edges: Sequence[float]
) -> Axes:
    """Mean IoU (intersection over union) with the object, in bins of the teacher's confidence (N,).

    ious: (N,) per kind of box. Whiskers are standard errors.
    """
    ax = style.new_axes()
    colors = (style.TEACHER, style.STUDENT, style.NEUTRAL)
    frame = pd.DataFrame({"confidence": confidence.numpy()})
    frame = frame.assign(**{name: iou.numpy() for name, iou in ious.items()})
    bins = frame.groupby(np.digitize(confidence.numpy(), edges[1:-1]))
    counts = bins.size()[lambda count: count > 1]
    means, errors = bins.mean().loc[counts.index], bins.sem(ddof=0).loc[counts.index]
    at = means["confidence"]
    for name, color, line in zip(ious, colors, ("o-", "s--", "^:"), strict=False):
        ax.errorbar(at, means[name], errors[name], fmt=line, color=color, label=name)
    for place, count in zip(at, counts, strict=True):
        ax.annotate(f"{count}", (place, 0), xycoords=("data", "axes fraction"),
                    xytext=(0, 4), textcoords="offset points", ha="center", fontsize=9)  # fmt: skip
    ax.set(xlabel="teacher's confidence in the true class (bottom: how many boxes)",
           ylabel="mean IoU with the object", xlim=(-0.02, 1.02))  # fmt: skip
    ax.margins(y=0.15)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def ambiguous_proposal(
    picture: np.ndarray,
    proposal: Sequence[float],
    boxes: Tensor,
    confidences: Tensor,
    classes: Sequence[str],
    shown: int = 3,
) -> Figure:
    """One proposal, the box that each likely class would give it, and the class probabilities.

    Args:
        picture: (H, W, 3) RGB.
        proposal: x1, y1, x2, y2 in its pixels.
        boxes: (C, 4), the teacher's box for each class.
        confidences: (C + 1,), its softmax, background last.
        shown: How many boxes to draw, for the most likely classes.
    """
    figure, axes = style.panels(2, height=3.9, gridspec_kw=dict(width_ratios=(1, 1.25)))
    ax, bars = axes[0]
    ax.imshow(picture)
    style.draw_box(ax, proposal, "white", ls=(0, (3, 2)), label="proposal")
    corners = (("x1", "y1"), ("x2", "y1"), ("x1", "y2"), ("x2", "y2"))
    for place, index in enumerate(confidences[:-1].topk(shown).indices.tolist()):
        width = 1.6 * (shown - place)  # ever thinner, so that boxes that coincide all stay visible
        color = style.CLASS_COLORS[index]
        style.draw_box(ax, boxes[index], color, width, label=f"box if {classes[index]}")
        # Each name at a corner of its own, outside the box.
        corner = dict(zip(("x1", "y1", "x2", "y2"), boxes[index].tolist(), strict=True))
        x, y = corners[place % 4]
        ax.annotate(f"if {classes[index]}", (corner[x], corner[y]), color="white", fontsize=10,
                    weight="bold", textcoords="offset points", ha="right" if x == "x1" else "left",
                    xytext=(-5 if x == "x1" else 5, 5 if y == "y1" else -5), va="center",
                    bbox=dict(boxstyle="round,pad=0.2", fc=color, ec="white", lw=0.8))  # fmt: skip
    x1, y1, x2, y2 = (float(value) for value in proposal)
    margin = 0.45 * max(x2 - x1, y2 - y1)
    height, width = picture.shape[:2]
    ax.set_xlim(max(-0.5, x1 - margin), min(width - 0.5, x2 + margin))
    ax.set_ylim(min(height - 0.5, y2 + margin), max(-0.5, y1 - margin))
    ax.set_axis_off()
    ax.set_title("dashed: the proposal; solid: its box, if it is ...", fontsize=11, pad=16)
    names = [*classes, "background"]
    colors = [*style.CLASS_COLORS[: len(classes)], style.BACKGROUND]
    drawn = bars.barh(range(len(names)), confidences.numpy(), color=colors)
    bars.bar_label(drawn, fmt="%.2f", padding=2, fontsize=9)
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.grid(axis="y", visible=False)
    bars.set(xlabel="teacher's confidence (softmax)", ylabel="class")
    bars.set_xlim(0, 1.15 * float(confidences.max()))
    return figure


def push_and_gain(rows: pd.DataFrame) -> Axes:
    """What a regression loss changes in AP, against how hard it pushes the student's deltas.

    rows: indexed by label, with columns `loss` (its kind), `push` (L1 norm of a batch's
    gradient), `gain` and `half` (AP points, and the half width of the 95% interval).
    """
    ax = style.new_axes(3.4)
    for (kind, some), color in zip(
        rows.groupby("loss"), (style.TEACHER, style.STUDENT), strict=False
    ):
        ax.errorbar(
            some["push"], some["gain"], some["half"], fmt="o", capsize=4, color=color, label=kind
        )
        place = (7, -14) if color == style.TEACHER else (7, 6)  # neighbors of two kinds
        for label, row in some.iterrows():
            ax.annotate(label, (row["push"], row["gain"]), xytext=place, color=color, fontsize=9,
                        textcoords="offset points")  # fmt: skip
    ax.axhline(0, color="black", lw=1)
    ax.set(xscale="log", xlabel="push: L1 norm of a batch's gradient at the student's deltas",
           ylabel="gain [AP points]", xlim=(0.1, 7))  # fmt: skip
    ax.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    ax.minorticks_off()
    ax.legend(loc="lower left")
    return ax


def weighted_gaps(
    gaps: Tensor, confidences: Tensor, names: Sequence[str], ax: Axes | None = None
) -> Axes:
    """The contribution of each class to the loss, coordinate by coordinate, and their sum.

    gaps: (C, 4), the teacher's deltas minus the student's; confidences: (C,); names: (C,).
    Positive contributions are stacked upward, negative ones downward. Diamonds mark their sums;
    the loss is the sum of the diamonds' distances from 0.
    """
    ax = ax or style.new_axes()
    parts = (confidences[:, None] * gaps).numpy()
    labels = [f"{name}: {p:.2f}" for name, p in zip(names, confidences, strict=True)]
    rows = dict(zip(labels, parts, strict=True))
    style.grouped_bars(ax, rows, DELTAS, [_color(name) for name in names], stacked=True)
    ax.plot(range(4), parts.sum(0), "D", color="black", ms=8, mec="white", label="sum")
    ax.axhline(0, color="black", lw=1)
    ax.set(xlabel=f"coordinate ({DELTA_UNIT})", ylabel="confidence x gap")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="class: confidence")
    return ax


def class_gradients(
    confidences: Tensor,
    gradients: Mapping[str, Tensor],
    labels: Sequence[int],
    classes: Sequence[str],
) -> Figure:
    """Heat maps (n, C) of proposals by classes: the confidences, then gradient norms by loss.

    labels: (n,) ground truth, marked by a ring; `len(classes)` is background and has no ring.
    """
    shown = {"teacher's confidence": confidences, **gradients}
    figure, drawn = style.panel_per_item(shown, height=0.26 * len(labels) + 1.7, sharey=True)
    names = ["background" if label >= len(classes) else classes[label] for label in labels]
    units = ["softmax", *["L1 norm over the coordinates"] * len(gradients)]
    for (ax, name, values), unit in zip(drawn, units, strict=True):
        image = style.heat_map(ax, values.numpy(), names, classes, vmin=0, aspect="auto")
        for row, label in enumerate(labels):
            if label < len(classes):
                ax.plot(label, row, "o", mfc="none", mec="white", ms=11, mew=1.6)
        ax.set(xlabel="class", title=name)
        figure.colorbar(image, ax=ax, location="bottom", shrink=0.9, aspect=30, label=unit)
    figure.axes[0].set_ylabel("proposal, by its ground truth (ring)")
    return figure


def two_classes(gaps: Tensor, confidences: Tensor, names: Sequence[str]) -> Figure:
    """Two classes of one proposal: their contributions, and the gradients of both losses.

    gaps: (2, 4); confidences: (2,); the first class is the ground truth.
    """
    figure, axes = style.panels(2, height=3.4, gridspec_kw=dict(width_ratios=(1.3, 1)))
    weighted_gaps(gaps, confidences, names, axes[0, 0])
    student = torch.zeros(1, 2, 4, requires_grad=True)
    teacher = gaps[None]
    aware = class_aware_regression(student, teacher, confidences[None])
    plain = ground_truth_class_regression(student, teacher, torch.tensor([0]))
    rows = {"class-aware": aware, "plain": plain}
    ax = axes[0, 1]
    for place, (name, loss) in enumerate(rows.items()):
        gradient = torch.autograd.grad(loss, student)[0][0].abs().sum(1)
        ax.text(0, place - 0.36, f"{name}: loss {loss.item():.3f}", fontsize=10)
        left = 0.0
        for index, part in enumerate(gradient.tolist()):
            ax.barh(place, part, 0.36, left, color=_color(names[index]), edgecolor="white")
            left += part
    ax.set_yticks([])
    ax.set(xlabel="L1 norm of the gradient, by class", xlim=(0, 4.3), ylim=(1.5, -0.6))
    ax.spines["left"].set_visible(False)
    return figure


def confidence_explorer(
    gaps: Tensor, names: Sequence[str], start: tuple[float, float] = (0.6, 0.3)
) -> Explorer:
    """Two sliders over the confidences of two classes; the rest is background.

    Where they would add up to more than 1, both are scaled down.
    """

    def draw(first: float, second: float) -> Figure:
        confidences = torch.tensor([first, second])
        return two_classes(gaps, confidences / max(1.0, first + second), names)

    sliders = [FloatSlider(value, min=0, max=1, step=0.05) for value in start]
    for slider, name in zip(sliders, names, strict=True):
        slider.description = f"confidence in {name}"
    explorer = Explorer(draw, first=sliders[0], second=sliders[1])
    return explorer.add_class("gdetkd-regression-confidence")


def _color(name: str) -> str:
    """The color of a digit's class; gray for a group of classes."""
    return style.CLASS_COLORS[int(name)] if name.isdigit() else "#cccccc"
