"""The AP of a checkpoint by MMDetection's own evaluation, and its detections."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmengine.config import Config

from gdetkd.checkpoints.loading import load_strictly
from gdetkd.checkpoints.student import read_student
from gdetkd.datasets.config_check import check_data
from gdetkd.detectors.mmdet.building import plain_student
from gdetkd.detectors.mmdet.config_errors import CheckedRunner
from gdetkd.ops.atomic_write import atomic_write


def test(
    config: Config,
    checkpoint: str,
    split: str | None = None,
    out: str | os.PathLike | None = None,
) -> dict[str, float]:
    """Evaluate the detector that a checkpoint holds; of a distilled one, the student alone.

    Args:
        config: The config of the run, or the plain student's.
        checkpoint: Any checkpoint of either; its weights must fit the (student's) config exactly.
        split: Evaluate this split of the same data set instead: the annotation file and the image
            folder of the test set have their split's name replaced.
        out: Also write the detections there, in COCO's result format.

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
    if out is None:
        return _run(config, state, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "detections"
        evaluators = config.test_evaluator
        config.test_evaluator = [
            *(evaluators if isinstance(evaluators, list) else [evaluators]),
            dict(
                type="CocoMetric", metric="bbox", ann_file=str(truth_of(config)[0]),
                format_only=True, outfile_prefix=str(prefix),
            ),
        ]  # fmt: skip
        metrics = _run(config, state, checkpoint)
        with atomic_write(out) as file:
            file.write(Path(f"{prefix}.bbox.json").read_bytes())
    return metrics


def detections(config: Config, checkpoint: str, split: str | None = None) -> list[dict]:
    """What the detector finds on the test set, in COCO's result format; see `test`."""
    config = Config(config._cfg_dict.to_dict(), filename=config.filename)
    if split is not None:
        _use_split(config, split)
    config.test_evaluator = []  # nothing is measured here
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "detections.json"
        test(config, checkpoint, out=out)
        return json.loads(out.read_text())


def truth_of(config: Config, split: str | None = None) -> tuple[Path, Path, tuple[str, ...]]:
    """The annotation file of a config's test set, the folder of its images, and its classes.

    Raises:
        ValueError: The test set is not one in COCO's format.
    """
    config = Config(config._cfg_dict.to_dict(), filename=config.filename)
    if split is not None:
        _use_split(config, split)
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    if str(dataset.get("type")).split(".")[-1] != "CocoDataset":
        raise ValueError(
            f"expected a CocoDataset to test on, got {dataset.get('type')}; `gdetkd data` converts "
            "other layouts"
        )
    root = Path(dataset.get("data_root") or "")
    classes = (dataset.get("metainfo") or {}).get("classes") or CocoDataset.METAINFO["classes"]
    images = root / (dataset.get("data_prefix") or {}).get("img", "")
    return root / dataset.get("ann_file", ""), images, tuple(classes)


def _run(config: Config, state: dict, checkpoint: str) -> dict[str, float]:
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
