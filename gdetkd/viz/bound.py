"""What the contrastive loss estimates: density ratios, critics, the mutual information (MI)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from gdetkd import theory
from gdetkd.viz import style
from gdetkd.viz.widgets import Explorer

COUNTS = [2**power - 1 for power in range(1, 13)]  # negatives, so that K + 1 is a power of two


def plot_joint(joint: torch.Tensor, names: Sequence[str]) -> Figure:
    """A table p(s, t) and its density ratio side by side; rows are s, columns t."""
    figure, axes = style.panels(2, height=3.6)
    ratio = theory.density_ratio(joint).numpy()
    norm = TwoSlopeNorm(1, 0, max(2, ratio.max()))
    for ax, table, title, options in (
        (axes[0, 0], joint.numpy(), "joint p(s, t)", dict(cmap=style.SEQUENTIAL, vmin=0)),
        (axes[0, 1], ratio, "ratio r(s, t) = p(s, t) / (p(s) p(t))",
         dict(cmap=style.DIVERGING, norm=norm)),
    ):  # fmt: skip
        picture = style.heat_map(ax, table, names, names, "{:.2f}", **options)
        figure.colorbar(picture, ax=ax, shrink=0.85)
        ax.set(title=title, xlabel="teacher's t", ylabel="student's s")
    return figure


def plot_agreement(counted: torch.Tensor, formulas: Mapping[str, torch.Tensor]) -> Figure:
    """Counted posteriors (n,) against formulas for them (n,), one panel per named formula."""
    figure, drawn = style.panel_per_item(formulas, height=3.2)
    for ax, name, values in drawn:
        ax.plot([0, 1], [0, 1], color=style.NEUTRAL, lw=1)
        ax.scatter(counted, values, s=16, color=style.TEACHER, zorder=3)
        ax.set(title=name, xlabel="counted probability", xlim=(-0.04, 1.04))
    figure.axes[0].set_ylabel("value of the formula")
    return figure


def plot_temperature(
    histories: Mapping[float, torch.Tensor], information: Mapping[float, float], negatives: int
) -> Figure:
    """Training on a circle: temperature and bound by step, one line per concentration.

    histories: concentration -> (steps, 2) of `theory.train_critic`; information: -> nats.
    """
    figure, axes = style.panels(2, height=3.7)
    for color, (concentration, history) in zip(style.SERIES, histories.items(), strict=False):
        loss, temperature = history.T.numpy()
        axes[0, 0].plot(temperature, color=color, label=f"concentration {concentration:g}")
        axes[0, 0].axhline(1 / concentration, color=color, ls="--", lw=1)
        bound = theory.mutual_information_bound(style.running_mean(loss, 20), negatives)
        axes[0, 1].plot(bound, color=color, label=f"concentration {concentration:g}")
        axes[0, 1].axhline(information[concentration], color=color, ls="--", lw=1)
    axes[0, 0].set(title="temperature (dashed: 1 / concentration)", ylabel="temperature γ",
                   xlabel="training step", yscale="log")  # fmt: skip
    axes[0, 1].set(title="bound log(K + 1) - L (dashed: MI)", ylabel="nats",
                   xlabel="training step")  # fmt: skip
    axes[0, 0].set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
    axes[0, 0].minorticks_off()
    axes[0, 0].legend()
    axes[0, 1].legend()
    return figure


def plot_conditionals(
    t: torch.Tensor, learned: Mapping[float, torch.Tensor], truth: Mapping[float, torch.Tensor]
) -> Axes:
    """Densities p(t | s) on a grid t (M,), one color per s: learned and true."""
    ax = style.new_axes()
    for color, (s, density) in zip(style.SERIES, learned.items(), strict=False):
        ax.plot(t, density, color=color, label=f"learned, s = {s:g}")
        ax.plot(t, truth[s], color=color, ls="--", lw=1.2)
    ax.set(xlabel="teacher's value t [standard deviations]", ylabel="density p(t | s)")
    ax.set_ylim(0, 1.35 * max(float(density.max()) for density in truth.values()))
    ax.plot([], [], color=style.NEUTRAL, ls="--", lw=1.2, label="truth")
    ax.legend(ncols=2)
    return ax


def plot_terms(critics: Mapping[str, Mapping[int, theory.BoundTerms]]) -> Figure:
    """The terms of F.2, one panel per critic, one bar per number of negatives: their sum is MI."""
    figure, drawn = style.panel_per_item(critics, sharey=True)
    for ax, critic, terms in drawn:
        counts = np.array(list(terms))
        bottom = np.zeros(len(counts))
        for name, color, label in (
            ("bound", style.TEACHER, "bound log(K + 1) - L"),
            ("critic_gap", style.STUDENT, "critic gap"),
            ("revealed", style.HIGHLIGHT, "revealed by the candidates"),
        ):
            heights = np.array([getattr(term, name) for term in terms.values()])
            ax.bar(counts, heights, 0.6, bottom=bottom, color=color, label=label)
            bottom += heights
        ax.axhline(terms[counts[0]].information, color="black", ls="--", lw=1.2, label="MI(s; t)")
        ax.set(title=critic, xlabel="negatives K")
        ax.set_xticks(counts)
    figure.axes[0].set_ylabel("nats")
    figure.legend(*ax.get_legend_handles_labels(), ncols=4, loc="outside lower center")
    return figure


def plot_bound(bounds: Mapping[float, np.ndarray], counts: Sequence[int]) -> Axes:
    """The measured bound against the number of negatives, with a band of one standard deviation.

    bounds: mutual information (nats) -> (draws, len(counts)), in nats.
    """
    ax = style.new_axes(4.2)
    places = np.array(counts) + 1
    for color, (information, measured) in zip(style.SERIES, bounds.items(), strict=False):
        mean, spread = measured.mean(0), measured.std(0)
        ax.axhline(information, color=color, ls="--", lw=1)
        ax.plot(places, mean, color=color, marker="o", ms=4, label=f"MI = {information:g} nats")
        ax.fill_between(places, mean - spread, mean + spread, color=color, alpha=0.25, lw=0)
    ax.plot(places, np.log(places), color="black", lw=1.2, ls=":", label="ceiling log(K + 1)")
    ax.set(xlabel="candidates K + 1", ylabel="bound log(K + 1) - L [nats]")
    ax.set_xscale("log", base=2)
    ax.set_ylim(0, 1.15 * max(*bounds, math.log(places[-1])))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title="dashed: the truth")
    return ax


def plot_bias_and_spread(bounds: Mapping[float, np.ndarray], counts: Sequence[int]) -> Figure:
    """Bias and standard deviation of the bound over the draws; arguments of `plot_bound`."""
    figure, axes = style.panels(2, height=3.6)
    places = np.array(counts) + 1
    for color, (information, measured) in zip(style.SERIES, bounds.items(), strict=False):
        options = dict(color=color, marker="o", ms=4, label=f"MI = {information:g} nats")
        axes[0, 0].plot(places, measured.mean(0) - information, **options)
        axes[0, 1].plot(places, measured.std(0), **options)
    axes[0, 0].axhline(0, color="black", lw=1)
    axes[0, 0].set(title="bias: mean bound - MI", ylabel="nats")
    axes[0, 1].set(title="spread: standard deviation over the draws", ylabel="nats")
    for ax in axes[0]:
        ax.set_xlabel("candidates K + 1")
        ax.set_xscale("log", base=2)
        ax.legend()
    return figure


def measure_bounds(
    information: float, counts: Sequence[int], draws: int, queries: int = 128, dim: int = 8
) -> np.ndarray:
    """`theory.gaussian_bounds` (draws, len(counts)) for Gaussians of that mutual information."""
    rho = theory.correlation_for(information, dim)
    generator = torch.Generator().manual_seed(0)
    measured = [theory.gaussian_bounds(rho, dim, counts, queries, generator) for _ in range(draws)]
    return torch.stack(measured).numpy()


def draw_bound(information: float, negatives: int) -> Axes:
    """One curve of `plot_bound`, with one number of negatives marked on it."""
    measured = measure_bounds(information, COUNTS, draws=4, queries=64)
    ax = plot_bound({information: measured}, COUNTS)
    here = measured[:, COUNTS.index(negatives)].mean()
    ax.plot(negatives + 1, here, "o", ms=12, mfc="none", mec="black", mew=2)
    ax.set_ylim(0, 9.5)
    ax.set_title(f"K = {negatives}: the loss proves {here:.2f} of {information:g} nats; "
                 f"its ceiling is {math.log(negatives + 1):.2f}")  # fmt: skip
    return ax


def explore_bound() -> Explorer:
    """Sliders for the mutual information and for the number of negatives."""
    return Explorer(
        draw_bound,
        information=ipywidgets.FloatSlider(
            4, min=0.5, max=8, step=0.5, description="true MI (nats)"
        ),
        negatives=ipywidgets.SelectionSlider(options=COUNTS, value=63, description="negatives K"),
    )
