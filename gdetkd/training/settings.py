"""What must not change between stop and resume, and what may.

A resumed optimizer brings its learning rate and its schedule with it, so that new ones in the
config would be ignored; other data or another seed would give other batches at the same position.
All of that is refused by name. What a config says of the rest takes effect, and is printed.
`README.md` beside this file has the table; `tests/test_resume_changes.py` has a test of each row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from gdetkd.checkpoints.reading import CheckpointError

FIXED = (
    "optim_wrapper.optimizer",
    "optim_wrapper.paramwise_cfg",
    "param_scheduler",
    "randomness.seed",
    "train_dataloader.sampler",
    "train_dataloader.batch_sampler",
)
APPLIED = (
    "model",
    "optim_wrapper",
    "train_cfg",
    "train_dataloader",
    "default_hooks",
    "custom_hooks",
)


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that a checkpoint keeps, as plain data, by their dotted keys."""
    found = {}
    for name in (*FIXED, *APPLIED):
        value: Any = config
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) or value is config else None
        found[name] = json.loads(json.dumps(value, default=_name))
    (found["train_cfg"] or {}).pop("run", None)
    return found


def data_of(dataset: Any) -> dict[str, Any]:
    """How many samples a data set has, and a fingerprint of what they are and of their order.

    Of every sample: the image's file name without its folder, its size, and each object's box and
    class. The pixels are not read. A data set that does not say these is known by its length alone.
    """
    digest = hashlib.sha256()
    if not hasattr(dataset, "get_data_info"):
        return dict(count=len(dataset), fingerprint=None)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        objects = [(each.get("bbox"), each.get("bbox_label")) for each in info.get("instances", ())]
        image = os.path.basename(str(info.get("img_path")))
        digest.update(repr((image, info.get("width"), info.get("height"), objects)).encode())
    return dict(count=len(dataset), fingerprint=digest.hexdigest()[:16])


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences about what has changed and takes effect.

    Args:
        before, now: As `settings_of` gives it, with `data_of` under `data`; a checkpoint may lack
            entries.

    Raises:
        CheckpointError: Something has changed that a resumed training cannot take over.
    """
    applied = []
    for name in (*FIXED, "data", *APPLIED):
        if name not in before or name not in now:
            continue
        changed = _changes(name, before[name], now[name])
        changes = [f"{key} is {new!s:.90} and was {old!s:.90}" for key, old, new in changed]
        if changes and name not in APPLIED:
            raise CheckpointError(
                f"cannot resume: {'; '.join(changes[:3])}. A resumed training goes on with what it "
                "began with. Undo the change; or begin a new training from the weights alone, with "
                "--cfg-options load_from=FILE in place of --resume"
            )
        applied += changes
    return applied


def _changes(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The innermost keys whose values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _changes(f"{name}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _changes(f"{name}.{index}", *pair)
    elif old != new:
        yield name, old, new


def _name(value: Any) -> str:
    return getattr(value, "__name__", str(value))
