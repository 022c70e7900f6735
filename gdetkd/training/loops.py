"""Training loops that can stop after any step and go on as if they had not.

MMEngine's loops read every skipped batch again to resume, cannot resume within an epoch, and put no
generator back. These take the position and the generators' states from the checkpoint, and repeat a
validation that an interruption has cut off.
"""

from __future__ import annotations

from typing import Any

from mmengine.dist import (
    all_gather_object,
    all_reduce_params,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from gdetkd.checkpoints.reading import CheckpointError
from gdetkd.ops.console import say
from gdetkd.training.resumable_loader import ResumableLoader
from gdetkd.training.rng_state import capture, restore
from gdetkd.training.settings import check_unchanged, data_of, settings_of


class _Resumable:
    """What both loops share.

    `progress` is what a checkpoint says beside the counters of epochs and steps: `run` (see
    `last_checkpoint`), `processes`, `batch_size` (per process), `generators` (one state per
    process), `validated`, the step after which validation was last complete, and `settings`.

    Args:
        run: The number of the run in its work dir.
    """

    endless: bool

    def __init__(
        self, runner: Any, dataloader: DataLoader | dict, run: int = 1, **settings: Any
    ) -> None:
        if isinstance(dataloader, dict):
            different = runner._randomness_cfg.get("diff_rank_seed", False)
            dataloader = runner.build_dataloader(
                dataloader, seed=runner.seed, diff_rank_seed=different
            )
        loader = ResumableLoader(dataloader, runner.seed, self.endless)
        super().__init__(runner, loader, **settings)
        self.run_number = run
        self.validated = 0
        self._progress: dict[str, Any] | None = None
        self._data: dict[str, Any] | None = None

    @property
    def batch_size(self) -> int:
        """Images a step and process."""
        return getattr(self.dataloader.batch_sampler.batches, "batch_size", None) or 1

    def progress(self) -> dict[str, Any]:
        """What to add to a checkpoint's `meta`; every process must call it."""
        return dict(
            run=self.run_number,
            processes=get_world_size(),
            batch_size=self.batch_size,
            validated=self.validated,
            generators=all_gather_object(capture()),
            settings=self._settings(),
        )

    def _settings(self) -> dict[str, Any]:
        """What `check_unchanged` compares; the data on the main process alone, and only once."""
        if self._data is None:
            self._data = {}
            if is_main_process():
                self._data = dict(data=data_of(self.dataloader.dataset))
        return {
            **settings_of(self.runner.cfg),
            "randomness.seed": self.runner.seed,
            **self._data,
        }

    def resume_from(self, progress: dict[str, Any]) -> None:
        """Go on from what a checkpoint says; the counters are MMEngine's to set.

        Raises:
            CheckpointError: It says nothing that a training could go on from, or the settings or
                the data have changed in a way that a resumed training cannot follow.
        """
        counts = [progress.get(name) for name in ("processes", "batch_size", "validated")]
        states = progress.get("generators")
        whole = all(type(count) is int and count >= 0 for count in counts)
        if not whole or not all(counts[:2]) or not (isinstance(states, list) and states):
            raise CheckpointError(
                "expected meta['progress'] to hold processes, batch_size, validated and "
                f"generators, got {counts} and {type(states).__name__}; name another checkpoint"
            )
        before = progress.get("settings")
        if isinstance(before, dict):  # older checkpoints have none
            for change in check_unchanged(before, self._settings()):
                say(f"Changed since the checkpoint, and applied: {change}.")
        self._progress = progress
        self.validated = progress["validated"]

    def _restore_generators(self) -> None:
        if self._progress is None:
            return
        states, self._progress = self._progress["generators"], None
        if len(states) == get_world_size():
            try:
                restore(states[get_rank()])
            except (TypeError, ValueError, KeyError, RuntimeError, AttributeError) as error:
                raise CheckpointError(
                    "expected the states of the random number generators in meta['progress'], got "
                    f"others ({error}); name another checkpoint"
                ) from error
        else:
            self.runner.logger.warning(
                f"The checkpoint is of {len(states)} process(es), this run of {get_world_size()}: "
                "it goes on from the same place in the data, but with other random draws."
            )

    def _batches_done(self, steps: int) -> int:
        """How many of this run's batches hold the samples of so many of the checkpoint's."""
        if self._progress is None:
            return steps
        before = self._progress["processes"] * self._progress["batch_size"]
        return steps * before // (get_world_size() * self.batch_size)

    def _validate(self) -> None:
        average_batch_statistics(self.runner.model)
        self.runner.val_loop.run()
        self.validated = self._iter


@LOOPS.register_module()
class ResumableIterLoop(_Resumable, IterBasedTrainLoop):
    """MMEngine's IterBasedTrainLoop, resumed exactly."""

    endless = True

    def run(self) -> nn.Module:
        """Train from the counter's step to the last one."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.dataloader.batch_sampler.start = self._batches_done(self._iter)
        self._restore_generators()
        if self._iter and self._due() and self.validated != self._iter:
            self._validate()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self._due():
                self._validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _due(self) -> bool:
        last = self._iter == self._max_iters
        return (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or last)
        )


@LOOPS.register_module()
class ResumableEpochLoop(_Resumable, EpochBasedTrainLoop):
    """MMEngine's EpochBasedTrainLoop, resumed exactly, within an epoch too."""

    endless = False

    def run(self) -> nn.Module:
        """Train from the counters' place to the end of the last epoch."""
        self.runner.call_hook("before_train")
        inside = self._batches_done(self._iter) - self._epoch * len(self.dataloader)
        self.dataloader.batch_sampler.start = min(max(inside, 0), len(self.dataloader))
        if inside <= 0:
            self._restore_generators()
            if self._epoch and self._due() and self.validated != self._iter:
                self._validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self._due():
                self._validate()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """What is left of an epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        batches = self.dataloader.batch_sampler
        batches.epoch, done = self._epoch, batches.start
        rest = iter(self.dataloader)
        self._restore_generators()
        for index, batch in enumerate(rest, done):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _due(self) -> bool:
        last = self._epoch == self._max_epochs
        return (
            self.runner.val_loop is not None
            and self._epoch >= self.val_begin
            and (self._epoch % self.val_interval == 0 or last)
        )


def average_batch_statistics(model: nn.Module) -> None:
    """Give all processes the mean of their batch normalizations' running statistics.

    DDP leaves every process its own. Done before each validation and checkpoint, the model that is
    measured is the one that is saved, and the one that every process resumes with.
    """
    statistics = [
        buffer
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
        for buffer in (module.running_mean, module.running_var)
    ]
    all_reduce_params(statistics, op="mean")
