"""Move the temperature, the IoU threshold, the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from gdetkd.viz.contrastive import (
    compare_negatives,
    compare_rings,
    draw_shares,
)
from gdetkd.viz.widgets import Explorer


def explore_temperature(shares: Callable[[int, float], np.ndarray], queries: int) -> Explorer:
    """The push on one query: `shares(query, temperature)` gives those of its negatives (K,).

    In the page it has the class `gdetkd-temperature`.
    """

    def draw(query: int, temperature: float):
        values = np.asarray(shares(query, temperature))
        return draw_shares(values, f"hardest negative: {values.max():.0%} of the push")

    explorer = Explorer(
        draw,
        query=ipywidgets.IntSlider(0, 0, queries - 1),
        temperature=ipywidgets.FloatLogSlider(0.07, min=-2, max=0, step=0.05),
    )
    explorer.add_class("gdetkd-temperature")
    return explorer


def explore_negatives(
    pictures: Sequence[np.ndarray],
    rois: np.ndarray,
    ignored: Callable[[float], np.ndarray],
) -> Explorer:
    """Which boxes of an image are a proposal's negatives: `ignored(iou)` marks pairs (n, n).

    rois: (n, 5) [image, x1, y1, x2, y2]. In the page it has the class `gdetkd-negatives`.
    """

    def draw(proposal: int, iou: float) -> Figure:
        image = int(rois[proposal, 0])
        here = np.flatnonzero(rois[:, 0] == image)
        out = np.asarray(ignored(iou))[proposal, here]
        place = int(np.flatnonzero(here == proposal)[0])
        return compare_negatives(pictures[image], rois[here, 1:], place, {iou: out})

    explorer = Explorer(
        draw,
        proposal=ipywidgets.IntSlider(0, 0, len(rois) - 1),
        iou=ipywidgets.FloatSlider(0.5, min=0, max=1, step=0.05),
    )
    explorer.add_class("gdetkd-negatives")
    return explorer


def explore_queue(steps: Mapping[int, np.ndarray], capacity: int) -> Explorer:
    """The queue, step by step: `steps` holds the batch of every row, as of `compare_rings`.

    In the page it has the class `gdetkd-queue`.
    """

    def draw(step: int) -> Figure:
        shown = {key: steps[key] for key in range(max(0, step - 2), step + 1)}
        return compare_rings(shown, capacity)

    explorer = Explorer(draw, step=ipywidgets.IntSlider(2, 2, max(steps)))
    explorer.add_class("gdetkd-queue")
    return explorer
