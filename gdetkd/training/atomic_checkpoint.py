"""Whole checkpoints: at every moment, through a crash or a full disk, there is one to resume from.

MMEngine's CheckpointHook deletes the old checkpoint first and writes the new one in place. Here a
checkpoint is written beside its name, brought to the disk, renamed, and only then the old one goes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from gdetkd.checkpoints.atomic_files import AtomicFiles
from gdetkd.training.loops import _Resumable, average_batch_statistics

_UNFINISHED = re.compile(r"\..+\.pth\.\d+\.tmp")


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, with whole files from which a training resumes exactly.

    A checkpoint's `meta` also holds `progress`, see `gdetkd.training.loops`.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.backend_args is None and self.file_client_args is None:
            self.backend_args = dict(backend="atomic")

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Hand a resumed training's progress to its loop."""
        progress = (checkpoint.get("meta") or {}).get("progress")
        loop = runner._train_loop
        if progress and runner._resume and isinstance(loop, _Resumable):
            loop.resume_from(progress)

    def before_train(self, runner: Any) -> None:
        if is_main_process():
            remove_unfinished(runner.work_dir)
        super().before_train(runner)
        self.last_ckpt = runner.message_hub.runtime_info.get("last_ckpt")
        self._remove_waiting(None)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        average_batch_statistics(runner.model)
        loop = runner._train_loop
        if isinstance(loop, _Resumable):
            meta.update(progress=loop.progress())
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_waiting(self.last_ckpt)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        loop = runner._train_loop
        if isinstance(loop, _Resumable):
            loop.validated = runner.iter
        super()._save_best_checkpoint(runner, metrics)
        self._remove_waiting(getattr(self, "best_ckpt_path", None))

    def _remove_waiting(self, keep: str | None) -> None:
        if isinstance(self.file_backend, AtomicFiles):
            self.file_backend.remove_waiting(keep)


def remove_unfinished(work_dir: str | os.PathLike) -> None:
    """Remove what a killed training was writing; nothing else has such names."""
    for path in Path(work_dir).glob(".*.tmp"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
