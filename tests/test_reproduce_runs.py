"""Records of runs, and running what is missing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers import faster_rcnn, run_config
from reproduce_records import record

from gdetkd.reproduce import records, report
from gdetkd.reproduce.experiments import COCO, DIGITS, PLAIN, Experiment
from gdetkd.reproduce.figures import figure1
from gdetkd.reproduce.registry import experiments_of
from gdetkd.reproduce.runs import _begin, chosen, expected_seconds, missing, run_missing, run_one
from gdetkd.training.config import load_config, schedule

EXPERIMENTS = experiments_of(DIGITS)


def test_records_go_round(tmp_path):
    path = tmp_path / "x" / "runs.jsonl"
    records.append(path, record(seed=0))
    records.append(path, record(seed=1, AP=0.3))
    frame = records.load(path)
    assert frame["AP"].tolist() == [0.2, 0.3]
    assert frame["seed"].tolist() == [0, 1]


@pytest.mark.parametrize("change", [dict(AP="0.2"), dict(losses=None), dict(commit=3)])
def test_a_record_of_another_shape_is_refused_by_name(tmp_path, change):
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"'baseline', seed 0: expected {name}"):
        records.append(tmp_path / "runs.jsonl", record(**change))
    assert not (tmp_path / "runs.jsonl").exists()


def test_config_hash_ignores_where_a_run_writes_and_its_seed():
    a = load_config(EXPERIMENTS["baseline"].config, work_dir="a", seed=1)
    b = load_config(EXPERIMENTS["baseline"].config, work_dir="b", seed=2)
    c = load_config(
        EXPERIMENTS["baseline"].config, {"optim_wrapper.optimizer.lr": 0.5}, work_dir="a", seed=1
    )
    assert records.config_hash(a) == records.config_hash(b) != records.config_hash(c)


def test_missing_runs_come_in_the_order_of_the_rows(tmp_path):
    path = tmp_path / "runs.jsonl"
    records.append(path, record("baseline", 0))
    wanted = chosen("digits", ["main"])
    left = missing(wanted, path, seeds=None)
    assert ("baseline", 0) not in [(e.name, s) for e, s in left]
    assert (left[0][0].name, left[0][1]) == ("baseline", 1)
    assert len(left) == sum(e.seeds for e in wanted) - 1


def test_a_table_brings_the_teachers_it_needs_once():
    names = [e.name for e in chosen("digits", ["table6"])]
    assert names.index("teacher_c4") < names.index("gdetkd_c4")
    assert len(names) == len(set(names))
    left = missing(chosen("digits", ["table6"]), Path("nowhere"), seeds=4)
    assert [(e.name, s) for e, s in left if "teacher" in e.name] == [
        ("teacher_c4", 0), ("teacher_cascade", 0),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="--only: expected some of .*got .'nonsense'"):
        chosen("digits", ["table6"], ["nonsense"])


def test_a_plan_goes_by_the_records():
    frame = pd.DataFrame([record("baseline", seconds_per_step=0.25, config="plain")])
    assert expected_seconds(EXPERIMENTS["baseline"], frame) == 200
    longer = Experiment("other", "", PLAIN, schedule(400))
    assert expected_seconds(longer, frame) == 100
    assert expected_seconds(longer, frame.iloc[:0]) is None


def test_a_run_goes_on_from_checkpoints_of_its_own_config_alone(tmp_path):
    assert _begin(tmp_path / "new", "hash", "first") == (False, "first")
    assert _begin(tmp_path / "new", "hash", "first") == (True, "first")
    assert _begin(tmp_path / "new", "hash", "later") == (True, "first..later")
    assert _begin(tmp_path / "new", "other", "later") == (False, "later")
    assert _begin(tmp_path / "new", "other", "later") == (True, "later")


@pytest.mark.slow
def test_the_machinery_on_a_miniature(tmp_path, digits, monkeypatch):
    """Real trainings of four steps, recorded, rendered, and not run again."""
    monkeypatch.chdir(tmp_path)  # the configs find digits below the current folder
    Path("data").mkdir()
    Path("data/digits").symlink_to(digits)
    work, path = tmp_path / "work", tmp_path / "miniature" / report.RUNS
    wanted, said = chosen("miniature", ["table3"], ["baseline", "nonlinear"]), []
    assert [e.name for e in wanted] == ["baseline", "nonlinear"]
    settings = dict(seeds=1, work_dir=work, report=said.append)
    assert run_missing(wanted, path, **settings) == 0, said
    frame = records.load(path)
    assert list(frame["experiment"]) == [e.name for e in wanted]
    assert set(frame["steps"]) == {4}
    assert "kd_contrastive_loss" in frame.set_index("experiment").loc["nonlinear", "losses"]
    peaks = frame.set_index("experiment")["peaks"]
    assert set(peaks["baseline"]) == {"loss", "grad_norm"}
    assert set(peaks["nonlinear"]) == {"loss", "grad_norm", "kd_contrastive_loss"}
    for name, highest in peaks.items():
        last = frame.set_index("experiment").loc[name, "losses"]
        assert all(highest[key] >= last[key] > 0 for key in highest if key in last)
    assert missing(wanted, path, seeds=1) == []
    report.write_tables(path.parent)
    table = (path.parent / "table3.md").read_text().split("| claim")[0].splitlines()
    (row,) = (line for line in table if "nonlinear" in line)
    assert "| 4 | 1 |" in row, row  # steps and seeds
    assert figure1(frame, tmp_path / "figure1.png").stat().st_size > 10_000


def test_a_run_whose_sweep_has_ended_ends_too(tmp_path):
    """The sweep's process is none of its parents; tests/test_launch_run_lock.py kills one."""
    described = json.dumps(dataclasses.asdict(experiments_of(DIGITS)["baseline"]))
    module, gone = ["-m", "gdetkd.reproduce.runs"], 2**22 - 1
    command = [sys.executable, *module, described, 0, tmp_path / "runs.jsonl", tmp_path, gone]
    done = subprocess.run(list(map(str, command)), capture_output=True)
    assert done.returncode == 1 and not done.stderr and not list(tmp_path.iterdir())


def test_a_schedule_in_epochs_is_recorded_too(digits, tmp_path):
    """COCO's configs: no number of steps in the config, a rate for more images than one process."""
    made = run_config(
        faster_rcnn(), digits, tmp_path / "unused",
        train_cfg=dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=2),
        train_dataloader__sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True),
        train_dataloader__dataset__indices=8,
        auto_scale_lr=dict(base_batch_size=16),
    )  # fmt: skip
    made.dump(str(tmp_path / "epochs.py"))
    experiment = Experiment("baseline", "", str(tmp_path / "epochs.py"))
    found = run_one(experiment, 0, tmp_path / "run")
    records.check(found)
    assert found["steps"] == 2 * 8 / 2
    frame = pd.DataFrame([found])
    assert expected_seconds(experiment, frame) == pytest.approx(8 * found["seconds_per_step"])
    other = Experiment("other", "", COCO.student("faster_rcnn", False)[0])
    assert expected_seconds(other, frame) is None


@pytest.mark.slow
def test_a_run_that_fails_is_counted_and_leaves_no_record(tmp_path):
    broken = Experiment("memory_1", "", "nowhere.py", seeds=1)
    path, said = tmp_path / report.RUNS, []
    failed = run_missing([broken], path, work_dir=tmp_path, report=said.append)
    assert failed == 1 and not path.exists()
    assert "FAILED, see" in said[-1]
