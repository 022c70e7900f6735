"""Other ways to imitate features, at the weight of SGFI and each alone; beside them class KD."""

from gdetkd.reproduce.experiments import component, only
from gdetkd.reproduce.registry import Claim, Row, register_table

LABELS = {
    "fitnet": "Same-level imitation (FitNets)",
    "masked_imitation": "Same-level imitation in ground-truth boxes",
    "pkd": "Normalized same-level imitation (PKD)",
}


def alone(name: str):
    return lambda benchmark: only() | component(name, weight=benchmark.imitation)


register_table(
    "baselines",
    "Other ways to imitate",
    (
        Row("baseline", paper=34.0),
        Row("imitation", paper=36.7),
        *(Row(name, label, options=alone(name)) for name, label in LABELS.items()),
        Row("classification"),
    ),
    (
        Claim("SGFI beats same-level imitation", "imitation", "fitnet"),
        Claim("SGFI beats same-level imitation in ground-truth boxes", "imitation",
              "masked_imitation"),
        Claim("SGFI beats normalized same-level imitation", "imitation", "pkd"),
    ),
    order=9,
)  # fmt: skip
