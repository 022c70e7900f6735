"""Records, tables and the experiments they come from."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from gdetkd.engine.training import load_config
from gdetkd.objective import COMPONENTS, active_weights
from gdetkd.reproduce import records, tables
from gdetkd.reproduce.experiments import MAIN, only, steps
from gdetkd.reproduce.runs import missing
from gdetkd.reproduce.teacher import STUDENTS

RESULTS = Path(__file__).parents[1] / "results" / "digits"


def record(experiment="baseline", seed=0, AP=0.2, **changes) -> dict:
    made = dict(
        experiment=experiment, config="c", options={}, config_hash="0" * 12, seed=seed, steps=800,
        AP=AP, AP50=0.5, APs=AP, APm=AP, losses={}, seconds=1.0, seconds_per_step=0.1,
        threads=1, device="CPU", commit="abc", versions={}, date="2026-01-01",
    )  # fmt: skip
    return made | changes


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


def test_committed_records_are_of_the_schema():
    for path in RESULTS.glob("*.jsonl"):
        frame = records.load(path)  # checks every row
        assert not frame.duplicated(["experiment", "seed"]).any()
        assert set(frame["experiment"]) <= {experiment.name for experiment in MAIN}


def test_interval_by_hand():
    # Mean 2, standard deviation 1, standard error 1 / sqrt(3); t(0.975, 2) = 4.30265.
    mean, half = tables.interval(pd.Series([1.0, 2.0, 3.0]))
    assert mean == 2
    assert half == pytest.approx(4.30265 / 3**0.5, rel=1e-5)


def test_gain_is_paired_by_seed():
    rows = [record("baseline", 0, 0.1), record("baseline", 1, 0.3), record("baseline", 2, 0.9)]
    rows += [record("gdetkd", 1, 0.5), record("gdetkd", 0, 0.4)]
    gain = tables.paired_gain(pd.DataFrame(rows), "gdetkd")
    assert gain.to_dict() == pytest.approx({0: 0.3, 1: 0.2})  # seed 2 has no partner


def test_table_says_what_has_not_run():
    rows = [record("baseline", 0, 0.1), record("gdetkd", 0, 0.4)]
    table = tables.main_table(pd.DataFrame(rows), teacher=0.5).set_index("")
    assert table.loc["G-DetKD (all)", "gap closed"] == "75%"  # (0.4 - 0.1) / (0.5 - 0.1)
    assert table.loc["CKD alone", "AP"] == "not run"


def test_committed_table_is_made_from_the_committed_records(tmp_path):
    for path in RESULTS.glob("main.jsonl"):
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        tables.write_tables(copy)
        assert copy.with_suffix(".md").read_text() == path.with_suffix(".md").read_text()


def test_missing_runs_come_in_order_of_importance(tmp_path):
    path = tmp_path / "main.jsonl"
    records.append(path, record("baseline", 0))
    left = missing(MAIN, path, seeds=None)
    assert ("baseline", 0) not in [(e.name, s) for e, s in left]
    assert (left[0][0].name, left[0][1]) == ("baseline", 1)
    assert len(left) == sum(e.seeds for e in MAIN) - 1


@pytest.mark.parametrize("experiment", MAIN, ids=lambda e: e.name)
def test_experiments_resolve(experiment):
    config = load_config(experiment.config, experiment.options)
    if config.model.type != "DistilledDetector":
        assert config.train_cfg.max_iters == experiment.options.get("train_cfg.max_iters", 800)
        return
    active = active_weights(config.model.distill)
    alone = experiment.name in COMPONENTS
    assert (list(active) == [experiment.name]) if alone else True
    whole = ("gdetkd", "gdetkd_3000", "transfer")
    assert config.model.transfer_heads == (experiment.name in whole)


def test_steps_change_every_part_of_the_schedule():
    config = load_config(MAIN[0].config, steps(77))
    assert config.train_cfg.max_iters == config.train_cfg.val_interval == 77
    assert config.param_scheduler[-1].end == 77


def test_only_switches_the_rest_off():
    config = load_config("gdetkd::digits/gdetkd_faster_rcnn_r18.py", only("contrastive"))
    assert active_weights(config.model.distill) == {"contrastive": 0.5}


def test_config_hash_ignores_where_a_run_writes_and_its_seed():
    a = load_config(MAIN[0].config, work_dir="a", seed=1)
    b = load_config(MAIN[0].config, work_dir="b", seed=2)
    c = load_config(MAIN[0].config, {"optim_wrapper.optimizer.lr": 0.5}, work_dir="a", seed=1)
    assert records.config_hash(a) == records.config_hash(b) != records.config_hash(c)


def test_the_shipped_students_are_those_of_the_records():
    runs = records.load(tables.RESULTS / "main.jsonl")
    for name, weights in STUDENTS.items():
        shipped = json.loads(weights.with_suffix(".json").read_text())
        run = runs[(runs["experiment"] == name) & (runs["seed"] == 0)].iloc[-1]
        assert shipped["AP"] == pytest.approx(run["AP"], abs=0.002)  # fp16
        assert shipped["megabytes"] <= 4


def test_the_shipped_teacher_is_as_good_as_the_benchmark_asks():
    teacher = json.loads((tables.ASSETS / "digits_faster_rcnn_r34.json").read_text())
    assert teacher["AP"] >= 0.45
    assert teacher["megabytes"] <= 15


def test_the_readme_says_what_is_on_record():
    readme = (RESULTS.parents[1] / "README.md").read_text()
    block = readme.split("<!-- headline", 1)[1].split("-->", 1)[1].split("<!-- end", 1)[0]
    assert " ".join(block.split()) == " ".join(tables.headline().split())
