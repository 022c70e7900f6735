"""Training from a config: what the command line, the demo and the tables all call."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

import gdetkd.detectors.mmdet  # noqa: F401  (registers DistilledDetector)
import gdetkd.training.atomic_checkpoint  # noqa: F401  (registers its hook)
import gdetkd.training.hooks  # noqa: F401  (registers its hooks)
import gdetkd.training.teacher_cache  # noqa: F401  (registers its hook)
from gdetkd.checkpoints.hub import find_checkpoint
from gdetkd.checkpoints.reading import CheckpointError, read_checkpoint
from gdetkd.datasets.config_check import check_data
from gdetkd.detectors.mmdet.building import is_type, type_name
from gdetkd.detectors.mmdet.config_errors import CheckedRunner
from gdetkd.ops.console import say
from gdetkd.training.last_checkpoint import last_checkpoint, run_number

# What MMEngine cannot resume exactly, and what can.
EXACT = {
    "IterBasedTrainLoop": "ResumableIterLoop",
    "EpochBasedTrainLoop": "ResumableEpochLoop",
}


def train(config: Config, resume: bool | str = False, run: int | None = None) -> Runner:
    """Train as the config says and give the runner back; `final_metrics` reads its validation.

    Args:
        config: As `load_config` gives it.
        resume: True: from the last checkpoint in the work dir, if any. A path or a URL: from that
            file. False: as the config says.
        run: The number of the run, where `run_number` was asked before.

    Raises:
        CheckpointError: The file to resume or load from is no checkpoint, holds weights alone, or
            those of another model; or there are only damaged ones to resume from.
        ValueError: The config is not one to train with here (`check_trainable`), or what it
            describes cannot be built.
    """
    # From a library at every step; the loss is logged all the same.
    warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True")
    check_writable(config.work_dir)
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # else checked before the processes started
        check_trainable(config)
    config = resumable(config)
    if type_name(config.train_cfg) in EXACT.values():
        config.train_cfg.run = run or run_number(config.work_dir, resume)
    last = _last(config.work_dir) if resume is True else resume
    if last:
        last = find_checkpoint(last)
        seed = _check_resumable(last)
        if config.get("randomness", {}).get("seed") is None:
            config.randomness = dict(config.get("randomness") or {}, seed=seed)
        # MMEngine resumes from load_from where it is set.
        config.resume, config.load_from = True, last
    runner = _Runner.from_cfg(config)
    runner.train()
    return runner


class _Runner(CheckedRunner):
    """MMEngine's Runner, with one error for whatever a file provokes when it is loaded."""

    def load_or_resume(self) -> None:
        try:
            super().load_or_resume()
        except (CheckpointError, OSError):
            raise
        except Exception as error:  # MMEngine believes whatever is in a checkpoint
            raise CheckpointError(
                f"{self._load_from}: expected a checkpoint of such a training, but it cannot be "
                f"loaded ({type(error).__name__}: {error}); name another one"
            ) from error


def check_trainable(config: Config) -> None:
    """Check that a config is complete, that this machine can train it, and its data.

    Raises:
        FileNotFoundError, ValueError: Saying what is missing, or what does not fit (`check_data`).
    """
    _check_complete(config)
    if is_type(config.optim_wrapper, "AmpOptimWrapper") and not torch.cuda.is_available():
        raise ValueError(
            "mixed precision: expected a GPU for AmpOptimWrapper, found none; leave out --amp, or "
            "set optim_wrapper.type=OptimWrapper"
        )
    check_data(config)


def _check_complete(config: Config) -> None:
    needed = ("model", "train_dataloader", "train_cfg", "optim_wrapper")
    missing = [key for key in needed if not config.get(key)]
    if missing:
        raise ValueError(
            f"config {config.filename}: expected one to train with, got one without "
            f"{', '.join(missing)}; inherit it from a config that has them (_base_)"
        )


def _last(work_dir: str | os.PathLike) -> str | None:
    """The checkpoint to resume from, None for none; says what is passed over."""
    last, damaged = last_checkpoint(work_dir)
    if last is None and damaged:
        raise CheckpointError(
            f"nothing to resume from in {work_dir}, whose checkpoints are damaged: "
            f"{'; '.join(damaged)}. Remove them or leave out --resume to start at step 0"
        )
    for sentence in damaged:
        say(f"Passed over a damaged checkpoint: {sentence}")
    if last is None:
        say(f"Nothing to resume from in {work_dir}: starting at step 0.")
    return last


def resumable(config: Config) -> Config:
    """A copy of the config with loops that resume exactly and checkpoints that are whole.

    It keeps the last checkpoint and the best one, where the config does not say otherwise, and
    saves after whole optimizer steps only. Batches and draws stay those of the config's own types;
    a loop or a checkpoint hook of another type is left as it is.

    Raises:
        ValueError: The config lacks what a training needs.
    """
    _check_complete(config)
    config = copy.deepcopy(config)
    imports = config.setdefault("custom_imports", ConfigDict(imports=[])).imports
    ours = ("gdetkd.detectors.mmdet", "gdetkd.training.runner")  # what is named below, too
    config.custom_imports.imports = list(dict.fromkeys([*imports, *ours]))
    hooks = config.get("custom_hooks") or []
    config.custom_hooks = [*hooks, dict(type="ClassesHook"), dict(type="TeacherCacheHook")]
    loop = config.train_cfg
    if "by_epoch" in loop:
        loop.type = "EpochBasedTrainLoop" if loop.pop("by_epoch") else "IterBasedTrainLoop"
    name = type_name(loop)
    loop.type = EXACT.get(name, loop.type)
    hooks = config.setdefault("default_hooks", ConfigDict())
    # Else metrics are logged by epoch (0, in a training by steps) and losses by step.
    logger = hooks.setdefault("logger", ConfigDict(type="LoggerHook"))
    if logger is not None:
        logger.setdefault("log_metric_by_epoch", False)
    saving = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook"))
    if saving is None or type_name(saving) != "CheckpointHook":
        return config
    saving.type = "AtomicCheckpointHook"
    saving.setdefault("max_keep_ckpts", 1)
    last = loop.get("max_iters", loop.get("max_epochs"))
    default = 1000 if name == "IterBasedTrainLoop" else 1
    if config.get("val_cfg") and loop.get("val_interval", default) < last:
        saving.setdefault("save_best", "auto")
    steps = config.optim_wrapper.get("accumulative_counts", 1)
    if not saving.get("by_epoch", True) and saving.get("interval", -1) > 0:
        saving.interval = -(-saving.interval // steps) * steps
    return config


def final_metrics(runner: Runner) -> dict[str, float]:
    """The last validation's metrics, and the mean of each loss over the last 50 steps."""
    scalars = runner.message_hub.log_scalars
    metrics = {
        name.removeprefix("val/"): float(history.current())
        for name, history in scalars.items()
        if name.startswith("val/") and "time" not in name
    }
    losses = {
        name.removeprefix("train/"): float(history.mean(50))
        for name, history in scalars.items()
        if name.startswith("train/") and ("loss" in name or name.endswith("share"))
    }
    return metrics | losses


def check_writable(work_dir: str | os.PathLike) -> None:
    """Raise OSError, saying what to do, if nothing can be written to a run's folder."""
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise OSError(
            f"cannot write to {work_dir}: {error.strerror}; choose another --work-dir"
        ) from None


def _check_resumable(path: str) -> int | None:
    """The checkpoint's seed; raises CheckpointError for what MMEngine would trip over."""
    checkpoint = read_checkpoint(path, mmap=True)
    absent = {"meta", "message_hub"} - checkpoint.keys()
    if absent:
        raise CheckpointError(
            f"{path}: expected a checkpoint to resume from, got one without {sorted(absent)}; "
            "name the whole one that a training left, not a student-only one"
        )
    steps = [(checkpoint["meta"] or {}).get(name) for name in ("epoch", "iter")]
    if not all(type(count) is int and count >= 0 for count in steps):
        raise CheckpointError(
            f"{path}: expected a checkpoint to resume from, whose meta counts epochs and steps, "
            f"got {steps}; name another one"
        )
    seed = checkpoint["meta"].get("seed")
    return seed if type(seed) is int else None
