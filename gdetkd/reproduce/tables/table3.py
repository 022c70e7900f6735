"""Table 3: the projection, for CKD alone."""

from gdetkd.reproduce.experiments import component, only
from gdetkd.reproduce.registry import Claim, Row, register_table

register_table(
    "table3",
    "Table 3: the projection",
    (
        Row("baseline", paper=34.0),
        Row("nonlinear", "CKD, nonlinear projection", 36.7, seeds=5,
            options=only("contrastive") | component("contrastive", projection="nonlinear")),
        Row("contrastive", paper=37.1),
    ),
    (Claim("linear beats nonlinear", "contrastive", "nonlinear"),),
    order=3,
)  # fmt: skip
