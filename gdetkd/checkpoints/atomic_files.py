"""MMEngine's local files, each of them the old one or the new one at every moment."""

from __future__ import annotations

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from gdetkd.ops.atomic_write import atomic_write


@register_backend("atomic")
class AtomicFiles(LocalBackend):
    """MMEngine's local files, written whole and removed late: see `remove_waiting`."""

    def __init__(self) -> None:
        self._waiting: list[str] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file so that it is, at every moment, the old one or the new one.

        Raises:
            OSError: It cannot be written; the old one is as it was, and nothing else is left.
        """
        try:
            with atomic_write(filepath) as file:
                file.write(obj)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write {filepath}: {error.strerror}. The checkpoints before it are intact; "
                "make room or choose another --work-dir, then go on with --resume",
            ) from error

    def remove(self, filepath: str | Path) -> None:
        """Put a file on the list of those to remove."""
        self._waiting.append(str(filepath))

    def remove_waiting(self, keep: str | None) -> None:
        """Remove what is on the list, except for `keep`, which has been written again since."""
        for path in self._waiting:
            if path != keep:
                Path(path).unlink(missing_ok=True)
        self._waiting.clear()
