"""A mistake in a config is a ValueError that names the config, wherever it comes to light."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from mmdet import registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmengine.utils import get_object_from_string

from gdetkd.checkpoints.hub import find_config

_LIBRARIES = ("mmdet", "mmcv", "mmengine")


def read_config(name: str) -> Config:
    """Read a config: a file, `gdetkd::NAME` or `mmdet::NAME`.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It cannot be read.
    """
    path = find_config(name)
    with config_errors(name, passing=()):
        config = Config.fromfile(path)
        # MMEngine writes the classes of a pure-Python config by their paths, and finds no class by
        # it whose module a function of that name hides: mmdet.models.losses.smooth_l1_loss.L1Loss.
        if not Config._is_lazy_import(path):
            rename_types(config._cfg_dict, lambda kind: get_object_from_string(kind) is None)
        return config


def rename_types(node: Any, which: Callable[[str], bool] = lambda _: True) -> None:
    """Name OpenMMLab's classes in a config as they are registered, in place, instead of by path.

    Args:
        which: Of the paths, those to replace.
    """
    if isinstance(node, dict):
        kind = node.get("type")
        if isinstance(kind, str) and kind.split(".")[0] in _LIBRARIES and kind.count(".") > 1:
            if which(kind):
                node["type"] = _registered(kind)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            rename_types(part, which)


def _registered(path: str) -> str:
    """`mmdet.models.X` is X; so is mmcv's, unless MMDetection has another X."""
    name = path.split(".")[-1]
    entries = [entry for entry in vars(registry).values() if isinstance(entry, Registry)]
    hidden = any(name in entry.module_dict for entry in entries if entry.scope == "mmdet")
    return f"mmengine.{name}" if hidden and not path.startswith("mmdet.") else name


@contextlib.contextmanager
def config_errors(name: str | None, passing: tuple = (ValueError, OSError)) -> Iterator[None]:
    """ValueError, naming the config, for whatever a mistake in it provokes in the libraries.

    A config is someone's program, and a mistyped setting is any kind of error where it is used.

    Args:
        passing: Errors that are raised as they are.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ValueError(f"config {name}: {type(error).__name__}: {said}") from error


def _checked(build: Callable) -> Callable:
    @functools.wraps(build)
    def checked(self: Runner, *args: Any, **settings: Any) -> Any:
        with config_errors(self.cfg.filename):
            return build(self, *args, **settings)

    return checked


class CheckedRunner(Runner):
    """MMEngine's Runner; what a mistake in its config provokes while it builds is a ValueError."""

    @classmethod
    def from_cfg(cls, cfg: Config) -> CheckedRunner:
        with config_errors(cfg.filename):
            return super().from_cfg(cfg)

    build_train_loop = _checked(Runner.build_train_loop)
    build_val_loop = _checked(Runner.build_val_loop)
    build_test_loop = _checked(Runner.build_test_loop)
    build_optim_wrapper = _checked(Runner.build_optim_wrapper)
    build_param_scheduler = _checked(Runner.build_param_scheduler)
