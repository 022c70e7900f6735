"""Checkpoints are data: reading one never runs anything that it brings along.

A checkpoint of MMEngine 0.10 is more than tensors. Its message hub pickles ``HistoryBuffer``
objects, whose state needs numpy arrays and ``builtins.getattr``; ``torch.load`` of PyTorch 2.6 and
later refuses all of these. The usual ways out (``weights_only=False``, or allowing ``getattr``
itself) let a file run any code. :func:`allow_checkpoint_types` takes a third way: it answers each
of these names with a stand-in that can rebuild a history of numbers and nothing else. After it,
MMEngine's and MMDetection's own loading works, with the check on.

The check does not cover text. MMEngine *executes* the config text that a checkpoint carries, in
``Runner.resume`` (``meta['config']``) and in its inferencers (``cfg``): :func:`read_checkpoint` and
:class:`SafeCheckpointHook` drop that text.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.registry import HOOKS
from torch import nn

import gdetkd
from gdetkd.checkpoints.atomic import atomic_write

__all__ = [
    "CheckpointError",
    "SafeCheckpointHook",
    "allow_checkpoint_types",
    "drop_code",
    "export_student",
    "load_strictly",
    "read_checkpoint",
    "student_state",
    "write_checkpoint",
]

_UNSAFE_SWITCH = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class CheckpointError(ValueError):
    """Not the checkpoint that it should be: says what was expected, what came and what to do."""


# --- What stands for the names in a pickle --------------------------------------------------------


class _NumberType:
    """Stands for ``numpy.dtype``: booleans, integers and floats.

    numpy believes a pickled dtype about its size, fields and sub-arrays, and a false state makes it
    read and write foreign memory. So the real ``dtype.__setstate__`` never sees a file's state.
    """

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"b1|[iu][1248]|f[248]", code)):
            raise pickle.UnpicklingError(f"expected a numpy number type, got numpy.dtype({code!r})")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        _, order, *rest = state
        if order not in ("<", ">", "|") or rest != [None, None, None, -1, -1, 0]:
            raise pickle.UnpicklingError(f"expected a plain numpy number type, got state {state!r}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """Stands for ``numpy.ndarray``: numbers that fill a shape exactly; pickles as the real one."""

    def __new__(cls, *_: Any) -> _Array:
        return super().__new__(cls, 0)

    def __setstate__(self, state: tuple) -> None:
        *_, shape, kind, fortran, data = state
        counts = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not (counts and isinstance(kind, _NumberType) and isinstance(data, bytes)):
            raise pickle.UnpicklingError(f"expected an array of numbers, got shape {shape!r}")
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise pickle.UnpicklingError(
                f"expected {math.prod(shape)} numbers of type {kind.dtype}, got {len(data)} bytes"
            )
        super().__setstate__((shape, kind.dtype, bool(fortran), data))

    def __reduce__(self) -> tuple:
        return np.asarray(self).__reduce__()


def _array(*_: Any) -> _Array:
    """Stand for numpy's ``_reconstruct``, which makes the empty array that a state then fills."""
    return _Array()


def _number(kind: _NumberType, data: bytes) -> np.generic:
    """Stand for numpy's ``scalar``."""
    if not (isinstance(kind, _NumberType) and isinstance(data, bytes)):
        raise pickle.UnpicklingError(f"expected one numpy number, got {data!r}")
    if len(data) != kind.dtype.itemsize:
        raise pickle.UnpicklingError(f"expected one {kind.dtype}, got {len(data)} bytes")
    return np.frombuffer(data, kind.dtype)[0]


class _History(HistoryBuffer):
    """Stands for ``HistoryBuffer`` and becomes one when its state arrives.

    ``HistoryBuffer.__setstate__`` takes any attribute, and replaces the statistics of *every*
    buffer in the process; of the state only the numbers are taken here.
    """

    def __setstate__(self, state: dict) -> None:
        log, count = np.array(state["_log_history"]), np.array(state["_count_history"])
        numbers = {log.dtype.kind, count.dtype.kind} <= set("biuf")
        if not numbers or log.ndim != 1 or log.shape != count.shape:
            raise pickle.UnpicklingError(
                "expected a history of numbers and their counts, "
                f"got shapes {log.shape} and {count.shape}"
            )
        super().__init__(log, count, int(state["max_length"]))
        self.__class__ = HistoryBuffer


def _history_method(owner: Any, name: str) -> Any:
    """Stand for ``getattr``, by which a pickle names the four statistics of a ``HistoryBuffer``."""
    if owner is _History and name in ("min", "max", "current", "mean"):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(
        f"getattr({getattr(owner, '__name__', owner)!s}, {name!r}) is refused: "
        "only HistoryBuffer's min, max, current and mean may be looked up"
    )


_STAND_INS = [
    (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_history_method, "builtins.getattr"),
    (_NumberType, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    # numpy 2 moved numpy.core to numpy._core; files of both exist.
    *((_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def allow_checkpoint_types() -> None:
    """Let ``torch.load`` read MMEngine's checkpoints with its check on; may be called repeatedly.

    Needs PyTorch 2.6 or later, whose ``torch.load`` checks by default: MMEngine's calls
    (``Runner.resume``, ``load_checkpoint``, and with them MMDetection's ``init_detector``) do not
    ask for the check themselves. An environment variable, ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD``,
    would switch the check off for those calls: it is removed from this process, with a warning.
    """
    torch.serialization.add_safe_globals(_STAND_INS)
    if os.environ.pop(_UNSAFE_SWITCH, None) is not None:
        warnings.warn(
            f"{_UNSAFE_SWITCH} was set, which lets any checkpoint run code; it is ignored and "
            "removed from this process's environment, because checkpoints load without it.",
            stacklevel=2,
        )


# --- Reading --------------------------------------------------------------------------------------


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


# --- The student alone ----------------------------------------------------------------------------


def _take(state: dict, prefix: str) -> OrderedDict:
    """The entries under ``prefix``, without it, and the module versions kept beside them."""
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
    """The model's weights, wherever the layout keeps them, without ``DataParallel``'s prefix."""
    state = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    entries = state.items() if isinstance(state, dict) else ()
    tensors = all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in entries)
    if not entries or not tensors:
        raise CheckpointError(
            "expected weights (a state dict, alone or under 'state_dict' or 'model'), got the keys "
            f"{sorted(map(str, checkpoint))[:8]}; name the checkpoint of a training run"
        )
    return _take(state, "module.") if all(key.startswith("module.") for key in state) else state


def student_state(checkpoint: dict, weights: str = "auto") -> tuple[dict, str]:
    """The plain student's state dict out of a distilled detector's checkpoint, and which it is.

    Args:
        checkpoint: as :func:`read_checkpoint` gives it. A plain detector's passes unchanged.
        weights: ``'auto'`` takes what MMEngine tests: the averaged weights where the run kept any.
            ``'ema'`` and ``'raw'`` insist on the averaged and on the last trained ones.

    Returns:
        The state dict (tensors shared with ``checkpoint``), and ``'ema'``, ``'raw'``, or
        ``'plain'`` for a plain detector without averaged weights.

    Raises:
        ValueError: an unknown ``weights``.
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
        state = _model_state({"state_dict": _take(averaged, "module.")})
    which = "ema" if averaged is not None and weights != "raw" else "raw"
    student = _take(state, "student.")
    if student:
        return student, which
    if any(key.startswith("objective.") for key in state):
        raise CheckpointError(
            "expected a distilled detector with weights under 'student.', got only "
            f"{sorted(state)[:4]}; name the checkpoint of a finished training step"
        )
    return state, which if averaged is not None else "plain"


def _plain(value: Any) -> Any:
    """``value`` as lists, dictionaries, strings and numbers: PyTorch loads these without help."""
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
    """Write the student alone, for MMDetection's ``init_detector(student_config, file)``.

    The file holds the weights, the dataset's class names and palette as plain lists, where the
    weights come from and no config text; no reader needs this package for it.

    Args:
        source: checkpoint of a distilled detector (or of a plain one, to slim it).
        destination: the file to write; it appears complete or not at all.
        half: store floating point weights in fp16; a tensor that would overflow stays as it is.

    Returns:
        Which weights it holds: 'ema', 'raw' or 'plain', see :func:`student_state`.

    Raises:
        CheckpointError: the source is unreadable or has no student, or is the destination itself.
    """
    source, destination = Path(source), Path(destination)
    checkpoint = read_checkpoint(source)
    if destination.exists() and destination.samefile(source):
        raise CheckpointError(f"{destination}: expected another file than the source, got the same")
    try:
        state, which = student_state(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    exported = _take(state, "")
    for key, value in exported.items():
        # Cloned: torch.save writes the whole storage behind a view.
        exported[key] = (_fp16(value) if half else value).detach().clone()
    old = checkpoint.get("meta") or {}
    meta = {key: old[key] for key in ("epoch", "iter") if isinstance(old.get(key), int)}
    meta.update(weights=which, half=half, gdetkd_version=gdetkd.__version__)
    dataset_meta = _dataset_meta(old)
    if dataset_meta:
        meta["dataset_meta"] = dataset_meta
    write_checkpoint({"meta": meta, "state_dict": exported}, destination)
    return which


def load_strictly(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Load weights; raise ValueError with the first differences if any key or shape differs."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ValueError(
            f"the weights of {where} do not fit the config ({'; '.join(lines[:3])}). Give the "
            "config that the checkpoint was trained with, or the plain student's"
        ) from error


def write_checkpoint(obj: Any, path: str | os.PathLike) -> None:
    """Save ``obj``; at every moment, through a crash too, ``path`` is the old or the new file."""
    with atomic_write(path) as file:
        torch.save(obj, file)


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Make MMEngine's Runner load and resume checkpoints as data; put it into ``custom_hooks``.

    ``Runner.resume`` calls ``load_checkpoint``, which calls this hook, before it executes
    ``meta['config']``: by then the text is gone. Building the hook also allows the types that
    MMEngine's checkpoints need.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        allow_checkpoint_types()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Drop the config text of a checkpoint that has just been read.

        Raises:
            CheckpointError: A training is to be resumed from it and its weights are not those of
                the model: MMEngine would leave out what does not fit, and go on.
        """
        drop_code(checkpoint)
        if runner._resume:
            _check_same_model(runner.model, checkpoint["state_dict"])


def _check_same_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Raise CheckpointError, with the first difference, unless names and shapes are equal."""
    ours, theirs = (
        {str(name).removeprefix("module."): tuple(value.shape) for name, value in state.items()}
        for state in (model.state_dict(), saved)
    )
    differences = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if differences:
        name = differences[0]
        raise CheckpointError(
            f"cannot resume from the checkpoint of another model ({len(differences)} differences): "
            f"{name} is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} in the "
            "config's. Give the config that it was trained with, or another --work-dir"
        )
