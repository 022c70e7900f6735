"""The live view of a run in a notebook: curves, time left, log, and buttons to stop and resume."""

from __future__ import annotations

import html
import io
import threading
import time
from typing import Any


def live_panel(run: Any, widgets: Any, every: float) -> Any:
    """A panel that a thread keeps up to date until the training has ended.

    In the page it has the class `gdetkd-run`.

    Args:
        run: A `gdetkd.launch.background.Run`.
        widgets: The module `ipywidgets`.
        every: Seconds between two updates.
    """
    title, picture, log = widgets.HTML(), widgets.Image(format="png"), widgets.HTML()
    stop = widgets.Button(description="Stop", icon="stop")
    resume = widgets.Button(description="Resume", icon="play")
    watching = threading.Lock()

    def update() -> None:
        status = run.status()
        title.value = f"<b>{html.escape(repr(run))}</b>"
        log.value = f"<pre style='line-height:1.2'>{html.escape(run.log(8))}</pre>"
        buffer = io.BytesIO()
        run.figure().savefig(buffer, format="png", dpi=100)
        picture.value = buffer.getvalue()
        stop.disabled, resume.disabled = status != "running", status == "running"

    def watch() -> None:
        with watching:  # one at a time: a run may be resumed during the last update
            while run.status() == "running":
                update()
                time.sleep(every)
            update()

    def on_stop(_: Any) -> None:
        stop.disabled = True
        threading.Thread(target=run.stop, daemon=True).start()

    def on_resume(_: Any) -> None:
        resume.disabled = True
        run.resume()
        threading.Thread(target=watch, daemon=True).start()

    stop.on_click(on_stop)
    resume.on_click(on_resume)
    update()
    threading.Thread(target=watch, daemon=True).start()
    panel = widgets.VBox([title, widgets.HBox([stop, resume]), picture, log])
    panel.add_class("gdetkd-run")
    return panel
