"""The test split of digits: nothing is tuned on it, and it is used once, at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from gdetkd.evaluation.records import environment
from gdetkd.reproduce.experiments import DIGITS
from gdetkd.reproduce.registry import experiments_of
from gdetkd.reproduce.report import shown
from gdetkd.reproduce.teacher import TEACHER, WEIGHTS, evaluate
from gdetkd.training.config import load_config


def measure_test(
    out: Path, runs_dir: Path, report: Callable[[str], None] = print
) -> dict[str, object]:
    """Evaluate the recorded baselines and distilled students, and the teacher, on the test split.

    Raises:
        ValueError: `out` exists: the split has been used.
        FileNotFoundError: A run's checkpoint is gone; `gdetkd reproduce main` makes it.
    """
    if out.exists():
        raise ValueError(f"{out} exists: the test split has been used, and is used once")
    scores: dict[str, dict[str, float]] = {}
    for name in ("baseline", "gdetkd"):
        experiment = experiments_of(DIGITS)[name]
        for seed in range(experiment.seeds):
            folder = runs_dir / f"{name}_{seed}"
            steps = load_config(experiment.config).train_cfg.max_iters
            checkpoint = folder / f"iter_{steps}.pth"
            if not checkpoint.exists():
                raise FileNotFoundError(f"{checkpoint}: run `gdetkd reproduce main` first")
            found = evaluate(experiment.config, checkpoint, folder, "test")["AP"]
            scores.setdefault(name, {})[str(seed)] = found
            report(f"{name}, seed {seed}: AP {found:.3f}")
    teacher = evaluate(TEACHER, WEIGHTS, runs_dir / "teacher", "test")["AP"]
    gain = pd.Series(scores["gdetkd"]) - pd.Series(scores["baseline"])
    record = dict(
        made_by="gdetkd reproduce test",
        AP=scores,
        teacher=teacher,
        gain=shown(gain, signed=True),
        **environment(),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2) + "\n")
    return record
