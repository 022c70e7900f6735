"""Weights into a model: all of them, or an error that names the first differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gdetkd.checkpoints.reading import CheckpointError
from gdetkd.checkpoints.student import renamed_to_fit


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights; raise ValueError with the first differences if any key or shape differs."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ValueError(
            f"the weights of {where} do not fit the config ({'; '.join(lines[:3])}). Give the "
            "config that the checkpoint was trained with, or the plain student's"
        ) from error


def check_same_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Raise CheckpointError, with the first difference, unless names and shapes are equal."""
    expected, saved = (
        {str(name).removeprefix("module."): tuple(value.shape) for name, value in state.items()}
        for state in (model.state_dict(), saved)
    )
    differences = [n for n in {**expected, **saved} if expected.get(n) != saved.get(n)]
    if differences:
        name = differences[0]
        found, wanted = saved.get(name, "missing"), expected.get(name, "missing")
        raise CheckpointError(
            f"cannot resume from the checkpoint of another model ({len(differences)} differences): "
            f"{name} is {found} there and {wanted} in the config's. Give the config that it was "
            "trained with, or another --work-dir"
        )


def check_usable(model: nn.Module, state: Mapping[str, Any], where: str = "") -> None:
    """Raise CheckpointError unless one entry of a state dict fits the model by name and shape.

    MMEngine loads what fits, warns of the rest, and goes on with random weights if it is all.

    Args:
        where: The file, for the message.
    """
    state = renamed_to_fit(model, state)
    expected = {
        name.removeprefix("module."): getattr(value, "shape", None)
        for name, value in model.state_dict().items()
    }
    names = {name: name.removeprefix("module.") for name in state}
    if expected and not any(
        isinstance(state[name], Tensor) and state[name].shape == expected.get(plain)
        for name, plain in names.items()
    ):
        raise CheckpointError(
            f"{where or 'the checkpoint'}: expected weights of {type(model).__name__} such as "
            f"{next(iter(expected))!r}, got none that fit, but {list(names)[:3]}; name the "
            "checkpoint of such a model"
        )
