"""Records, tables and the experiments they come from."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path

import pandas as pd
import pytest
from helpers import batch, build, faster_rcnn, losses_of, run_config, save_detector

from gdetkd.distillation.objective import COMPONENTS, active_weights
from gdetkd.reproduce import records, tables
from gdetkd.reproduce.claims import BASELINES, CLAIMS, IMPORTANCE, TABLES, verdict
from gdetkd.reproduce.experiments import (
    BENCHMARKS,
    COCO,
    CONVERSIONS,
    DIGITS,
    EXPERIMENTS,
    GROWN,
    PLAIN,
    TEACHERS,
    Experiment,
    experiments_of,
    of_digits,
    only,
)
from gdetkd.reproduce.figures import claims_figure, figure1
from gdetkd.reproduce.runs import (
    as_run,
    chosen,
    expected_seconds,
    missing,
    run_missing,
    run_one,
)
from gdetkd.reproduce.teacher import STUDENTS
from gdetkd.training.config import load_config, schedule

FOUR = ("contrastive", "imitation", "classification", "regression")
RESULTS = Path(__file__).parents[1] / "results" / "digits"
PACKAGE = tables.PACKAGE


def find(config: str) -> bool:
    return (PACKAGE / "configs" / config.removeprefix("gdetkd::")).exists()


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
    for benchmark in BENCHMARKS.values():
        frame = tables.runs(benchmark.name)  # checks every row
        assert not frame.duplicated(["experiment", "seed"]).any()
        assert set(frame["experiment"]) <= set(experiments_of(benchmark))


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


def test_noise_by_hand():
    runs = [("baseline", 20), ("baseline", 22), ("baseline", 21), ("gdetkd", 40), ("gdetkd", 44)]
    runs += [("gdetkd", 42), ("imitation", 30), ("retinanet", 10), ("retinanet", 14)]
    runs += [("retinanet", 12), ("gdetkd_retinanet", 30), ("gdetkd_retinanet", 30)]
    runs += [("gdetkd_retinanet", 30)]
    names = [name for name, _ in runs]
    frame = pd.DataFrame(
        dict(
            experiment=names,
            seed=[names[:i].count(name) for i, name in enumerate(names)],
            AP=[value / 100 for _, value in runs],
        )
    )
    found = tables.noise_table(frame).set_index("")
    assert list(found.index) == [
        "Baseline", "G-DetKD (all)", "RetinaNet: baseline", "RetinaNet: SGFI and CKD",
    ]  # fmt: skip
    # Differences of 20, 22, 21; t of 2 and of 4 degrees of freedom is 4.303 and 2.776.
    assert list(found.loc["G-DetKD (all)"]) == [3, "2.00", "1.00", "2.5", "1.2", "7"]
    # Against its own baseline; a baseline against nothing.
    assert found.loc["RetinaNet: SGFI and CKD", "sd of the gain"] == "2.00"
    assert found.loc["RetinaNet: baseline", "sd of the gain"] == ""
    assert found.loc["Baseline", "± with 3 seeds"] == "2.5"
    assert list(tables.noise_table(frame[:0]).columns) == tables.NOISE_COLUMNS


def test_table_says_what_has_not_run():
    rows = [record("baseline", 0, 0.1), record("gdetkd", 0, 0.4)]
    table = tables.table("main", pd.DataFrame(rows), teacher=0.5).set_index("")
    assert table.loc["G-DetKD (all)", "gap closed"] == "75%"  # (0.4 - 0.1) / (0.5 - 0.1)
    assert table.loc["CKD alone", "AP"] == "not run"
    assert table.loc["CKD alone", "paper (COCO)"] == "37.1"


def test_committed_tables_and_figure_are_made_from_the_committed_records(tmp_path):
    frame, folder = tables.runs(), tmp_path / "digits"
    written = tables.write_tables(folder, frame)
    assert {path.stem for path in written} == {*TABLES, "claims", "noise"}
    for path in written:
        assert path.read_text() == (RESULTS / path.name).read_text(), path.name
    for draw, name in ((figure1, "figure1.png"), (claims_figure, "claims.png")):
        drawn = draw(frame, tmp_path / name)
        assert drawn.read_bytes() == (RESULTS / name).read_bytes(), name


def test_a_claim_is_the_papers_difference_and_ours():
    rows = [record("imitation", 0, 0.3), record("imitation", 1, 0.5), record("features", 0, 0.4)]
    found = tables.claim_differences(pd.DataFrame(rows)).set_index("claim")
    together = found.loc["SGFI and CKD together beat SGFI"]
    assert together["paper"] == pytest.approx(0.9)  # 37.6 - 36.7
    assert (together["mean"], together["seeds"]) == (pytest.approx(10), 1)  # seed 1 has no partner
    assert together["verdict"] == "one seed"
    assert found.loc["SGFI helps", "verdict"] == "not run"
    table = tables.claims_table(pd.DataFrame(rows), "main").set_index("claim")
    assert list(table.loc["SGFI and CKD together beat SGFI"]) == [
        "main", "+0.9", "+10.0", 1, "one seed",
    ]  # fmt: skip
    assert len(table) == sum(claim.table == "main" for claim in CLAIMS)


def test_a_share_of_no_gap_is_left_out():
    rows = [record("baseline_3000_large", 0, 0.497), record("gdetkd_3000_large", 0, 0.505)]
    rows += [record("baseline_3000", 0, 0.45), record("gdetkd_3000", 0, 0.475)]
    table = tables.table("sizes", pd.DataFrame(rows), teacher=0.5).set_index("")
    assert list(table.loc[table["gain"] != "", "gap closed"]) == ["50%", ""]
    assert list(table.loc[table["gain"] != "", "gain"]) == ["+2.5", "+0.8"]


def test_committed_records_are_of_the_configs_that_are_here():
    """A config that has changed since would leave its rows behind without a word."""
    frame = tables.runs()
    for name, rows in frame.groupby("experiment"):
        experiment = EXPERIMENTS[name]
        config = copy.deepcopy(loaded(experiment.config))
        config.merge_from_dict(experiment.options)
        assert set(rows["config_hash"]) == {records.config_hash(as_run(config))}, name


def test_missing_runs_come_in_order_of_importance(tmp_path):
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


@pytest.mark.slow
def test_the_machinery_on_a_miniature(tmp_path, digits, monkeypatch):
    """Real trainings of four steps, recorded, rendered, and not run again."""
    monkeypatch.chdir(tmp_path)  # the configs find digits below the current folder
    Path("data").mkdir()
    Path("data/digits").symlink_to(digits)
    work, path = tmp_path / "work", tmp_path / "miniature" / tables.RUNS
    wanted, said = chosen("miniature", ["table3"]), []
    assert [e.name for e in wanted] == ["baseline", "nonlinear", "contrastive"]
    settings = dict(seeds=1, work_dir=work, report=said.append)
    assert run_missing("miniature", wanted, path, **settings) == 0, said
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
    tables.write_tables(path.parent)
    assert "not run" not in (path.parent / "table3.md").read_text().split("| claim")[0]
    assert figure1(frame, tmp_path / "figure1.png").stat().st_size > 10_000


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
    other = Experiment("other", "", COCO.plain("faster_rcnn"))
    assert expected_seconds(other, frame) is None


@pytest.mark.slow
def test_a_run_that_fails_is_counted_and_leaves_no_record(tmp_path):
    broken = Experiment("memory_1", "", "nowhere.py", seeds=1)
    path, said = tmp_path / tables.RUNS, []
    failed = run_missing("nonsense", [broken], path, work_dir=tmp_path, report=said.append)
    assert failed == 1 and not path.exists()
    assert "FAILED, see" in said[-1]


def test_every_row_and_claim_has_an_experiment_on_every_benchmark():
    assert set(IMPORTANCE) == set(TABLES)
    for benchmark in BENCHMARKS.values():
        known = set(experiments_of(benchmark))
        rows = {row.experiment for table in TABLES.values() for row in table.rows}
        # Schedules, rates and shortcuts, and what only ours compares, are those of digits.
        own = {e.name for e in of_digits(benchmark)} | {f"teacher_{name}" for name in TEACHERS}
        if benchmark is not COCO:
            own = set()
        assert rows - own <= known and not own & known
        assert (set(BASELINES) | set(BASELINES.values())) - own <= known
        assert {n for claim in CLAIMS for n in (claim.better, claim.worse)} - own <= known


def test_the_papers_figures_are_those_of_its_tables():
    """Gains that the supplement prints beside its figures."""
    printed = {
        "table1": (2.8, 2.9, 3.1, 3.0, 2.9), "table2": (2.8, 2.9, 3.1, 3.0, 2.8, 2.8),
        "table3": (2.7, 3.1), "table4": (3.2, 1.7, 2.5), "table5": (0.7, 1.7),
    }  # fmt: skip
    for name, gains in printed.items():
        baseline, *rows = (row.paper for row in TABLES[name].rows if row.paper)
        assert [round(paper - baseline, 1) for paper in rows] == list(gains)
    paper = {row.experiment: row.paper for row in TABLES["table6"].rows}
    printed = dict(
        c4=7.1, c4_middle=2.8, c4_large=0.8, cascade=3.9, cascade_middle=2.2, cascade_large=0.8,
    )  # fmt: skip
    assert {n: round(paper[f"gdetkd_{n}"] - paper[n], 1) for n in printed} == printed


def test_the_memory_counts_the_gathered_batch():
    """K of 10 batches of 8 x 1024 is 80 x 1024, of which 72 x 1024 lie in the queue (A)."""
    options = experiments_of(COCO)["memory_10"].options
    assert options["model.components.contrastive.queue_capacity"] == 72 * 1024
    assert EXPERIMENTS["memory_1"].options["model.components.contrastive.queue_capacity"] == 0
    model = load_config(DIGITS.distilled("faster_rcnn"))
    boxes = model.model.student.train_cfg.rcnn.sampler.num
    assert DIGITS.proposals == boxes * model.train_dataloader.batch_size


@pytest.mark.parametrize(
    "differences, half, said",
    [
        ([], 0, "not run"),
        ([0.1], float("nan"), "one seed"),
        ([0.1, 0.3], 0.1, "confirmed"),
        ([-0.1, -0.3], 0.1, "contradicted"),
        ([-0.1, 0.3], 0.5, "not told apart"),
    ],
)
def test_verdicts(differences, half, said):
    assert verdict(pd.Series(differences, dtype=float), half) == said


def test_a_plan_goes_by_the_records():
    frame = pd.DataFrame([record("baseline", seconds_per_step=0.25, config="plain")])
    assert expected_seconds(EXPERIMENTS["baseline"], frame) == 200
    longer = Experiment("other", "", PLAIN, schedule(400))
    assert expected_seconds(longer, frame) == 100
    assert expected_seconds(longer, frame.iloc[:0]) is None


@pytest.mark.parametrize(
    "benchmark, folder, last",
    [("digits", "work_dirs/reproduce", 3000), ("miniature", "work_dirs/miniature", 4)],
)
def test_a_teacher_is_looked_for_where_its_run_leaves_it(benchmark, folder, last):
    known = experiments_of(BENCHMARKS[benchmark])
    assert BENCHMARKS[benchmark].work_dir == folder
    for student in ("c4", "cascade", "gfl"):
        teacher = known[f"teacher_{student}"]
        steps = load_config(teacher.config, teacher.options).train_cfg.max_iters
        assert steps == last
        distilled = known[f"gdetkd_{student}"].options["model.teacher.checkpoint"]
        assert distilled == f"{folder}/teacher_{student}_0/iter_{steps}.pth"


loaded = functools.cache(load_config)
PRESENT = [e for e in EXPERIMENTS.values() if find(e.config)]


@pytest.mark.parametrize("experiment", PRESENT, ids=lambda e: e.name)
def test_experiments_resolve(experiment):
    config = copy.deepcopy(loaded(experiment.config))
    config.merge_from_dict(experiment.options)
    if config.model.type != "DistilledDetector":
        return
    active = list(active_weights(config.model.components))
    if experiment.name in COMPONENTS or experiment.name.startswith("rival_"):
        assert active == [experiment.name.removeprefix("rival_")]
    if experiment.name.startswith(("memory_", "iou_", "nonlinear", "branch_")):
        assert active == ["contrastive"]
    whole = [row.experiment for row in TABLES["reach"].rows if row.experiment != "no_transfer_3000"]
    whole += [row.experiment for name in ("sizes", "tuning") for row in TABLES[name].rows]
    whole += ["gdetkd_fresh", "gdetkd_learned", "transfer", "no_regression"]
    whole += ["gdetkd_cascade", "gdetkd_cascade_middle", "gdetkd_cascade_large"]
    assert bool(config.model.get("transfer_heads")) == (experiment.name in whole)


@pytest.mark.parametrize("name", GROWN)
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
    assert total.isfinite() and distilled_by == {f"kd_{part}_loss" for part in FOUR}
    if name.endswith("large"):
        assert sum(p.numel() for p in model.teacher.parameters()) == sum(
            p.numel() for p in model.student.parameters()
        )


def test_sizes_of_students_are_those_that_are_said():
    names = ("baseline_3000", "baseline_3000_wide", "baseline_3000_large")
    models = [load_config(EXPERIMENTS[n].config, EXPERIMENTS[n].options).model for n in names]
    models.append(load_config("gdetkd::digits/faster_rcnn_r34_teacher.py").model)
    models += [load_config(COCO.plain("faster_rcnn")).model]
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


def test_steps_change_every_part_of_the_schedule():
    config = load_config(EXPERIMENTS["baseline"].config, schedule(77))
    assert config.train_cfg.max_iters == config.train_cfg.val_interval == 77
    assert config.param_scheduler[-1].end == 77


def test_only_switches_the_rest_off():
    config = load_config("gdetkd::digits/gdetkd_faster_rcnn_r18.py", only("contrastive"))
    assert active_weights(config.model.components) == {"contrastive": 0.5}


def test_config_hash_ignores_where_a_run_writes_and_its_seed():
    a = load_config(EXPERIMENTS["baseline"].config, work_dir="a", seed=1)
    b = load_config(EXPERIMENTS["baseline"].config, work_dir="b", seed=2)
    c = load_config(
        EXPERIMENTS["baseline"].config, {"optim_wrapper.optimizer.lr": 0.5}, work_dir="a", seed=1
    )
    assert records.config_hash(a) == records.config_hash(b) != records.config_hash(c)


def test_the_shipped_students_are_those_of_the_records():
    runs = tables.runs()
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


PAIRS = ("gdetkd_retinanet", "gdetkd_fcos", "gdetkd_cascade", "gdetkd_c4")


def test_the_page_of_results_quotes_the_records():
    page = " ".join((RESULTS.parent / "README.md").read_text().split())
    frame, held_out = tables.runs(), json.loads(tables.TEST.read_text())
    students = dict.fromkeys(
        ("gdetkd", *COMPONENTS, "transfer", "ground_truth_regression"), "baseline"
    )
    students |= {name: BASELINES[name] for name in PAIRS}
    students |= {f"conversion_{name}": "retinanet" for name in CONVERSIONS}
    pairs = [*students.items(), *((claim.better, claim.worse) for claim in CLAIMS)]
    gains = [tables.shown(tables.paired_gain(frame, *pair), signed=True) for pair in pairs]
    gains = [gain for gain in gains if "±" in gain]
    for gain in (*gains, held_out["gain"]):
        assert gain.lstrip("+-") in page
    alone = ("imitation", "imitation_48", "contrastive", "memory_fresh", "gdetkd_3000_fresh",
             "baseline_1400", "baseline_3000", "stage_0", "stage_1", "stage_2", "features",
             "memory_1", "memory_learned", "memory_60_learned", "retinanet_2000",
             "gdetkd_retinanet_2000", "retinanet_lr_0.001")  # fmt: skip
    alone += tuple(
        name
        for name in set(frame["experiment"])
        if name.startswith("branch")
        or name in {row.experiment for key in ("reach", "sizes") for row in TABLES[key].rows}
    )
    for name in (*alone, *PAIRS, *(BASELINES[name] for name in PAIRS)):
        assert f"{(100 * frame.loc[frame['experiment'] == name, 'AP']).mean():.1f}" in page, name
    found = tables.claim_differences(frame)
    counts = found.loc[found["paper"].notna(), "verdict"].value_counts()
    assert (
        f"Of the paper's {counts.sum()} directions, {counts['confirmed']} are confirmed on digits, "
        f"{counts['contradicted']} contradicted, {counts['not told apart']} not told apart"
    ) in page
    assert set(counts.index) == {"confirmed", "contradicted", "not told apart"}
