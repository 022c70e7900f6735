"""What every training checks and shows: the classes of the data, progress."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tqdm import tqdm

from gdetkd.detectors.mmdet.hook import DistillationHook, unwrapped
from gdetkd.ops.console import say


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
    """Progress with ETA: a bar on a terminal, elsewhere at most twenty lines."""

    priority = "LOWEST"  # with DistillationHook or after it, to tell what that measured
    _bar: tqdm | None = None  # of this process

    @classmethod
    def close(cls) -> None:
        """End the bar's line, also where the training failed, so that a message has its own."""
        if cls._bar is not None:
            cls._bar.close()
            cls._bar = None

    def before_train(self, runner: Any) -> None:
        teacher = runner.message_hub.runtime_info.get("teacher")
        if teacher:
            name, value = next(iter(teacher.items()))
            error = teacher.get("calibration_error")
            off = "" if error is None else f"; its scores are off by {error:.2f} on average"
            say(f"Teacher on the validation set: {name} {value:.3f}{off}")
        ProgressHook._bar = tqdm(
            total=runner.max_iters,
            initial=runner.iter,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 20,
            miniters=None if sys.stderr.isatty() else max(1, runner.max_iters // 20),
            dynamic_ncols=sys.stderr.isatty(),
        )

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch=None, outputs=None) -> None:
        if outputs is not None and (batch_idx + 1) % 10 == 0:
            self._bar.set_postfix(loss=f"{float(outputs['loss']):.2f}", refresh=False)
        self._bar.update()

    def before_val(self, runner: Any) -> None:
        self._bar.clear()

    def after_train(self, runner: Any) -> None:
        self.close()


class Stopped(KeyboardInterrupt):
    """A training was asked to stop, and has saved where it is."""

    def __init__(self, step: int, last: int, checkpoint: Path) -> None:
        super().__init__(f"Stopped after step {step} of {last}. Last checkpoint: {checkpoint}")


@HOOKS.register_module()
class StopHook(Hook):
    """On Ctrl-C, ends the step, saves a checkpoint and raises `Stopped`; a second one interrupts.

    Where gradients are accumulated, it ends the whole optimizer step.
    """

    priority = "LOWEST"

    def before_train(self, runner: Any) -> None:
        self._asked = False
        signal.signal(signal.SIGINT, self._ask)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch=None, outputs=None) -> None:
        done = runner.iter + 1
        if self._asked and done % getattr(runner.optim_wrapper, "_accumulative_counts", 1) == 0:
            self._stop(runner, done)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._asked:
            self._stop(runner, runner.iter)

    def _ask(self, *_: Any) -> None:
        say("Stopping after this step; once more interrupts it.")
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @staticmethod
    def _stop(runner: Any, done: int) -> None:
        path = Path(runner.work_dir) / f"iter_{done}.pth"
        progress = getattr(runner.train_loop, "progress", dict)()
        meta = dict(epoch=runner.epoch, iter=done, **(dict(progress=progress) if progress else {}))
        runner.save_checkpoint(
            str(path.parent), path.name, meta=meta, by_epoch=False,
            backend_args=dict(backend="atomic"),
        )  # fmt: skip
        runner.message_hub.update_info("last_ckpt", str(path))
        for hook in runner.hooks:
            if isinstance(hook, DistillationHook):
                hook.after_train_iter(runner, done)  # the student alone, beside it
            if isinstance(hook, ProgressHook):
                hook.after_train(runner)
        raise Stopped(done, runner.max_iters, path)
