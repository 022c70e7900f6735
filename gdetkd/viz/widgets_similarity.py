"""Pick a proposal and see whom it resembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np

from gdetkd.viz.similarity import compare_on_images, nearest_proposals
from gdetkd.viz.widgets import Explorer

ON_IMAGES, NEAREST = "on the images", "the most alike"


def explore_proposals(
    pictures: Sequence[np.ndarray],
    rois: np.ndarray,
    labels: np.ndarray,
    similarities: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> Explorer:
    """A slider over the proposals that show an object, and two ways to see who resembles them.

    Arguments as of `nearest_proposals`. In the page it has the class `gdetkd-proposals`.
    """
    objects = np.flatnonzero(labels < len(classes))

    def draw(proposal: int, view: str):
        picked = int(objects[proposal])
        if view == ON_IMAGES:
            return compare_on_images(pictures, rois, similarities, picked)
        return nearest_proposals(pictures, rois, labels, similarities, picked, classes)

    explorer = Explorer(
        draw,
        proposal=ipywidgets.IntSlider(0, 0, len(objects) - 1),
        view=ipywidgets.ToggleButtons(options=[ON_IMAGES, NEAREST]),
    )
    explorer.add_class("gdetkd-proposals")
    return explorer
