"""The notebooks as committed read well, and they still do what they show."""

import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import run_notebooks as tool
from PIL import Image

from gdetkd.lessons import exercises

ALL = tool.notebooks()
MAX_LINES = 15  # of a cell
MAX_BYTES = 1_500_000  # of a file
# Of the machine that ran them, as far as this is the one.
FOLDERS = ("/home/", f"{Path.home()}/", f"{tempfile.gettempdir()}/", str(tool.FOLDER.parent))
ABBREVIATIONS = {
    "AP": "average precision", "IoU": "intersection over union", "RoIs?": "of.interest",
    "KD": "knowledge distillation", "CKD": "contrastive knowledge distillation",
    "SGFI": "semantic-guided", "CAReg": "class-aware regression", "RPN": "region proposal network",
    "FPN": "feature pyramid network", "CKA": "centered kernel alignment", "PKD": "pearson",
    "FCOS": "fully convolutional one-stage", "MoCo": "momentum contrast",
}  # fmt: skip
NOT_PROSE = re.compile(r"```.*?```|`[^`]*`|\$[^$]*\$|\]\([^)]*\)", re.DOTALL)
SHELL = re.compile(r"^[ ]*[%!](?:.*\\\n)*.*$", re.MULTILINE)  # a magic or a command, to its end
each = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in tool.read(path).cells if cell.cell_type == "code"]


def tree(cell):
    """The syntax tree of a cell, its magics and shell lines left out."""
    return ast.parse(SHELL.sub("", cell.source))


def outputs(path):
    return [output for cell in code_cells(path) for output in cell.outputs]


def texts(path):
    """Everything an output says as text."""
    for output in outputs(path):
        yield output.get("text", "")
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/png"):
                yield str(data)


@each
def test_form(path):
    """Title, goal, what you will learn, run time, prerequisites; at the end what comes next."""
    cells = tool.read(path).cells
    head = cells[0].source
    assert cells[0].cell_type == "markdown"
    assert tool.title(tool.read(path)).startswith(f"{int(path.name[:2])}. ")
    assert tool.goal(tool.read(path))
    for part in ("**You will learn.**", "**Before you start.**"):
        assert part in head
    seconds = tool.run_time(tool.read(path)).removeprefix("About ").removesuffix(" s")
    assert 0 < int(seconds) <= (360 if path.stem == "13_own_pictures" else 120)
    assert any(
        cell.cell_type == "markdown" and "## What next" in cell.source for cell in cells[-2:]
    )


@each
def test_abbreviations_are_explained_where_a_page_first_uses_them(path):
    texts = [cell.source for cell in tool.read(path).cells if cell.cell_type == "markdown"]
    text = " ".join(NOT_PROSE.sub(" ", "\n".join(texts)).split())
    for short, long in ABBREVIATIONS.items():
        if first := re.search(rf"(?<![\w-]){short}(?![\w-])", text):
            until = text[: first.end() + 80].lower()
            assert re.search(long, until), f"{first.group()} before '{long}': {until[-160:]}"


@each
def test_cells_are_short_and_call_the_package(path):
    for cell in code_cells(path):
        assert len(cell.source.strip().splitlines()) <= MAX_LINES, cell.source
        for node in ast.walk(tree(cell)):
            assert not isinstance(node, ast.ClassDef), f"a class in a cell:\n{cell.source}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                for name in filter(None, names):
                    assert name.partition(".")[0] not in {"matplotlib", "seaborn"}, (
                        f"figures are drawn by gdetkd.viz, not in a cell:\n{cell.source}"
                    )


@each
def test_exercises_exist_and_are_left_to_the_reader(path):
    names = [
        node.args[0].value
        for cell in code_cells(path)
        for node in ast.walk(tree(cell))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"
    ]
    assert names, "expected an exercise with a checker"
    for name in names:
        assert exercises.find(name)
        assert any(f"{name}: not answered yet" in text for text in texts(path))


@each
def test_committed_as_run_from_top_to_bottom(path):
    cells = [cell for cell in code_cells(path) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs(path))
    for output in outputs(path):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert tool.WIDGET not in output.get("data", {})
    for text in texts(path):
        for sign in (*FOLDERS, "<Axes", "site-packages"):
            assert sign not in text, text
    assert path.stat().st_size < MAX_BYTES


def test_index_is_in_step():
    if not ALL:
        pytest.skip("no notebooks here")
    assert tool.INDEX.read_text() == tool.index(), "run `make notebooks`"
    pictures = {path.stem for path in tool.THUMBNAILS.glob("*.png")}
    assert pictures == {path.stem for path in ALL if tool.thumbnail(tool.read(path))}


@each
def test_thumbnail_is_of_the_figure(path):
    wanted = np.asarray(tool.thumbnail(tool.read(path)), dtype=float)
    shown = np.asarray(Image.open(tool.THUMBNAILS / f"{path.stem}.png").convert("RGB"), dtype=float)
    # 256 colors stand for all: a few gray levels apart on average, while another figure is dozens.
    assert shown.shape == wanted.shape and np.abs(shown - wanted).mean() < 4


@pytest.mark.slow
@each
def test_runs_and_shows_the_same(path):
    """Every cell runs; those with the tag nbval-check-output print what is committed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    command += ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tool.FOLDER.parent)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    checked = [c for c in code_cells(path) if "nbval-check-output" in c.metadata.get("tags", [])]
    assert checked, "expected at least one cell whose output is compared"
