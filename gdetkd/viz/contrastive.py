"""Figures of the contrastive loss: its negatives, how they share the push, and the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import FloatLogSlider, FloatSlider, IntSlider
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, Wedge
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from gdetkd.viz import style
from gdetkd.viz.widgets import Explorer

POSITIVE, NEGATIVE, IGNORED = style.HIGHLIGHT, style.ORANGE, style.SKY_BLUE
SMALLEST_SHARE = 1e-4  # of the push, where the axis ends


def compare_fits(fits: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Cosines of positives and negatives while a projection is trained, one panel per loss.

    fits: by loss, 'positives' and 'negatives': the mean cosine after every step.
    """
    figure, drawn = style.panel_per_item(fits, height=3.2, sharey=True)
    for ax, name, curves in drawn:
        ax.plot(curves["positives"], color=POSITIVE, label="a proposal and its positive")
        ax.plot(curves["negatives"], color=NEGATIVE, label="a proposal and its negatives")
        ax.fill_between(range(len(curves["positives"])), curves["negatives"], curves["positives"],
                        color=style.NEUTRAL, alpha=0.12)  # fmt: skip
        ax.set(title=name, xlabel="optimization steps", ylim=(-0.15, 1.05))
    figure.axes[0].set_ylabel("mean cosine, student to teacher")
    figure.axes[0].legend(loc="center right")
    return figure


def draw_shares(
    shares: np.ndarray, title: str = "", count: int = 40, ax: Axes | None = None
) -> Axes:
    """The largest shares (K,) of the negatives in the push on one query, in descending order.

    The axis is logarithmic and ends at `SMALLEST_SHARE`; smaller shares are not drawn.
    """
    ax = ax or style.new_axes(3.2)
    largest = np.sort(np.asarray(shares))[::-1][:count]
    ax.bar(range(1, len(largest) + 1), largest, color=NEGATIVE, width=0.85)
    ax.set(title=title, xlabel="negatives by rank, 1 = hardest", ylabel="share of the push")
    ax.set(yscale="log", ylim=(SMALLEST_SHARE, 1))
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    ax.minorticks_off()
    ax.set_xticks([1, *range(10, len(largest) + 1, 10)])
    ax.grid(axis="x", visible=False)
    return ax


def compare_shares(shares: Mapping[float, np.ndarray]) -> Figure:
    """`draw_shares` for several temperatures, on one scale."""
    figure, drawn = style.panel_per_item(shares, height=3.1, sharey=True)
    for ax, temperature, values in drawn:
        draw_shares(values, rf"$\gamma$ = {temperature:g}: hardest {np.max(values):.1%}", ax=ax)
        ax.label_outer()
    return figure


def explore_temperature(shares: Callable[[int, float], np.ndarray], queries: int) -> Explorer:
    """The push on one query: `shares(query, temperature)` returns those of its negatives (K,).

    Its class in the page is `gdetkd-temperature`.
    """

    def draw(query: int, temperature: float) -> Axes:
        values = np.asarray(shares(query, temperature))
        return draw_shares(values, f"hardest negative: {values.max():.0%} of the push")

    return Explorer(
        draw,
        query=IntSlider(0, 0, queries - 1),
        temperature=FloatLogSlider(0.07, min=-2, max=0, step=0.05),
    ).add_class("gdetkd-temperature")


def compare_negatives(
    picture: np.ndarray, boxes: np.ndarray, picked: int, ignored: Mapping[float, np.ndarray]
) -> Figure:
    """The negatives of one proposal at several IoU thresholds, one panel per threshold.

    Args:
        picture: (H, W, 3) RGB.
        boxes: (n, 4), the proposals of the image, pixels.
        picked: The proposal whose negatives are shown.
        ignored: By threshold, (n,) bool, the boxes that are excluded from its negatives.
    """
    styles = {
        "the proposal (the teacher's view of it is the positive)": dict(ec=POSITIVE, lw=3.5),
        "negatives": dict(ec=NEGATIVE, lw=1.6),
        "excluded": dict(ec=IGNORED, lw=2, ls="--"),
    }
    figure, drawn = style.panel_per_item(
        ignored, height=min(1.15 * style.WIDTH / len(ignored), 4.5)
    )
    for ax, threshold, excluded in drawn:
        ax.imshow(np.asarray(picture))
        for index, box in enumerate(boxes):
            kind = 0 if index == picked else 2 if excluded[index] else 1
            options = dict([*styles.values()][kind], zorder=(4, 1, 3)[kind])
            style.draw_box(ax, box, options.pop("ec"), options.pop("lw"), **options)
        ax.set_title(f"IoU > {threshold:g}: {int(np.sum(excluded))} excluded")
        ax.set_axis_off()
    handles = [Rectangle((0, 0), 1, 1, fill=False, **options) for options in styles.values()]
    figure.legend(handles, list(styles), loc="outside lower center", ncols=3)
    return figure


def explore_negatives(
    pictures: Sequence[np.ndarray], rois: np.ndarray, ignored: Callable[[float], np.ndarray]
) -> Explorer:
    """The negatives of a proposal in its image: `ignored(iou)` marks excluded pairs (n, n).

    rois: (n, 5) [image, x1, y1, x2, y2]. Its class in the page is `gdetkd-negatives`.
    """

    def draw(proposal: int, iou: float) -> Figure:
        image = int(rois[proposal, 0])
        here = np.flatnonzero(rois[:, 0] == image)
        excluded = np.asarray(ignored(iou))[proposal, here]
        place = int(np.flatnonzero(here == proposal)[0])
        return compare_negatives(pictures[image], rois[here, 1:], place, {iou: excluded})

    return Explorer(
        draw,
        proposal=IntSlider(0, 0, len(rois) - 1),
        iou=FloatSlider(0.5, min=0, max=1, step=0.05),
    ).add_class("gdetkd-negatives")


def draw_filter(
    thresholds: Sequence[float], shares: Mapping[str, Sequence[float]], paper: Sequence[float]
) -> Figure:
    """The errors of the IoU filter by threshold, beside the paper's AP (Table 2).

    shares: two named curves, in percent of pairs.
    """
    left, right = style.panels(2, height=3.4)[1][0]
    for color, (name, values) in zip((style.STUDENT, style.TEACHER), shares.items(), strict=True):
        left.plot(thresholds, values, marker="o", color=color, label=name)
    left.set(xlabel="IoU threshold", ylabel="pairs of one image [%]", ylim=(0, 105))
    left.set_title("Here, on digits: which pairs")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    draw_paper(thresholds, paper, "IoU threshold", "The paper, COCO: Table 2", right)
    return left.figure


def draw_paper(
    settings: Sequence, values: Sequence[float], label: str, title: str, ax: Axes
) -> None:
    """A row of the paper's ablation: AP (average precision) against a setting."""
    ax.plot(settings, values, marker="s", color=style.NEUTRAL)
    for x, y in zip(settings, values, strict=True):
        ax.annotate(f"{y:.1f}", (x, y), xytext=(0, 7), textcoords="offset points", ha="center",
                    fontsize=10, path_effects=[withStroke(linewidth=3, foreground="white")],
                    zorder=4)  # fmt: skip
    room = 0.35 * max(max(values) - min(values), 0.1)
    ax.set(xlabel=label, ylabel="student's AP [%]", title=title)
    ax.set_ylim(min(values) - room, max(values) + 2 * room)
    ax.margins(x=0.09)


def draw_ring(
    batches: np.ndarray, capacity: int, step: int, oldest: int, ax: Axes | None = None
) -> Axes:
    """The queue as a ring buffer, one cell per row, colored by the age of its batch.

    batches: (filled,) the step at which each row was added, in storage order; oldest: the age at
    which the color scale ends.
    """
    ax = ax or style.new_axes(5)
    shade, colors = Normalize(0, oldest), plt.get_cmap(style.SEQUENTIAL + "_r")
    turn = 360 / capacity
    for slot in range(capacity):
        ends = 90 - (slot + 1) * turn, 90 - slot * turn
        colored = dict(fc="white", ec="#cccccc")
        if slot < len(batches):
            colored = dict(fc=colors(shade(step - batches[slot])), ec="white")
        ax.add_patch(Wedge((0, 0), 1, *ends, width=0.42, lw=0.8, **colored))
    newest = np.flatnonzero(batches == step)
    if len(newest):
        # Their slots are consecutive, and slot 0 follows the last one.
        first = next((slot for slot in newest if (slot - 1) % capacity not in newest), 0)
        ends = 90 - (first + len(newest)) * turn, 90 - first * turn
        ax.add_patch(Wedge((0, 0), 1.04, *ends, width=0.5, fc="none", ec=style.HIGHLIGHT, lw=2.5,
                           zorder=4))  # fmt: skip
    ax.text(0, 0, f"step {step}", ha="center", va="center")
    age = f"greatest age: {step - int(batches.min())}" if len(batches) else "empty"
    ax.text(0, -1.16, f"{len(batches)} of {capacity} rows\n{age}", ha="center", va="top")
    ax.set(xlim=(-1.1, 1.1), ylim=(-1.6, 1.1), aspect="equal")
    ax.set_axis_off()
    return ax


def compare_rings(steps: Mapping[int, np.ndarray], capacity: int) -> Figure:
    """`draw_ring` at several steps: step -> (filled,) batch of every row."""
    figure, drawn = style.panel_per_item(steps, height=min(1.45 * style.WIDTH / len(steps), 4))
    oldest = max(int(step - batches.min()) for step, batches in steps.items() if len(batches))
    for ax, step, batches in drawn:
        draw_ring(batches, capacity, step, oldest, ax)
    options = dict(shrink=0.5, orientation="horizontal", aspect=40, ticks=range(oldest + 1))
    cmap = style.SEQUENTIAL + "_r"
    style.color_bar(figure, figure.axes, cmap, "age [steps]", (0, oldest), **options)
    return figure


def explore_queue(steps: Mapping[int, np.ndarray], capacity: int) -> Explorer:
    """The queue step by step; arguments as of `compare_rings`.

    Its class in the page is `gdetkd-queue`.
    """

    def draw(step: int) -> Figure:
        shown = {key: steps[key] for key in range(max(0, step - 2), step + 1)}
        return compare_rings(shown, capacity)

    return Explorer(draw, step=IntSlider(2, 2, max(steps))).add_class("gdetkd-queue")


def draw_drift(
    cosines: Mapping[str, np.ndarray], memories: Mapping[int, int], paper: Sequence[float]
) -> Figure:
    """How far old keys have moved, and the paper's AP by the size of the memory (Table 1).

    Args:
        cosines: By training, (ages, n): each key now and that many steps ago.
        memories: By the number of gathered batches in the memory, the age of its oldest key;
            marked on the first training.
        paper: AP, one per memory.
    """
    left, right = style.panels(2, height=3.8)[1][0]
    for color, (name, values) in zip(style.SERIES, cosines.items(), strict=False):
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=1)
        left.plot(middle, color=color, label=name)
        left.fill_between(range(len(middle)), low, high, color=color, alpha=0.18, lw=0)
    middle = np.median(next(iter(cosines.values())), axis=1)
    marked = {count: age for count, age in memories.items() if age < len(middle)}
    ages = list(marked.values())
    left.plot(ages, middle[ages], "o", color=style.HIGHLIGHT, ms=7, zorder=4,
              label="oldest key of a memory of K")  # fmt: skip
    for count, age in marked.items():
        left.annotate(f"{count}", (age, middle[age]), xytext=(0, -8), ha="center", va="top",
                      textcoords="offset points", color=style.HIGHLIGHT, fontsize=10)  # fmt: skip
    left.set(xlabel="age [steps]", ylabel="cosine of the old and the new key", ylim=(None, 1.08))
    left.set_title("Here: keys of validation proposals")
    left.legend(loc="lower left")
    draw_paper(list(memories), paper, "memory K [gathered batches]", "The paper, COCO: Table 1",
               right)  # fmt: skip
    return left.figure


def draw_staleness(ages: Sequence[int], hardness: Mapping[str, Sequence[float]]) -> Axes:
    """The push of negatives by age, in percent of what they would exert if re-encoded."""
    ax = style.new_axes(3.2)
    for color, (name, values) in zip(style.SERIES, hardness.items(), strict=False):
        ax.plot(ages, 100 * np.asarray(values), color=color, label=name)
    ax.axhline(100, color=style.NEUTRAL, ls="--", lw=1.4)
    ax.set(xlabel="age of the negatives [steps]", ylabel="push, stale / fresh [%]", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


def compare_heads(fits: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """The loss of a head trained alone, on training and on validation proposals.

    fits: by head, 'training' and 'validation': the loss after every step. One panel per head.
    """
    figure, drawn = style.panel_per_item(fits, height=3.2, sharey=True)
    for ax, name, curves in drawn:
        for split, color in (("training", style.TEACHER), ("validation", style.STUDENT)):
            ax.plot(curves[split], color=color, label=f"{split} proposals")
        ax.set(title=name, xlabel="optimization steps", ylim=(0, None))
    figure.axes[0].set_ylabel("contrastive loss [nats]")
    figure.axes[0].legend()
    return figure
