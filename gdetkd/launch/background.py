"""A training started from a notebook cell that the kernel may leave and find again.

It is the same `gdetkd train` as on the command line, in a session of its own; what is known of it
lies in its work dir: `launch.json` (the command and the process), `launch.log`, `launch.exit`.
"""

from __future__ import annotations

import datetime
import html
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gdetkd.ops.atomic_write import atomic_write

# The shell outlives its command, also when both are asked to stop, to note how that ended.
_WRAPPER = 'trap : TERM INT; "$@"; echo $? > "$0"'


def launch(
    config: str,
    work_dir: str | os.PathLike | None = None,
    processes: int = 1,
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Run:
    """Start `gdetkd train` detached from this process, or find the one that runs in the work dir.

    Args:
        config: A file, `gdetkd::digits/NAME.py` or `mmdet::NAME`.
        work_dir: Where the run writes; `work_dirs/CONFIG` by default.
        processes: One, or several under torchrun: a GPU each, or on the CPU without any.
        options: Values of the config by dotted key.
        resume: Go on from the last checkpoint in the work dir.

    Raises:
        FileNotFoundError, ValueError: The config cannot be read, or the options do not fit it.
        OSError: Nothing can be written to the work dir.
    """
    from gdetkd.training.config import load_config
    from gdetkd.training.runner import check_writable

    folder = Path(load_config(config, options, work_dir=work_dir).work_dir)
    run = Run(folder)
    if run.status() == "running":
        return run
    check_writable(folder)
    command = [sys.executable, "-m", "gdetkd.cli", "train", config, "--work-dir", str(folder)]
    if processes > 1:
        command += ["--gpus", str(processes)]
    for key, value in (options or {}).items():
        command += ["--cfg-options", f"{key}={value!r}"]
    (folder / "launch.log").unlink(missing_ok=True)
    run._start(command, os.getcwd(), resume)
    return run


def attach(work_dir: str | os.PathLike) -> Run:
    """Find a run that `launch` started, from any process, whether it still runs or not.

    Raises:
        FileNotFoundError: Nothing was launched with this work dir.
    """
    run = Run(Path(work_dir))
    if run.status() == "never started":
        raise FileNotFoundError(
            f"{work_dir}: expected the work dir of a launched run, found no launch.json in it"
        )
    return run


launch.attach = attach


class Run:
    """A launched training; all that it knows is in its work dir."""

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir.absolute()
        self._child: subprocess.Popen | None = None

    def status(self) -> str:
        """'running', 'finished', 'stopped', 'failed', or 'never started'."""
        known = self._known()
        if known is None:
            return "never started"
        if self._child is not None:
            self._child.poll()  # or it stays in the process table
        if known["began"] is not None and _began(known["pid"]) == known["began"]:
            return "running"
        if known.get("stopped"):
            return "stopped"
        code = self.work_dir / "launch.exit"
        return "finished" if code.exists() and code.read_text().strip() == "0" else "failed"

    def log(self, lines: int = 20) -> str:
        """The last lines of what the training printed."""
        file = self.work_dir / "launch.log"
        if not file.exists():
            return ""
        text = file.read_text(errors="replace").replace("\r", "\n")
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])

    def scalars(self) -> pd.DataFrame:
        """What was logged, a row a step (index `step`), the validation's metrics included.

        Steps that a resumed run took again are there once.
        """
        rows: dict[int, dict[str, float]] = {}
        for file in sorted(self.work_dir.glob("*/vis_data/scalars.json")):
            for line in file.read_text().splitlines():
                try:
                    scalars = json.loads(line)
                except ValueError:  # the line that is being written
                    continue
                if "loss" not in scalars:  # a validation's own clock
                    scalars.pop("time", None), scalars.pop("data_time", None)
                rows.setdefault(scalars.pop("step"), {}).update(scalars)
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step").sort_index()

    def eta(self) -> datetime.timedelta | None:
        """The time left, as last logged; None before the first line of log."""
        if self.status() == "finished":
            return datetime.timedelta()
        found = re.findall(r"eta: (?:(\d+) days?, )?(\d+):(\d\d):(\d\d)", self.log(400))
        if not found:
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in found[-1])
        return datetime.timedelta(days, hours=hours, minutes=minutes, seconds=seconds)

    def wait(self, step: int | None = None, seconds: float = 3600.0) -> str:
        """Wait until that step is logged, or for the end; give the status.

        Raises:
            TimeoutError: Neither has come in so many seconds.
        """
        until = time.monotonic() + seconds
        while (status := self.status()) == "running":
            logged = self.scalars().index
            if step is not None and len(logged) and logged[-1] >= step:
                break
            if time.monotonic() > until:
                raise TimeoutError(f"{self!r}: not there within {seconds:.0f} s")
            time.sleep(0.2)
        return status

    def stop(self, wait: float = 60.0) -> None:
        """End the training and wait for it; `resume` goes on from its last checkpoint.

        Raises:
            TimeoutError: It has not ended in so many seconds.
        """
        if self.status() != "running":
            return
        known = self._known()
        self._note(dict(known, stopped=True))
        os.killpg(known["pid"], signal.SIGTERM)
        until = time.monotonic() + wait
        while self.status() == "running":
            if time.monotonic() > until:
                raise TimeoutError(f"process {known['pid']} has not ended within {wait:.0f} s")
            time.sleep(0.1)

    def resume(self) -> None:
        """Start again from the last whole checkpoint, unless it runs."""
        if self.status() != "running":
            known = self._known()
            self._start(known["command"], known["folder"], resume=True)

    def show(self, every: float = 2.0) -> Any:
        """Live curves, time left, log and buttons; where there are no widgets, a still of these.

        Args:
            every: Seconds between two looks, for as long as the training runs.
        """
        try:
            import ipywidgets
            from IPython import get_ipython
        except ImportError:
            ipywidgets, get_ipython = None, lambda: None
        if ipywidgets is not None and getattr(get_ipython(), "kernel", None) is not None:
            return _panel(self, ipywidgets, every)
        print(self, self.log(8), sep="\n")
        return self._figure()

    def __repr__(self) -> str:
        eta, scalars = self.eta(), self.scalars()
        step = f", step {scalars.index[-1]}" if len(scalars) else ""
        left = f", {eta} left" if eta and self.status() == "running" else ""
        return f"{self.work_dir.name}: {self.status()}{step}{left}"

    def _figure(self) -> Any:
        from matplotlib.figure import Figure

        from gdetkd.viz.curves import curves

        figure = Figure(figsize=(6.4, 3), layout="constrained")
        curves(self.scalars(), figure.add_subplot())
        return figure

    def _start(self, command: list[str], folder: str, resume: bool) -> None:
        exit_file = self.work_dir / "launch.exit"
        exit_file.unlink(missing_ok=True)
        whole = [*command, *(["--resume"] if resume else [])]
        with open(self.work_dir / "launch.log", "a") as log:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", _WRAPPER, str(exit_file), *whole],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # no interrupt or end of the kernel reaches it
            )  # fmt: skip
        pid = self._child.pid
        self._note(dict(command=command, folder=folder, pid=pid, began=_began(pid)))

    def _known(self) -> dict[str, Any] | None:
        file = self.work_dir / "launch.json"
        return json.loads(file.read_text()) if file.exists() else None

    def _note(self, known: dict[str, Any]) -> None:
        with atomic_write(self.work_dir / "launch.json") as file:
            file.write(json.dumps(known, indent=1).encode())


def _began(pid: int) -> int | None:
    """When a process began (clock ticks since boot): with it, a number given anew is not taken for
    the old process. None if it has ended, or where there is no /proc to ask."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _panel(run: Run, widgets: Any, every: float) -> Any:
    """The live view, kept up to date by a thread until the training has ended.

    In the page it has the class `gdetkd-run`.
    """
    title, picture, log = widgets.HTML(), widgets.Image(format="png"), widgets.HTML()
    stop = widgets.Button(description="Stop", icon="stop")
    resume = widgets.Button(description="Resume", icon="play")
    watching = threading.Lock()

    def look() -> None:
        status = run.status()
        title.value = f"<b>{html.escape(repr(run))}</b>"
        log.value = f"<pre style='line-height:1.2'>{html.escape(run.log(8))}</pre>"
        buffer = io.BytesIO()
        run._figure().savefig(buffer, format="png", dpi=100)
        picture.value = buffer.getvalue()
        stop.disabled, resume.disabled = status != "running", status == "running"

    def watch() -> None:
        with watching:  # one after the other: a run may be resumed during the last look
            while run.status() == "running":
                look()
                time.sleep(every)
            look()

    def pressed_stop(_: Any) -> None:
        stop.disabled = True
        threading.Thread(target=run.stop, daemon=True).start()

    def pressed_resume(_: Any) -> None:
        resume.disabled = True
        run.resume()
        threading.Thread(target=watch, daemon=True).start()

    stop.on_click(pressed_stop)
    resume.on_click(pressed_resume)
    look()
    threading.Thread(target=watch, daemon=True).start()
    panel = widgets.VBox([title, widgets.HBox([stop, resume]), picture, log])
    panel.add_class("gdetkd-run")
    return panel
