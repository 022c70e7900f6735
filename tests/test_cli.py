"""The command line, as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from gdetkd.checkpoints.reading import read_checkpoint
from gdetkd.cli import cli, doctor, main, spread_options
from gdetkd.cli.common import ConfigOption, need_benchmark
from gdetkd.training.config import load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "gdetkd" / "configs" / "digits" / "faster_rcnn_r18.py"


def run(*arguments):
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_help_names_every_command_and_loads_no_library():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gdetkd.cli", "--help"],
        capture_output=True,
        text=True,
    )
    for name in (
        "demo",
        "data",
        "train",
        "test",
        "export",
        "compare",
        "explore",
        "reproduce",
        "bench",
        "doctor",
    ):
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
        (("export", "nowhere.pth", "out.pth"), "there is no 'nowhere.pth'"),
        (("detect", "nowhere.py", "a.pth", "a.jpg", "--out", "b"), "there is no 'nowhere.py'"),
        (("distill", "nowhere.py", "a.py", "--data", "b"), "there is no 'nowhere.py'"),
        (("compare", "a.json", "b.json", "--annotations", "c"), "there is no 'a.json'"),
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
def test_bad_input_is_said_in_a_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    """What the whole command prints and exits with; a traceback would be an exception here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gdetkd", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code
    assert said in capsys.readouterr().err


def test_a_missing_file_is_said_before_the_libraries_are_loaded(tmp_path):
    for arguments in (("train", "nowhere.py"), ("test", str(CONFIG), "nowhere.pth")):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "gdetkd.cli", *arguments],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1 and "gdetkd: " in done.stderr and "nowhere" in done.stderr
        assert "Traceback" not in done.stderr
        assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "gdetkd::digits_faster_rcnn_r18.pth", "out.zip"),
        (
            "test",
            "gdetkd::digits/faster_rcnn_r18.py",
            "gdetkd::digits_faster_rcnn_r18.pth",
            "--submission",
            "out.zip",
        ),
    ],
)
def test_a_file_that_is_there_is_replaced_by_force_alone(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    Path("out.zip").write_text("someone's own")
    with pytest.raises(ValueError, match="out.zip is there; --force replaces it"):
        run(*arguments)
    if arguments[0] == "test":  # what fails leaves the file as it was
        with pytest.raises(OSError, match="test-dev2017"):
            run(*arguments, "--force")
        assert Path("out.zip").read_text() == "someone's own"
    else:
        run(*arguments, "--force")
        assert read_checkpoint("out.zip")["meta"]["weights"] == "plain"


def test_config_options_may_be_given_as_to_mmdetections_tools():
    short = "train c.py --cfg-options a=1 b.c='x' --amp d=2 --cfg-options e=3".split()
    long = "train c.py --cfg-options a=1 --cfg-options b.c='x' --amp d=2 --cfg-options e=3".split()
    assert spread_options(short) == long
    assert spread_options(long) == long


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


def test_doctor_checks_every_dependency_of_the_package():
    """Those that pyproject.toml names, by the metadata of what is installed."""
    checked = {finding.what.split(" ")[0] for finding in doctor.check_dependencies()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(e for name in set(extras) - {"dev"} for e in extras[name])]
    named = {Requirement(line).name for line in lines} - {"gdetkd"}
    assert len(named) > 20 and named <= checked


@pytest.mark.parametrize(
    "line, found, remedy",
    [
        ("torch>=999", metadata.version("torch"), "pip install 'torch>=999'"),
        ("setuptools<2", metadata.version("setuptools"), "pip install 'setuptools<2'"),
        ("no-such-package>=1", "not installed", "pip install 'no-such-package>=1'"),
    ],
)
def test_doctor_names_what_is_missing_or_of_another_version(line, found, remedy):
    finding = doctor.check_requirement(Requirement(line), {})
    assert (finding.fine, finding.found, finding.remedy) == (False, found, remedy)


def test_doctor_names_what_is_broken(tmp_path, monkeypatch):
    """Installed, by its metadata, and yet an import fails."""
    (tmp_path / "broken_package-1.0.dist-info").mkdir()
    (tmp_path / "broken_package-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-package\nVersion: 1.0\n"
    )
    (tmp_path / "broken_package-1.0.dist-info" / "RECORD").write_text("broken_package.py,,\n")
    (tmp_path / "broken_package.py").write_text("raise ImportError('libc is too old')")
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = doctor.modules_by_distribution()
    assert modules["broken-package"] == ["broken_package"] and modules["pillow"] == ["PIL"]
    finding = doctor.check_requirement(Requirement("broken-package"), modules)
    assert not finding.fine and "ImportError: libc is too old" in finding.found
    assert "--force-reinstall" in finding.remedy


def test_a_substitute_will_do_and_an_extra_is_optional(monkeypatch):
    monkeypatch.setitem(doctor.SUBSTITUTES, "no-such-package", ("pillow",))
    finding = doctor.check_requirement(Requirement("no-such-package>=9999"), {})
    assert finding.fine and finding.found.startswith("pillow ")
    missing = doctor.check_requirement(Requirement("nowhere-to-be-found"), {}, extra="notebooks")
    assert missing.optional and missing.remedy == "pip install 'gdetkd[notebooks]'"


def test_the_benchmark_is_written_where_a_run_reads_it_and_only_then(tmp_path, monkeypatch):
    monkeypatch.setattr("gdetkd.datasets.digits.SPLITS", {"train": 2, "val": 1, "test": 1})
    monkeypatch.chdir(tmp_path)
    parts = ("train_dataloader", "val_dataloader", "test_dataloader")
    elsewhere = {f"{part}.dataset.data_root": "elsewhere/" for part in parts}
    need_benchmark(load_config("gdetkd::digits/faster_rcnn_r18.py", elsewhere))
    assert not list(tmp_path.iterdir())
    need_benchmark(load_config("gdetkd::digits/faster_rcnn_r18.py"))
    assert (tmp_path / "data" / "digits" / "manifest.json").exists()


def test_an_edited_benchmark_is_used_as_it_is_and_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gdetkd.datasets.digits.SPLITS", {"train": 2, "val": 1, "test": 1})
    monkeypatch.chdir(tmp_path)
    config = load_config("gdetkd::digits/faster_rcnn_r18.py")
    need_benchmark(config)
    file = tmp_path / "data" / "digits" / "annotations" / "val.json"
    file.write_text(file.read_text() + " ")
    edited = file.read_bytes()
    need_benchmark(config)
    assert file.read_bytes() == edited and "used as it is" in capsys.readouterr().err
    (tmp_path / "data" / "digits" / "train" / "000001.jpg").unlink()
    file.write_text(file.read_text()[:-1])
    with pytest.raises(ValueError, match=r"train/000001\.jpg is missing"):
        need_benchmark(config)


def test_a_table_in_a_file_is_not_cut(monkeypatch, capsys):
    from gdetkd.cli.common import print_table

    monkeypatch.delenv("COLUMNS", raising=False)
    columns = [
        "a column of thirty characters",
        "another of thirty characters",
        "and a third one as long as those",
    ]
    for term in ("xterm", "dumb"):
        monkeypatch.setenv("TERM", term)
        print_table(columns, [["x" * 30, "1", "2"]])
        printed = capsys.readouterr().out
        assert all(column in printed for column in columns) and "…" not in printed
