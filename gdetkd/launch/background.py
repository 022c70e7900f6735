"""A training started from a notebook cell; it outlives the kernel and can be found again.

It is the same `gdetkd train` as on the command line, in a session of its own. Everything known
about it is in its work dir: `launch.json` (the command and the process), `launch.log` and
`launch.exit`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gdetkd.launch.run_lock import owners, process_start
from gdetkd.ops.atomic_write import atomic_write

# The shell outlives its command, even if both are asked to stop, and records the exit code.
_WRAPPER = 'trap : TERM INT; "$@"; echo $? > "$0"'
_TAIL = 1 << 18  # bytes of the log that are read, from its end
_LAST_LINE = "Checkpoints and logs:"  # of a training that ended well


def launch(
    config: str,
    work_dir: str | os.PathLike | None = None,
    processes: int = 1,
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Run:
    """Start `gdetkd train` detached from this process, or find the run that owns the work dir.

    Args:
        config: A file, `gdetkd::digits/NAME.py` or `mmdet::NAME`.
        work_dir: Where the run writes; `work_dirs/CONFIG` by default.
        processes: One, or several under torchrun: one per GPU, or on the CPU if there is none.
        options: Values of the config by dotted key.
        resume: Go on from the last checkpoint in the work dir.

    Raises:
        FileNotFoundError, ValueError: The config cannot be read, the options do not fit it, or the
            work dir has a damaged launch.json.
        OSError: Nothing can be written to the work dir.
    """
    from gdetkd.training.config import load_config
    from gdetkd.training.runner import check_writable

    folder = Path(load_config(config, options, work_dir=work_dir).work_dir)
    run = Run(folder)
    if run.status() == "running":
        return run
    check_writable(folder)
    command = [sys.executable, "-m", "gdetkd.cli", "train", config, "-v"]
    command += ["--work-dir", str(folder)]
    if processes > 1:
        command += ["--gpus", str(processes)]
    for key, value in (options or {}).items():
        command += ["--cfg-options", f"{key}={value!r}"]
    (folder / "launch.log").unlink(missing_ok=True)
    run._start(command, os.getcwd(), resume)
    return run


def attach(work_dir: str | os.PathLike) -> Run:
    """Find a run that `launch` started, from any process, whether or not it is still running.

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
    """A launched training; everything it knows is in its work dir."""

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir.absolute()
        self._child: subprocess.Popen | None = None

    def status(self) -> str:
        """'running', 'finished', 'stopped', 'failed', or 'never started'.

        Raises:
            ValueError: launch.json is damaged.
        """
        record = self._read_record()
        if self._child is not None:
            self._child.poll()  # or it stays in the process table
        if self._wrapper_lives(record) or owners(self.work_dir):
            return "running"
        if record is None:
            return "never started"
        if record.get("stopped"):
            return "stopped"
        return "finished" if self._ended_well() else "failed"

    def log(self, lines: int = 20) -> str:
        """The last lines of what the training printed."""
        try:
            with open(self.work_dir / "launch.log", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                text = file.read().decode(errors="replace").replace("\r", "\n")
        except FileNotFoundError:
            return ""
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])

    def scalars(self) -> pd.DataFrame:
        """What was logged, one row per step (index `step`), including the validation's metrics.

        Steps that a resumed run repeated appear once.
        """
        rows: dict[int, dict[str, float]] = {}
        for file in sorted(self.work_dir.glob("*/vis_data/scalars.json")):
            for line in file.read_text().splitlines():
                try:
                    scalars = json.loads(line)
                except ValueError:  # the line that is being written
                    continue
                if "loss" not in scalars:  # a validation's own times
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
        """Wait until that step is logged, or for the end; return the status.

        Raises:
            TimeoutError: Neither happened within so many seconds.
        """
        deadline = time.monotonic() + seconds
        while (status := self.status()) == "running":
            logged = self.scalars().index
            if step is not None and len(logged) and logged[-1] >= step:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self!r}: not there within {seconds:.0f} s")
            time.sleep(0.2)
        return status

    def stop(self, wait: float = 60.0) -> None:
        """End the training and wait for that; `resume` goes on from its last checkpoint.

        Raises:
            TimeoutError: It has not ended within so many seconds.
        """
        if self.status() != "running":
            return
        record = self._read_record()
        if record is not None:
            self._write_record(dict(record, stopped=True))
        trainers = {pid: process_start(pid) for pid in owners(self.work_dir)}
        if self._wrapper_lives(record):
            os.killpg(record["pid"], signal.SIGTERM)
        else:
            for pid in trainers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + wait
        # A process that ends gives its lock back some time before it is gone.
        while self.status() == "running" or any(
            began is not None and process_start(pid) == began for pid, began in trainers.items()
        ):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.work_dir}: the run has not ended within {wait:.0f} s")
            time.sleep(0.1)

    def resume(self) -> None:
        """Start again from the last complete checkpoint, unless the run is going on."""
        if self.status() != "running":
            record = self._read_record()
            self._start(record["command"], record["folder"], resume=True)

    def show(self, every: float = 2.0) -> Any:
        """Live curves, time left, log and buttons; without widgets, the same as a still picture.

        Args:
            every: Seconds between two updates, for as long as the training runs.
        """
        try:
            import ipywidgets
            from IPython import get_ipython
        except ImportError:
            ipywidgets, get_ipython = None, lambda: None
        if ipywidgets is not None and getattr(get_ipython(), "kernel", None) is not None:
            from gdetkd.launch.panel import live_panel

            return live_panel(self, ipywidgets, every)
        print(self, self.log(8), sep="\n")
        return self.figure()

    def figure(self) -> Any:
        """The curves of loss and average precision (AP) so far, as a Matplotlib figure."""
        from matplotlib.figure import Figure

        from gdetkd.viz.curves import curves

        figure = Figure(figsize=(6.4, 3), layout="constrained")
        curves(self.scalars(), figure.add_subplot())
        return figure

    def __repr__(self) -> str:
        eta, scalars = self.eta(), self.scalars()
        step = f", step {scalars.index[-1]}" if len(scalars) else ""
        left = f", {eta} left" if eta and self.status() == "running" else ""
        return f"{self.work_dir.name}: {self.status()}{step}{left}"

    def _start(self, command: list[str], folder: str, resume: bool) -> None:
        exit_file = self.work_dir / "launch.exit"
        exit_file.unlink(missing_ok=True)
        command_line = [*command, *(["--resume"] if resume else [])]
        with open(self.work_dir / "launch.log", "a") as log:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", _WRAPPER, str(exit_file), *command_line],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # no interrupt or end of the kernel reaches it
            )  # fmt: skip
        pid = self._child.pid
        self._write_record(dict(command=command, folder=folder, pid=pid, began=process_start(pid)))

    def _wrapper_lives(self, record: dict[str, Any] | None) -> bool:
        if record is None or record["began"] is None:
            return False
        return process_start(record["pid"]) == record["began"]

    def _ended_well(self) -> bool:
        code = self.work_dir / "launch.exit"
        if code.exists():
            return code.read_text().strip() == "0"
        return self.log(1).startswith(_LAST_LINE)  # the wrapper died before it could record that

    def _read_record(self) -> dict[str, Any] | None:
        file = self.work_dir / "launch.json"
        if not file.exists():
            return None
        try:
            record = json.loads(file.read_text())
            if {"command", "folder", "pid", "began"} <= record.keys():
                return record
        except (ValueError, AttributeError):
            pass
        raise ValueError(
            f"{file}: expected the record of a launched run, got a damaged file; if nothing runs "
            "in this folder, remove the file and launch again"
        )

    def _write_record(self, record: dict[str, Any]) -> None:
        with atomic_write(self.work_dir / "launch.json") as file:
            file.write(json.dumps(record, indent=1).encode())
