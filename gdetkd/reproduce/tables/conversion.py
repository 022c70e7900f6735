"""Section D: converting class scores for a dense student. The paper prints no figure for it."""

from gdetkd.reproduce.experiments import component, only
from gdetkd.reproduce.registry import Claim, Row, register_table
from gdetkd.training.config import schedule

CONVERSIONS = {
    "object_scores": "converted (section D)",
    "none": "not converted",
    "sigmoid": "by sigmoids",
}


def rows(steps: int | None = None):
    suffix, text = (f"_{steps}", f", {steps:,} steps") if steps else ("", "")
    return [
        Row(f"conversion_{name}{suffix}", f"RetinaNet: class KD, {label}{text}",
            student="retinanet",
            options=only("classification")
            | component("classification", weight=1.0, conversion=name)
            | (schedule(steps) if steps else {}),
            baseline=f"retinanet{suffix}", embedded_only=bool(steps))
        for name, label in CONVERSIONS.items()
    ]  # fmt: skip


register_table(
    "conversion",
    "Section D: class scores for a dense student",
    (Row("retinanet"), *rows(), Row("retinanet_2000"), *rows(2000)),
    tuple(
        Claim(f"{statement}{text}", f"conversion_object_scores{suffix}", worse + suffix)
        for suffix, text in (("", ""), ("_2000", ", 2,000 steps"))
        for statement, worse in (
            ("converted beats not converted", "conversion_none"),
            ("converted beats sigmoids", "conversion_sigmoid"),
        )
    ),
    baseline="retinanet",
    order=8,
)
