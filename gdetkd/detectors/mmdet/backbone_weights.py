"""Pretrained weights that `init_cfg` names, for a backbone of torchvision or transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from gdetkd.checkpoints.hub import find_checkpoint
from gdetkd.checkpoints.student import read_student

# What may stand before the names of a backbone's weights in a file: a detector's or a classifier's.
PREFIXES = ("", "backbone.", "features.", "model.backbone.", "model.")


def read_start(start: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The weights that an `init_cfg` names, and their name for messages."""
    name, prefix = str(start["checkpoint"]), start.get("prefix", "")
    if "://" in name and not name.startswith("http"):
        state = CheckpointLoader.load_checkpoint(name, "cpu", logger="silent")
    else:
        state = read_student(find_checkpoint(name))
    return {key.removeprefix(prefix): value for key, value in state.items()}, name


def load_backbone(body: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load a backbone's weights out of those of a backbone, a classifier or a detector.

    Raises:
        ValueError: The file `name` lacks a tensor of the backbone, or has it in another shape.
    """
    inner = getattr(body, "body", None)  # torchvision's: the classifier's layers, below the FPN
    for part in (body,) if inner is None else (body, inner):
        shapes = {n: t.shape for n, t in part.state_dict().items() if "num_batches" not in n}
        for prefix in PREFIXES:
            found = {n: state[prefix + n] for n in shapes if prefix + n in state}
            if all(n in found and found[n].shape == shape for n, shape in shapes.items()):
                part.load_state_dict(found, strict=False)
                return
    missing = next(iter(shapes))
    raise ValueError(
        f"{name}: expected the weights of this backbone ({type(body).__name__}), e.g. {missing} of "
        f"shape {tuple(shapes[missing])}, got other names or shapes, e.g. {next(iter(state))}. "
        "To start from others: --init FILE; from random weights: --init none"
    )
