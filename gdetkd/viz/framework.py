"""Figures of one whole distillation step: its data flow, and the gradients of its losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gdetkd.viz import style

# The field of `RoIOutputs` that each component compares.
COMPONENT_OF = {
    "pooled": "imitation",
    "representation": "contrastive",
    "logits": "classification",
    "deltas": "regression",
}


def data_flow(images: Tensor, student: Any, teacher: Any) -> Figure:
    """One step with the shapes of its tensors: images, boxes, both outputs, the losses."""
    ax = style.new_axes(5.6)
    ax.set_axis_off()
    ax.set(xlim=(0, 10), ylim=(0.2, 9.2))
    rows = (8.7, 7.35, 6.0, 4.65, 3.3, 1.95)  # images, pyramid, boxes, pooled, representation, ...
    _node(ax, 5, rows[0], f"images  {_shape(images)}", style.NEUTRAL)
    _node(ax, 1.6, rows[0], "student", style.STUDENT, bold=True)
    _node(ax, 8.4, rows[0], "teacher", style.TEACHER, bold=True)
    style.arrow(ax, (3.3, rows[0]), (2.35, rows[0]), style.NEUTRAL)
    style.arrow(ax, (6.7, rows[0]), (7.65, rows[0]), style.NEUTRAL)
    _node(ax, 5, rows[2], f"the same boxes  {_shape(student.rois)}", style.NEUTRAL)
    for x, outputs, color in ((1.6, student, style.STUDENT), (8.4, teacher, style.TEACHER)):
        _node(ax, x, rows[1], f"pyramid\n{_shape(outputs.pyramid)}", color)
        boxes = (
            "RPN, sampling with\nthe ground truth"
            if outputs is student
            else "no proposals:\nit is asked"
        )
        _node(ax, x, rows[2], boxes, style.NEUTRAL)
        for y, name in zip(rows[3:5], ("pooled", "representation"), strict=True):
            _node(ax, x, y, f"{name}\n{_shape(getattr(outputs, name))}", color)
        for side, name in ((-0.85, "logits"), (0.85, "deltas")):
            _node(ax, x + side, rows[5], f"{name}\n{_shape(getattr(outputs, name))}", color)
            style.arrow(ax, (x + side / 2, rows[4] - 0.45), (x + side, rows[5] + 0.47), color)
        for upper, lower in zip((*rows[:4],), (*rows[1:5],), strict=True):
            style.arrow(ax, (x, upper - 0.45), (x, lower + 0.47), color)
    style.arrow(ax, (2.85, rows[2]), (3.6, rows[2]), style.NEUTRAL)
    style.arrow(ax, (6.4, rows[2]), (7.4, rows[2]), style.NEUTRAL)
    for y, start, name in ((rows[3], rows[1], "imitation"), (rows[4], rows[4], "contrastive"),
                           (rows[5], rows[5], "classification\nand regression")):  # fmt: skip
        _node(ax, 5, y, f"{name} loss" + "es" * ("\n" in name), style.DISTILLED)
        # Imitation takes every level of the student, and one pooled feature of the teacher.
        style.arrow(
            ax,
            (3.45 if y == rows[5] else 2.75, start - 0.3 * (start != y)),
            (3.95, y),
            style.STUDENT,
        )
        style.arrow(ax, (6.55 if y == rows[5] else 7.25, y), (6.05, y), style.TEACHER)
    note = "gradients return along the orange arrows, to the student; the teacher receives none"
    ax.text(5, 0.55, note, ha="center", fontsize=10, color="#444444")
    return ax.figure


def gradient_shares(norms: Mapping[str, Mapping[str, float]]) -> Figure:
    """Norm of each loss's gradient, by moment and then by loss; one panel per moment.

    Every moment has the same losses.
    """
    figure, drawn = style.panel_per_item(norms, sharex=True, sharey=True)
    longest = max(max(values.values()) for values in norms.values())
    for ax, moment, values in drawn:
        names = list(values)
        colors = [style.DISTILLED if name.startswith("kd_") else style.STUDENT for name in names]
        bars = ax.barh(range(len(names)), list(values.values()), color=colors)
        ax.bar_label(bars, fmt="%.2g", fontsize=9, padding=2)
        ax.set_yticks(range(len(names)), [name.replace("_loss", "") for name in names])
        ax.set(title=moment, xlabel="norm of its gradient at backbone and neck")
        ax.set_xlim(0, 1.15 * longest)
        ax.grid(axis="y", visible=False)
    ax.invert_yaxis()
    return figure


def gradient_cosines(cosines: np.ndarray, names: Sequence[str]) -> Axes:
    """Cosines between gradients (n, n): 1 for the same direction, -1 for opposite ones."""
    ax = style.new_axes(5.0)
    names = [name.replace("_loss", "") for name in names]
    options = dict(cmap=style.DIVERGING, vmin=-1, vmax=1)
    image = style.heat_map(ax, cosines, names, names, "{:.2f}", **options)
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    ax.figure.colorbar(image, ax=ax, label="cosine between the gradients")
    return ax


def losses_over_steps(curves: Mapping[str, Sequence[float]]) -> Axes:
    """Each loss relative to its first value, step by step."""
    ax = style.new_axes(3.4)
    for (name, values), line in zip(curves.items(), ("-", "--", "-.", ":"), strict=False):
        ax.plot(np.asarray(values) / values[0], line, label=name)
    ax.set(xlabel="optimization steps", ylabel="loss, relative to its first value")
    ax.set_ylim(0)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _node(ax: Axes, x: float, y: float, text: str, color: str, bold: bool = False) -> None:
    ax.text(x, y, text, ha="center", va="center", fontsize=10, weight="bold" if bold else "normal",
            color=color if bold else "black",
            bbox=dict(boxstyle="round,pad=0.4", fc="white", ec=color, lw=1.8))  # fmt: skip


def _shape(value: Tensor | Sequence[Tensor]) -> str:
    if isinstance(value, Tensor):
        return " x ".join(str(size) for size in value.shape)
    first, last = value[0].shape[-1], value[-1].shape[-1]
    return f"{len(value)} levels, {value[0].shape[1]} ch., {first} to {last} cells"
