"""Rendered tables, and the pages that quote the records."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from helpers import build
from reproduce_records import record

from gdetkd.reproduce import report, statistics
from gdetkd.reproduce.experiments import COCO, COMPONENTS, DIGITS
from gdetkd.reproduce.figures import claims_figure, figure1
from gdetkd.reproduce.registry import TABLES, definitions, experiments_of
from gdetkd.training.config import load_config

EXPERIMENTS = experiments_of(DIGITS)
RESULTS = Path(__file__).parents[1] / "results" / "digits"
PAIRS = ("gdetkd_retinanet", "gdetkd_fcos", "gdetkd_cascade", "gdetkd_c4")


def test_table_says_what_has_not_run():
    rows = [record("baseline", 0, 0.1), record("gdetkd", 0, 0.4)]
    table = report.table("main", pd.DataFrame(rows), teacher=0.5).set_index("")
    assert table.loc["G-DetKD (all)", "gap closed"] == "75%"  # (0.4 - 0.1) / (0.5 - 0.1)
    assert table.loc["CKD alone", "AP"] == "not run"
    assert table.loc["CKD alone", "paper (COCO)"] == "37.1"


def test_a_share_of_no_gap_is_left_out():
    rows = [record("baseline_3000_large", 0, 0.497), record("gdetkd_3000_large", 0, 0.505)]
    rows += [record("baseline_3000", 0, 0.45), record("gdetkd_3000", 0, 0.475)]
    table = report.table("sizes", pd.DataFrame(rows), teacher=0.5).set_index("")
    assert list(table.loc[table["gain"] != "", "gap closed"]) == ["50%", ""]
    assert list(table.loc[table["gain"] != "", "gain"]) == ["+2.5", "+0.8"]


def test_committed_tables_and_figure_are_made_from_the_committed_records(tmp_path):
    frame, folder = report.runs(), tmp_path / "digits"
    written = report.write_tables(folder, frame)
    assert {path.stem for path in written} == {*TABLES, "claims", "noise"}
    for path in written:
        assert path.read_text() == (RESULTS / path.name).read_text(), path.name
    for draw, name in ((figure1, "figure1.png"), (claims_figure, "claims.png")):
        drawn = draw(frame, tmp_path / name)
        assert drawn.read_bytes() == (RESULTS / name).read_bytes(), name


def test_the_readme_says_what_is_on_record():
    readme = (RESULTS.parents[1] / "README.md").read_text()
    block = readme.split("<!-- headline", 1)[1].split("-->", 1)[1].split("<!-- end", 1)[0]
    assert " ".join(block.split()) == " ".join(report.headline().split())


def test_the_page_of_results_quotes_the_records():
    page = " ".join((RESULTS.parent / "README.md").read_text().split())
    frame, test = report.runs(), json.loads(report.TEST.read_text())
    students = dict.fromkeys(
        ("gdetkd", *COMPONENTS, "transfer", "ground_truth_regression"), "baseline"
    )
    baselines = {name: baseline for name, (_, baseline) in definitions().items()}
    students |= {name: baselines[name] for name in PAIRS}
    conversions = (row.name for row in TABLES["conversion"].rows if "_2000" not in row.name)
    students |= {name: "retinanet" for name in conversions if name != "retinanet"}
    pairs = [
        *students.items(),
        *((claim.better, claim.worse) for _, claim in statistics.all_claims()),
    ]
    gains = [report.shown(statistics.paired_gain(frame, *pair), signed=True) for pair in pairs]
    gains = [gain for gain in gains if "±" in gain]
    for gain in (*gains, test["gain"]):
        assert gain.lstrip("+-") in page
    alone = (
        "imitation", "imitation_48", "contrastive", "features", "memory_1", "memory_reencoded",
        "memory_reencoded_gradient", "memory_60_reencoded_gradient", "gdetkd_3000_reencoded",
        "baseline_1400", "baseline_3000", "stage_0", "stage_1", "stage_2", "retinanet_2000",
        "gdetkd_retinanet_2000", "retinanet_lr_0.001",
    )  # fmt: skip
    alone += tuple(
        name
        for name in set(frame["experiment"])
        if name.startswith("branch")
        or name in {row.name for key in ("reach", "sizes") for row in TABLES[key].rows}
    )
    for name in (*alone, *PAIRS, *(baselines[name] for name in PAIRS)):
        assert f"{(100 * frame.loc[frame['experiment'] == name, 'AP']).mean():.1f}" in page, name
    found = statistics.claim_differences(frame)
    counts = found.loc[found["paper"].notna(), "verdict"].value_counts()
    assert (
        f"Of the paper's {counts.sum()} directions, {counts['confirmed']} are confirmed on digits, "
        f"{counts['contradicted']} contradicted, "
        f"{counts['not distinguishable']} not distinguishable"
    ) in page
    assert set(counts.index) == {"confirmed", "contradicted", "not distinguishable"}


def test_sizes_of_students_are_those_that_are_said():
    names = ("baseline_3000", "baseline_3000_wide", "baseline_3000_large")
    models = [load_config(EXPERIMENTS[n].config, EXPERIMENTS[n].options).model for n in names]
    models.append(load_config("gdetkd::digits/faster_rcnn_r34_teacher.py").model)
    models += [load_config(COCO.student("faster_rcnn", False)[0]).model]
    models += [load_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py").model]
    for model in models:
        model.backbone.init_cfg = None  # no weights to fetch
    small, wide, large, teacher, r18, r50 = (
        sum(p.numel() for p in build(model).parameters()) for model in models
    )
    ratios = [round(a / b, 1) for a, b in ((teacher, small), (teacher, wide), (r50, r18))]
    assert ratios == [3.6, 1.6, 1.5] and large == teacher
    page = " ".join((RESULTS.parent / "README.md").read_text().split())
    for count in (small, wide, teacher):
        assert f"{count / 1e6:.1f} million" in page
