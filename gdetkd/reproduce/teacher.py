"""The shipped teacher of digits: trained, stored in fp16, measured as stored, with its record."""

from __future__ import annotations

import json
from pathlib import Path

from gdetkd.engine.checkpoints import export_student
from gdetkd.engine.training import load_config, test, train
from gdetkd.reproduce import records
from gdetkd.reproduce.tables import ASSETS

TEACHER = "gdetkd::digits/faster_rcnn_r34_teacher.py"
WEIGHTS = ASSETS / "digits_faster_rcnn_r34.pth"


def make_teacher(work_dir: Path, weights: Path = WEIGHTS) -> dict:
    """Train the teacher unless `work_dir` has it trained, ship its weights, give its record.

    The record (a JSON file beside the weights) has the config, the seed, the loss by step, and the
    AP measured on val with the file as shipped.
    """
    work_dir = Path(work_dir)
    config = load_config(TEACHER, work_dir=work_dir)
    steps, digest = config.train_cfg.max_iters, records.config_hash(config)
    environment = records.environment()  # before: the checkout may change while it trains
    trained = work_dir / f"iter_{steps}.pth"
    if not trained.exists():
        train(config, resume=True)
    export_student(trained, weights, half=True)
    config = load_config(TEACHER, work_dir=work_dir / "test")
    config.log_level = "WARNING"
    metrics = test(config, str(weights))
    log = _log(work_dir)
    record = dict(
        made_by="gdetkd reproduce teacher",
        config=TEACHER,
        config_hash=digest,
        seed=config.randomness.seed,
        steps=steps,
        AP=metrics["coco/bbox_mAP"],
        AP50=metrics["coco/bbox_mAP_50"],
        APs=metrics["coco/bbox_mAP_s"],
        APm=metrics["coco/bbox_mAP_m"],
        megabytes=round(weights.stat().st_size / 1e6, 2),
        loss={line["iter"]: round(line["loss"], 4) for line in log},
        seconds_per_step=round(sum(line["time"] for line in log) / len(log), 3),
        **environment,
    )
    weights.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def _log(work_dir: Path) -> list[dict]:
    """The lines of a run's log that report a training step."""
    lines = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if "loss" in line]
