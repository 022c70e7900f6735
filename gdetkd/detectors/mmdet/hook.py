"""What a distillation run does besides stepping: check the teacher, keep a student-only file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from gdetkd.checkpoints import atomic_files  # noqa: F401  (registers the backend "atomic")
from gdetkd.checkpoints.student import export_student
from gdetkd.detectors.mmdet.distilled import DistilledDetector

WEAK_TEACHER_AP = 0.05


@HOOKS.register_module()
class DistillationHook(Hook):
    """Goes with a `DistilledDetector`; put it into `custom_hooks`.

    - Before training it measures the teacher on the validation set, so that a teacher with the
      wrong weights, classes or pixels is seen at once, and checks that transferred heads are the
      teacher's.
    - Beside every checkpoint, the best ones too, it keeps a student-only one (`NAME_student.pth`),
      which `mmdet.apis.init_detector` loads with the student's plain config.
    - When a loss is not finite it keeps a checkpoint of the state before that step, if that is
      finite: weights, optimizer, queue. (BatchNorm's statistics have seen that step's images.)
    """

    # After CheckpointHook (VERY_LOW), whose file it looks for.
    priority = "LOWEST"

    def __init__(self) -> None:
        self._exported: dict[str, str] = {}  # the last file of every kind: 'last_ckpt', 'best_ckpt'

    def before_train(self, runner: Any) -> None:
        model = unwrapped(runner.model)
        if not isinstance(model, DistilledDetector):
            return
        # What a resumed checkpoint remembers of another folder is none of this run's.
        self._exported = {
            kind: file
            for kind, file in _checkpoints(runner).items()
            if Path(file).parent != Path(runner.work_dir)
        }
        model.before_stopping = lambda: _before_stopping(runner)
        if model.teacher is None:
            runner.logger.info("Distillation: every weight is 0; training the plain student.")
            return
        if model.distiller.transfers_heads:
            _check_transfer(model)
        if runner.val_loop is None:
            runner.logger.warning("Distillation: no validation set, so the teacher is unmeasured.")
            return
        known = runner.message_hub.runtime_info.get("teacher")
        if known and runner.iter:  # a resumed run has measured it
            metrics = known
        else:
            metrics = measure_teacher(runner, model.teacher)
        runner.message_hub.update_info("teacher", metrics)
        shown = ", ".join(
            f"{key.split('/')[-1]} {value:.3f}" for key, value in metrics.items() if value >= 0
        )
        runner.logger.info(f"Teacher on the validation set: {shown}")
        main = next(iter(metrics.values()), 0.0)
        if main < WEAK_TEACHER_AP:
            runner.logger.warning(
                f"The teacher is as good as dead ({next(iter(metrics), 'no metric')} {main:.3f}). "
                "Its config, its weights, the classes and their order, or its data_preprocessor do "
                "not match the data; distilling it will do harm."
            )

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._export(runner)

    def after_train_epoch(self, runner: Any) -> None:
        self._export(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._export(runner)  # a best checkpoint is saved after validation

    def _export(self, runner: Any) -> None:
        """Keep a student-only file of the last checkpoints, and none of those that are gone."""
        if not is_main_process() or not isinstance(unwrapped(runner.model), DistilledDetector):
            return
        for kind, file in _checkpoints(runner).items():
            if file == self._exported.get(kind):
                continue
            self._exported[kind] = file
            whole = Path(file)
            if not whole.is_file():
                runner.logger.warning(f"No student-only file of {file}, which is no local file.")
                continue
            export_student(whole, whole.with_name(f"{whole.stem}_student.pth"))
            _remove_orphans(whole.parent)


def _checkpoints(runner: Any) -> dict[str, str]:
    """What CheckpointHook saved last, by its names for it: the last one and the best ones."""
    known = runner.message_hub.runtime_info
    return {
        kind: str(known[kind])
        for kind in known
        if kind == "last_ckpt" or kind == "best_ckpt" or kind.startswith("best_ckpt_")
    }


def _remove_orphans(folder: Path) -> None:
    """Remove the student-only files of checkpoints that CheckpointHook has removed."""
    for student in folder.glob("*_student.pth"):
        whole = student.name.replace("_student.pth", ".pth")
        # Only those that it names; any other file is someone's own.
        ours = re.fullmatch(r"(best_.+_)?(iter|epoch)_\d+\.pth", whole)
        if ours and not (folder / whole).exists():
            student.unlink()


def measure_teacher(runner: Any, teacher: nn.Module) -> dict[str, float]:
    """The teacher's metrics on the runner's validation set; draws no global randomness."""
    evaluator, loader = runner.val_loop.evaluator, runner.val_loop.dataloader
    devices = range(torch.cuda.device_count())  # without them PyTorch warns where there are many
    with torch.random.fork_rng(devices), torch.no_grad():
        for batch in loader:
            evaluator.process(data_samples=teacher.val_step(batch), data_batch=batch)
        metrics = evaluator.evaluate(len(loader.dataset))
    return {key: float(value) for key, value in metrics.items()}


def _check_transfer(model: DistilledDetector) -> None:
    teacher_heads = model.distiller.teacher_adapter.heads()
    for name, head in model.distiller.student_adapter.heads().items():
        teacher_state = teacher_heads[name].state_dict()
        for key, value in head.state_dict().items():
            if not torch.equal(value, teacher_state[key].to(value)):
                raise RuntimeError(
                    f"transfer_heads: {name}.{key} is not the teacher's at the start of training. "
                    "Something initialized or loaded the student after the transfer; a checkpoint "
                    "given as load_from must come from a run with the same teacher"
                )


def _before_stopping(runner: Any) -> str:
    # A loop that resumes exactly has progress to save, in which every rank has a part.
    progress = getattr(runner._train_loop, "progress", dict)()
    said = _keep(runner, dict(progress=progress) if progress else {})
    barrier()  # rank 0 writes; a launcher ends it as soon as another rank fails
    return said


def _keep(runner: Any, progress: dict[str, Any]) -> str:
    """Save the state before the step that is being stopped; say what is there to resume from."""
    state = unwrapped(runner.model).state_dict()
    broken = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not value.isfinite().all()
    ]
    if broken:
        last = runner.message_hub.runtime_info.get("last_ckpt")
        return (
            f"Kept no checkpoint, because the model itself is not finite any more ({broken[0]}); "
            f"{f'the last one is {last}' if last else 'there is none yet'}."
        )
    name = f"before_non_finite_iter_{runner.iter}.pth"
    # save_checkpoint counts the running step as done, which it is not.
    meta = dict(epoch=runner.epoch, iter=runner.iter, **progress)
    runner.save_checkpoint(
        runner.work_dir, name, meta=meta, by_epoch=False, backend_args=dict(backend="atomic")
    )
    return f"Kept {Path(runner.work_dir) / name}, from which training can resume."


def unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
