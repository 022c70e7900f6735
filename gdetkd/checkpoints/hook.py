"""The hook that makes MMEngine's Runner refuse what it would load in part and in silence."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from gdetkd.checkpoints.loading import check_same_model
from gdetkd.checkpoints.migration import rename_old_keys
from gdetkd.checkpoints.reading import drop_code
from gdetkd.checkpoints.unpickling import allow_checkpoint_types


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Make MMEngine's Runner load and resume checkpoints as data; put it into `custom_hooks`.

    `Runner.resume` calls `load_checkpoint`, which calls this hook, before it executes
    `meta['config']`: by then the text is gone. Building the hook also allows the types that
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
        rename_old_keys(checkpoint)
        if runner._resume:
            check_same_model(runner.model, checkpoint["state_dict"])
