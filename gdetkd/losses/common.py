"""What every loss needs: its arithmetic, its empty case, its shape errors."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

GPU_BLOCK_BYTES = 16 << 20  # few and large kernels


def block_length(like: Tensor, width: int, cpu_bytes: int) -> int:
    """How many rows of ``width`` numbers to hold at once; a CPU is fastest in its cache."""
    budget = cpu_bytes if like.device.type == "cpu" else GPU_BLOCK_BYTES
    return max(1, budget // (width * like.element_size()))


def full_precision(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in: float32, or float64 where an input is."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def empty_loss(*tensors: Tensor) -> Tensor:
    """A zero that depends on the tensors, so that each gets a gradient of zeros.

    Under DDP a rank without proposals must still reach every parameter, or the others wait for it.
    Nothing is read from the tensors: a NaN in them stays out.
    """
    return sum(t.flatten()[:0].sum(dtype=full_precision(t)) for t in tensors)


def check_shape(name: str, tensor: Tensor, expected: tuple[int | None, ...], why: str) -> None:
    """Raise ValueError unless the tensor has the expected shape; None stands for any size."""
    shape = tuple(tensor.shape)
    if len(shape) != len(expected) or any(
        want not in (None, size) for size, want in zip(shape, expected, strict=True)
    ):
        wanted = "(" + ", ".join("*" if size is None else str(size) for size in expected) + ")"
        raise ValueError(f"expected {name} of shape {wanted} {why}, got {shape}")


def check_number(
    name: str, value: object, low: float, high: float = math.inf, *, above: bool = False
) -> None:
    """Raise ValueError unless value is a finite number from low (or above it) to high."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and low <= value <= high and (value > low or not above):
        return
    least = f"{'above' if above else 'from'} {low:g}"
    most = f" to {high:g}" if high < math.inf else ""
    raise ValueError(f"expected {name} to be a finite number {least}{most}, got {value!r}")


def check_integer(name: str, value: object, low: int) -> None:
    """Raise ValueError unless value is a whole number from low on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"expected {name} to be a whole number from {low}, got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise ValueError unless value is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"expected {name} to be True or False, got {value!r}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise ValueError unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {sorted(choices)}, got {value!r}")


def check_temperature(name: str, value: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """A temperature ready to divide by; raise ValueError unless it is one number above 0.

    A tensor's value is not looked at: on a GPU that would make the CPU wait for it.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"expected {name} to be one number, got shape {tuple(value.shape)}")
        return value.to(dtype).reshape(())
    if not value > 0:
        raise ValueError(f"expected {name} above 0, got {value}")
    return value


def check_differentiated_once(loss: str) -> None:
    """Raise inside a backward that is itself recorded (``create_graph=True``).

    A loss that forms its gradients in the forward pass would otherwise return second derivatives
    that are silently incomplete.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{loss} cannot be differentiated twice: it forms its gradients in the forward pass. "
            "Leave out create_graph=True, or write the loss out for a small example."
        )
