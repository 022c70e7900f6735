"""How the weights of the digits configs were chosen, on val and seed 0. Settled history."""

from gdetkd.reproduce.experiments import ALL_BOXES, component
from gdetkd.reproduce.registry import Row, register_table

LIGHTER = component("imitation", weight=3.0) | component("contrastive", weight=0.1)
CHANGES = {
    "1": ("SGFI's weight 1", component("imitation", weight=1.0)),
    "3": ("SGFI's weight 3, CKD's 0.1", LIGHTER),
    "3_48": ("SGFI's weight 3 and on all boxes, CKD's 0.1", LIGHTER | ALL_BOXES),
}

register_table(
    "tuning",
    "How the weights were chosen",
    (
        Row("baseline"),
        Row("gdetkd"),
        *(
            Row(f"tuning_{name}", f"G-DetKD (all), {label}", options=options, seeds=1,
                embedded_only=True)
            for name, (label, options) in CHANGES.items()
        ),
    ),
    order=14,
)  # fmt: skip
