"""`AnnealingHook`: a distillation that fades, and ends before the training does."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from gdetkd.detectors.mmdet.distilled import DistilledDetector
from gdetkd.detectors.mmdet.hook import unwrapped


@HOOKS.register_module()
class AnnealingHook(Hook):
    """Takes the weights of a `DistilledDetector`'s components from full to 0, linearly.

    A student that trains for long may pass its teacher, which then holds it back. After `end` the
    student learns from its labels alone and the teacher no longer runs, so that a step costs what a
    plain one does. Transferred heads stay frozen. In a config::

        default_hooks = dict(annealing=dict(type="AnnealingHook", begin=0.25, end=0.5))

    Args:
        begin: Share of the training's steps up to which the weights are full.
        end: Share of them from which the weights are 0; equal to `begin` it is a switch.

    Raises:
        ValueError: Not 0 <= begin <= end <= 1, or the model that is trained has no components.
    """

    def __init__(self, begin: float, end: float) -> None:
        if not 0 <= begin <= end <= 1:
            raise ValueError(
                "AnnealingHook: expected shares of the training with 0 <= begin <= end <= 1, got "
                f"begin={begin!r}, end={end!r}"
            )
        self.begin, self.end = begin, end

    def strength(self, step: int, steps: int) -> float:
        """The factor of the weights at a step, counted from 0, of `steps`."""
        done = step / steps
        if done < self.begin:
            return 1.0
        return (self.end - done) / (self.end - self.begin) if done < self.end else 0.0

    def before_train(self, runner: Any) -> None:
        model = unwrapped(runner.model)
        if not isinstance(model, DistilledDetector) or model.distiller.objective is None:
            raise ValueError(
                "AnnealingHook: expected a DistilledDetector with a component of weight > 0, got "
                f"{type(model).__name__}; remove the hook, or set a weight"
            )

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        model = unwrapped(runner.model)
        model.distiller.strength = self.strength(runner.iter, runner.max_iters)
