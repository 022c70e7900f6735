"""What every training checks and shows: the classes of the data, progress."""

from __future__ import annotations

import sys
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tqdm import tqdm

from gdetkd.detectors.mmdet.hook import unwrapped


@HOOKS.register_module()
class ClassesHook(Hook):
    """Refuses to train a head with other classes than the data has, or on nothing annotated."""

    def before_train(self, runner: Any) -> None:
        """Raise ValueError, naming the head and both numbers."""
        dataset = runner.train_dataloader.dataset
        classes = dataset.metainfo.get("classes")
        if classes is None or isinstance(classes, str):
            raise ValueError(
                "expected the training set's metainfo to have a tuple of classes, got "
                f"{classes!r}; set dataset.metainfo = dict(classes=('one', 'two'))"
            )
        for name, head in unwrapped(runner.model).named_modules():
            number = getattr(head, "num_classes", None)
            if "bbox_head" in name and number is not None and number != len(classes):
                raise ValueError(
                    f"{name} predicts {number} classes, the training set has {len(classes)} "
                    f"({', '.join(classes[:3])}, ...). Set num_classes={len(classes)} in the "
                    "model's config, or the data set's metainfo"
                )
        if hasattr(dataset, "get_data_info") and not any(
            "instances" not in info or info["instances"]
            for info in map(dataset.get_data_info, range(len(dataset)))
        ):
            raise ValueError(
                f"nothing to train on: none of the {len(dataset)} images of the training set has "
                "an object of the config's classes; check its ann_file, metainfo.classes and "
                "filter_cfg"
            )


@HOOKS.register_module()
class ProgressHook(Hook):
    """Progress with ETA: a bar on a terminal, a line every twenty seconds elsewhere."""

    priority = "LOWEST"  # with DistillationHook or after it, to tell what that measured

    def before_train(self, runner: Any) -> None:
        teacher = runner.message_hub.runtime_info.get("teacher")
        if teacher:
            name, value = next(iter(teacher.items()))
            print(f"Teacher on the validation set: {name} {value:.3f}", flush=True)
        self._bar = tqdm(
            total=runner.max_iters,
            initial=runner.iter,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 20,
            dynamic_ncols=sys.stderr.isatty(),
        )

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch=None, outputs=None) -> None:
        if outputs is not None and (batch_idx + 1) % 10 == 0:
            self._bar.set_postfix(loss=f"{float(outputs['loss']):.2f}", refresh=False)
        self._bar.update()

    def before_val(self, runner: Any) -> None:
        self._bar.clear()

    def after_train(self, runner: Any) -> None:
        self._bar.close()
