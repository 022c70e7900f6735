"""The component table of the main paper: what each part of G-DetKD contributes.

Below it: the same on other schedules, with other queues, and other learning rates of the baseline.
"""

from gdetkd.reproduce.experiments import ALL_BOXES, REENCODED, REENCODED_GRADIENT, component, only
from gdetkd.reproduce.registry import Claim, Row, register_table
from gdetkd.training.config import schedule

GROUND_TRUTH_CLASS = only("regression") | component("regression", class_aware=False)
LONG = schedule(3000)  # the teacher's own

register_table(
    "main",
    "Two-stage pairs: every component",
    (
        # Eight seeds: they show how much a seed changes.
        Row("baseline", "Baseline", 34.0, distilled=False, seeds=8),
        Row("gdetkd", "G-DetKD (all)", 37.9, seeds=5),
        Row("gdetkd_reencoded", "G-DetKD (all), queue re-encoded", options=REENCODED,
            embedded_only=True),
        Row("gdetkd_reencoded_gradient", "G-DetKD (all), queue re-encoded with a gradient",
            options=REENCODED_GRADIENT, embedded_only=True),
        Row("no_transfer", "All but head transfer", options={"model.transfer_heads": False},
            seeds=5),
        Row("transfer", "Head transfer alone", options=only(transfer=True), seeds=5),
        Row("imitation", "SGFI alone", 36.7, options=only("imitation"), seeds=5),
        Row("contrastive", "CKD alone", 37.1, options=only("contrastive"), seeds=5),
        Row("features", "SGFI and CKD", 37.6, options=only("imitation", "contrastive"), seeds=5),
        Row("classification", "Class KD alone", options=only("classification"), seeds=5),
        Row("regression", "CAReg alone", 35.7, options=only("regression"), seeds=5),
        Row("ground_truth_regression", "Ground-truth-class regression alone", 34.7,
            options=GROUND_TRUTH_CLASS, seeds=5),
        Row("imitation_48", "SGFI alone, on all boxes", options=only("imitation") | ALL_BOXES,
            seeds=2, embedded_only=True),
        # A distilled step takes 1.7 times as long as a plain one on a CPU (`gdetkd bench`).
        Row("baseline_1400", "Baseline, the time of G-DetKD", distilled=False,
            options=schedule(1400), seeds=2, embedded_only=True),
        Row("gdetkd_3000", "G-DetKD (all), teacher's schedule", options=LONG,
            baseline="baseline_3000", embedded_only=True),
        Row("gdetkd_3000_reencoded", "The same, SGFI on all boxes, queue re-encoded",
            options=LONG | REENCODED | ALL_BOXES, seeds=1, baseline="baseline_3000",
            embedded_only=True),
        Row("baseline_3000", "Baseline, teacher's schedule", distilled=False, options=LONG,
            embedded_only=True),
        *(
            Row(f"baseline_lr_{rate:g}", f"Baseline, learning rate {rate:g}", distilled=False,
                options={"optim_wrapper.optimizer.lr": rate}, seeds=1, embedded_only=True)
            for rate in (5e-4, 1e-3, 4e-3)  # that of the configs is 2e-3
        ),
    ),
    (
        Claim("SGFI helps", "imitation", "baseline"),
        Claim("CKD helps", "contrastive", "baseline"),
        Claim("SGFI and CKD together beat SGFI", "features", "imitation"),
        Claim("SGFI and CKD together beat CKD", "features", "contrastive"),
        Claim("predictions and head transfer add to both", "gdetkd", "features"),
    ),
    order=0,
)  # fmt: skip
