"""What the paper measured, as data: its tables' rows, and the directions they show.

AP in percent on COCO minival. Tables 1 to 6 and Figure 1 are the supplement's; 'main' is the
component table of the main paper, 'dense' its heterogeneous pairs, which we know from a summary.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from gdetkd.reproduce.experiments import (
    BRANCHES,
    CONVERSIONS,
    DENSE,
    EXTREMES,
    LARGER,
    MEMORIES,
    TEACHERS,
    THRESHOLDS,
)


@dataclass(frozen=True)
class Row:
    """A row of a table: the experiment that repeats it, and the paper's AP where it has one."""

    experiment: str
    paper: float | None = None


@dataclass(frozen=True)
class Table:
    """A table: its rows, the experiment that gains are over, whose gap is to be closed."""

    title: str
    rows: tuple[Row, ...]
    baseline: str = "baseline"
    teacher: str | None = "teacher"


@dataclass(frozen=True)
class Claim:
    """A direction: one experiment is better than another."""

    table: str
    statement: str
    better: str
    worse: str


def _rows(**papers: float | None) -> tuple[Row, ...]:
    return tuple(Row(name, paper) for name, paper in papers.items())


TABLES = {
    "main": Table(
        "Two-stage pairs: every component",
        _rows(
            baseline=34.0, gdetkd=37.9, gdetkd_fresh=None, gdetkd_learned=None,
            no_transfer=None, transfer=None,
            imitation=36.7, contrastive=37.1, features=37.6, classification=None, regression=35.7,
            ground_truth_regression=34.7, imitation_48=None, baseline_1400=None, gdetkd_3000=None,
            gdetkd_3000_fresh=None, baseline_3000=None,
            **{f"baseline_lr_{rate}": None for rate in ("0.0005", "0.001", "0.004")},
        ),
    ),
    "table1": Table(
        "Table 1: the size of the memory, K in gathered batches",
        (
            Row("baseline", 34.0),
            *(
                Row(f"memory_{count}", paper)
                for count, paper in zip(MEMORIES, (36.8, 36.9, 37.1, 37.0, 36.9), strict=True)
            ),
            Row("contrastive"),
            Row("memory_fresh"),
            Row("memory_learned"),
            Row("memory_60"),
            Row("memory_60_learned"),
        ),
    ),
    "table2": Table(
        "Table 2: proposals that overlap more than this are no negatives",
        _rows(
            baseline=34.0,
            **dict(zip(THRESHOLDS.values(), (36.8, 36.9, 37.1, 37.0, 36.8, 36.8), strict=True)),
            memory_1=None, **{f"memory_1_iou_{threshold:g}": None for threshold in EXTREMES},
        ),
    ),
    "table3": Table(
        "Table 3: the projection", _rows(baseline=34.0, nonlinear=36.7, contrastive=37.1)
    ),
    "table4": Table(
        "Table 4: CKD on the branches of a dense student",
        (
            Row("retinanet", 32.6),
            *(
                Row(f"branch_{branch}", paper)
                for branch, paper in zip(BRANCHES, (35.8, 34.3, 35.1), strict=True)
            ),
            Row("retinanet_2000"),
            *(Row(f"branch_{branch}_2000") for branch in BRANCHES),
            *(Row(f"branch_{branch}_learned") for branch in BRANCHES),
        ),
        baseline="retinanet",
    ),
    "table5": Table(
        "Table 5: distilling the regression",
        _rows(
            baseline=34.0, ground_truth_regression=34.7, regression=35.7,
            **dict.fromkeys(
                ("ground_truth_regression_0.1", "regression_0.25", "regression_0.1"), None
            ),
            baseline_boxes_2=None, baseline_3000=None, regression_3000=None,
            gdetkd=None, no_regression=None,
        ),
    ),
    "table6": Table(
        "Table 6: other two-stage detectors",
        _rows(
            teacher_c4=34.8, c4=22.0, gdetkd_c4=29.1,
            c4_middle=31.9, gdetkd_c4_middle=34.7, c4_large=36.0, gdetkd_c4_large=36.8,
            teacher_cascade=43.0, cascade=36.5, gdetkd_cascade=40.4,
            cascade_middle=40.3, gdetkd_cascade_middle=42.5, cascade_large=42.5,
            gdetkd_cascade_large=43.3,
        ),
        teacher=None,
    ),
    "dense": Table(
        "Dense students of the two-stage teacher",
        _rows(
            retinanet=32.6, gdetkd_retinanet=36.3, fcos=30.3, gdetkd_fcos=35.6,
            retinanet_2000=None, gdetkd_retinanet_2000=None,
            **{f"{student}_lr_{rate}": None for student in DENSE for rate in ("0.001", "0.004")},
        ),
        teacher=None,
    ),
    "reach": Table(
        "What could bring the student to its teacher",
        _rows(
            gdetkd=None, gdetkd_3000=None, gdetkd_3000_fresh=None, gdetkd_6000=None,
            baseline_3000=None, baseline_6000=None, gdetkd_imitation_10=None,
            gdetkd_contrastive_2=None, gdetkd_classification_4=None,
            **{"gdetkd_regression_0.25": None}, gdetkd_nonlinear=None, gdetkd_dim_256=None,
            gdetkd_boxes_96=None, **{"gdetkd_level_0.1": None}, gdetkd_level_10=None,
            gdetkd_together=None, gdetkd_6000_together=None, no_transfer_3000=None,
        ),
    ),
    "sizes": Table(
        "The size of the student, on the teacher's schedule",
        _rows(
            baseline_3000=None, gdetkd_3000=None, baseline_3000_wide=None,
            gdetkd_3000_wide=None, baseline_3000_large=None, gdetkd_3000_large=None,
        ),
        baseline="baseline_3000",
    ),
    "tuning": Table(
        "How the weights were picked",
        _rows(
            baseline=None, gdetkd=None, tuning_1=None, tuning_3=None, tuning_3_48=None,
        ),
    ),
    "stages": Table(
        "Cascade R-CNN teaches Faster R-CNN: which of its stages",
        _rows(
            teacher_cascade=None, baseline=None, no_transfer=None, stage_0=None, stage_1=None,
            stage_2=None,
        ),
        teacher=None,
    ),
    "gfl": Table(
        "GFL teaches GFL",
        _rows(
            teacher_gfl=None, gfl=None, gdetkd_gfl=None, classification_gfl=None,
            rival_localization=None,
        ),
        baseline="gfl",
        teacher=None,
    ),
    "conversion": Table(
        "Section D: class scores for a dense student",
        _rows(
            retinanet=None, **{f"conversion_{name}": None for name in CONVERSIONS},
            retinanet_2000=None, **{f"conversion_{name}_2000": None for name in CONVERSIONS},
        ),
        baseline="retinanet",
    ),
    "rivals": Table(
        "What else could be imitated",
        _rows(
            baseline=34.0, imitation=36.7, rival_rigid=None, rival_masked=None,
            rival_normalized=None, classification=None,
        ),
    ),
}  # fmt: skip
# In order of importance: a sweep that is interrupted has run what matters most.
IMPORTANCE = (
    "main", "table5", "table4", "dense", "table3", "table6", "table2", "table1", "conversion",
    "stages", "rivals", "sizes", "reach", "gfl", "tuning",
)  # fmt: skip
LONGER = [
    f"{name}_2000"
    for name in (
        "gdetkd_retinanet",
        *(f"branch_{branch}" for branch in BRANCHES),
        *(f"conversion_{conversion}" for conversion in CONVERSIONS),
    )
]
BASELINES = {
    "gdetkd_retinanet": "retinanet",
    "gdetkd_fcos": "fcos",
    **{f"gdetkd_{name}": name for name in ("c4", "cascade", *LARGER)},
    **dict.fromkeys(("gdetkd_gfl", "classification_gfl", "rival_localization"), "gfl"),
    **dict.fromkeys(LONGER, "retinanet_2000"),
    **dict.fromkeys(
        ("gdetkd_3000", "gdetkd_3000_fresh", "no_transfer_3000", "regression_3000"),
        "baseline_3000",
    ),
    **dict.fromkeys(("gdetkd_6000", "gdetkd_6000_together"), "baseline_6000"),
    **{f"gdetkd_3000_{size}": f"baseline_3000_{size}" for size in ("wide", "large")},
    **{f"{student}_lr_{rate}": student for student in DENSE for rate in ("0.001", "0.004")},
}
# Rows without a gain: what others are compared with.
REFERENCES = {*BASELINES.values(), *(f"teacher_{name}" for name in TEACHERS)}

CLAIMS = (
    Claim("main", "SGFI helps", "imitation", "baseline"),
    Claim("main", "CKD helps", "contrastive", "baseline"),
    Claim("main", "SGFI and CKD together beat SGFI", "features", "imitation"),
    Claim("main", "SGFI and CKD together beat CKD", "features", "contrastive"),
    Claim("main", "predictions and head transfer add to both", "gdetkd", "features"),
    Claim("table1", "a memory beats the batch alone", "memory_10", "memory_1"),
    Claim("table1", "a memory of twice the size is worse", "memory_10", "memory_20"),
    Claim("table1", "a queue projected anew, with a gradient, beats the paper's queue of keys",
          "memory_learned", "contrastive"),
    Claim("table2", "IoU 0.5 beats leaving almost all overlap out", "contrastive", "iou_0.1"),
    Claim("table2", "IoU 0.5 beats leaving nothing out", "contrastive", "iou_1"),
    Claim("table2", "IoU 0.5 beats leaving almost all overlap out, no queue", "memory_1",
          "memory_1_iou_0.1"),
    Claim("table2", "IoU 0.5 beats leaving nothing out, no queue", "memory_1", "memory_1_iou_1"),
    Claim("table3", "linear beats nonlinear", "contrastive", "nonlinear"),
    Claim("table4", "the classification branch helps", "branch_classification", "retinanet"),
    Claim("table4", "classification beats localization", "branch_classification",
          "branch_localization"),
    Claim("table4", "classification beats both summed", "branch_classification",
          "branch_combined"),
    Claim("table4", "the classification branch helps, 2,000 steps", "branch_classification_2000",
          "retinanet_2000"),
    Claim("table4", "classification beats localization, 2,000 steps",
          "branch_classification_2000", "branch_localization_2000"),
    Claim("table4", "classification beats both summed, 2,000 steps",
          "branch_classification_2000", "branch_combined_2000"),
    Claim("table4", "the classification branch helps, a queue with a gradient",
          "branch_classification_learned", "retinanet"),
    Claim("table4", "classification beats localization, a queue with a gradient",
          "branch_classification_learned", "branch_localization_learned"),
    Claim("table4", "classification beats both summed, a queue with a gradient",
          "branch_classification_learned", "branch_combined_learned"),
    Claim("table5", "class-aware regression helps", "regression", "baseline"),
    Claim("table5", "class-aware beats ground-truth-class", "regression",
          "ground_truth_regression"),
    Claim("table5", "class-aware regression helps, a quarter of the weight", "regression_0.25",
          "baseline"),
    Claim("table5", "class-aware regression helps, a tenth of the weight", "regression_0.1",
          "baseline"),
    Claim("table5", "class-aware regression helps, teacher's schedule", "regression_3000",
          "baseline_3000"),
    Claim("table5", "class-aware regression adds to the rest of G-DetKD", "gdetkd",
          "no_regression"),
    Claim("table6", "C4 pairs gain", "gdetkd_c4", "c4"),
    Claim("table6", "C4 pairs gain, middle student", "gdetkd_c4_middle", "c4_middle"),
    Claim("table6", "C4 pairs gain, large student", "gdetkd_c4_large", "c4_large"),
    Claim("table6", "Cascade pairs gain", "gdetkd_cascade", "cascade"),
    Claim("table6", "Cascade pairs gain, middle student", "gdetkd_cascade_middle",
          "cascade_middle"),
    Claim("table6", "Cascade pairs gain, large student", "gdetkd_cascade_large", "cascade_large"),
    Claim("dense", "RetinaNet gains", "gdetkd_retinanet", "retinanet"),
    Claim("dense", "FCOS gains", "gdetkd_fcos", "fcos"),
    Claim("dense", "RetinaNet gains, 2,000 steps", "gdetkd_retinanet_2000", "retinanet_2000"),
    Claim("conversion", "converted beats not converted", "conversion_object_scores",
          "conversion_none"),
    Claim("conversion", "converted beats sigmoids", "conversion_object_scores",
          "conversion_sigmoid"),
    Claim("conversion", "converted beats not converted, 2,000 steps",
          "conversion_object_scores_2000", "conversion_none_2000"),
    Claim("conversion", "converted beats sigmoids, 2,000 steps",
          "conversion_object_scores_2000", "conversion_sigmoid_2000"),
    Claim("rivals", "semantic-guided beats rigid imitation", "imitation", "rival_rigid"),
    Claim("rivals", "semantic-guided beats masked imitation", "imitation", "rival_masked"),
    Claim("rivals", "semantic-guided beats normalized imitation", "imitation",
          "rival_normalized"),
    Claim("sizes", "the small student gains on the teacher's schedule", "gdetkd_3000",
          "baseline_3000"),
    Claim("sizes", "the wide student gains on the teacher's schedule", "gdetkd_3000_wide",
          "baseline_3000_wide"),
    Claim("sizes", "a student of the teacher's size gains on the teacher's schedule",
          "gdetkd_3000_large", "baseline_3000_large"),
    Claim("gfl", "features and contrast beat distributions of edges", "gdetkd_gfl",
          "rival_localization"),
)  # fmt: skip


def verdict(difference: pd.Series, half_width: float) -> str:
    """What paired differences of AP (one a seed) say of a claim.

    'confirmed' or 'contradicted' if the 95% interval of their mean leaves out 0; 'not told apart'
    if it holds it; with fewer than two seeds there is no interval: 'one seed', 'not run'.
    """
    if difference.empty:
        return "not run"
    if len(difference) == 1:
        return "one seed"
    mean = difference.mean()
    if abs(mean) <= half_width:
        return "not told apart"
    return "confirmed" if mean > 0 else "contradicted"
