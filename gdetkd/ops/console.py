"""What people read in the terminal, apart from what the libraries print."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_people: list[TextIO] = []  # where `say` goes while `quiet` holds


def say(text: str) -> None:
    """Print a line for people, also where everything else goes to a file."""
    print(text, file=_people[-1] if _people else sys.stdout, flush=True)


@contextlib.contextmanager
def quiet(log: Path | None) -> Iterator[None]:
    """Inside, what is printed, warnings too, is added to a file; what is said is still shown.

    Without a file it is lost.

    Warnings of this package are said.
    """
    log = Path(os.devnull) if log is None else log
    log.parent.mkdir(parents=True, exist_ok=True)
    shown = sys.stdout
    with _Log(log, shown) as file, warnings.catch_warnings():

        def warn(message, category, filename, lineno, *_) -> None:
            file.write(warnings.formatwarning(message, category, filename, lineno))
            if issubclass(category, DistillationWarning):
                say(f"Warning: {message}")

        warnings.showwarning = warn
        _people.append(shown)
        try:
            with contextlib.redirect_stdout(file):
                yield
        finally:
            _people.remove(shown)


class _Log(io.TextIOBase):
    """A file to print to; once closed, it hands on to what was there before.

    Loggers keep the stream that they find when they are made.
    """

    def __init__(self, path: Path, after: TextIO) -> None:
        self._file, self._after = open(path, "a", buffering=1), after

    def write(self, text: str) -> int:
        return (self._after if self._file.closed else self._file).write(text)

    def flush(self) -> None:
        (self._after if self._file.closed else self._file).flush()

    def close(self) -> None:
        self._file.close()


class DistillationWarning(UserWarning):
    """Something about a training that its user should know."""
