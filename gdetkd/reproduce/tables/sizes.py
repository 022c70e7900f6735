"""Faster R-CNN students of three sizes on the teacher's own schedule.

The teacher has 3.6 times the parameters of the configs' student; the paper's (Faster R-CNN of R50
and R18) 1.5 times. The wide student is closer to that, 1.6 times smaller than its teacher, and the
large one has the teacher's size.
"""

from gdetkd.reproduce.registry import Claim, Row, register_table
from gdetkd.training.config import schedule

SIZES = {"wide": "a student of 32 channels", "large": "a student of the teacher's size"}


def pair(size: str):
    settings = dict(
        student=f"faster_rcnn_{size}", options=schedule(3000), embedded_only=True,
        baseline=f"baseline_3000_{size}",
    )  # fmt: skip
    label = f"{SIZES[size]}, teacher's schedule"
    return [
        Row(f"baseline_3000_{size}", f"Baseline, {label}", distilled=False, **settings),
        Row(f"gdetkd_3000_{size}", f"G-DetKD (all), {label}", **settings),
    ]


register_table(
    "sizes",
    "The size of the student, on the teacher's schedule",
    (Row("baseline_3000"), Row("gdetkd_3000"), *pair("wide"), *pair("large")),
    (
        Claim("the small student gains on the teacher's schedule", "gdetkd_3000", "baseline_3000"),
        Claim("the wide student gains on the teacher's schedule", "gdetkd_3000_wide",
              "baseline_3000_wide"),
        Claim("a student of the teacher's size gains on the teacher's schedule",
              "gdetkd_3000_large", "baseline_3000_large"),
    ),
    baseline="baseline_3000",
    order=11,
)  # fmt: skip
