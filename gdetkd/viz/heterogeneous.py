"""Figures of dense students: their scores beside a softmax teacher's, and their boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ipywidgets import FloatSlider
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gdetkd.losses import (
    converted_prediction_distillation,
    object_scores,
    prediction_distillation,
    sigmoid_prediction_distillation,
)
from gdetkd.viz import style
from gdetkd.viz.widgets import Explorer

# Three ways to turn a dense student's logits into scores, each with its loss.
LINES = {"section D": "-", "softmax with 0": "--", "sigmoid": ":"}
READINGS = dict(zip(LINES, (style.DISTILLED, style.HIGHLIGHT, style.STUDENT), strict=True))
POSITIVE, NEGATIVE, GROUND_TRUTH = style.ORANGE, style.SKY_BLUE, "white"


def readings(logits: Tensor, background: float = 0.0) -> dict[str, Tensor]:
    """The object scores (N, C) of a dense student's logits (N, C), read in three ways.

    background: the logit that the student lacks; we take it to be 0.
    """
    full = torch.nn.functional.pad(logits, (0, 1), value=background)
    return {
        "section D": object_scores(full),
        "softmax with 0": full.softmax(1)[:, :-1],
        "sigmoid": (logits - background).sigmoid(),
    }


def reading_losses(
    logits: Tensor, teacher_probs: Tensor, background: float = 0.0
) -> dict[str, Tensor]:
    """By reading of the logits (N, C), the loss in nats that distills it from a teacher's softmax.

    teacher_probs: (N, C + 1), background last.
    """
    full = torch.nn.functional.pad(logits, (0, 1), value=background)
    teacher_logits = teacher_probs.clamp(min=1e-12).log()
    return {
        "section D": converted_prediction_distillation(full, teacher_logits),
        "softmax with 0": prediction_distillation(full, teacher_logits),
        "sigmoid": sigmoid_prediction_distillation(logits - background, teacher_probs[:, :-1]),
    }


def score_totals(totals: Mapping[str, Tensor], is_object: Tensor) -> Figure:
    """Histograms of the sums of a box's object scores (N,), one panel per detector.

    is_object: (N,) bool, whether the box shows an object.
    """
    figure, drawn = style.panel_per_item(totals, height=3.2, sharex=True, sharey=True)
    edges = np.linspace(0, max(1.05, *(float(t.max()) for t in totals.values())) + 1e-6, 43)
    for ax, name, total in drawn:
        for label, chosen, color in (
            ("background", ~is_object, NEGATIVE),
            ("an object", is_object, POSITIVE),
        ):
            ax.hist(total[chosen].numpy(), edges, color=color, alpha=0.75, label=label)
        ax.axvline(1, color="black", lw=1.2, ls=":")
        ax.set(title=name, xlabel="sum of a box's object scores", yscale="log")
    figure.axes[0].set_ylabel("boxes (logarithmic)")
    figure.axes[-1].legend(title="the box shows", loc="upper right")
    return figure


def score_curves(others: Sequence[float], reach: float = 6.0) -> Figure:
    """The score of one class against its logit, one panel per logit of another class.

    The background's logit is 0.
    """
    figure, axes = style.panels(len(others), height=3.4, sharey=True)
    x = torch.linspace(-reach, reach, 241)
    for ax, other in zip(axes[0], others, strict=True):
        scores = readings(torch.stack([x, torch.full_like(x, other)], 1))
        for name, values in scores.items():
            ax.plot(x, values[:, 0], LINES[name], color=READINGS[name], label=name)
        ax.axvline(other, color=style.NEUTRAL, lw=1, ls="-.")
        ax.set(title=f"the other class has logit {other:g}", xlabel="logit of the class")
    axes[0, 0].set_ylabel("score of the class")
    axes[0, 0].legend(title="read as")
    return figure


def one_box(
    logits: Tensor, teacher_probs: Tensor, names: Sequence[str], background: float = 0.0
) -> Figure:
    """One box: the scores of each reading beside the teacher's, and each loss's push on the logits.

    Args:
        logits: (C,), the student's.
        teacher_probs: (C + 1,), background last.
        names: Of the C classes.
        background: The logit that the student lacks.
    """
    figure, axes = style.panels(2, height=3.9)
    teacher_scores = {"teacher": teacher_probs[:-1]}
    scores = {name: score[0] for name, score in readings(logits[None], background).items()}
    colors = list(READINGS.values())
    style.grouped_bars(axes[0, 0], teacher_scores | scores, names, [style.TEACHER, *colors])
    axes[0, 0].set(ylabel="score", ylim=(0, 1.05), xlabel="class")
    axes[0, 0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, title="scores")
    pushes = {}
    for name in READINGS:
        free = logits[None].clone().requires_grad_()
        loss = reading_losses(free, teacher_probs[None], background)[name]
        pushes[f"{name}: {loss.item():.3f}"] = -torch.autograd.grad(loss, free)[0][0]
    style.grouped_bars(axes[0, 1], pushes, names, colors)
    axes[0, 1].axhline(0, color="black", lw=1)
    reach = max(0.55, *(1.1 * float(push.abs().max()) for push in pushes.values()))
    axes[0, 1].set(ylabel="push on the logit (- gradient)", ylim=(-reach, reach), xlabel="class")
    axes[0, 1].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, title="losses (nats)")
    return figure


def logits_explorer(
    teacher_probs: Tensor, names: Sequence[str], start: Sequence[float] = (1.0, 0.0, -3.0)
) -> Explorer:
    """Sliders over the logits of three classes of a box, and over the background's.

    teacher_probs: (4,), background last; names: of the three classes.
    """

    def draw(first: float, second: float, third: float, background: float) -> Figure:
        return one_box(torch.tensor([first, second, third]), teacher_probs, names, background)

    keys, values = ("first", "second", "third", "background"), (*start, 0.0)
    sliders = {
        key: FloatSlider(value, min=-6, max=6, step=0.25, description=name)
        for key, name, value in zip(keys, (*names, "background"), values, strict=True)
    }
    for slider in sliders.values():
        slider.layout.width = "220px"
    return Explorer(draw, **sliders).add_class("gdetkd-heterogeneous-logits")


def descent(
    histories: Mapping[str, Tensor], targets: Sequence[float], titles: Sequence[str]
) -> Figure:
    """Mean scores while a loss is minimized over the logits alone.

    Args:
        histories: By loss, (steps, style.panels).
        targets: The teacher's score in each panel.
        titles: Of the style.panels.
    """
    figure, axes = style.panels(len(titles), height=3.7)
    for column, (ax, title, target) in enumerate(zip(axes[0], titles, targets, strict=True)):
        for name, history in histories.items():
            ax.plot(history[:, column], LINES[name], color=READINGS[name], label=name)
        ax.axhline(target, color=style.TEACHER, lw=1.5, ls="-.", label="the teacher's softmax")
        ax.set(title=title, xlabel="step of gradient descent")
        ax.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("best sigmoid score of a box, mean")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def locations(
    picture: np.ndarray,
    gt_boxes: Tensor,
    centers: Sequence[Tensor],
    boxes: Sequence[Tensor],
    positive: Sequence[Tensor],
    strides: Sequence[int],
) -> Figure:
    """The locations of each level, and the boxes predicted there that match an object.

    Args:
        picture: (H, W, 3) RGB.
        gt_boxes: (m, 4), the objects, in its pixels.
        centers, boxes, positive: Per level (n, 2), (n, 4), (n,) bool.
        strides: Per level, px.
    """
    figure, axes = style.panels(3, rows=-(-(len(strides) + 1) // 3), height=3.25)
    levels = zip(axes.flat, strides, centers, boxes, positive, strict=False)
    for ax, stride, center, box, hit in levels:
        _draw_picture(ax, picture, gt_boxes)
        for x in box[hit].tolist():
            style.draw_box(ax, x, POSITIVE, 1.0)
        size = max(3.0, stride / 2)
        ax.scatter(*center.unique(dim=0).T, s=size, color=NEGATIVE, ec="black", lw=0.3, zorder=3)
        ax.set_title(f"level of stride {stride} px")
    counts = axes.flat[len(strides)]
    rows = {"all": [len(hit) for hit in positive], "positive": [int(h.sum()) for h in positive]}
    for bars in style.grouped_bars(counts, rows, strides, (NEGATIVE, POSITIVE)):
        counts.bar_label(bars, fontsize=8)
    counts.set(xlabel="stride (px)", yscale="log", ylim=(0.7, 3e4), title="predicted boxes")
    # The bars have their numbers: an axis beside them would push the column aside.
    counts.set(yticks=[], box_aspect=1)
    counts.minorticks_off()
    counts.spines.left.set_visible(False)
    counts.legend(loc="upper right", ncols=2)
    for ax in axes.flat[len(strides) + 1 :]:
        ax.set_axis_off()
    return figure


def sampled(
    picture: np.ndarray, gt_boxes: Tensor, boxes: Tensor, centers: Tensor, positive: Tensor
) -> Figure:
    """The sampled boxes (n, 4) of an image: positives and negatives side by side.

    centers: (n, 2), the locations that predicted them; positive: (n,) bool.
    """
    figure, axes = style.panels(2, height=4.4)
    for ax, chosen, color, name in (
        (axes[0, 0], positive, POSITIVE, "positive: IoU above 0.5"),
        (axes[0, 1], ~positive, NEGATIVE, "negative"),
    ):
        _draw_picture(ax, picture, gt_boxes)
        for box in boxes[chosen].tolist():
            style.draw_box(ax, box, color, 1.5)
        ax.scatter(*centers[chosen].T, s=22, color=color, ec="black", lw=0.6, zorder=3)
        ax.set_title(f"{int(chosen.sum())} {name}")
    return figure


def level_pairs(
    student: Tensor, teacher: Tensor, student_strides: Sequence[int], teacher_strides: Sequence[int]
) -> Axes:
    """How many boxes the student predicts from one level and the teacher pools from another.

    student, teacher: (N,) the level of each box.
    """
    ax = style.new_axes(3.4)
    counts = np.zeros((len(student_strides), len(teacher_strides)), int)
    np.add.at(counts, (student.numpy(), teacher.numpy()), 1)
    style.heat_map(ax, counts, student_strides, teacher_strides, "{}", aspect="auto")
    ax.set(title="boxes", xlabel="stride of the level that the teacher pools the box from (px)",
           ylabel="stride of the level\nthat predicted it (px)")  # fmt: skip
    return ax


def branch_information(bounds: Mapping[str, Sequence[float]]) -> Axes:
    """Bounds on information (nats) by branch of the dense head, one per split of the boxes."""
    ax = style.new_axes(2.8)
    for row, values in enumerate(bounds.values()):
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [0.0]
        ax.plot(values, row + np.asarray(spread), "o", color=style.STUDENT, alpha=0.6, ms=7)
        ax.plot([np.mean(values)] * 2, [row - 0.3, row + 0.3], color="black", lw=2.5)
        ax.annotate(f"{np.mean(values):.2f}", (np.mean(values), row - 0.3), xytext=(0, 3),
                    textcoords="offset points", ha="center", fontsize=10)  # fmt: skip
    ax.set_yticks(range(len(bounds)), list(bounds))
    ax.set(xlabel="information about the teacher's representation, lower bound (nats)",
           ylabel="student's branch", ylim=(len(bounds) - 0.4, -0.7))  # fmt: skip
    return ax


def _draw_picture(ax: Axes, picture: np.ndarray, gt_boxes: Tensor) -> None:
    ax.imshow(picture)
    for box in gt_boxes.tolist():  # visible on light and on dark pictures
        style.draw_box(ax, box, "black", 2.6)
        style.draw_box(ax, box, GROUND_TRUTH, 1.6, ls=(0, (3, 2)))
    height, width = picture.shape[:2]
    ax.set(xlim=(-2.5, width + 1.5), ylim=(height + 1.5, -2.5))  # boxes may lie on the border
    ax.set_axis_off()
