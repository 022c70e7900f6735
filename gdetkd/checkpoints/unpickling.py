"""What may stand in a checkpoint besides tensors and plain data, and what stands in for it.

A checkpoint of MMEngine 0.10 is more than tensors. Its message hub pickles `HistoryBuffer` objects,
whose state needs numpy arrays and `builtins.getattr`; `torch.load` with `weights_only=True` refuses
all of these. The usual ways out (`weights_only=False`, or allowing `getattr` itself) let a file run
any code. `allow_checkpoint_types` takes a third way: it answers each of these names with a stand-in
that can rebuild a history of numbers and nothing else.
"""

from __future__ import annotations

import math
import pickle
import re
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer


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
    """Let `torch.load` with `weights_only=True` read MMEngine's checkpoints; may be repeated."""
    torch.serialization.add_safe_globals(_STAND_INS)
