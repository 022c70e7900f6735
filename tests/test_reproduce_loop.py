"""Students of other libraries in the plain loop: a run after an interrupt, and its record."""

from pathlib import Path

import pytest
import torch

from gdetkd.evaluation.records import read_json_lines
from gdetkd.reproduce import loop_runs


def test_an_interrupted_run_ends_as_one_that_was_not(digits, tmp_path, monkeypatch):
    name = "rt_detr_distilled"  # it waits for a teacher of another run
    run = loop_runs.RUNS[name]._replace(steps=2, seeds=1)
    teacher = loop_runs.RUNS["torchvision_teacher"]._replace(steps=1)
    monkeypatch.setattr(loop_runs, "RUNS", {"torchvision_teacher": teacher, name: run})
    monkeypatch.setattr(loop_runs, "SAVED_EVERY", 1)

    def interrupt(text):
        if text.startswith(name) and "step 1 of 2" in text:
            raise KeyboardInterrupt

    path, stopped, whole = tmp_path / "loop.jsonl", tmp_path / "stopped", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        loop_runs.run_missing(path, digits, stopped, [name], report=interrupt)
    assert name not in {record["run"] for record in read_json_lines(path)}
    loop_runs.run_missing(path, digits, stopped, [name], report=str)
    loop_runs.run_missing(tmp_path / "again.jsonl", digits, whole, [name], report=str)
    weights = [torch.load(folder / f"{name}_0" / "student.pth") for folder in (stopped, whole)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    records = {record["run"]: record for record in read_json_lines(path)}
    assert records[name]["losses"]["kd_imitation_loss"] > 0 and 0 <= records[name]["AP"] <= 1
    assert "torchvision_teacher" in records
    page = loop_runs.loop_page(list(records.values()))
    assert f"| {run.label} | 2 | 1 |" in page


def test_the_table_is_that_of_the_records():
    folder = Path(__file__).parents[1] / "results" / "digits"
    assert (folder / "loop.md").read_text() == loop_runs.loop_page(
        read_json_lines(folder / "loop.jsonl")
    )
