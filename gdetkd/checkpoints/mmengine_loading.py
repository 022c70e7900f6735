"""MMEngine's own loading, made to read checkpoints as data, in every process of the environment.

MMEngine reads weights in one module, `mmengine.runner.checkpoint`: `load_from`, `resume`,
`init_cfg`, `mmdet.apis.init_detector`, by path, by URL and by the names of its model zoos. All its
loaders end in two names of that module, `torch.load` and `load_url` (a download and a `torch.load`
without the check), and all callers begin at `CheckpointLoader.load_checkpoint`. `patch` replaces
these three by what reads as data, and has its `load_state_dict` stop where nothing would be loaded;
`gdetkd.startup` calls it when the module was imported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from gdetkd.checkpoints.hub import SHIPPED, fetch, find_checkpoint
from gdetkd.checkpoints.loading import check_usable
from gdetkd.checkpoints.reading import CheckpointError, read_checkpoint
from gdetkd.checkpoints.student import renamed_to_fit


def patch(module: ModuleType) -> None:
    """Replace how `mmengine.runner.checkpoint` reads files; a second call changes nothing."""
    if isinstance(module.torch, _TorchThatReadsData):
        return
    module.torch = _TorchThatReadsData()
    # The fork onedl-mmengine reads by this one: it allows more types, and pickles if that fails.
    module._safe_torch_load = _TorchThatReadsData.load
    module.load_url = _load_url
    module.CheckpointLoader.load_checkpoint = staticmethod(
        _in_a_sentence(module.CheckpointLoader.load_checkpoint)
    )
    module._load_checkpoint_with_prefix = _of_prefix(module._load_checkpoint_with_prefix)
    module.load_state_dict = _checked(module.load_state_dict)


class _TorchThatReadsData(ModuleType):
    """torch, but for `load`."""

    def __init__(self) -> None:
        super().__init__("torch")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def load(file: Any, map_location: Any = None, **_: Any) -> dict:
        """`read_checkpoint`: no pickle is ever executed."""
        return read_checkpoint(file, map_location)


def _load_url(url: str, model_dir: Any = None, map_location: Any = None, **_: Any) -> dict:
    return read_checkpoint(fetch(url), map_location)


def _in_a_sentence(load: Callable) -> Callable:
    """MMEngine's `load_checkpoint(filename, ...)`; whatever goes wrong names the file."""

    @functools.wraps(load)
    def load_checkpoint(filename: str, *args: Any, **settings: Any) -> dict:
        try:
            if str(filename).startswith(SHIPPED):
                filename = find_checkpoint(str(filename))
            return load(str(filename), *args, **settings)
        except (CheckpointError, OSError):
            raise
        except Exception as error:  # an unknown name of a zoo, a library that is missing
            raise CheckpointError(
                f"{filename}: expected a checkpoint's path, URL or name in a model zoo, but it "
                f"cannot be found ({type(error).__name__}: {error})"
            ) from None

    return load_checkpoint


def _of_prefix(load: Callable) -> Callable:
    """MMEngine's loading of a part of a model, with an error instead of an assertion."""

    @functools.wraps(load)
    def load_checkpoint_with_prefix(prefix: str, filename: str, *args: Any, **settings: Any):
        try:
            return load(prefix, filename, *args, **settings)
        except (AssertionError, AttributeError):  # no such names; names that are no text
            raise CheckpointError(
                f"{filename}: expected weights under {prefix!r}, found none; give another prefix"
            ) from None

    return load_checkpoint_with_prefix


def _checked(load: Callable) -> Callable:
    """MMEngine's `load_state_dict(module, state_dict, ...)`, which stops if nothing would fit.

    A plain detector takes the student of a distilled one's weights.
    """

    @functools.wraps(load)
    def load_state_dict(module: Any, state_dict: dict, *args: Any, **settings: Any) -> None:
        check_usable(module, state_dict)
        load(module, renamed_to_fit(module, state_dict), *args, **settings)

    return load_state_dict
