"""Who may import whom: a floor uses the floors below, rooms of one floor ignore each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gdetkd

PACKAGE = Path(gdetkd.__file__).parent
# The house, from the top floor down. ARCHITECTURE.md says what lives in each room.
FLOORS = (
    ("cli",),
    ("reproduce", "benchmarks", "lessons", "demo.py"),
    ("launch",),
    ("training", "evaluation"),
    ("detectors",),
    ("distillation", "checkpoints", "datasets", "viz"),
    ("theory.py",),
    ("losses", "ops"),
)
ROOMS = [room for floor in FLOORS for room in floor]
# These import torch and torchvision alone: `pip install gdetkd` brings no more.
FRAMEWORK_FREE = (
    "losses",
    "theory.py",
    "ops/roi_align.py",
    "distillation",
    "detectors/__init__.py",
    "detectors/adapter.py",
    "detectors/distiller.py",
    "detectors/locations.py",
    "detectors/onnx_export.py",
    "detectors/pixels.py",
    "detectors/sampling.py",
    "detectors/transfer.py",
    "detectors/torchvision",
    "detectors/transformers",
)
OUTSIDE = {"__init__.py", "startup.py", "gdetkd_startup.pth", "configs", "assets"}  # face, data


def module_of(path, package=PACKAGE):
    """The dotted name of a file; a package's is that of its folder."""
    parts = ("gdetkd", *path.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, package=PACKAGE):
    """Full names that a file imports, anywhere in it; ``from a import b`` is a.b."""
    parents = ("gdetkd", *path.relative_to(package).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files(*names):
    """The Python files of rooms and files, each of which has to exist."""
    for name in names:
        place = PACKAGE / name
        found = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        assert found and all(path.exists() for path in found), f"no such room: {name}"
        yield from found


def room_of(name, owners):
    """The room of an imported name; a name that a room's ``__init__`` hands on is that room's."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        owner = owners.get(".".join(parts[:length]))
        if owner is not None:
            return owner
    return None


def owners():
    return {module_of(path): room for room in ROOMS for path in files(room)}


def within(name, *modules):
    return any(name == module or name.startswith(module + ".") for module in modules)


def test_the_rooms_are_all_there_is():
    assert {path.name for path in PACKAGE.iterdir()} - {"__pycache__"} == {*ROOMS, *OUTSIDE}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_the_floors_below_alone(room):
    known = owners()
    (level,) = (index for index, floor in enumerate(FLOORS) if room in floor)
    allowed = {room, *(below for floor in FLOORS[level + 1 :] for below in floor)}
    for path in files(room):
        for name in imports(path):
            other = room_of(name, known) if within(name, "gdetkd") else room
            assert other is None or other in allowed, f"{path.relative_to(PACKAGE)} imports {name}"


def test_a_listed_room_that_is_missing_is_noticed():
    with pytest.raises(AssertionError, match="no such room"):
        list(files("losses/nowhere.py"))


@pytest.mark.parametrize(
    "path", files(*FRAMEWORK_FREE), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_what_is_free_of_frameworks_needs_torch_alone(path):
    allowed = {*sys.stdlib_module_names, "torch", "torchvision", "gdetkd"}
    for name in imports(path):
        assert name.partition(".")[0] in allowed, f"imports {name}"


def test_what_is_free_of_frameworks_imports_without_them():
    modules = [module_of(path) for path in files(*FRAMEWORK_FREE)]
    code = (
        f"import sys, {', '.join(modules)}\n"
        "foreign = {'mmcv', 'mmdet', 'mmengine', 'pycocotools', 'cv2', 'pandas', 'matplotlib'}\n"
        "print(sorted(foreign & {m.partition('.')[0] for m in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


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
