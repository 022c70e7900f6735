"""Weights into a model: all of them, or an error that names the first differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gdetkd.checkpoints.reading import CheckpointError


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
