"""A mistake in a config is a ValueError that names the config, wherever it comes to light."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from gdetkd.checkpoints.hub import find_config


def read_config(name: str) -> Config:
    """Read a config: a file, `gdetkd::NAME` or `mmdet::NAME`.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It cannot be read.
    """
    path = find_config(name)
    with config_errors(name, passing=()):
        return Config.fromfile(path)


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
