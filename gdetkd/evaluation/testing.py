"""The AP of a checkpoint, by MMDetection's own evaluation."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from gdetkd.checkpoints.loading import load_strictly
from gdetkd.checkpoints.student import read_student
from gdetkd.datasets.config_check import check_data
from gdetkd.detectors.mmdet.building import plain_student
from gdetkd.detectors.mmdet.config_errors import CheckedRunner


def test(config: Config, checkpoint: str, split: str | None = None) -> dict[str, float]:
    """Evaluate the detector that a checkpoint holds; of a distilled one, the student alone.

    Args:
        config: The config of the run, or the plain student's.
        checkpoint: Any checkpoint of either; its weights must fit the (student's) config exactly.
        split: Evaluate this split of the same data set instead: the annotation file and the image
            folder of the test set have their split's name replaced.

    Raises:
        CheckpointError: The file is no checkpoint.
        ValueError: Its weights or the data do not fit the config, which may have nothing to test
            on.
    """
    needed = ("test_dataloader", "test_cfg", "test_evaluator")
    missing = [key for key in needed if config.get(key) is None]
    if missing:
        raise ValueError(f"expected a config with a test set, got one without {missing}")
    state = read_student(checkpoint)
    config = plain_student(config)
    if split is not None:
        _use_split(config, split)
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        config.pop(key, None)
    for key in ("val_dataloader", "val_cfg", "val_evaluator"):
        config.pop(key, None)
    check_data(config, ["test"])
    config.load_from, config.resume = None, False
    runner = CheckedRunner.from_cfg(config)
    load_strictly(runner.model, state, checkpoint)
    return {key: float(value) for key, value in runner.test().items()}


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
