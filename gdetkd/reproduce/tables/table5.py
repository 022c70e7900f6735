"""Table 5: distilling the regression, and why CAReg alone does not help on digits."""

from gdetkd.reproduce.experiments import component, only
from gdetkd.reproduce.registry import Claim, Row, register_table
from gdetkd.training.config import schedule


def weight(value: float, **changes):
    return only("regression") | component("regression", weight=value, **changes)


register_table(
    "table5",
    "Table 5: distilling the regression",
    (
        Row("baseline", paper=34.0),
        Row("ground_truth_regression", paper=34.7),
        Row("regression", paper=35.7),
        # The mean over the foreground, at most a fifth of the boxes; that of CAReg is over all.
        Row("ground_truth_regression_0.1", "Ground-truth-class regression, a tenth of the weight",
            options=weight(0.1, class_aware=False), embedded_only=True),
        Row("regression_0.25", "CAReg alone, a quarter of the weight", options=weight(0.25),
            embedded_only=True),
        Row("regression_0.1", "CAReg alone, a tenth of the weight", options=weight(0.1),
            embedded_only=True),
        Row("baseline_boxes_2", "Baseline, twice the box loss", distilled=False, seeds=2,
            options={"model.roi_head.bbox_head.loss_bbox.loss_weight": 2.0}, embedded_only=True),
        # Is it the schedule, and does CAReg add to the rest?
        Row("baseline_3000"),
        Row("regression_3000", "CAReg alone, teacher's schedule",
            options=only("regression") | schedule(3000), baseline="baseline_3000",
            embedded_only=True),
        Row("gdetkd"),
        Row("no_regression", "All but CAReg", options=component("regression", weight=0.0),
            embedded_only=True),
    ),
    (
        Claim("class-aware regression helps", "regression", "baseline"),
        Claim("class-aware beats ground-truth-class", "regression", "ground_truth_regression"),
        Claim("class-aware regression helps, a quarter of the weight", "regression_0.25",
              "baseline"),
        Claim("class-aware regression helps, a tenth of the weight", "regression_0.1", "baseline"),
        Claim("class-aware regression helps, teacher's schedule", "regression_3000",
              "baseline_3000"),
        Claim("class-aware regression adds to the rest of G-DetKD", "gdetkd", "no_regression"),
    ),
    order=5,
)  # fmt: skip
