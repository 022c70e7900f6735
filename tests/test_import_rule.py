"""Who may import whom: the method works with any detector, and the tools do not entangle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gdetkd

PACKAGE = Path(gdetkd.__file__).parent
METHOD = [
    "losses",
    "memory.py",
    "boxes.py",
    "pooling.py",
    "views.py",
    "objective.py",
    "rivals.py",
    "theory.py",
]
OPENMMLAB = {"mmcv", "mmdet", "mmengine"}


def imports(path, package=PACKAGE):
    """Full names of the modules that a file imports, anywhere in it; ``from a import b`` is a.b."""
    parents = ("gdetkd", *path.relative_to(package).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files(*names):
    """The Python files of the named modules and folders; what does not exist has none."""
    for name in names:
        place = PACKAGE / name
        yield from sorted(place.rglob("*.py")) if place.is_dir() else filter(Path.exists, [place])


def within(name, *modules):
    return any(name == module or name.startswith(module + ".") for module in modules)


def test_the_method_imports_without_openmmlab():
    present = [f"gdetkd.{name.removesuffix('.py')}" for name in METHOD if (PACKAGE / name).exists()]
    code = (
        f"import sys, {', '.join(present)}\n"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in "
        f"{sorted(OPENMMLAB)}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", files(*METHOD), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_method_needs_only_torch_and_itself(path):
    itself = [f"gdetkd.{name.removesuffix('.py')}" for name in METHOD]
    allowed = {*sys.stdlib_module_names, "torch"}
    for name in imports(path):
        top = name.partition(".")[0]
        assert top in allowed or within(name, "torchvision.ops", *itself), f"imports {name}"


@pytest.mark.parametrize("folder", ["datasets", "reproduce", "viz"])
def test_data_tables_and_figures_do_not_import_each_other(folder):
    others = [f"gdetkd.{other}" for other in {"datasets", "reproduce", "viz"} - {folder}]
    for path in files(folder):
        for name in imports(path):
            assert not within(name, *others), f"{path.name} imports {name}"


def test_nothing_imports_the_command_line():
    for path in files("."):
        if path.name not in ("cli.py", "__main__.py"):
            for name in imports(path):
                assert not within(name, "gdetkd.cli"), f"{path} imports {name}"


def test_imports_are_found_in_every_form(tmp_path):
    path = tmp_path / "losses" / "example.py"
    path.parent.mkdir()
    path.write_text(
        "import mmdet.models as m\n"
        "from mmcv import ops\n"
        "from . import common\n"
        "from ..cli import main\n"
        "def late():\n"
        "    from .common import x\n"
    )
    assert sorted(imports(path, tmp_path)) == [
        "gdetkd.cli.main",
        "gdetkd.losses.common",
        "gdetkd.losses.common.x",
        "mmcv.ops",
        "mmdet.models",
    ]
