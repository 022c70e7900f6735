"""The student's weights out of a distilled detector's checkpoint, and a file of them alone."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gdetkd
from gdetkd.checkpoints.reading import CheckpointError, read_checkpoint
from gdetkd.ops.atomic_write import atomic_write

# Where the student is in the state dict of a distilled detector.
STUDENT = "distiller.student."


def renamed_to_fit(model: nn.Module, state: dict) -> dict:
    """A distilled detector's weights as the plain student's, or the student's as part of it.

    So that MMDetection's own tools take either file with either config. A state that has the
    model's kind of names is given back as it is.
    """
    expected, found = (
        {str(name).removeprefix("module.").split(".")[0] for name in names}
        for names in (model.state_dict(), state)
    )
    if "distiller" in found and "distiller" not in expected:
        plain = take(state, "module." * any(str(n).startswith("module.") for n in state))
        return take(plain, STUDENT) or state
    if "distiller" in expected and "distiller" not in found:
        return {f"{STUDENT}{str(name).removeprefix('module.')}": state[name] for name in state}
    return state


def take(state: dict, prefix: str) -> OrderedDict:
    """The entries under `prefix`, without it, and the module versions kept beside them."""
    cut = len(prefix)
    taken = OrderedDict((key[cut:], state[key]) for key in state if key.startswith(prefix))
    versions = getattr(state, "_metadata", None)
    if isinstance(versions, dict):
        # A module's name has no dot at its end: 'student' itself becomes ''.
        taken._metadata = OrderedDict(
            (name[cut:], version)
            for name, version in versions.items()
            if f"{name}.".startswith(prefix)
        )
    return taken


def _model_state(checkpoint: dict) -> dict:
    """The model's weights, wherever the layout keeps them, without `DataParallel`'s prefix."""
    state = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    entries = state.items() if isinstance(state, dict) else ()
    tensors = all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in entries)
    if not entries or not tensors:
        raise CheckpointError(
            "expected weights (a state dict, alone or under 'state_dict' or 'model'), got the keys "
            f"{sorted(map(str, checkpoint))[:8]}; name the checkpoint of a training run"
        )
    return take(state, "module.") if all(key.startswith("module.") for key in state) else state


def student_state(checkpoint: dict, weights: str = "auto") -> tuple[dict, str]:
    """The plain student's state dict out of a distilled detector's checkpoint, and which it is.

    Args:
        checkpoint: as `read_checkpoint` gives it. A plain detector's passes unchanged.
        weights: `'auto'` takes what MMEngine tests: the averaged weights where the run kept any.
            `'ema'` and `'raw'` insist on the averaged and on the last trained ones.

    Returns:
        The state dict (tensors shared with `checkpoint`), and `'ema'`, `'raw'`, or
        `'plain'` for a plain detector without averaged weights.

    Raises:
        ValueError: an unknown `weights`.
        CheckpointError: no weights, no student among them, or no averaged ones where asked for.
    """
    if weights not in ("auto", "ema", "raw"):
        raise ValueError(f"expected weights 'auto', 'ema' or 'raw', got {weights!r}")
    averaged = checkpoint.get("ema_state_dict")
    if weights == "ema" and averaged is None:
        raise CheckpointError("expected averaged (EMA) weights, got none; ask for 'auto'")
    state = _model_state(checkpoint)
    if averaged is not None and weights == "raw":
        # EMAHook swaps the two when it saves: the averaged weights are in 'state_dict', and the
        # trained ones in 'ema_state_dict' under 'module.', beside the step count.
        state = _model_state({"state_dict": take(averaged, "module.")})
    which = "ema" if averaged is not None and weights != "raw" else "raw"
    student = take(state, STUDENT)
    if student:
        return student, which
    if any(key.startswith("distiller.") for key in state):
        raise CheckpointError(
            f"expected a distilled detector with weights under {STUDENT!r}, got only "
            f"{sorted(state)[:4]}; name the checkpoint of a finished training step"
        )
    return state, which if averaged is not None else "plain"


def read_student(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The plain student's state dict out of a file, see `student_state`.

    Raises:
        CheckpointError: The file is no checkpoint or has no student; the message names it.
    """
    return _of_file(read_checkpoint(path), path)[0]


def _of_file(checkpoint: dict, path: str | os.PathLike) -> tuple[dict, str]:
    try:
        return student_state(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _plain(value: Any) -> Any:
    """`value` as lists, dictionaries, strings and numbers: PyTorch loads these without help."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _dataset_meta(meta: dict) -> dict:
    """Class names and palette: MMDetection 3's 'dataset_meta', or MMDetection 2's capitals."""
    old = {key: meta[key] for key in ("CLASSES", "PALETTE") if key in meta}
    found = meta.get("dataset_meta") or old
    if not isinstance(found, dict):
        return {}
    return {key.lower(): value for key, value in _plain(found).items()}


def _fp16(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision for floating point, unless a value (a running variance) would overflow."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if torch.equal(half.isfinite(), tensor.isfinite()) else tensor


def export_student(
    source: str | os.PathLike, destination: str | os.PathLike, half: bool = False
) -> str:
    """Write the student alone, for MMDetection's `init_detector(student_config, file)`.

    The file holds the weights, the dataset's class names and palette as plain lists, where the
    weights come from and no config text; no reader needs this package for it.

    Args:
        source: checkpoint of a distilled detector (or of a plain one, to slim it).
        destination: the file to write; it appears complete or not at all.
        half: store floating point weights in fp16; a tensor that would overflow stays as it is.

    Returns:
        Which weights it holds: 'ema', 'raw' or 'plain', see `student_state`.

    Raises:
        CheckpointError: the source is unreadable or has no student, or is the destination itself.
    """
    source, destination = Path(source), Path(destination)
    checkpoint = read_checkpoint(source)
    if destination.exists() and destination.samefile(source):
        raise CheckpointError(f"{destination}: expected another file than the source, got the same")
    state, which = _of_file(checkpoint, source)
    exported = take(state, "")
    for key, value in exported.items():
        # Cloned: torch.save writes the whole storage behind a view.
        exported[key] = (_fp16(value) if half else value).detach().clone()
    old = checkpoint.get("meta") or {}
    meta = {key: old[key] for key in ("epoch", "iter") if isinstance(old.get(key), int)}
    meta.update(weights=which, half=half, gdetkd_version=gdetkd.__version__)
    dataset_meta = _dataset_meta(old)
    if dataset_meta:
        meta["dataset_meta"] = dataset_meta
    with atomic_write(destination) as file:
        torch.save({"meta": meta, "state_dict": exported}, file)
    return which
