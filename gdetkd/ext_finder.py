"""Lets `import mmcv._ext` succeed where MMCV comes without compiled operators (`mmcv-lite`).

The finder stands at the end of `sys.meta_path`, so a compiled `mmcv._ext` is always found first. It is installed at
interpreter start by `gdetkd_mmcv_ext.pth` and again, for a copy of the package that was not installed, by
`import gdetkd`. Only the standard library is imported here: this runs in every Python process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType


class MmcvExtFinder:
    """Meta-path finder that answers for the name `mmcv._ext` with `gdetkd/mmcv_ext.py`, and for nothing else."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of our operators for `mmcv._ext` and None for every other name."""
        if name != "mmcv._ext":
            return None
        return spec_from_file_location(name, Path(__file__).with_name("mmcv_ext.py"))


def install() -> None:
    """Append the finder to `sys.meta_path`; a second call changes nothing."""
    if not any(finder is MmcvExtFinder for finder in sys.meta_path):
        sys.meta_path.append(MmcvExtFinder)
