"""Reading a config, with what the command line says of it."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from gdetkd.detectors.mmdet.building import is_type
from gdetkd.detectors.mmdet.config_errors import config_errors, read_config


def load_config(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    work_dir: str | os.PathLike | None = None,
    seed: int | None = None,
    amp: bool = False,
) -> Config:
    """Read a config and apply what the command line says of it.

    Args:
        name: A file, `gdetkd::digits/NAME.py` or `mmdet::NAME`.
        options: Values by dotted key, as MMDetection's `--cfg-options`.
        work_dir: Where the run writes; `work_dirs/CONFIG` by default.
        seed: Seed of the run, in place of the config's.
        amp: Mixed precision (GPU only).

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It cannot be read, or the options do not fit it.
    """
    config = read_config(name)
    with config_errors(name, passing=()):
        _check_options(config, options or {})
        config.merge_from_dict(dict(options or {}))
    if work_dir is not None:
        config.work_dir = str(work_dir)
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("work_dirs") / Path(name.split("::")[-1]).stem)
    if seed is not None:
        config.randomness = dict(config.get("randomness") or {}, seed=seed)
    if amp:
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("loss_scale", "dynamic")
    # MMEngine's checkpoints are pickles with code in their meta: read them as data.
    hooks = list(config.get("custom_hooks") or [])
    if not any(is_type(hook, "SafeCheckpointHook") for hook in hooks):
        config.custom_hooks = [dict(type="SafeCheckpointHook"), *hooks]
    return config


def _check_options(config: Config, options: Mapping[str, Any]) -> None:
    """MMEngine ignores a key that it does not know: refuse it by its first part."""
    known = {*config, *inspect.signature(Runner.__init__).parameters, "auto_scale_lr"}
    for option in options:
        first = option.split(".")[0]
        if first not in known:
            near = difflib.get_close_matches(first, known, 1)
            raise ValueError(
                f"option {option}: expected one of the config's or the runner's keys, got "
                f"{first!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )


def schedule(steps: int) -> dict[str, Any]:
    """Options of a digits schedule of another length; a very short one warms up for a quarter."""
    warm = min(100, max(1, steps // 4))
    return {
        "param_scheduler.0.end": warm,
        "param_scheduler.1.begin": warm,
        "train_cfg.max_iters": steps,
        "train_cfg.val_interval": steps,
        "param_scheduler.1.end": steps,
    }
