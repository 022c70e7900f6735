"""What was tried to bring the student to its teacher, one change at a time. Settled history."""

from gdetkd.reproduce.experiments import ALL_BOXES, REENCODED_GRADIENT, component
from gdetkd.reproduce.registry import Row, register_table
from gdetkd.training.config import schedule

CHANGES = {
    "imitation_10": ("SGFI twice as heavy", component("imitation", weight=10.0)),
    "contrastive_2": ("CKD four times as heavy", component("contrastive", weight=2.0)),
    "classification_4": ("class KD four times as heavy", component("classification", weight=4.0)),
    "regression_0.25": ("CAReg a quarter as heavy", component("regression", weight=0.25)),
    "nonlinear": ("a nonlinear projection", component("contrastive", projection="nonlinear")),
    "dim_256": ("a projection to 256", component("contrastive", dim=256)),
    "boxes_96": ("96 proposals an image", {"model.student.train_cfg.rcnn.sampler.num": 96}),
    "level_0.1": ("level temperature from 0.1", component("imitation", temperature=0.1)),
    "level_10": ("level temperature from 10", component("imitation", temperature=10.0)),
}
TOGETHER = {
    **CHANGES["imitation_10"][1], **CHANGES["contrastive_2"][1], **CHANGES["regression_0.25"][1],
    **REENCODED_GRADIENT, **ALL_BOXES,
}  # fmt: skip
ONCE = dict(seeds=1, embedded_only=True)
LONGEST = schedule(6000)  # twice the teacher's own

register_table(
    "reach",
    "What could bring the student to its teacher",
    (
        Row("gdetkd"),
        Row("gdetkd_3000"),
        Row("gdetkd_3000_reencoded"),
        Row("gdetkd_6000", "G-DetKD (all), 6,000 steps", options=LONGEST,
            baseline="baseline_6000", **ONCE),
        Row("baseline_3000"),
        Row("baseline_6000", "Baseline, 6,000 steps", distilled=False, options=LONGEST, **ONCE),
        *(
            Row(f"gdetkd_{name}", f"G-DetKD (all), {label}", options=options, **ONCE)
            for name, (label, options) in CHANGES.items()
        ),
        Row("gdetkd_together",
            "G-DetKD (all), SGFI and CKD heavier, CAReg lighter, all boxes, a queue with a "
            "gradient", options=TOGETHER, **ONCE),
        Row("gdetkd_6000_together", "The same, 6,000 steps", options=TOGETHER | LONGEST,
            baseline="baseline_6000", **ONCE),
        # Do the teacher's heads, transferred and frozen, hold it back in the long run?
        Row("no_transfer_3000", "All but head transfer, teacher's schedule",
            options={"model.transfer_heads": False} | schedule(3000),
            baseline="baseline_3000", **ONCE),
    ),
    order=13,
)  # fmt: skip
