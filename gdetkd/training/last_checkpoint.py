"""Which checkpoint of a folder is the last one: by what is in the files, not by their times.

Clocks jump, and copies are as new as the copying. A checkpoint says itself after which step it was
written (`meta['iter']`), and in which run: runs of one folder are numbered from 1, a training that
is resumed from the last checkpoint continues its run, any other training begins the next one. So an
old run's step 5000 does not hide a new run's step 1000.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gdetkd.checkpoints.reading import CheckpointError, read_checkpoint

_NAME = re.compile(r"(iter|epoch|before_non_finite_iter)_(\d+)\.pth")
NEEDED = frozenset({"meta", "message_hub", "optimizer"})


@dataclass(frozen=True, order=True)
class SavedCheckpoint:
    """A checkpoint from which a training can go on; of two, the later one is the larger."""

    run: int
    step: int
    path: Path


@dataclass(frozen=True)
class WorkDir:
    """The checkpoints of a folder, the last one first, and a sentence about each damaged file."""

    saved: list[SavedCheckpoint]
    damaged: list[str]


def checkpoints_in(work_dir: str | os.PathLike) -> WorkDir:
    """What there is to resume from; of the weights nothing is read."""
    found = WorkDir([], [])
    for path in sorted(Path(work_dir).glob("*.pth")):
        if not _NAME.fullmatch(path.name):
            continue
        try:
            checkpoint = read_checkpoint(path, mmap=True)
        except CheckpointError as error:
            found.damaged.append(str(error))
            continue
        meta = checkpoint.get("meta") or {}
        progress = meta.get("progress")
        run = progress.get("run", 0) if isinstance(progress, dict) else 0
        if NEEDED <= checkpoint.keys() and all(type(n) is int for n in (run, meta.get("iter"))):
            found.saved.append(SavedCheckpoint(run, meta["iter"], path))
    found.saved.sort(reverse=True)
    return found


def last_checkpoint(
    work_dir: str | os.PathLike, run: int | None = None
) -> tuple[str | None, list[str]]:
    """The last checkpoint that can be read to its end, and a sentence about each damaged file.

    Args:
        run: Only those of this run.
    """
    found = checkpoints_in(work_dir)
    for saved in found.saved:
        if run not in (None, saved.run):
            continue
        try:
            read_checkpoint(saved.path)
        except CheckpointError as error:
            found.damaged.append(str(error))
        else:
            return str(saved.path), found.damaged
    return None, found.damaged


def run_number(work_dir: str | os.PathLike, resume: bool | str) -> int:
    """The number of a run that is about to start in a folder.

    Args:
        resume: As for `gdetkd.training.runner.train`.
    """
    saved = checkpoints_in(work_dir).saved
    last = saved[0].run if saved else 0
    same = resume is True or (
        bool(resume) and bool(saved) and os.path.realpath(resume) == os.path.realpath(saved[0].path)
    )
    return max(last, 1) if same else last + 1
