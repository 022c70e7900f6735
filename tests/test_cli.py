"""The command line, as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from importlib.metadata import PackageNotFoundError

import pytest
from click.testing import CliRunner

from gdetkd.cli import cli, doctor, spread_options
from gdetkd.cli.common import ConfigOption, need_digits
from gdetkd.training.config import load_config


def run(*arguments):
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "gdetkd.cli", *arguments], cwd=cwd, capture_output=True, text=True
    )


def test_help_names_every_command_and_loads_no_library():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gdetkd.cli", "--help"],
        capture_output=True,
        text=True,
    )
    for name in ("demo", "data", "train", "test", "export", "reproduce", "bench", "doctor"):
        assert f"  {name} " in done.stdout
    assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("text", ["lr", "=3", ""])
def test_an_option_that_is_no_assignment_is_refused(text):
    done = run("train", "gdetkd::digits/faster_rcnn_r18.py", "--cfg-options", text)
    assert done.exit_code == 2
    assert "expected KEY=VALUE" in done.output


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("train", "nowhere.py"), "there is no 'nowhere.py'"),
        (("test", "gdetkd::digits/faster_rcnn_r18.py", "nowhere.pth"), "there is no 'nowhere.pth'"),
        (("export", "nowhere.pth", "out.pth"), "does not exist"),
        (("reproduce", "main", "--plan", "--only", "magic"), "'magic'"),
        (("reproduce", "teacher", "--plan"), "No such option '--plan'"),
        (("reproduce", "pairs", "--seeds", "2"), "No such option '--seeds'"),
        (("reproduce", "main", "--plan", "--steps", "9"), "No such option '--steps'"),
        (("reproduce", "table7", "--plan"), "expected one of main, table1"),
        (("reproduce", "main", "--plan", "--seeds", "0"), "0 is not in the range x>=1"),
        (("reproduce", "main", "--benchmark", "coco"), "`gdetkd data coco` says what to fetch"),
        (
            ("train", "gdetkd::digits/faster_rcnn_r18.py", "--cfg-options", "optim_wraper.lr=1"),
            "got 'optim_wraper'; did you mean 'optim_wrapper'?",
        ),
    ],
)
def test_bad_input_is_said_in_a_sentence(tmp_path, arguments, said):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_config_options_may_be_given_as_to_mmdetections_tools():
    given = "train c.py --cfg-options a=1 b.c='x' --amp d=2 --cfg-options e=3".split()
    alike = "train c.py --cfg-options a=1 --cfg-options b.c='x' --amp d=2 --cfg-options e=3".split()
    assert spread_options(given) == alike
    assert spread_options(alike) == alike


def test_values_of_config_options_are_those_of_mmdetections_tools():
    convert = ConfigOption().convert
    given = ["a=false", "b=True", "c=None", "d=[1,2]", "e=1e-3", "f=text", "g='true'"]
    found = dict(convert(value, None, None) for value in given)
    assert found == dict(a=False, b=True, c=None, d=[1, 2], e=1e-3, f="text", g="true")


def test_a_plan_of_coco_names_its_runs_and_no_time():
    done = run("reproduce", "table3", "--benchmark", "coco", "--plan")
    assert done.exit_code == 0, done.output
    assert "nonlinear, seed 0: CKD, nonlinear projection (not known)" in done.output
    assert "Together: not known" in done.output


def test_data_digits_writes_a_benchmark_and_shows_its_classes(tmp_path, monkeypatch):
    monkeypatch.setattr("gdetkd.datasets.digits.SPLITS", {"train": 6, "val": 4, "test": 2})
    done = run("data", "digits", "--root", str(tmp_path / "digits"))
    assert done.exit_code == 0
    assert "contact_sheet.png" in done.output
    manifest = json.loads((tmp_path / "digits" / "manifest.json").read_text())
    assert manifest["images"] == {"train": 6, "val": 4, "test": 2}
    assert (tmp_path / "digits" / "contact_sheet.png").stat().st_size > 10_000


def test_plan_runs_nothing_and_lists_what_is_missing(tmp_path):
    done = run("reproduce", "main", "--plan", "--results", str(tmp_path))
    assert "baseline, seed 4: Baseline" in done.output
    assert "gdetkd, seed 0: G-DetKD (all)" in done.output
    assert not list(tmp_path.iterdir())


def test_doctor_finds_this_environment_fit():
    done = run("doctor")
    assert done.exit_code == 0, done.output
    assert "torchvision's kernels" in done.output


def test_doctor_names_what_is_missing(monkeypatch):
    def version(name):
        if name == "setuptools":  # here it is installed
            raise PackageNotFoundError(name)
        return metadata.version(name)

    monkeypatch.setattr(doctor, "version", version)
    done = run("doctor")
    assert done.exit_code == 1
    assert "not installed" in done.output and "setuptools<81" in done.output


def test_the_benchmark_is_written_where_a_run_reads_it_and_only_then(tmp_path, monkeypatch):
    monkeypatch.setattr("gdetkd.datasets.digits.SPLITS", {"train": 2, "val": 1, "test": 1})
    monkeypatch.chdir(tmp_path)
    parts = ("train_dataloader", "val_dataloader", "test_dataloader")
    elsewhere = {f"{part}.dataset.data_root": "elsewhere/" for part in parts}
    need_digits(load_config("gdetkd::digits/faster_rcnn_r18.py", elsewhere))
    assert not list(tmp_path.iterdir())
    need_digits(load_config("gdetkd::digits/faster_rcnn_r18.py"))
    assert (tmp_path / "data" / "digits" / "manifest.json").exists()
