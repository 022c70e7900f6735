"""`gdetkd gpu`, rehearsed on the CPU, and how its results are taken over."""

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from reproduce_records import record

from gdetkd.benchmarks import contrastive, gpu, peers, report, step
from gdetkd.cli import cli
from gdetkd.cli import gpu as command
from gdetkd.evaluation.records import read_json_lines
from gdetkd.reproduce import records, runs

REPOSITORY = Path(__file__).parents[1]


def invoke(*arguments):
    return CliRunner().invoke(cli, ["gpu", *map(str, arguments)])


def outcomes(folder):
    return {task["name"]: task for task in json.loads((folder / "gpu.json").read_text())["tasks"]}


@pytest.fixture
def miniature(tmp_path, digits, monkeypatch, small_benchmarks):
    """A folder with tiny data, in which everything is small, and one training is not on record."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/digits").symlink_to(digits)
    monkeypatch.setattr(step, "LARGE_IMAGES", (1, 64, 96))
    monkeypatch.setattr(step, "LARGE_TEACHER", step.LARGE_TEACHER.replace("r101", "r50"))
    monkeypatch.setattr(step, "LARGE_OPTIONS", {"model.student.train_cfg.rcnn.sampler.num": 8})
    monkeypatch.setattr(step, "WARM_UP", 0)
    monkeypatch.setattr(gpu, "REPEATS", 1)
    monkeypatch.setattr(gpu, "RUN_STEPS", 2)
    monkeypatch.setattr(command, "BENCHMARK", "miniature")
    monkeypatch.setattr(command, "TABLES", ("table3",))
    for experiment, seed in runs.missing(runs.chosen("miniature", ["table3"]), Path("none"), None):
        if (experiment.name, seed) != ("baseline", 0):
            records.append("results/miniature/runs.jsonl", record(experiment.name, seed))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the rehearsal is for machines without")
def test_it_is_rehearsed_on_a_cpu_and_its_results_are_taken_over(miniature):
    done = invoke("--device", "cpu", "--minutes", "9", "--jobs", "1", "--out", "out")
    found = outcomes(miniature / "out")
    assert done.exit_code == 0, (done.output, found)
    names = ["digits", "tests", "losses", "step", "one rank", "trainings"]
    assert list(found) == names
    assert all(found[name]["outcome"] == "done" for name in names[:-1])
    assert "skipped" in found["tests"]["output"]
    assert found["trainings"]["outcome"] == "1 runs"
    files = list((miniature / "out").iterdir())
    assert len(files) <= 8 and all(file.stat().st_size < 16e6 for file in files)

    shutil.copytree(REPOSITORY / "results/bench", "results/bench")
    before = report.page(miniature / "results/bench")
    done = invoke("--merge", "out")
    assert done.exit_code == 0 and "and 1 new runs" in done.output, done.output
    rows = read_json_lines("results/miniature/runs.jsonl")
    assert (rows[-1]["experiment"], rows[-1]["seed"], rows[-1]["steps"]) == ("baseline", 0, 4)
    assert (miniature / "results/miniature/table3.md").is_file()
    bench = miniature / "results/bench"
    page = (bench / "README.md").read_text()
    assert page == report.page(bench) != before
    assert "What ran on the GPU" in page and "distilled step, peak" not in page  # a CPU's has none
    assert json.loads((bench / "large_step_gpu.json").read_text())["ranges"]
    assert "and 0 new runs" in invoke("--merge", "out").output  # a second time changes nothing
    assert page == (bench / "README.md").read_text()


def test_a_folder_without_results_is_refused(tmp_path):
    done = invoke("--merge", tmp_path)
    assert done.exit_code and "expected gpu.json, which `gdetkd gpu` writes" in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_so(tmp_path):
    done = invoke("--out", tmp_path / "out")
    assert done.exit_code and "no GPU here; --device cpu rehearses" in done.output
    assert not (tmp_path / "out").exists()


def test_a_task_that_fails_or_hangs_stops_no_other(tmp_path):
    """And what a hanging task has started ends with it; after the deadline nothing begins."""
    session = gpu.Session(tmp_path, time.time() + 60, "cpu", lambda _: None)
    marker = tmp_path / "marker"
    child = f"import time; time.sleep(2); open({str(marker)!r}, 'w')"
    tasks = [
        gpu.Task("fails", partial(int, "no number"), 10),
        gpu.Task("hangs", partial(_start, [sys.executable, "-c", child]), 0.05),
        gpu.Task("works", partial(print, "said"), 10),
    ]
    assert not session.run(tasks)
    assert session.run(tasks[2:])
    session.deadline = time.time()
    assert not session.run(tasks[2:])
    found = json.loads((tmp_path / "gpu.json").read_text())["tasks"]
    assert [task["outcome"] for task in found] == [
        "failed, exit code 1", "stopped after 0 s", "done", "done", "not begun: no time left",
    ]  # fmt: skip
    assert "no number" in found[0]["output"] and found[2]["output"] == "said\n"
    time.sleep(2)
    assert not marker.exists()


def _start(arguments):
    import subprocess

    subprocess.run(arguments)


def test_trainings_stop_at_their_time(tmp_path):
    wanted = runs.chosen("miniature", ["table3"])[:1]
    path, begun = tmp_path / "runs.jsonl", time.time()
    settings = dict(seeds=2, work_dir=tmp_path / "work", report=lambda _: None)
    assert runs.run_missing(wanted, path, until=begun + 1, **settings) == 0
    assert time.time() - begun < 10 and not path.exists()
    assert len(list((tmp_path / "work").iterdir())) == 1  # the second has not begun


def test_a_peer_that_fails_is_noted_and_one_that_works_computes_the_contrast():
    """FlexAttention has no gradients on a CPU; the others may not be installed."""
    shape = contrastive.Shape(8, 16, 256, 16)
    rows = {row["form"]: row for row in peers.compare("cpu", 1, shape)}
    assert rows["ours"]["error"] < 1e-5 and rows["ours"]["seconds"] > 0
    assert all("Error" in rows[name]["failed"] for name in peers.PEERS)
    inputs = contrastive.problem(shape, "cpu")
    del inputs["ignore"]
    with torch.no_grad():
        found = peers.contrast("FlexAttention", **inputs)
    torch.testing.assert_close(found, contrastive.naive(**inputs))
