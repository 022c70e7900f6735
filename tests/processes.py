"""Commands and trainings in processes of their own, forked: the libraries are imported already."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


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

    def wait(self, seconds: float = 900) -> tuple[int, str]:
        """Its exit code and what it printed."""
        until = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), self.output.read_text()
            if time.monotonic() > until:
                os.kill(self.pid, 9)
                raise TimeoutError(self.output.read_text()[-2000:])
            time.sleep(0.01)


def gdetkd(folder: Path, *arguments: object, prepare: Callable[[], object] = lambda: None) -> Child:
    """The command, in a folder, as a user meets it."""

    def command() -> None:
        from gdetkd.cli import main

        os.chdir(folder)
        sys.argv = ["gdetkd", *map(str, arguments)]
        prepare()
        main()

    folder.mkdir(exist_ok=True, parents=True)
    return Child(command, folder / f"output_{time.monotonic_ns()}.txt")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
