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
    ax = style.new_axes(5.0)
    ax.set_axis_off()
    ax.set(xlim=(0, 10), ylim=(0.6, 8.1))
    _node(ax, 5, 7.7, f"images  {_shape(images)}", style.NEUTRAL)
    _node(ax, 5, 6.6, f"boxes  {_shape(student.rois)}", style.NEUTRAL)
    _node(ax, 1.9, 6.6, "student, its own loss():\nsamples boxes", style.STUDENT, bold=True)
    _node(ax, 8.1, 6.6, "teacher: encodes\nthe same boxes", style.TEACHER, bold=True)
    for start, end in (((3.7, 7.5), (2.6, 7.0)), ((6.3, 7.5), (7.4, 7.0)),
                       ((3.35, 6.6), (4.15, 6.6)), ((5.85, 6.6), (6.95, 6.6))):  # fmt: skip
        style.arrow(ax, start, end, style.NEUTRAL)
    for row, (field, component) in enumerate(COMPONENT_OF.items()):
        y = 5.4 - 1.1 * row
        _node(ax, 5, y, f"{component} loss", style.DISTILLED)
        for x, outputs, color in ((1.9, student, style.STUDENT), (8.1, teacher, style.TEACHER)):
            # Imitation takes every level of the student, and one pooled feature of the teacher.
            name = "pyramid" if field == "pooled" and outputs is student else field
            _node(ax, x, y, f"{name}\n{_shape(getattr(outputs, name))}", color)
        style.arrow(ax, (3.5, y), (4.0, y), style.STUDENT)
        style.arrow(ax, (6.6, y), (6.0, y), style.TEACHER)
    note = "gradients flow to the left: to the student and the losses' modules, not to the teacher"
    ax.text(5, 0.75, note, ha="center", fontsize=10, color="#444444")
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
