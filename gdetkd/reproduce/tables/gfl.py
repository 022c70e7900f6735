"""GFL teaches GFL: by features and contrast, by classes, or by its distributions of edges (LD)."""

from gdetkd.reproduce.experiments import component, only
from gdetkd.reproduce.registry import Claim, Row, register_table

DISTILLED = dict(student="gfl", teacher="gfl", embedded_only=True)
# The weight of LD's authors; the temperature is theirs too.
LOCALIZATION = only() | component("localization_distillation", weight=0.25)

register_table(
    "gfl",
    "GFL teaches GFL",
    (
        Row("teacher_gfl", "GFL: the teacher", student="teacher_gfl", distilled=False, seeds=1,
            embedded_only=True),
        Row("gfl", "GFL: baseline", student="gfl", distilled=False, embedded_only=True),
        Row("gdetkd_gfl", "GFL: SGFI and CKD", **DISTILLED),
        Row("classification_gfl", "GFL: class KD alone", **DISTILLED,
            options=only("classification") | component("classification", weight=1.0)),
        Row("localization_distillation", "GFL: localization distillation (LD)", **DISTILLED,
            options=LOCALIZATION),
    ),
    (
        Claim("features and contrast beat distributions of edges", "gdetkd_gfl",
              "localization_distillation"),
    ),
    baseline="gfl",
    shows_gap=False,
    order=12,
)  # fmt: skip
