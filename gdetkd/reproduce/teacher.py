"""The shipped detectors of digits: stored in fp16, measured as stored, each with its record."""

from __future__ import annotations

import json
from pathlib import Path

from gdetkd.checkpoints.student import export_student
from gdetkd.evaluation.records import environment, read_json_lines
from gdetkd.evaluation.testing import test
from gdetkd.reproduce import records
from gdetkd.reproduce.experiments import DIGITS, PLAIN
from gdetkd.reproduce.registry import experiments_of
from gdetkd.reproduce.report import ASSETS
from gdetkd.training.config import load_config
from gdetkd.training.runner import train

TEACHER = "gdetkd::digits/faster_rcnn_r34_teacher.py"
WEIGHTS = ASSETS / "digits_faster_rcnn_r34.pth"
# The students of the notebooks: seed 0 of the baseline and of the full method, by experiment.
STUDENTS = {
    "baseline": ASSETS / "digits_faster_rcnn_r18.pth",
    "gdetkd": ASSETS / "digits_gdetkd_faster_rcnn_r18.pth",
}


def make_teacher(work_dir: Path, weights: Path = WEIGHTS) -> dict:
    """Train the teacher unless `work_dir` has it trained, ship its weights, give its record.

    The record (a JSON file beside the weights) has the config, the seed, the loss by step, and the
    AP measured on val with the file as shipped.
    """
    config = load_config(TEACHER, work_dir=work_dir)
    steps = config.train_cfg.max_iters
    made_in = environment()  # before: the checkout may change while it trains
    if not (work_dir / f"iter_{steps}.pth").exists():
        train(config, resume=True)
    record = dict(made_by="gdetkd reproduce teacher", **describe(TEACHER, work_dir, steps))
    return ship(TEACHER, work_dir, steps, weights, record | made_in)


def make_students(work_dir: Path) -> list[dict]:
    """Ship seed 0 of the baseline and of G-DetKD as `gdetkd reproduce main` left them.

    Raises:
        FileNotFoundError: The run's checkpoint is not in `work_dir`.
    """
    made = []
    for name, weights in STUDENTS.items():
        experiment, run = experiments_of(DIGITS)[name], work_dir / f"{name}_0"
        steps = load_config(experiment.config).train_cfg.max_iters
        described = describe(experiment.config, run, steps) | environment()
        record = dict(made_by="gdetkd reproduce students") | described
        made.append(ship(PLAIN, run, steps, weights, record))
    return made


def describe(config: str, work_dir: Path, steps: int) -> dict:
    """What a record says of the training in `work_dir`."""
    loaded, log = load_config(config), _log(work_dir)
    return dict(
        config=config,
        config_hash=records.config_hash(loaded),
        seed=loaded.randomness.seed,
        steps=steps,
        loss={line["iter"]: round(line["loss"], 4) for line in log},
        seconds_per_step=round(sum(line["time"] for line in log) / max(len(log), 1), 3),
    )


def ship(config: str, work_dir: Path, steps: int, weights: Path, record: dict) -> dict:
    """Store a run's student in fp16 and measure the stored file on val with a plain `config`."""
    trained = work_dir / f"iter_{steps}.pth"
    if not trained.exists():
        raise FileNotFoundError(
            f"expected a trained detector at {trained}: run `gdetkd reproduce main` first"
        )
    export_student(trained, weights, half=True)
    metrics = evaluate(config, weights, work_dir)
    record |= {name: metrics[name] for name in ("AP", "AP50", "APs", "APm")}
    record["megabytes"] = round(weights.stat().st_size / 1e6, 2)
    weights.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def evaluate(
    config: str, weights: Path, work_dir: Path, split: str | None = None
) -> dict[str, float]:
    """AP and its kin, in [0, 1], of weights on val or another split; logs go to `work_dir`."""
    loaded = load_config(config, work_dir=work_dir / "test")
    loaded.log_level = "WARNING"
    metrics = test(loaded, str(weights), split)
    return {name: metrics[f"coco/bbox_{key}"] for name, key in records.METRICS.items()}


def _log(work_dir: Path) -> list[dict]:
    """The lines of a run's log that report a training step; of a step run twice, the later."""
    lines = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        lines += read_json_lines(path)
    return list({line["iter"]: line for line in lines if "loss" in line}.values())
