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


def variants(pipeline: Sequence[ConfigDict]) -> int:
    """In how many ways a pipeline shows an image; 0 where there is no end to them, or nothing."""
    number = min(1, len(pipeline))
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
        images = _images(runner)
        if not images or shutil.disk_usage(runner.work_dir).free < 2e6 * MEGABYTES:
            return
        self._folder = Path(runner.work_dir) / FOLDER
        teacher = unwrapped(runner.model).teacher
        settings = f"{model_settings(runner.cfg.model.teacher.config)}"
        teacher.extract_feat = PyramidCache(
            teacher, settings, teacher.extract_feat, self._folder, MEGABYTES, images
        )
        runner.logger.info(f"What the teacher computes is kept in {self._folder} until the end")

    def after_train(self, runner: Any) -> None:
        if self._folder is None:
            return
        del unwrapped(runner.model).teacher.extract_feat  # the instance's, before the method
        barrier()
        if is_main_process():
            shutil.rmtree(self._folder, ignore_errors=True)


def _images(runner: Any) -> int:
    """How many images the teacher will see again and again; 0 where keeping them does not pay."""
    model, loader = unwrapped(runner.model), runner.cfg.train_dataloader
    teacher = getattr(model, "teacher", None)
    if teacher is None or isinstance(teacher, LibraryDetector) or torch.cuda.is_available():
        return 0
    resized = getattr(model.data_preprocessor, "batch_augments", None)  # by batches, at random
    if resized or "cache" in runner.cfg.model.teacher:
        return 0
    images = variants(loader.dataset.get("pipeline", ())) * len(runner.train_dataloader.dataset)
    seen = runner.max_iters * loader.batch_size * get_world_size()
    return images if seen >= FEWEST_PASSES * images else 0
