"""The shipped teacher of digits: trained, stored in fp16, measured as stored, with its record."""

from __future__ import annotations

import json
from pathlib import Path

from gdetkd.engine.checkpoints import export_student
from gdetkd.engine.training import load_config, test, train
from gdetkd.reproduce import records
from gdetkd.reproduce.experiments import steps
from gdetkd.reproduce.tables import ASSETS

TEACHER = "gdetkd::digits/faster_rcnn_r34_teacher.py"
WEIGHTS = ASSETS / "digits_faster_rcnn_r34.pth"


# A warm restart (Loshchilov and Hutter, SGDR): a second, shorter cycle from a higher rate.
SECOND_CYCLE = {"optim_wrapper.optimizer.lr": 1.5e-3, "randomness.seed": 1} | steps(2000)


def make_teacher(work_dir: Path, weights: Path = WEIGHTS) -> dict:
    """Train the teacher unless `work_dir` has it trained, ship its weights, give its record.

    The record (a JSON file beside the weights) has the config, the seeds, the loss by step, and
    the AP measured on val with the file as shipped.
    """
    work_dir, trained, configs = Path(work_dir), None, []
    for cycle, options in enumerate(({}, SECOND_CYCLE), start=1):
        config = load_config(TEACHER, options, work_dir=work_dir / f"cycle_{cycle}")
        config.load_from = trained
        configs.append(config)
        trained = str(Path(config.work_dir) / f"iter_{config.train_cfg.max_iters}.pth")
        if not Path(trained).exists():
            train(config, resume=config.load_from is None)
    export_student(trained, weights, half=True)
    config = load_config(TEACHER, work_dir=work_dir / "test")
    config.log_level = "WARNING"
    metrics = test(config, str(weights))
    logs = [_log(Path(each.work_dir)) for each in configs]
    record = dict(
        made_by="gdetkd reproduce teacher",
        config=TEACHER,
        config_hash=[records.config_hash(each) for each in configs],
        seed=[each.randomness["seed"] for each in configs],
        steps=[each.train_cfg.max_iters for each in configs],
        AP=metrics["coco/bbox_mAP"],
        AP50=metrics["coco/bbox_mAP_50"],
        APs=metrics["coco/bbox_mAP_s"],
        APm=metrics["coco/bbox_mAP_m"],
        megabytes=round(weights.stat().st_size / 1e6, 2),
        loss=[{line["iter"]: round(line["loss"], 4) for line in log} for log in logs],
        seconds_per_step=[round(sum(x["time"] for x in log) / len(log), 3) for log in logs],
        **records.environment(),
    )
    weights.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def _log(work_dir: Path) -> list[dict]:
    """The lines of a run's log that report a training step."""
    lines = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if "loss" in line]
