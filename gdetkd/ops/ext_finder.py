"""Lets `import mmcv._ext` succeed where MMCV comes without compiled operators (`mmcv-lite`).

The finder stands at the end of `sys.meta_path`, so a compiled `mmcv._ext` is always found first.
It is installed when the interpreter starts, by `gdetkd_mmcv_ext.pth`, and by `import gdetkd` for a
copy of the package that was not installed. Only the standard library is imported: this runs in
every Python process of the environment.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType


class MmcvExtFinder:
    """Meta-path finder that answers for the name `mmcv._ext`, and for nothing else."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of `gdetkd/ops/mmcv_ext.py` for `mmcv._ext`, None for every other name."""
        if name != "mmcv._ext":
            return None
        return spec_from_file_location(name, Path(__file__).with_name("mmcv_ext.py"))


def install() -> None:
    """Append the finder to `sys.meta_path`; a second call changes nothing."""
    if not any(finder is MmcvExtFinder for finder in sys.meta_path):
        sys.meta_path.append(MmcvExtFinder)
