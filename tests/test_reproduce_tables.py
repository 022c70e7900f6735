"""The tables: their rows as experiments, the paper's figures, and a table from outside."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from helpers import batch, build, losses_of, save_detector
from reproduce_records import record

from gdetkd.cli import cli
from gdetkd.distillation.objective import active_weights
from gdetkd.reproduce import records, report
from gdetkd.reproduce.experiments import (
    BENCHMARKS,
    COCO,
    COMPONENTS,
    DIGITS,
    DISTILLED,
    PHOTOS,
    only,
)
from gdetkd.reproduce.registry import (
    TABLES,
    Row,
    definitions,
    experiments_of,
    load_table,
    register_table,
)
from gdetkd.reproduce.runs import as_run, chosen, keep_pyramids, run_missing
from gdetkd.training.config import load_config, schedule

EXPERIMENTS = experiments_of(DIGITS)
BASELINES = ("fitnet", "masked_imitation", "pkd", "localization_distillation")
loaded = functools.cache(load_config)


def find(config: str) -> bool:
    return (report.PACKAGE / "configs" / config.removeprefix("gdetkd::")).exists()


def test_every_row_and_claim_is_an_experiment_of_a_benchmark():
    """On COCO, schedules, rates and shortcuts are left out, and what only ours compares."""
    named = {row.name for table in TABLES.values() for row in table.rows}
    named |= {n for t in TABLES.values() for c in t.claims for n in (c.better, c.worse)}
    named |= {baseline for _, baseline in definitions().values()}
    elsewhere = {"teacher_faster_rcnn"}  # that of digits ships
    assert set(experiments_of(DIGITS)) == named - elsewhere
    assert set(experiments_of(BENCHMARKS["miniature"])) == named - elsewhere
    left_out = named - set(experiments_of(COCO))
    assert left_out == {name for name, (row, _) in definitions().items() if row.embedded_only}
    with_paper = {row.name for table in TABLES.values() for row in table.rows if row.paper}
    assert with_paper & left_out == {"teacher_c4", "teacher_cascade"}  # the zoo has those of COCO
    for experiment in experiments_of(COCO).values():
        assert find(experiment.config) and experiment.needs is None


def test_photos_has_a_teacher_and_rows_of_its_own():
    """Every distilled row waits for the teacher; what needs other detectors is left out."""
    photos = experiments_of(PHOTOS)
    assert not {"retinanet", "gdetkd_cascade", "gdetkd_3000_wide"} & set(photos)
    assert {row.name for row in TABLES["photos"].rows} <= set(photos)
    steps = loaded(photos["teacher_faster_rcnn"].config).train_cfg.max_iters
    where = f"work_dirs/photos/teacher_faster_rcnn_0/iter_{steps}.pth"
    for experiment in (photos[row.name] for row in TABLES["photos"].rows):
        distilled = "gdetkd_" in experiment.config
        assert experiment.needs == ("teacher_faster_rcnn" if distilled else None)
        assert experiment.options.get("model.teacher.checkpoint") == (where if distilled else None)
    # The queue, in rows of 4 images of 48 boxes, beside the present batch.
    for name, capacity in dict(memory_1=0, memory_10=9 * 192, contrastive=9 * 192).items():
        settings = load_config(photos[name].config, photos[name].options).model.components
        assert settings.contrastive.queue_capacity == capacity


def test_the_pages_of_photos_are_its_own(tmp_path):
    rows = [record("baseline", seed, 0.2 + seed / 100) for seed in range(3)]
    rows += [record("imitation", seed, 0.22 + seed / 90) for seed in range(3)]
    written = report.write_tables(tmp_path / "photos", pd.DataFrame(rows))
    assert {path.stem for path in written} == {"photos", "claims", "noise"}
    claims = (tmp_path / "photos" / "claims.md").read_text()
    assert "on photos |" in claims and "SGFI helps" in claims and "memory" not in claims
    page = (tmp_path / "photos" / "photos.md").read_text()
    assert "| SGFI alone | 36.7 |" in page and "Lite2 |" in page and "--benchmark photos" in page


def test_the_papers_figures_are_those_of_its_tables():
    """Gains that the supplement prints beside its figures."""
    printed = {
        "table1": (2.8, 2.9, 3.1, 3.0, 2.9), "table2": (2.8, 2.9, 3.1, 3.0, 2.8, 2.8),
        "table3": (2.7, 3.1), "table4": (3.2, 1.7, 2.5), "table5": (0.7, 1.7),
    }  # fmt: skip
    for name, gains in printed.items():
        baseline, *rows = (row.paper for row in TABLES[name].rows if row.paper)
        assert [round(paper - baseline, 1) for paper in rows] == list(gains)
    paper = {row.name: row.paper for row in TABLES["table6"].rows}
    printed = dict(
        c4=7.1, c4_middle=2.8, c4_large=0.8, cascade=3.9, cascade_middle=2.2, cascade_large=0.8,
    )  # fmt: skip
    assert {n: round(paper[f"gdetkd_{n}"] - paper[n], 1) for n in printed} == printed


def test_the_memory_counts_the_gathered_batch():
    """K of 10 batches of 8 x 1024 is 80 x 1024, of which 72 x 1024 lie in the queue (A)."""
    options = experiments_of(COCO)["memory_10"].options
    assert options["model.components.contrastive.queue_capacity"] == 72 * 1024
    assert EXPERIMENTS["memory_1"].options["model.components.contrastive.queue_capacity"] == 0
    model = load_config(DISTILLED)
    boxes = model.model.student.train_cfg.rcnn.sampler.num
    assert DIGITS.proposals == boxes * model.train_dataloader.batch_size


@pytest.mark.parametrize("benchmark", ["digits", "miniature", "photos"])
def test_a_teacher_is_looked_for_where_its_run_leaves_it(benchmark):
    known = experiments_of(BENCHMARKS[benchmark])
    taught = [experiment for experiment in known.values() if experiment.needs]
    assert taught
    for experiment in taught:
        teacher = known[experiment.needs]
        steps = load_config(teacher.config, teacher.options).train_cfg.max_iters
        folder = f"{BENCHMARKS[benchmark].work_dir}/{teacher.name}_0"
        checkpoint = experiment.options["model.teacher.checkpoint"]
        assert checkpoint == f"{folder}/iter_{steps}.pth"
        assert experiment.options["model.teacher.config"] == teacher.config


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda e: e.name)
def test_experiments_resolve(experiment):
    config = copy.deepcopy(loaded(experiment.config))
    config.merge_from_dict(experiment.options)
    if config.model.type != "DistilledDetector":
        return
    active = list(active_weights(config.model.components))
    if experiment.name in (*COMPONENTS, *BASELINES):
        assert active == [experiment.name]
    if experiment.name.startswith(("memory_", "iou_", "nonlinear", "branch_")):
        assert active == ["contrastive"]
    whole = [row.name for row in TABLES["reach"].rows if "no_transfer" not in row.name]
    whole += [row.name for name in ("sizes", "tuning", "balance") for row in TABLES[name].rows]
    whole += ["gdetkd_reencoded", "gdetkd_reencoded_gradient", "transfer", "no_regression"]
    whole += ["gdetkd_cascade", "gdetkd_cascade_middle", "gdetkd_cascade_large"]
    whole = [name for name in whole if "retinanet" not in name]  # it has no heads to transfer
    assert bool(config.model.get("transfer_heads")) == (experiment.name in whole)


@pytest.mark.parametrize("name", ["c4_middle", "c4_large", "cascade_middle", "cascade_large"])
def test_larger_students_of_digits_are_distilled_by_their_teacher(name, tmp_path):
    plain, distilled = EXPERIMENTS[name], EXPERIMENTS[f"gdetkd_{name}"]
    students = [
        build(load_config(plain.config, plain.options).model),
        build(load_config(EXPERIMENTS[name.split("_")[0]].config).model),
    ]
    sizes = [sum(p.numel() for p in model.backbone.parameters()) for model in students]
    assert sizes[0] > 1.8 * sizes[1]
    config = load_config(distilled.config, distilled.options).model
    teacher = load_config(config.teacher.config).model
    config.teacher.checkpoint = save_detector(teacher, tmp_path / "teacher.pth")["checkpoint"]
    model = build(config)
    assert len(model.student.state_dict()) == len(students[0].state_dict())
    losses = losses_of(model, batch(sizes=((128, 128), (128, 128))))
    total, values = model.parse_losses(losses)
    distilled_by = {key.split(".")[-1] for key in values if "kd_" in key and "loss" in key}
    assert total.isfinite() and distilled_by == {f"kd_{part}_loss" for part in COMPONENTS}
    if name.endswith("large"):
        # Without vectors: the teacher's batch normalizations are folded into biases.
        sizes = [
            sum(p.numel() for p in detector.parameters() if p.dim() > 1)
            for detector in (model.teacher, model.student)
        ]
        assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", ["levels_p2_p5", "levels_p2_p6", "anchors_both"])
def test_a_row_that_changes_the_student_or_its_adapter_trains(name):
    row = EXPERIMENTS[name]
    model = build(load_config(row.config, row.options).model)
    losses = losses_of(model, batch(sizes=((128, 128), (128, 128))))
    total, values = model.parse_losses(losses)
    assert total.isfinite() and any("kd_" in key and "loss" in key for key in values)
    shares = [key for key in values if "_share" in key]
    assert len(shares) == dict(levels_p2_p5=4, levels_p2_p6=5).get(name, 0)


def test_steps_change_every_part_of_the_schedule():
    config = load_config(EXPERIMENTS["baseline"].config, schedule(77))
    assert config.train_cfg.max_iters == config.train_cfg.val_interval == 77
    assert config.param_scheduler[-1].end == 77


def test_only_switches_the_rest_off():
    config = load_config("gdetkd::digits/gdetkd_faster_rcnn_r18.py", only("contrastive"))
    assert active_weights(config.model.components) == {"contrastive": 0.5}


def test_committed_records_are_of_the_schema():
    for benchmark in BENCHMARKS.values():
        frame = report.runs(benchmark.name)  # checks every row
        assert not frame.duplicated(["experiment", "seed"]).any()
        assert set(frame["experiment"]) <= set(experiments_of(benchmark))


def test_committed_records_are_of_the_configs_that_are_here():
    """A config that has changed since would leave its rows behind without a word."""
    frame = report.runs()
    for name, rows in frame.groupby("experiment"):
        experiment = EXPERIMENTS[name]
        config = copy.deepcopy(loaded(experiment.config))
        config.merge_from_dict(experiment.options)
        assert set(rows["config_hash"]) == {records.config_hash(as_run(config))}, name


# --- A table from outside the package -------------------------------------------------------------

TABLE = """
title: "Our table: the temperature of CKD"
rows:
  - {name: baseline}
  - {name: contrastive}
  - {name: colder, label: "CKD, gamma 0.02", paper: 12.5, only: [contrastive],
     components: {contrastive: {temperature: 0.02}}}
claims:
  - {statement: a lower temperature helps, better: colder, worse: contrastive}
"""


@pytest.fixture
def outside(tmp_path):
    """A file with a table, outside the package; what it registers is forgotten afterwards."""
    before, path = dict(TABLES), tmp_path / "temperature.yaml"
    path.write_text(TABLE)
    yield path
    TABLES.clear()
    TABLES.update(before)


def test_a_table_is_added_from_one_file_outside_the_package(outside, tmp_path):
    arguments = [str(outside), "--plan", "--seeds", "1", "--results", str(tmp_path)]
    done = CliRunner().invoke(cli, ["reproduce", *arguments], catch_exceptions=False)
    planned = [line.split(" (")[0] for line in done.output.splitlines()[:-1]]
    assert planned == [
        "baseline, seed 0: Baseline", "contrastive, seed 0: CKD alone",
        "colder, seed 0: CKD, gamma 0.02",
    ]  # fmt: skip
    assert list(TABLES)[-1] == "temperature"
    again = CliRunner().invoke(cli, ["reproduce", "temperature", *arguments[1:]])
    assert again.output == done.output
    assert "  temperature  Our table" in CliRunner().invoke(cli, ["reproduce", "--help"]).output


@pytest.mark.slow
def test_a_table_from_outside_runs_and_renders(outside, tmp_path, digits, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the configs find digits below the current folder
    Path("data").mkdir()
    Path("data/digits").symlink_to(digits)
    load_table(outside)
    path, said = tmp_path / "miniature" / report.RUNS, []
    (colder,) = chosen("miniature", ["temperature"], ["colder"])
    assert run_missing([colder], path, seeds=1, work_dir=tmp_path, report=said.append) == 0, said
    frame = records.load(path)
    assert frame["options"][0]["model.components.contrastive.temperature"] == 0.02
    report.write_tables(path.parent, frame)
    page = (path.parent / "temperature.md").read_text()
    assert "| CKD, gamma 0.02 | 12.5 | 4 | 1 |" in page and "| CKD alone |  |" in page
    assert "a lower temperature helps" in (path.parent / "claims.md").read_text()


def test_a_table_that_does_not_fit_is_refused(outside):
    with pytest.raises(ValueError, match="table 'main': expected a new name"):
        register_table("main", "", ())
    rows = (Row("baseline", "Another baseline"), Row("once", "One"), Row("once", "Two"))
    with pytest.raises(ValueError, match=r"new names of rows, got \['baseline', 'once'\]"):
        register_table("another", "", rows)
    for wrong, said in (("label", "lable"), ("rows", "raws"), ("title", "tittle")):
        outside.write_text(TABLE.replace(f"{wrong}:", f"{said}:"))
        with pytest.raises(
            ValueError, match=f"temperature.yaml: expected a table .*{wrong}|{said}"
        ):
            load_table(outside)
    outside.write_text("[")
    with pytest.raises(ValueError, match="temperature.yaml: expected a table"):
        load_table(outside)
    assert not {"another", "temperature"} & set(TABLES)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("digits/gdetkd_faster_rcnn_r18", True), ("digits/faster_rcnn_r18", False),
     ("coco/gdetkd_faster_rcnn_r18", False)],
)  # fmt: skip
def test_pyramids_are_kept_where_there_is_a_teacher_and_nothing_is_augmented(name, kept, tmp_path):
    config = load_config(f"gdetkd::{name}.py")
    keep_pyramids(config, tmp_path)
    assert ("cache" in (config.model.get("teacher") or {})) == (
        kept and not torch.cuda.is_available()
    )
