"""A work dir belongs to one run: two that write their checkpoints there would destroy each other's.

The owner holds a lock on `run.lock` in the work dir for as long as it lives; the kernel releases it
however the process ends. The file names the owner: host, process, and when that began.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from gdetkd.launch.nodes import LaunchError

LOCK = "run.lock"
_held: set[int] = set()


@contextlib.contextmanager
def claim(work_dir: str | os.PathLike) -> Iterator[None]:
    """Own a work dir while the block runs.

    Raises:
        LaunchError: Another run owns it; the message says which, and what to do.
    """
    path = _lock_file(work_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    removed = [pid for pid in owners(work_dir) if pid != os.getpid()]
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(path) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            if not _is_stale(path):  # a file system without locks: the file's text has to do
                raise _in_use(path) from None
        if removed:
            raise LaunchError(
                f"{path.parent} was removed or replaced while process {removed[0]} trains in it; "
                f"wait for that, stop it (kill {removed[0]}), or choose another --work-dir"
            )
        owner = dict(
            host=socket.gethostname(), pid=os.getpid(), began=process_start(os.getpid()),
            time=datetime.datetime.now().isoformat(" ", "seconds"),
        )  # fmt: skip
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        _held.add(file.fileno())
        try:
            yield
        finally:
            _held.discard(file.fileno())
            file.truncate(0)  # nobody's


def owners(work_dir: str | os.PathLike) -> list[int]:
    """Processes of this machine that own the work dir, even if it was removed since.

    They are those that have the lock file open, so no reused process number can mislead. Empty
    where there is no /proc.
    """
    path = str(_lock_file(work_dir))
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            files = {_target(descriptor) for descriptor in (process / "fd").iterdir()}
            if path in files:
                found.append(int(process.name))
    return found


def process_start(pid: int) -> int | None:
    """When a process began, in clock ticks since boot: it identifies a process beside its number.

    None if it has ended, or where there is no /proc.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _lock_file(work_dir: str | os.PathLike) -> Path:
    return Path(work_dir).resolve() / LOCK


def _target(descriptor: Path) -> str:
    """The path of an open file, of a removed one too; empty if it has been closed meanwhile."""
    try:
        return os.readlink(descriptor).removesuffix(" (deleted)")
    except OSError:
        return ""


def _read_owner(path: Path) -> dict | None:
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def _is_stale(path: Path) -> bool:
    """Whether the owner that the file names has ended; of another host's we cannot know."""
    owner = _read_owner(path)
    if owner is None:
        return True
    here = owner.get("host") == socket.gethostname()
    return here and process_start(owner.get("pid", 0)) != owner.get("began")


def _in_use(path: Path) -> LaunchError:
    owner = _read_owner(path) or {}
    pid = owner.get("pid", "unknown")
    return LaunchError(
        f"{path.parent} belongs to a run that is going on: process {pid} on "
        f"{owner.get('host', 'an unknown host')}, since {owner.get('time', 'unknown')}. Wait for "
        f"it, stop it (kill {pid}), or choose another --work-dir; if it is certain that nothing "
        f"runs, remove {path}"
    )


def _close_in_child() -> None:
    """A forked process, such as a data loader's worker, must not keep the lock of its parent."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
