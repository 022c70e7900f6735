"""The hook that makes MMEngine's Runner refuse what it would load in part and in silence."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from gdetkd.checkpoints.loading import check_same_model, check_usable
from gdetkd.checkpoints.migration import rename_old_keys
from gdetkd.checkpoints.reading import drop_code


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Makes MMEngine's Runner refuse a checkpoint of another model; put it into `custom_hooks`."""

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Check the weights that have been read and are about to be loaded.

        Also drops config text that MMEngine would execute, should something else than
        `gdetkd.checkpoints.reading` have read the file.

        Raises:
            CheckpointError: None of the weights fit; or a training is to be resumed, and they are
                not all those of the model: MMEngine would leave out what does not fit, and go on.
        """
        drop_code(checkpoint)
        rename_old_keys(checkpoint)
        state = checkpoint.get("state_dict", checkpoint)
        check_usable(runner.model, state, runner._load_from or "")
        if runner._resume:
            check_same_model(runner.model, state)
