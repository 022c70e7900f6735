"""Commands and trainings in processes of their own, forked: the libraries are imported already."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from helpers import run_config
from mmengine.visualization import Visualizer


class Child:
    """A forked process that runs a function, its output in a file."""

    def __init__(self, function: Callable[[], object], output: Path) -> None:
        self.output, self.code = output, None
        self.pid = os.fork()
        if not self.pid:
            self._run(function)

    def _run(self, function: Callable[[], object]) -> None:
        code = 1
        try:
            with open(self.output, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout = open(1, "w", buffering=1, closefd=False)
            sys.stderr = open(2, "w", buffering=1, closefd=False)
            function()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def ended(self) -> bool:
        """Whether it has ended; then `code` is its exit code."""
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds: float = 900) -> tuple[int, str]:
        """Its exit code and what it printed."""
        until = time.monotonic() + seconds
        while True:
            if self.ended():
                return self.code, self.output.read_text()
            if time.monotonic() > until:
                os.kill(self.pid, 9)
                raise TimeoutError(self.output.read_text()[-2000:])
            time.sleep(0.01)


def gdetkd(folder: Path, *arguments: object, prepare: Callable[[], object] = lambda: None) -> Child:
    """The command, in a folder, as a user meets it."""

    def command() -> None:
        from gdetkd.cli import main

        os.chdir(folder)
        _forget(Visualizer)
        sys.argv = ["gdetkd", *map(str, arguments)]
        prepare()
        main()

    folder.mkdir(exist_ok=True, parents=True)
    return Child(command, folder / f"output_{time.monotonic_ns()}.txt")


def _forget(kind: type[Visualizer]) -> None:
    """MMEngine would hand on the visualizer of a training before the fork, with its folder."""
    kind._instance_dict.clear()
    for each in kind.__subclasses__():
        _forget(each)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_config(path, model, data, steps=4, interval=2, **changes):
    """The config of a short training, as a file; it writes to `work` beside the file."""
    path.parent.mkdir(exist_ok=True, parents=True)
    changes.setdefault("default_hooks__checkpoint", dict(interval=interval, save_last=True))
    config = run_config(model, data, path.parent / "work", steps=steps, **changes)
    config.dump(str(path))
    return path


def sentence(output):
    """What the command says at its end; a traceback is none."""
    assert "Traceback" not in output, output
    lines = [line for line in output.splitlines() if line.startswith("gdetkd: ")]
    assert len(lines) == 1, output
    return lines[0]


def worker_of_rank(rank, folder):
    """The process of a training in that folder, by its environment variables."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
            named = any(str(folder).encode() in word for word in arguments)
            worker = b"gdetkd.launch.worker" in arguments
            if named and worker and f"RANK={rank}".encode() in environment:
                return int(process.name)
    return None


def until(true, seconds=200):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
