"""Checkpoints are data: reading one never runs anything that it brings along.

Neither a pickle (see `unpickling`) nor text: MMEngine *executes* the config text that a checkpoint
carries, in `Runner.resume` (`meta['config']`) and in its inferencers (`cfg`). `read_checkpoint`
drops that text.
"""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import torch

from gdetkd.checkpoints.migration import rename_old_keys
from gdetkd.checkpoints.unpickling import allow_checkpoint_types


class CheckpointError(ValueError):
    """Not the checkpoint that it should be: says what was expected, what came and what to do."""


def drop_code(checkpoint: dict) -> None:
    """Remove, in place, the config text that MMEngine would execute.

    Raises:
        CheckpointError: a part that could hide such text is not a dictionary.
    """
    hub = checkpoint.get("message_hub")
    holders = [
        ("meta", checkpoint.get("meta")),
        ("message_hub", hub),
        ("runtime_info", hub.get("runtime_info") if isinstance(hub, dict) else None),
    ]
    for name, holder in holders:
        if holder is None:
            continue
        if not isinstance(holder, dict):
            raise CheckpointError(
                f"expected a dictionary as the checkpoint's {name!r}, got {type(holder).__name__}; "
                "use a checkpoint written by MMEngine"
            )
        holder.pop("config", None)
        holder.pop("cfg", None)


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint to the CPU without running anything in it, and without its config text.

    Reads MMEngine's checkpoints, MMCV's older ones and bare state dicts, in the zip layout of today
    and the stream layout of PyTorch before 1.6. The tar layout of PyTorch's first releases is
    refused: it has no safe reader.

    Raises:
        CheckpointError: no such file, not a checkpoint, truncated, or it asks for more than data.
    """
    path = Path(path)
    if not path.is_file():
        came = "it is a directory; name the file in it" if path.is_dir() else "it does not exist"
        raise CheckpointError(f"{path}: expected a checkpoint file, but {came}")
    allow_checkpoint_types()
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file provokes
        # "from None": torch's text advises to switch the check off.
        raise CheckpointError(f"{path}: {_why_unreadable(path, error)}") from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{path}: expected a dictionary of weights, got {type(checkpoint).__name__}; "
            "save the model's state_dict() instead"
        )
    rename_old_keys(checkpoint)
    try:
        drop_code(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return checkpoint


def _why_unreadable(path: Path, error: Exception) -> str:
    """Say in one sentence what was expected, what came and what to do."""
    text = str(error)
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        return "expected a checkpoint, but the file is empty; copy or download it again"
    if "legacy .tar format" in text:
        return (
            "expected a zip or stream checkpoint, but it has the tar layout of PyTorch's first "
            "releases, which cannot be read without running what is in it; if you trust its "
            "source, load it and torch.save it again on a machine that may come to harm"
        )
    wanted = re.search(r"GLOBAL (\S+)|(getattr\(.*?\)) is refused|(expected [^\n]*)", text)
    if wanted and isinstance(error, pickle.UnpicklingError):
        name = next(group for group in wanted.groups() if group)
        return (
            f"expected tensors and plain data only, but came upon {name!r}; nothing of it was run: "
            "get the weights from a source that you trust, as a state_dict"
        )
    if head.startswith(b"PK"):
        return "expected a complete checkpoint, but the archive is damaged; download it again"
    return (
        f"expected a PyTorch checkpoint, but the file starts with {head!r} and cannot be read as "
        f"one ({type(error).__name__}); it may be cut off, or a web page saved under this name: "
        "download it again"
    )
