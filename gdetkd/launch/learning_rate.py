"""The linear scaling rule: a learning rate is chosen for a number of images per step."""

from __future__ import annotations

from collections.abc import Callable

from mmengine.config import Config


def scale_learning_rate(config: Config, processes: int, report: Callable[[str], object]) -> None:
    """Let MMEngine scale the learning rate with the images per step, and report the new rate.

    A config without `auto_scale_lr.base_batch_size` keeps its rate.

    Args:
        config: Changed in place: `auto_scale_lr.enable` becomes True.
        processes: Processes that train, each on a batch of its own.
        report: Called with one sentence if the rate changes.
    """
    base = (config.get("auto_scale_lr") or {}).get("base_batch_size")
    if not base:
        return
    config.auto_scale_lr.enable = True
    batch_size = config.train_dataloader.batch_size
    images = processes * batch_size
    rate = config.optim_wrapper.optimizer.lr
    if images != base:
        report(
            f"Learning rate {rate:g} is for {base} images per step; with {images} "
            f"({processes} x {batch_size}) it is {rate * images / base:g}."
        )
