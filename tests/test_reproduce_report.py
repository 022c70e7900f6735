"""Rendered tables, and the pages that quote the records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from reproduce_records import record

from gdetkd.reproduce import report
from gdetkd.reproduce.figures import budgets_figure, claims_figure, figure1
from gdetkd.reproduce.page import write_pages
from gdetkd.reproduce.registry import TABLES

RESULTS = Path(__file__).parents[1] / "results" / "digits"


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
    shared = {name for name, table in TABLES.items() if table.benchmark is None}
    assert {path.stem for path in written} == {*shared, "claims", "noise"}
    for path in written:
        assert path.read_text() == (RESULTS / path.name).read_text(), path.name
    for draw, name in ((figure1, "figure1.png"), (claims_figure, "claims.png")):
        drawn = draw(frame, tmp_path / name)
        assert drawn.read_bytes() == (RESULTS / name).read_bytes(), name
    drawn = budgets_figure(frame, report.teachers(frame), tmp_path / "budgets.png")
    assert drawn.read_bytes() == (RESULTS / "budgets.png").read_bytes()


def test_the_readme_says_what_is_on_record():
    readme = (RESULTS.parents[1] / "README.md").read_text()
    block = readme.split("<!-- headline", 1)[1].split("-->", 1)[1].split("<!-- end", 1)[0]
    assert " ".join(block.split()) == " ".join(report.headline().split())


def test_the_pages_of_results_are_made_from_the_records(tmp_path):
    """Byte for byte: no figure on it is typed."""
    results = shutil.copytree(RESULTS.parent, tmp_path / "results")
    for name, path in write_pages(results).items():
        assert path.read_bytes() == (RESULTS.parent / name).read_bytes(), name


def test_a_changed_record_changes_the_page_and_a_missing_one_is_named(tmp_path):
    results = shutil.copytree(RESULTS.parent, tmp_path / "results")
    lines = (results / "digits" / report.RUNS).read_text().splitlines()
    path = results / "digits" / report.RUNS
    path.write_text("\n".join(line for line in lines if '"experiment": "fitnet"' not in line))
    with pytest.raises(ValueError, match="quotes 'fitnet', and runs.jsonl has no run of it"):
        write_pages(results)
    changed = [dict(json.loads(line)) for line in lines]
    for one in changed:
        one["AP"] = 0.123 if one["experiment"] == "no_transfer" else one["AP"]
    path.write_text("\n".join(map(json.dumps, changed)))
    assert "the whole reaches 12.3" in write_pages(results)["README.md"].read_text()
