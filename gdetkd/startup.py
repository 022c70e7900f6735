"""What every Python process of the environment gets: operators for MMCV, and files read as data.

- `import mmcv._ext` succeeds where MMCV comes without compiled operators (`mmcv-lite`). That finder
  stands at the end of `sys.meta_path`, so a compiled `mmcv._ext` is always found first.
- MMEngine's loading of checkpoints and of YAML configs runs no code that a file brings along, and
  `gdetkd::NAME` is a config in `_base_` and weights in `load_from` or `init_cfg`; MMDetection's
  `init_detector` takes distilled configs, and its inferencers run no config of a checkpoint. Their
  modules are changed just after they have been imported, see `PATCHES`.

Both are installed when the interpreter starts, by `gdetkd_startup.pth`, and by `import gdetkd` for
a copy of the package that was not installed. Only the standard library is imported here: this runs
in every Python process.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

# Modules of OpenMMLab, and those whose function `patch` changes them, imported when need be.
PATCHES = {
    "mmengine.runner.checkpoint": "gdetkd.checkpoints.mmengine_loading",
    "mmengine.fileio.handlers.yaml_handler": "gdetkd.ops.safe_yaml",
    "mmengine.config.config": "gdetkd.checkpoints.mmengine_names",
    "mmengine.infer.infer": "gdetkd.checkpoints.mmengine_inferencer",
    "mmdet.apis.inference": "gdetkd.detectors.mmdet.inference",
}


class MmcvExtFinder:
    """Meta-path finder that answers for the name `mmcv._ext`, and for nothing else."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of `gdetkd/ops/mmcv_ext.py` for `mmcv._ext`, None for every other name."""
        if name != "mmcv._ext":
            return None
        return spec_from_file_location(name, Path(__file__).with_name("ops") / "mmcv_ext.py")


class PatchingFinder:
    """Meta-path finder that has the other finders find a module of `PATCHES`, and changes it."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The other finders' spec, whose loader ends with the patch; None for every other name."""
        if name not in PATCHES:
            return None
        others = (finder for finder in sys.meta_path if finder is not cls)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _patch(module)

            spec.loader.exec_module = exec_module
        return spec


def _patch(module: ModuleType) -> None:
    importlib.import_module(PATCHES[module.__name__]).patch(module)


def install() -> None:
    """Put the finders into `sys.meta_path`; a second call changes nothing."""
    if not any(finder is MmcvExtFinder for finder in sys.meta_path):
        sys.meta_path.append(MmcvExtFinder)
    if not any(finder is PatchingFinder for finder in sys.meta_path):
        sys.meta_path.insert(0, PatchingFinder)
        for name in PATCHES.keys() & sys.modules.keys():
            _patch(sys.modules[name])
