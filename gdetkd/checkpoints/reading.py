"""Checkpoints are data: reading one never runs anything that it brings along.

Neither a pickle (see `unpickling`) nor text: MMEngine *executes* the config text that a checkpoint
carries, in `Runner.resume` (`meta['config']`) and in its inferencers (`cfg`). `read_checkpoint`
drops that text.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from gdetkd.checkpoints.migration import rename_old_keys
from gdetkd.checkpoints.unpickling import allow_checkpoint_types

_PICKLE = 2**26  # bytes: a file in the stream layout begins with its pickles
ENTRIES, LEVELS = 10**7, 100  # of the containers in a checkpoint, written out


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


def read_checkpoint(
    file: str | os.PathLike | IO[bytes], map_location: Any = "cpu", mmap: bool = False
) -> dict:
    """Read a checkpoint without running anything in it, and without its config text.

    Reads MMEngine's checkpoints, MMCV's older ones and bare state dicts, in the zip layout of today
    and the stream layout of PyTorch before 1.6, and Hugging Face's `.safetensors`. The tar layout
    of PyTorch's first releases is refused: it has no safe reader.

    Args:
        file: A path, or a binary file that can seek.
        map_location: As of `torch.load`.
        mmap: Leave the tensors of a zip on the disk until they are used, to see what else is there.

    Raises:
        CheckpointError: no such file, not a checkpoint, truncated, or it asks for more than data.
    """
    if not isinstance(file, (str, os.PathLike)):
        return _read(file, getattr(file, "name", "the checkpoint"), map_location)
    path = Path(file).expanduser()
    if not path.is_file():
        came = "it is a directory; name the file in it" if path.is_dir() else "it does not exist"
        raise CheckpointError(f"{path}: expected a checkpoint file, but {came}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with open(path, "rb") as opened:
        if mmap and zipfile.is_zipfile(opened):
            return _read(opened, path, map_location, mmap=path)
        opened.seek(0)
        return _read(opened, path, map_location)


def _read_safetensors(path: Path) -> dict:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path}: reading it takes the package safetensors") from error
    try:
        return dict(state_dict=load_file(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: expected a file of safetensors, got {error}") from error


def _read(file: IO[bytes], name: Any, map_location: Any, mmap: Path | None = None) -> dict:
    allow_checkpoint_types()
    try:
        _check_size(file)
        checkpoint = torch.load(
            mmap or file, map_location=map_location, weights_only=True, mmap=bool(mmap)
        )
        _check_values(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    except Exception as error:  # whatever a broken file provokes
        file.seek(0)
        # "from None": torch's text advises to switch the check off.
        raise CheckpointError(f"{name}: {_why_unreadable(file.read(16), error)}") from None
    try:
        _check_names(checkpoint)
        rename_old_keys(checkpoint)
        drop_code(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    return checkpoint


def _check_names(checkpoint: Any) -> None:
    """Refuse what is no dictionary by name, as a whole or where the weights should be."""
    for place in (None, "state_dict", "ema_state_dict"):
        state = checkpoint.get(place, {}) if place else checkpoint
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise CheckpointError(
                f"expected a dictionary of weights by name{place and f' under {place!r}' or ''}, "
                f"got {type(state).__name__}; save the model's state_dict() instead"
            )


def _check_size(file: IO[bytes]) -> None:
    """Refuse what becomes much more than it is: compressed archives, and zeros by their count."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    pickles = file.read(2)
    if pickles == b"PK":
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                unpacked = sum(entry.file_size for entry in entries)
                if unpacked > 4 * size + 2**20:
                    raise CheckpointError(
                        f"expected {size} bytes of weights, but they unpack to {unpacked}; "
                        "get the weights from a source that you trust"
                    )
                names = [entry for entry in entries if entry.filename.endswith("data.pkl")]
                pickles = b"".join(archive.read(entry) for entry in names)
        except zipfile.BadZipFile:
            pass  # torch.load says what is wrong with it
    else:
        pickles += file.read(_PICKLE)
    if b"builtin" in pickles and re.search(rb"builtins?(__)?\nbytearray\n", pickles):
        raise CheckpointError(
            "expected tensors and plain data only, but came upon 'bytearray'; "
            "get the weights from a source that you trust, as a state_dict"
        )
    file.seek(0)


def _check_values(checkpoint: Any) -> None:
    """Refuse what no training writes: containers in themselves, false attributes or sizes.

    Also what becomes much more than it is when it is written out: lists that hold one list twice,
    over and over, and tensors that repeat their storage.
    """
    known: dict[int, tuple[int, int]] = {}  # entries in all, and levels, by container
    open_ids, storages, claimed = set(), {}, 0
    stack = [(checkpoint, False)]
    while stack:
        value, leaving = stack.pop()
        if isinstance(value, Tensor):
            claimed += _check_tensor(value)
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        if not isinstance(value, (dict, list, tuple, set)):
            continue
        inside = list(dict.values(value) if isinstance(value, dict) else value)
        if leaving:
            open_ids.remove(id(value))
            below = [known.get(id(item), (1, 0)) for item in inside]
            entries = 1 + sum(count for count, _ in below)
            levels = 1 + max((level for _, level in below), default=0)
            if entries > ENTRIES or levels > LEVELS:
                raise CheckpointError(
                    f"expected plain data, got {entries} entries on {levels} levels of containers, "
                    f"more than the {ENTRIES} on {LEVELS} that a training leaves"
                )
            known[id(value)] = entries, levels
            continue
        if id(value) in open_ids:
            raise CheckpointError("expected plain data, got a container that contains itself")
        if id(value) in known:
            continue
        open_ids.add(id(value))
        attributes = getattr(value, "__dict__", {})
        versions = attributes.get("_metadata", {})
        if attributes.keys() - {"_metadata"} or not isinstance(versions, dict):
            raise CheckpointError(f"expected plain data, got attributes {list(attributes)[:3]}")
        if not all(isinstance(entry, dict) for entry in dict.values(versions)):
            raise CheckpointError("expected versions of modules as dictionaries")
        stack.append((value, True))
        stack.extend((item, False) for item in inside)
    if claimed > 4 * sum(storages.values()) + 2**20:  # some weights may be tied
        raise CheckpointError(
            f"expected {claimed} bytes in tensors, got {sum(storages.values())} that they share"
        )


def _check_tensor(value: Tensor) -> int:
    """Refuse a tensor without data of its own; the bytes that it would be alone."""
    value.__dict__.clear()  # attributes could stand in for methods
    if value.layout != torch.strided or value.device.type == "meta":
        raise CheckpointError(
            f"expected dense tensors with data, got {value.layout} on {value.device}"
        )
    stored, claimed = value.untyped_storage().nbytes(), value.numel() * value.element_size()
    if claimed > stored + 2**20:  # an expanded tensor may be larger, but not a bomb
        raise CheckpointError(
            f"expected {claimed} bytes in a tensor of {list(value.shape)}, got {stored}"
        )
    return claimed


def _why_unreadable(head: bytes, error: Exception) -> str:
    """Say in one sentence what was expected, what came and what to do."""
    text = str(error)
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
