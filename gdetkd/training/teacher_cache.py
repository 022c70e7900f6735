"""A training whose images come back as they were computes each pyramid of its teacher once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.dist import barrier, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from gdetkd.detectors.mmdet.building import model_settings
from gdetkd.detectors.mmdet.hook import unwrapped
from gdetkd.detectors.mmdet.other_library import LibraryDetector
from gdetkd.detectors.mmdet.pyramid_cache import PyramidCache

FOLDER, MEGABYTES = "teacher_pyramids", 4000
FEWEST_PASSES = 4  # over the training set, below which computing is as quick
UNCHANGING = {"LoadImageFromFile", "LoadAnnotations", "FilterAnnotations", "PackDetInputs"}


def variants(pipeline: Sequence[ConfigDict]) -> int | None:
    """In how many ways a pipeline shows one image, 0 where there is no end to them."""
    number = 1
    for step in pipeline:
        if step["type"] == "RandomFlip":
            direction = step.get("direction", "horizontal")
            number *= 2 if isinstance(direction, str) else 1 + len(direction)
        elif step["type"] == "Resize":
            number *= "scale" in step or "scale_factor" in step
        elif step["type"] not in UNCHANGING:
            return 0
    return number


@HOOKS.register_module()
class TeacherCacheHook(Hook):
    """Keeps the pyramids of the teacher in the work dir, and removes them after the last step.

    On a CPU, for a teacher of MMDetection, in a training of several passes over images that are at
    most flipped, where all of them fit into 4 GB. It changes no result: see `PyramidCache`.
    """

    priority = "LOWEST"  # after DistillationHook, which measures the teacher on other images

    def before_train(self, runner: Any) -> None:
        self._folder = None
        model, dataset = unwrapped(runner.model), runner.train_dataloader.dataset
        teacher, settings = getattr(model, "teacher", None), runner.cfg.model.get("teacher")
        number = variants(runner.cfg.train_dataloader.dataset.get("pipeline") or [{"type": ""}])
        seen = runner.max_iters * runner.cfg.train_dataloader.batch_size * get_world_size()
        if (
            teacher is None
            or isinstance(teacher, LibraryDetector)
            or torch.cuda.is_available()
            or "cache" in settings
            or seen < FEWEST_PASSES * len(dataset) * max(number, 1)
            or number == 0
        ):
            return
        self._folder = Path(runner.work_dir) / FOLDER
        if shutil.disk_usage(runner.work_dir).free < 2e6 * MEGABYTES:
            return
        teacher.extract_feat = PyramidCache(
            teacher, f"{model_settings(settings.config)}", teacher.extract_feat, self._folder,
            MEGABYTES, number * len(dataset),
        )  # fmt: skip
        runner.logger.info(f"What the teacher computes is kept in {self._folder} until the end")

    def after_train(self, runner: Any) -> None:
        if self._folder is None:
            return
        del unwrapped(runner.model).teacher.extract_feat  # the instance's, before the method
        barrier()
        if is_main_process():
            shutil.rmtree(self._folder, ignore_errors=True)
