"""Interactive figures: controls above a picture that a function redraws."""

from __future__ import annotations

import io
from collections.abc import Callable

import ipywidgets
import matplotlib.pyplot as plt
from ipywidgets import ValueWidget
from matplotlib.axes import Axes
from matplotlib.figure import Figure


class Explorer(ipywidgets.VBox):
    """Controls, and below them the picture that ``draw`` returns for their values.

    ``draw(**values)`` returns a Figure or an Axes. It is called once at the start and after every
    change. The picture is sent as a PNG, so that every front end can show it and a test can see it
    change: set ``explorer.controls["name"].value``, then compare ``explorer.picture.value``.
    """

    def __init__(self, draw: Callable[..., Figure | Axes], **controls: ValueWidget) -> None:
        self._draw = draw
        self.controls = controls
        self.picture = ipywidgets.Image(format="png")
        for name, control in controls.items():
            control.description = control.description or name
            control.style.description_width = "initial"
            if hasattr(control, "continuous_update"):
                control.continuous_update = False  # one picture per move, not one per pixel
            control.observe(self._redraw, names="value")
        super().__init__([ipywidgets.HBox(list(controls.values())), self.picture])
        self._redraw()

    def _redraw(self, _change=None) -> None:
        drawn = self._draw(**{name: control.value for name, control in self.controls.items()})
        figure = drawn if isinstance(drawn, Figure) else drawn.figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)  # otherwise the notebook would show it a second time
        self.picture.value = buffer.getvalue()
