"""Heterogeneous pairs of the main paper: dense students of the two-stage teacher."""

from gdetkd.reproduce.registry import Claim, Row, register_table
from gdetkd.training.config import schedule

STUDENTS = dict(retinanet="RetinaNet", fcos="FCOS")
PAPER = dict(retinanet=(32.6, 36.3), fcos=(30.3, 35.6))  # baseline, G-DetKD


def pair(student: str):
    label, (plain, distilled) = STUDENTS[student], PAPER[student]
    return [
        Row(student, f"{label}: baseline", plain, student=student, distilled=False, seeds=5),
        Row(f"gdetkd_{student}", f"{label}: SGFI and CKD", distilled, student=student, seeds=5,
            baseline=student),
    ]  # fmt: skip


register_table(
    "dense",
    "Dense students of the two-stage teacher",
    (
        *(row for student in STUDENTS for row in pair(student)),
        # RetinaNet again with more steps: on 800 it varies much between seeds.
        Row("retinanet_2000", "RetinaNet: baseline, 2,000 steps", student="retinanet",
            distilled=False, options=schedule(2000), seeds=5, embedded_only=True),
        Row("gdetkd_retinanet_2000", "RetinaNet: SGFI and CKD, 2,000 steps", student="retinanet",
            options=schedule(2000), baseline="retinanet_2000", embedded_only=True),
        *(
            Row(f"{student}_lr_{rate:g}", f"{label}: baseline, learning rate {rate:g}",
                student=student, distilled=False, seeds=1, baseline=student,
                options={"optim_wrapper.optimizer.lr": rate}, embedded_only=True)
            for student, label in STUDENTS.items()
            for rate in (1e-3, 4e-3)  # that of the configs is 2e-3
        ),
    ),
    (
        Claim("RetinaNet gains", "gdetkd_retinanet", "retinanet"),
        Claim("FCOS gains", "gdetkd_fcos", "fcos"),
        Claim("RetinaNet gains, 2,000 steps", "gdetkd_retinanet_2000", "retinanet_2000"),
    ),
    shows_gap=False,
    order=7,
)  # fmt: skip
