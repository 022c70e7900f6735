"""Files that are no honest checkpoints, by name: each is written by a function of a path."""

import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from torch import nn


class Call:
    """Pickles as a call of `function`, and then of `__setstate__` if a state is given."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state

    def __reduce__(self):
        return (self.function, self.args) + ((self.state,) if self.state else ())

    def __call__(self):  # pickle asks for something callable in the place of a function
        raise AssertionError


def through_getattr(*names):
    """Walk from HistoryBuffer, which is allowed, by `getattr` and calls alone."""
    found = HistoryBuffer
    for name in names:
        found = Call(found, name[1:]) if name.startswith("=") else Call(getattr, found, name)
    return found


def payload(kind: str, marker: Path) -> Call:
    """What makes the file `marker` if it is unpickled without a check."""
    command = f"touch {marker}"
    if kind == "reduce":
        return Call(os.system, command)
    if kind == "eval":
        return Call(eval, f"open({str(marker)!r}, 'w')")
    # HistoryBuffer.__init__.__globals__.get('warnings').sys.modules.get('os').system(command)
    warnings = through_getattr("__init__", "__globals__", "get", "=warnings")
    get = Call(getattr, Call(getattr, Call(getattr, warnings, "sys"), "modules"), "get")
    return Call(Call(getattr, Call(get, "os"), "system"), command)


def write(path: Path, layout: str, bomb: object, checkpoint: dict) -> None:
    """A checkpoint with a bomb, in one of the layouts that PyTorch has had."""
    checkpoint = {**checkpoint, "extra": bomb}
    if layout == "zip":
        torch.save(checkpoint, path)
    elif layout == "stream":
        torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    elif layout == "pickle":
        path.write_bytes(pickle.dumps(bomb, protocol=2))
    else:
        # The tar layout of PyTorch 0.1: three members, each of them pickles.
        with tarfile.open(path, "w") as tar:
            for name in ("storages", "tensors", "pickle"):
                data = pickle.dumps(bomb, protocol=2)
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def with_attributes(state: dict, **attributes) -> Call:
    """Pickles as an ordered dictionary with attributes, which could stand in for its methods."""
    return Call(OrderedDict, list(state.items()), state=attributes)


def zip_bomb(path: Path) -> None:
    """64 MiB of zeros in 64 KiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        with archive.open("a/data/0", "w") as entry:
            for _ in range(64):
                entry.write(bytes(2**20))


def shared(levels: int = 40) -> list:
    """A list of 2^40 entries, if every one of its few parts is written out."""
    value = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


def deep(levels: int = 200) -> list:
    value = []
    for _ in range(levels):
        value = [value]
    return value


def recursive() -> list:
    value = []
    value.append(value)
    return value


def damaged(good: dict) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Files without code to run; `good` is a whole checkpoint, of which most are variations."""
    buffer, stream = io.BytesIO(), io.BytesIO()
    torch.save(good, buffer)
    torch.save(good, stream, _use_new_zipfile_serialization=False)
    whole, whole_stream = buffer.getvalue(), stream.getvalue()
    for name, content in {
        "empty": b"",
        "text": b"some notes\n" * 100,
        "web page": b"<!DOCTYPE html><html>404</html>",
        "bytes": bytes(range(256)) * 8,
        "no archive": b"PK\x03\x04 no archive",
        "zip cut at 1 %": whole[: len(whole) // 100],
        "zip cut at 50 %": whole[: len(whole) // 2],
        "zip cut at 99 %": whole[: -len(whole) // 100],
        "stream cut at 50 %": whole_stream[: len(whole_stream) // 2],
        "stream cut at 99 %": whole_stream[: -len(whole_stream) // 100],
    }.items():
        yield name, lambda path, content=content: path.write_bytes(content)
    state, meta = good["state_dict"], good["meta"]
    first = next(iter(state))
    for name, value in {
        "list": [torch.ones(1)],
        "nothing": None,
        "number": 5,
        "tensor": torch.ones(3),
        "empty dictionary": {},
        "no weights": {"meta": {}, "optimizer": {}},
        "empty state": {**good, "state_dict": {}},
        "state is a list": {**good, "state_dict": [torch.ones(1)]},
        "state is a number": {**good, "state_dict": 5},
        "state of numbers": {**good, "state_dict": {"a": 1}},
        "state by number": {**good, "state_dict": {1: torch.ones(1)}},
        "other names": {**good, "state_dict": {"other.weight": torch.ones(3)}},
        "other shapes": {**good, "state_dict": {k: torch.ones(1, 2, 3, 4, 5) for k in state}},
        "meta is a list": {**good, "meta": ["config"]},
        "hub is a number": {**good, "message_hub": 5},
        "false versions": {**good, "state_dict": with_attributes(state, _metadata=5)},
        "false methods": {**good, "state_dict": with_attributes(state, items=5, copy=5)},
        "recursive list": {**good, "meta": {**meta, "dataset_meta": {"classes": recursive()}}},
        "shared lists": {**good, "meta": {**meta, "dataset_meta": {"classes": shared()}}},
        "deep list": {**good, "meta": {**meta, "dataset_meta": {"classes": deep()}}},
        "many strides": {
            **good,
            "state_dict": {
                **state, **{f"a{n}": torch.ones(1).expand(2**18) for n in range(40)}
            },
        },
        "strides": {**good, "state_dict": {**state, first: torch.ones(1).expand(10**10)}},
        "no data": {**good, "state_dict": {**state, first: torch.empty(10, device="meta")}},
        "sparse": {**good, "state_dict": {**state, first: torch.eye(3).to_sparse()}},
        "bytes by count": {**good, "extra": Call(bytearray, 10**11)},
        "number type": {
            **good,
            "extra": Call(
                np.dtype, "f8", False, True,
                state=(3, "<", (np.dtype("f8"), (1000,)), None, None, -1, -1, 0),
            ),
        },
        "objects": {**good, "extra": np.array([None, "x"], dtype=object)},
        "module": {**good, "extra": nn.Linear(1, 1)},
    }.items():  # fmt: skip
        yield name, lambda path, value=value: torch.save(value, path)
    yield "zip bomb", zip_bomb
    yield "TorchScript", lambda path: torch.jit.save(torch.jit.script(nn.Linear(1, 1)), str(path))
    yield "npz", lambda path: np.savez(path.open("wb"), a=np.ones(3))


def not_resumable(good: dict) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Files whose weights are good; what a training is to go on from is not."""
    for name, value in {
        "no step": {**good, "meta": {}},
        "step is text": {**good, "meta": {**good["meta"], "iter": "x", "epoch": [1]}},
        "hub of numbers": {**good, "message_hub": {"log_scalars": 5}},
        "optimizer of another": {**good, "optimizer": {"state": 5}},
        "no hub": {key: value for key, value in good.items() if key != "message_hub"},
        "generators": {**good, "meta": {**good["meta"], "progress": {"generators": 5}}},
    }.items():
        yield name, lambda path, value=value: torch.save(value, path)


def explosive(good: dict, marker: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Files that run code where a pickle, or the text of a config, is run."""
    for kind in ("reduce", "eval", "getattr"):
        for layout in ("zip", "stream", "tar", "pickle"):
            bomb = payload(kind, marker)
            yield (
                f"{kind}, {layout}",
                lambda path, layout=layout, bomb=bomb: write(path, layout, bomb, good),
            )
