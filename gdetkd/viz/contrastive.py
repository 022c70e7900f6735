"""The contrastive loss in pictures: who is pulled, who is pushed and how hard, and the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, Wedge
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from gdetkd.viz.style import (
    DISTILLED,
    HIGHLIGHT,
    NEUTRAL,
    SEQUENTIAL,
    STUDENT,
    TEACHER,
    WIDTH,
    axes_or_new,
    panels,
)

POSITIVE, NEGATIVE, IGNORED = HIGHLIGHT, "#E69F00", "#56B4E9"
LEAST_SHARE = 1e-4  # of the push, that is drawn


def compare_fits(
    fits: Mapping[str, Mapping[str, Sequence[float]]], axes: Sequence[Axes] | None = None
) -> Figure:
    """Cosines of positives and negatives while a projection is trained, a panel a loss.

    fits: by loss, 'positives' and 'negatives': the mean cosine after every step.
    """
    if axes is None:
        axes = panels(len(fits), height=3.2, sharey=True)[1][0]
    for ax, (name, curves) in zip(axes, fits.items(), strict=True):
        ax.plot(curves["positives"], color=POSITIVE, label="a proposal and its own")
        ax.plot(curves["negatives"], color=NEGATIVE, label="a proposal and others")
        ax.fill_between(range(len(curves["positives"])), curves["negatives"], curves["positives"],
                        color=NEUTRAL, alpha=0.12)  # fmt: skip
        ax.set(title=name, xlabel="optimization steps", ylim=(-0.15, 1.05))
    axes[0].set_ylabel("mean cosine, student to teacher")
    axes[0].legend(loc="center right")
    return axes[0].figure


def draw_shares(
    shares: np.ndarray, title: str = "", count: int = 40, ax: Axes | None = None
) -> Axes:
    """The largest shares (K,) of the negatives in the push on one query, in descending order.

    The axis is logarithmic and ends at `LEAST_SHARE`; smaller shares are not drawn.
    """
    ax = axes_or_new(ax, height=3.2)
    largest = np.sort(np.asarray(shares))[::-1][:count]
    ax.bar(range(1, len(largest) + 1), largest, color=NEGATIVE, width=0.85)
    ax.set(title=title, xlabel="negatives by rank, 1 = hardest", ylabel="share of the push")
    ax.set(yscale="log", ylim=(LEAST_SHARE, 1))
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    ax.minorticks_off()
    ax.set_xticks([1, *range(10, len(largest) + 1, 10)])
    ax.grid(axis="x", visible=False)
    return ax


def compare_shares(shares: Mapping[float, np.ndarray]) -> Figure:
    """`draw_shares` for several temperatures, on one scale."""
    axes = panels(len(shares), height=3.1, sharey=True)[1][0]
    for ax, (temperature, values) in zip(axes, shares.items(), strict=True):
        hardest = float(np.max(values))
        draw_shares(values, f"$\\gamma$ = {temperature:g}: hardest {hardest:.1%}", ax=ax)
    for ax in axes[1:]:
        ax.set_ylabel("")
    return axes[0].figure


def draw_effective_negatives(
    temperatures: Sequence[float],
    counts: Mapping[str, Sequence[float]],
    total: int,
    marked: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How many negatives matter, against the temperature; a line a pair of detectors."""
    ax = axes_or_new(ax)
    for color, (name, values) in zip((STUDENT, DISTILLED), counts.items(), strict=False):
        ax.plot(temperatures, values, marker="o", ms=4, color=color, label=name)
    ax.axhline(total, color=NEUTRAL, ls="--", lw=1.4)
    ax.text(temperatures[0], total, "all of them", va="bottom", color=NEUTRAL)
    if marked is not None:
        ax.axvline(marked, color=HIGHLIGHT, lw=1.4)
        ax.text(marked, 1.1, f" $\\gamma$ = {marked:g}", color=HIGHLIGHT, va="bottom")
    ax.set(xscale="log", yscale="log", xlabel=r"temperature $\gamma$", ylim=(1, 2 * total))
    ax.set_ylabel("negatives that matter (median)")
    ax.legend(loc="lower right")
    return ax


def draw_negatives(
    picture: np.ndarray,
    boxes: np.ndarray,
    picked: int,
    ignored: np.ndarray,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """The picked box, the boxes (n, 4) that are its negatives, and those that are left out (n,)."""
    ax = axes_or_new(ax, height=6)
    ax.imshow(0.65 * np.asarray(picture, float).mean(2), cmap="gray", vmin=0, vmax=255)
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        look = dict(ec=NEGATIVE, lw=1.3)
        if index == picked:
            look = dict(ec=POSITIVE, lw=3.5, zorder=4)
        elif ignored[index]:
            look = dict(ec=IGNORED, lw=2, ls="--", zorder=3)
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **look))
    ax.set_title(title)
    ax.set_axis_off()
    return ax


def compare_negatives(
    picture: np.ndarray, boxes: np.ndarray, picked: int, ignored: Mapping[float, np.ndarray]
) -> Figure:
    """`draw_negatives` for several IoU thresholds: which boxes a threshold leaves out."""
    height = min(1.15 * WIDTH / len(ignored), 4.5)
    fig, axes = plt.subplots(1, len(ignored), figsize=(WIDTH, height))
    for ax, (threshold, out) in zip(np.atleast_1d(axes), ignored.items(), strict=True):
        title = f"IoU > {threshold:g}: {int(np.sum(out))} left out"
        draw_negatives(picture, boxes, picked, out, title, ax)
    _box_legend(fig)
    return fig


def draw_filter(
    thresholds: Sequence[float],
    shares: Mapping[str, Sequence[float]],
    paper: Sequence[float],
) -> Figure:
    """What an IoU threshold keeps and drops, beside the paper's AP (Table 2).

    shares: two curves by what they mean, in percent of pairs.
    """
    left, right = panels(2, height=3.4)[1][0]
    for color, (name, values) in zip((STUDENT, TEACHER), shares.items(), strict=True):
        left.plot(thresholds, values, marker="o", color=color, label=name)
    left.set(xlabel="IoU threshold", ylabel="pairs of one image [%]", ylim=(0, 105))
    left.set_title("Here, on digits: which pairs")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    draw_paper(thresholds, paper, "IoU threshold", "The paper, COCO: Table 2", right)
    return left.figure


def draw_paper(
    settings: Sequence, values: Sequence[float], label: str, title: str, ax: Axes | None = None
) -> Axes:
    """A row of the paper's ablation: AP against a setting."""
    ax = axes_or_new(ax)
    ax.plot(settings, values, marker="s", color=NEUTRAL)
    for x, y in zip(settings, values, strict=True):
        ax.annotate(f"{y:.1f}", (x, y), xytext=(0, 7), textcoords="offset points", ha="center",
                    fontsize=10, path_effects=[withStroke(linewidth=3, foreground="white")],
                    zorder=4)  # fmt: skip
    room = 0.35 * max(max(values) - min(values), 0.1)
    ax.set(xlabel=label, ylabel="student's AP [%]", title=title)
    ax.set_ylim(min(values) - room, max(values) + 2 * room)
    ax.margins(x=0.09)
    return ax


def draw_ring(
    batches: np.ndarray, capacity: int, step: int, oldest: int, ax: Axes | None = None
) -> Axes:
    """The queue as the ring that it is: a cell a row, colored by the age of its batch.

    batches: (filled,) the step at which each row came, in storage order; oldest: the age at which
    the color scale ends.
    """
    ax = axes_or_new(ax, height=5)
    shade, colors = Normalize(0, oldest), plt.get_cmap(SEQUENTIAL + "_r")
    turn = 360 / capacity
    for slot in range(capacity):
        ends = 90 - (slot + 1) * turn, 90 - slot * turn
        look = dict(fc="white", ec="#cccccc")
        if slot < len(batches):
            look = dict(fc=colors(shade(step - batches[slot])), ec="white")
        ax.add_patch(Wedge((0, 0), 1, *ends, width=0.42, lw=0.8, **look))
    newest = np.flatnonzero(batches == step)
    if len(newest):
        first, last = _arc(newest, capacity)
        look = dict(fc="none", ec=HIGHLIGHT, lw=2.5, zorder=4)
        ax.add_patch(Wedge((0, 0), 1.04, 90 - last * turn, 90 - first * turn, width=0.5, **look))
    ax.text(0, 0, f"step {step}", ha="center", va="center")
    age = f"greatest age: {step - int(batches.min())}" if len(batches) else "empty"
    ax.text(0, -1.16, f"{len(batches)} of {capacity} rows\n{age}", ha="center", va="top")
    ax.set(xlim=(-1.1, 1.1), ylim=(-1.6, 1.1), aspect="equal")
    ax.set_axis_off()
    return ax


def compare_rings(steps: Mapping[int, np.ndarray], capacity: int) -> Figure:
    """`draw_ring` at several steps."""
    fig, axes = plt.subplots(1, len(steps), figsize=(WIDTH, min(1.45 * WIDTH / len(steps), 4)))
    oldest = max(int(step - batches.min()) for step, batches in steps.items() if len(batches))
    for ax, (step, batches) in zip(np.atleast_1d(axes), steps.items(), strict=True):
        draw_ring(batches, capacity, step, oldest, ax)
    shade = ScalarMappable(Normalize(0, oldest), SEQUENTIAL + "_r")
    fig.colorbar(shade, ax=axes, label="age [steps]", orientation="horizontal", aspect=40,
                 shrink=0.5, ticks=range(oldest + 1))  # fmt: skip
    return fig


def draw_drift(
    cosines: Mapping[str, np.ndarray], memories: Mapping[int, int], paper: Sequence[float]
) -> Figure:
    """How far old keys have moved, and the paper's AP by the memory's size (Table 1).

    cosines: by training, (ages, n), each key now and so many steps ago; memories: by the number of
    gathered batches in the memory, the age of its oldest key, marked on the first training.
    """
    left, right = panels(2, height=3.8)[1][0]
    for color, (name, values) in zip((TEACHER, STUDENT, NEUTRAL), cosines.items(), strict=False):
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=1)
        left.plot(middle, color=color, label=name)
        left.fill_between(range(len(middle)), low, high, color=color, alpha=0.18, lw=0)
    middle = np.median(next(iter(cosines.values())), axis=1)
    marked = {count: age for count, age in memories.items() if age < len(middle)}
    left.plot(list(marked.values()), middle[list(marked.values())], "o", color=HIGHLIGHT, ms=7,
              zorder=4, label="oldest key of a memory of K")  # fmt: skip
    for count, age in marked.items():
        left.annotate(f"{count}", (age, middle[age]), xytext=(0, -8), ha="center", va="top",
                      textcoords="offset points", color=HIGHLIGHT, fontsize=10)  # fmt: skip
    left.set(xlabel="age [steps]", ylabel="cosine of a key with itself, re-made", ylim=(None, 1.08))
    left.set_title("Here: keys of validation proposals")
    left.legend(loc="lower left")
    draw_paper(list(memories), paper, "memory K [gathered batches]", "The paper, COCO: Table 1",
               right)  # fmt: skip
    return left.figure


def draw_staleness(
    ages: Sequence[int], hardness: Mapping[str, Sequence[float]], ax: Axes | None = None
) -> Axes:
    """Push of negatives of an age, in percent of what they would exert if made anew."""
    ax = axes_or_new(ax, height=3.2)
    for color, (name, values) in zip((TEACHER, STUDENT), hardness.items(), strict=False):
        ax.plot(ages, 100 * np.asarray(values), color=color, label=name)
    ax.axhline(100, color=NEUTRAL, ls="--", lw=1.4)
    ax.set(xlabel="age of the negatives [steps]", ylabel="push, stale / fresh [%]", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


def compare_heads(fits: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Loss of a head that is trained alone, on its own and on held-out proposals, a panel a head.

    fits: by head, 'trained on' and 'held out': the loss after every step.
    """
    axes = panels(len(fits), height=3.2, sharey=True)[1][0]
    for ax, (name, curves) in zip(axes, fits.items(), strict=True):
        ax.plot(curves["trained on"], color=TEACHER, label="proposals it is trained on")
        ax.plot(curves["held out"], color=STUDENT, label="held-out proposals")
        ax.set(title=name, xlabel="optimization steps", ylim=(0, None))
    axes[0].set_ylabel("contrastive loss [nats]")
    axes[0].legend()
    return axes[0].figure


def draw_cost(costs: Sequence[Mapping]) -> Figure:
    """Peak memory and time of a step by form, as `gdetkd.benchmarks` measures them."""
    left, right = panels(2, height=2.4)[1][0]
    names = [row["form"] for row in costs]
    colors = [TEACHER if name == "ours" else NEUTRAL for name in names]
    shown = (
        (left, "peak_bytes", "peak memory of a step [MB]", 1e-6),
        (right, "seconds", "time of a step [s], one thread", 1),
    )
    for ax, field, unit, scale in shown:
        values = [scale * (row[field] or 0) for row in costs]
        ax.bar_label(ax.barh(names, values, color=colors), fmt="%.3g", padding=3)
        ax.set(xlabel=unit, xlim=(0, 1.18 * max(values)))
        ax.grid(axis="y", visible=False)
    return left.figure


def _arc(slots: np.ndarray, capacity: int) -> tuple[int, int]:
    """First and last edge of a run of slots that may go over the end of the ring."""
    missing = np.setdiff1d(np.arange(capacity), slots)
    if 0 in slots and capacity - 1 in slots and len(missing):
        return int(missing.max()) + 1 - capacity, int(missing.min())
    return int(slots.min()), int(slots.max()) + 1


def _box_legend(fig: Figure) -> None:
    looks = {
        "the proposal (its teacher's is the positive)": dict(ec=POSITIVE, lw=3),
        "negatives": dict(ec=NEGATIVE, lw=1.5),
        "left out": dict(ec=IGNORED, lw=2, ls="--"),
    }
    handles = [Rectangle((0, 0), 1, 1, fill=False, **look) for look in looks.values()]
    fig.legend(handles, list(looks), loc="outside lower center", ncols=3)
