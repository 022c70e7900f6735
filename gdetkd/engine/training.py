"""Train and test from a config: what the command line, the demo and the tables all call."""

from __future__ import annotations

import difflib
import inspect
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

import gdetkd.detectors  # noqa: F401  (registers DistilledDetector)
import gdetkd.engine.hooks  # noqa: F401  (registers its hooks)
from gdetkd.engine.checkpoints import CheckpointError, read_checkpoint, student_state
from gdetkd.engine.locations import find_config
from gdetkd.engine.saving import last_whole_checkpoint

# What MMEngine cannot resume exactly, and what can.
EXACT = {
    "IterBasedTrainLoop": "ResumableIterLoop",
    "EpochBasedTrainLoop": "ResumableEpochLoop",
}


def load_config(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    work_dir: str | os.PathLike | None = None,
    seed: int | None = None,
    amp: bool = False,
) -> Config:
    """Read a config and apply what the command line says of it.

    Args:
        name: A file, `gdetkd::digits/NAME.py` or `mmdet::NAME`.
        options: Values by dotted key, as MMDetection's `--cfg-options`.
        work_dir: Where the run writes; `work_dirs/CONFIG` by default.
        seed: Seed of the run, in place of the config's.
        amp: Mixed precision (GPU only).

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It cannot be read, the options do not fit it, or amp is asked for on a CPU.
    """
    path = find_config(name)
    try:
        config = Config.fromfile(path)
        _check_options(config, options or {})
        config.merge_from_dict(dict(options or {}))
    except Exception as error:  # a config is someone's program: it may raise anything
        raise ValueError(f"config {name}: {type(error).__name__}: {error}") from error
    if amp and not torch.cuda.is_available():
        raise ValueError("mixed precision: expected a GPU, found none; leave out --amp")
    if work_dir is not None:
        config.work_dir = str(work_dir)
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("work_dirs") / Path(name.split("::")[-1]).stem)
    if seed is not None:
        config.randomness = dict(config.get("randomness") or {}, seed=seed)
    if amp:
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("loss_scale", "dynamic")
    # MMEngine's checkpoints are pickles with code in their meta: read them as data.
    hooks = list(config.get("custom_hooks") or [])
    if not any(_is(hook, "SafeCheckpointHook") for hook in hooks):
        config.custom_hooks = [dict(type="SafeCheckpointHook"), *hooks]
    return config


def _check_options(config: Config, options: Mapping[str, Any]) -> None:
    """MMEngine ignores a key that it does not know: refuse it by its first part."""
    known = {*config, *inspect.signature(Runner.__init__).parameters, "auto_scale_lr"}
    for option in options:
        first = option.split(".")[0]
        if first not in known:
            near = difflib.get_close_matches(first, known, 1)
            raise ValueError(
                f"option {option}: expected one of the config's or the runner's keys, got "
                f"{first!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )


def train(config: Config, resume: bool | str = False) -> Runner:
    """Train as the config says and give the runner back; `final_metrics` reads its validation.

    Args:
        config: As `load_config` gives it.
        resume: True: from the last checkpoint in the work dir, if any. A path: from that file.
            False: as the config says.

    Raises:
        CheckpointError: The file to resume from is no checkpoint, holds weights alone, or those of
            another model.
    """
    limit_threads()
    check_writable(config.work_dir)
    config = resumable(config)
    last = last_whole_checkpoint(config.work_dir) if resume is True else resume
    if resume is True and not last:
        print(f"Nothing to resume from in {config.work_dir}: starting at step 0.", flush=True)
    if last:
        _check_resumable(last)
        # MMEngine resumes from load_from where it is set.
        config.resume, config.load_from = True, last
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def resumable(config: Config) -> Config:
    """A copy of the config with loops that resume exactly and checkpoints that are whole.

    It keeps the last checkpoint and the best one, where the config does not say otherwise, and
    saves after whole optimizer steps only. Batches and draws stay those of the config's own types;
    a loop or a checkpoint hook of another type is left as it is.
    """
    config = Config(config._cfg_dict.to_dict(), filename=config.filename)
    imports = config.setdefault("custom_imports", ConfigDict(imports=[])).imports
    config.custom_imports.imports = list(dict.fromkeys([*imports, "gdetkd.detectors"]))
    hooks = config.get("custom_hooks") or []
    config.custom_hooks = [*hooks, dict(type="ClassesHook")]
    loop = config.train_cfg
    if "by_epoch" in loop:
        loop.type = "EpochBasedTrainLoop" if loop.pop("by_epoch") else "IterBasedTrainLoop"
    name = _type_name(loop)
    loop.type = EXACT.get(name, loop.type)
    hooks = config.setdefault("default_hooks", ConfigDict())
    # Else metrics are logged by epoch (0, in a training by steps) and losses by step.
    logger = hooks.setdefault("logger", ConfigDict(type="LoggerHook"))
    if logger is not None:
        logger.setdefault("log_metric_by_epoch", False)
    saving = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook"))
    if saving is None or _type_name(saving) != "CheckpointHook":
        return config
    saving.type = "WholeCheckpointHook"
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


def test(config: Config, checkpoint: str, split: str | None = None) -> dict[str, float]:
    """Evaluate the detector that a checkpoint holds; of a distilled one, the student alone.

    Args:
        config: The config of the run, or the plain student's.
        checkpoint: Any checkpoint of either; its weights must fit the (student's) config exactly.
        split: Evaluate this split of the same data set instead: the annotation file and the image
            folder of the test set have their split's name replaced.

    Raises:
        CheckpointError: The file is no checkpoint.
        ValueError: Its weights do not fit the config, which may have nothing to test on.
    """
    needed = ("test_dataloader", "test_cfg", "test_evaluator")
    missing = [key for key in needed if config.get(key) is None]
    if missing:
        raise ValueError(f"expected a config with a test set, got one without {missing}")
    limit_threads()
    state, _ = student_state(read_checkpoint(checkpoint))
    config = plain_student(config)
    if split is not None:
        _use_split(config, split)
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        config.pop(key, None)
    for key in ("val_dataloader", "val_cfg", "val_evaluator"):
        config.pop(key, None)
    config.load_from, config.resume = None, False
    runner = Runner.from_cfg(config)
    load_strictly(runner.model, state, checkpoint)
    return {key: float(value) for key, value in runner.test().items()}


def plain_student(config: Config) -> Config:
    """A copy of the config with the student alone as its model."""
    config = Config(config._cfg_dict.to_dict(), filename=config.filename)
    if _is(config.model, "DistilledDetector"):
        config.model = ConfigDict(config.model.student)
        config.custom_hooks = [
            hook for hook in config.get("custom_hooks", []) if not _is(hook, "DistillationHook")
        ]
    return config


def _is(component: Mapping[str, Any], name: str) -> bool:
    return _type_name(component) == name


def _type_name(component: Mapping[str, Any]) -> str:
    """The type of a component's config: given as a name, with a scope or not, or as a class."""
    kind = component["type"]
    return getattr(kind, "__name__", str(kind)).split(".")[-1]


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


def _check_resumable(path: str) -> None:
    """Say before a run is built what MMEngine would trip over: no checkpoint, weights alone."""
    if "://" in path:
        return
    absent = {"meta", "message_hub"} - read_checkpoint(path).keys()
    if absent:
        raise CheckpointError(
            f"{path}: expected a checkpoint to resume from, got one without {sorted(absent)}; "
            "name the whole one that a training left, not a student-only one"
        )


def load_strictly(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Load weights; raise ValueError with the first differences if any key or shape differs."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ValueError(
            f"the weights of {where} do not fit the config ({'; '.join(lines[:3])}). Give the "
            "config that the checkpoint was trained with, or the plain student's"
        ) from error


def limit_threads() -> None:
    """At most two threads, fewer if OMP_NUM_THREADS says so; none for OpenCV: they only compete."""
    warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True")
    if not torch.cuda.is_available():
        asked = (os.environ.get("OMP_NUM_THREADS") or "2").split(",")[0]
        torch.set_num_threads(min(2, int(asked)))
    cv2.setNumThreads(0)


def _use_split(config: Config, split: str) -> None:
    dataset, evaluator = config.test_dataloader.dataset, config.test_evaluator
    annotations, prefix = dataset.get("ann_file", ""), dataset.get("data_prefix", {})
    old = Path(annotations).stem
    several = isinstance(evaluator, list) or "ann_file" not in evaluator
    if several or not old or old != Path(prefix.get("img", "")).name:
        raise ValueError(
            "--split: expected a data set laid out as SPLIT/ and annotations/SPLIT.json with one "
            f"evaluator that reads it, got {annotations!r}, {dict(prefix)} and {evaluator}; "
            "edit test_dataloader and test_evaluator instead"
        )
    dataset.ann_file = dataset.ann_file.replace(f"{old}.json", f"{split}.json")
    dataset.data_prefix.img = f"{split}/"
    config.test_evaluator.ann_file = config.test_evaluator.ann_file.replace(
        f"{old}.json", f"{split}.json"
    )
