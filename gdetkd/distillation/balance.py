"""Weights by the share of the gradient that a component has beside the detector's own losses.

A weight of 1 means something else for every pair: an imitation loss is ten times the detector's own
for one teacher and a hundredth for another. What can be said for all of them is the ratio

    share = |d(weight * component)/d(features)| / |d(own losses)/d(features)|

of gradient norms at the student's pyramid, where both arrive. `weight="auto"` asks for `SHARE`, and
`weight="20%"` for 0.2. It is measured at each of the first steps, later rarely, and the weight
follows. (The ratio of gradient norms at shared features is that of GradNorm, Chen et al. 2018.)
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gdetkd.distillation.distributed import mean_over_ranks
from gdetkd.ops.console import DistillationWarning

SHARE = 0.1  # of "auto", for each component
FIRST = 20  # steps that are all measured; the weight is the mean of their logarithms
EVERY = 50  # steps between two measurements later
RATE = 0.1  # by which a later measurement moves the weight's logarithm
RANGE = 10.0  # that the weight may move from where the first steps left it
TOO_STRONG = 10.0  # times the detector's own loss or gradient


def share_of(weight: Any) -> float | None:
    """The share that a weight asks for: 'auto' or a percentage; None for any other weight."""
    if weight == "auto":
        return SHARE
    if isinstance(weight, str) and weight.endswith("%"):
        try:
            share = float(weight[:-1]) / 100
        except ValueError:
            return None
        return share if 0 < share < float("inf") else None
    return None


class Balance(nn.Module):
    """The weights of the components that have a share; a checkpoint keeps them.

    Args:
        shares: By component, above 0.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        super().__init__()
        self.names = list(shares)
        logs = torch.tensor([shares[name] for name in self.names]).log()
        self.register_buffer("log_shares", logs, persistent=False)
        self.register_buffer("log_weights", torch.zeros(len(shares)))
        self.register_buffer("first_log_weights", torch.zeros(len(shares)))
        self.register_buffer("measured", torch.zeros(len(shares)))  # how often
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._step: int | None = None  # as `step`, which a GPU would have to be waited for

    def measure(
        self, losses: Mapping[str, Tensor], own: Tensor, features: Sequence[Tensor]
    ) -> None:
        """Measure, where it is time, and count the step.

        Args:
            losses: The components' unweighted ones.
            own: The sum of the detector's own.
            features: The student's pyramid, on which both depend.
        """
        if self._step is None:
            self._step = int(self.step)
        if self._step < FIRST or self._step % EVERY == 0:
            norms = [gradient_norm(losses[name], features) for name in self.names]
            self.update(norms, gradient_norm(own, features))
        if self._step == FIRST - 1:
            self._warn_if_never_measured()
        self._step += 1
        self.step += 1

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """Scalars by component: 0 until its gradient was measured."""
        values = self.log_weights.exp() * (self.measured > 0)
        return dict(zip(self.names, values, strict=True))

    @torch.no_grad()
    def update(self, norms: Sequence[Tensor], own: Tensor) -> None:
        """Take over one measurement; a component without a gradient keeps its weight.

        Args:
            norms: Of the components' unweighted gradients, in the order of `names`.
            own: Of the detector's own losses.
        """
        found = self.log_shares + own.log() - torch.stack(list(norms)).log()
        good = found.isfinite()
        first = self.measured < FIRST
        rate = torch.where(first, 1 / (self.measured + 1), self.measured.new_tensor(RATE))
        moved = self.log_weights + rate * (found.nan_to_num(0.0, 0.0, 0.0) - self.log_weights)
        limit = torch.tensor(RANGE).log().to(moved)
        near = moved.clamp(self.first_log_weights - limit, self.first_log_weights + limit)
        self.log_weights.copy_(torch.where(good, torch.where(first, moved, near), self.log_weights))
        self.first_log_weights.copy_(
            torch.where(good & first, self.log_weights, self.first_log_weights)
        )
        self.measured += good

    def _warn_if_never_measured(self) -> None:
        never = [name for name, times in zip(self.names, self.measured, strict=True) if not times]
        if never:
            warnings.warn(
                f"the weight of {', '.join(never)} is 0: in {FIRST} steps either its loss or the "
                "detector's own losses had no gradient at the student's pyramid. Give a number as "
                "weight, or, in an adapter of your own, return as `pyramid` the maps from which "
                "the heads compute",
                DistillationWarning,
                stacklevel=3,
            )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._step = None


def gradient_norm(loss: Tensor, features: Sequence[Tensor]) -> Tensor:
    """The norm of a loss's gradient at all pyramid levels together, the mean over the ranks.

    No parameter gets a gradient, and the graph stays. 0 where nothing depends on the features.
    """
    if not loss.requires_grad:
        return mean_over_ranks(loss.new_zeros(()))
    found = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
    squares = [grad.float().square().sum() for grad in found if grad is not None]
    return mean_over_ranks(torch.stack(squares).sum().sqrt() if squares else loss.new_zeros(()))


def own_loss(losses: Mapping[str, Any]) -> Tensor:
    """The sum of a detector's own losses; those of levels come as lists."""
    return sum(
        value.sum()
        for name, values in losses.items()
        if "loss" in name
        for value in (values if isinstance(values, list | tuple) else [values])
    )


def warn_if_too_strong(
    losses: Mapping[str, Tensor], own: Tensor, features: Sequence[Tensor]
) -> None:
    """Warn of a weighted component that is more than ten times the detector's own losses."""
    own_norm = gradient_norm(own, features)
    for name, loss in losses.items():
        ratios = dict(loss=(loss / own).detach())
        if own_norm > 0:
            ratios["gradient"] = gradient_norm(loss, features) / own_norm
        for what, ratio in ratios.items():
            if ratio > TOO_STRONG:
                component = name.removeprefix("kd_").removesuffix("_loss")
                warnings.warn(
                    f"at the first step the {what} of {component} is {float(ratio):.0f} times that "
                    "of the detector's own losses: the student will hardly learn from its labels. "
                    f"Lower the weight of {component}, or have it found: "
                    f"model.components.{component}.weight=auto",
                    DistillationWarning,
                    stacklevel=3,  # of the module that was called
                )
                break
