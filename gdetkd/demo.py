"""The demo: a baseline and a distilled student from the same seed, compared with their teacher."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from gdetkd.checkpoints.loading import load_strictly
from gdetkd.checkpoints.student import read_student
from gdetkd.launch.run_lock import claim
from gdetkd.training.config import load_config, schedule
from gdetkd.training.data import use_data
from gdetkd.training.runner import final_metrics, train
from gdetkd.viz import compare_detectors

PLAIN = "gdetkd::digits/faster_rcnn_r18.py"
DISTILLED = "gdetkd::digits/gdetkd_faster_rcnn_r18.py"
METRICS = {"AP": "bbox_mAP", "AP50": "bbox_mAP_50", "APs": "bbox_mAP_s", "APm": "bbox_mAP_m"}


@dataclass
class Row:
    """One detector of the demo: its metrics in [0, 1] and how long it trained, seconds."""

    name: str
    metrics: dict[str, float]
    seconds: float | None
    gap: float | None = None


def run_demo(
    work_dir: Path, count: int, data_root: str, seed: int, report: Callable[[str], None]
) -> tuple[list[Row], Path]:
    """Train both students for `count` steps; return the table's rows and the picture's path."""
    rows, runners = [], {}
    for name, label, config in (("baseline", "baseline student", PLAIN),
                                ("distilled", "distilled student", DISTILLED)):  # fmt: skip
        report(f"Training the {label}: {count} steps ...")
        start = time.time()
        with claim(work_dir / name):
            runner = train(demo_config(config, work_dir / name, count, data_root, seed))
        rows.append(Row(label, _metrics(final_metrics(runner)), time.time() - start))
        runners[label] = runner
    distilled = runners["distilled student"]
    measured = distilled.message_hub.get_info("teacher")
    teacher = Row("teacher", _metrics(measured), None)
    gap = teacher.metrics["AP"] - rows[0].metrics["AP"]
    if gap > 0:
        rows[1].gap = (rows[1].metrics["AP"] - rows[0].metrics["AP"]) / gap
    detectors = {
        "Baseline": runners["baseline student"].model,
        "Distilled": distilled.model,
        "Teacher": distilled.model.teacher,
    }
    picture = work_dir / "comparison.png"
    draw(distilled.val_loop.dataloader.dataset, detectors, picture)
    return [teacher, *rows], picture


def demo_config(name: str, work_dir: Path, count: int, data_root: str, seed: int) -> Config:
    """A digits config with a schedule of `count` steps, quiet but for a progress line."""
    config = load_config(name, schedule(count), work_dir=work_dir, seed=seed)
    use_data(config, Path(data_root))
    config.log_level = "WARNING"
    config.default_hooks.checkpoint.interval = count
    config.custom_hooks = [*config.custom_hooks, dict(type="ProgressHook")]
    return config


def draw_runs(runs: Path, path: Path) -> None:
    """Save a picture for the digits runs of seed 0, if their checkpoints are (still) in `runs`."""
    last = f"iter_{load_config(PLAIN).train_cfg.max_iters}.pth"
    students = {"Baseline": runs / "baseline_0" / last, "Distilled": runs / "gdetkd_0" / last}
    if not all(checkpoint.exists() for checkpoint in students.values()):
        return
    config = load_config(DISTILLED, work_dir=runs / "picture")
    config.log_level = "WARNING"
    runner = Runner.from_cfg(config)
    runner.model.eval()
    detectors = {}
    for label, checkpoint in students.items():
        detectors[label] = deepcopy(runner.model.student)
        load_strictly(detectors[label], read_student(checkpoint), str(checkpoint))
    detectors["Teacher"] = runner.model.teacher
    dataset = Runner.build_dataloader(config.val_dataloader, seed=0).dataset
    draw(dataset, detectors, path)


def draw(dataset, detectors: dict[str, torch.nn.Module], path: Path, count: int = 6) -> None:
    """Save a picture of the detectors on the first images of a data set."""
    images, ground_truth = [], []
    found: dict[str, list] = {name: [] for name in detectors}
    for index in range(min(count, len(dataset))):
        item = dataset[index]
        images.append(cv2.cvtColor(cv2.imread(item["data_samples"].img_path), cv2.COLOR_BGR2RGB))
        objects = item["data_samples"].gt_instances
        boxes = objects.bboxes.tensor.numpy()
        ground_truth.append((boxes, objects.labels.numpy(), np.ones(len(boxes))))
        for name, model in detectors.items():
            model.eval()
            batch = dict(inputs=[item["inputs"]], data_samples=[item["data_samples"]])
            with torch.no_grad():
                found[name].append(_confident(model.test_step(batch)[0].pred_instances))
    figure = compare_detectors(images, ground_truth, found, dataset.metainfo["classes"])
    figure.savefig(path, dpi=110)


def _confident(predicted, threshold: float = 0.5) -> tuple:
    kept = predicted[predicted.scores >= threshold].cpu()
    return kept.bboxes.numpy(), kept.labels.numpy(), kept.scores.numpy()


def _metrics(found: dict[str, float]) -> dict[str, float]:
    return {label: found[f"coco/{key}"] for label, key in METRICS.items()}
