"""The experiments as data: a name, a config, what it changes, and what it is there to show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PLAIN = "gdetkd::digits/faster_rcnn_r18.py"
DISTILLED = "gdetkd::digits/gdetkd_faster_rcnn_r18.py"
COMPONENTS = ("contrastive", "imitation", "classification", "regression")


@dataclass(frozen=True)
class Experiment:
    """One row of a table: a config with options, run with some seeds."""

    name: str
    label: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    seeds: int = 2


def steps(count: int) -> dict[str, Any]:
    """Options of a schedule of another length; a very short one warms up for a quarter of it."""
    warm = min(100, max(1, count // 4))
    return {
        "param_scheduler.0.end": warm,
        "param_scheduler.1.begin": warm,
        "train_cfg.max_iters": count,
        "train_cfg.val_interval": count,
        "param_scheduler.1.end": count,
    }


def only(*kept: str, transfer: bool = False, **options: Any) -> dict[str, Any]:
    """Options that switch the other components off."""
    off = {f"model.distill.{name}.weight": 0.0 for name in COMPONENTS if name not in kept}
    return off | {"model.transfer_heads": transfer} | options


# In order of importance: a sweep that is interrupted has run what matters most.
MAIN = [
    Experiment("baseline", "Baseline", PLAIN, seeds=5),
    Experiment("gdetkd", "G-DetKD (all)", DISTILLED, seeds=5),
    Experiment("no_transfer", "All but head transfer", DISTILLED, {"model.transfer_heads": False}),
    Experiment("transfer", "Head transfer alone", DISTILLED, only(transfer=True)),
    Experiment("imitation", "SGFI alone", DISTILLED, only("imitation")),
    Experiment("contrastive", "CKD alone", DISTILLED, only("contrastive")),
    Experiment("classification", "Class KD alone", DISTILLED, only("classification")),
    Experiment("regression", "CAReg alone", DISTILLED, only("regression")),
    Experiment(
        "ground_truth_regression",
        "Ground-truth-class regression alone",
        DISTILLED,
        only("regression") | {"model.distill.regression.class_aware": False},
    ),
    # A distilled step takes 1.7 times a plain one on the CPU (`gdetkd bench`).
    Experiment("baseline_1400", "Baseline, the time of G-DetKD", PLAIN, steps(1400)),
    Experiment("gdetkd_3000", "G-DetKD (all), teacher's schedule", DISTILLED, steps(3000), seeds=1),
    Experiment("baseline_3000", "Baseline, teacher's schedule", PLAIN, steps(3000), seeds=1),
    *(
        Experiment(
            f"baseline_lr_{rate:g}",
            f"Baseline, learning rate {rate:g}",
            PLAIN,
            {"optim_wrapper.optimizer.lr": rate},
            seeds=1,
        )
        for rate in (5e-4, 1e-3, 4e-3)  # the configs' own is 2e-3
    ),
]
EXPERIMENTS = {experiment.name: experiment for experiment in MAIN}
