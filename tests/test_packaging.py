"""The pins agree with the ranges, the built package is complete, and its installed copy works."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import (
    PackageNotFoundError,
    distributions,
    metadata,
    packages_distributions,
)
from pathlib import Path

import hatchling.build
import pytest
import yaml
from lock_requirements import known_hashes, locked, without_hashes
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import gdetkd

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK, MAKEFILE = ROOT / "requirements.txt", ROOT / "Makefile"
HOOK = "gdetkd_startup.pth"
MIB = 2**20


# Pins, ranges and the Python version


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def pins() -> dict[str, Requirement]:
    lines = without_hashes(LOCK.read_text())
    return requirements([line for line in lines if line and not line.startswith(("#", "--"))])


def pinned_version(name: str) -> str:
    (specifier,) = pins()[name].specifier
    return specifier.version


def asked_for() -> list[str]:
    project = PYPROJECT["project"]
    extras = sum(project["optional-dependencies"].values(), [])
    lines = project["dependencies"] + extras + PYPROJECT["build-system"]["requires"]
    return [line for line in lines if Requirement(line).name != "gdetkd"]


def test_every_pin_is_exact() -> None:
    for requirement in pins().values():
        operators = [specifier.operator for specifier in requirement.specifier]
        assert operators == ["=="] and requirement.url is None, str(requirement)


@pytest.mark.parametrize("line", asked_for())
def test_pin_lies_in_the_range_of_pyproject(line: str) -> None:
    wanted = Requirement(line)
    version = pinned_version(canonicalize_name(wanted.name))
    assert wanted.specifier.contains(version, prereleases=True)


def test_pins_accept_every_python_3_11() -> None:
    """Debian 12 has 3.11.2, for example; some packages ask for a later 3.11."""
    for name in pins():
        try:
            wanted = metadata(name)["Requires-Python"]
        except PackageNotFoundError:  # a CUDA package, away from Linux
            continue
        assert SpecifierSet(wanted or "").contains("3.11.0"), f"{name} asks for Python {wanted}"


def test_every_pin_has_the_hash_of_its_wheel() -> None:
    """One per pin, in the layout that renewing them would write."""
    text = LOCK.read_text()
    hashes = known_hashes(text)
    assert list(hashes) == list(pins())
    assert locked(without_hashes(text), hashes) == text
    assert "--only-binary :all:\n" in text and "--require-hashes -r" in MAKEFILE.read_text()


def test_exactly_the_pins_are_installed() -> None:
    """In the environment of `make env`; pip is Python's own, gdetkd the project."""
    if Path(sys.prefix).name != ".venv":
        pytest.skip("not the environment of make: other packages are its owner's affair")
    folder = [sysconfig.get_path("purelib")]  # not what setuptools brings for itself
    here = {canonicalize_name(found.name): found.version for found in distributions(path=folder)}
    wanted = {
        name: pinned_version(name)
        for name, pin in pins().items()
        if pin.marker is None or pin.marker.evaluate()
    }
    own = {"pip", "gdetkd"}
    assert {name: version for name, version in here.items() if name not in own} == wanted


def test_conda_environment_is_held_to_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "gdetkd"
    assert environment["dependencies"] == [
        "python=3.11",
        "pip",
        {"pip": ["--require-hashes", "-r requirements.txt"]},
    ]


def test_one_python_version_everywhere() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    set_up = next(s for s in workflow["jobs"]["test"]["steps"] if "python" in s.get("uses", ""))
    assert set_up["with"]["python-version"] == "3.11"
    assert "PYTHON ?= python3.11\n" in MAKEFILE.read_text()
    assert PYPROJECT["project"]["requires-python"] == ">=3.11"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py311"


def test_pre_commit_runs_the_pinned_ruff() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format"}
    for hook in hooks:
        assert hook["additional_dependencies"] == [f"ruff=={pinned_version('ruff')}"]


def test_one_version_number_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    releases = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == gdetkd.__version__ == releases[0]


def test_whatever_the_package_imports_is_declared() -> None:
    """An import that works only because another package brings it along breaks without warning."""
    project = PYPROJECT["project"]
    extras = [e for name, e in project["optional-dependencies"].items() if name != "dev"]
    declared = set(requirements(sum(extras, project["dependencies"])))
    owners = packages_distributions()
    for file in sorted((ROOT / "gdetkd").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            else:
                continue
            for top in {module.split(".")[0] for module in modules}:
                if top in sys.stdlib_module_names or top == "gdetkd":
                    continue
                found = {canonicalize_name(owner) for owner in owners.get(top, [])}
                assert found & declared, f"{file.relative_to(ROOT)} imports {top}: undeclared"


def test_the_core_needs_torch_and_torchvision_and_what_the_command_prints_with() -> None:
    project = PYPROJECT["project"]
    core = {Requirement(line).name for line in project["dependencies"]}
    assert core == {"torch", "torchvision", "click", "packaging", "rich"}
    everything = {Requirement(line) for line in project["optional-dependencies"]["all"]}
    (itself,) = everything
    assert itself.extras == set(project["optional-dependencies"]) - {"all", "dev"}
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    assert set(workflow["jobs"]["extras"]["strategy"]["matrix"]["extra"]) == {"", *itself.extras}


def test_make_says_what_is_missing_without_python(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed here")
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "env", "PYTHON=no-such-python"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "gdetkd needs Python 3.11, and 'no-such-python' is not that." in done.stderr
    assert not (tmp_path / ".venv").exists()


# What is tracked


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: which files are tracked is unknown")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    files = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    return [file for file in files if file.exists()]


def test_tracked_files_stay_small() -> None:
    sizes = {file: file.stat().st_size for file in tracked_files()}
    large = [str(file) for file, size in sizes.items() if size > 16 * MIB]
    assert large == []
    assert sum(sizes.values()) < 40 * MIB


def test_no_tracked_text_names_a_machine_or_a_package_index() -> None:
    foreign = re.compile(
        r"--(?:extra-)?index-url|--find[-]links|pythonhosted[.]org|file:[/]{2}|/root[/]|/home/[a-z]"
        rf"|{re.escape(str(ROOT))}(?![\w-])"
    )
    for file in tracked_files():
        content = file.read_bytes()
        if b"\0" in content:  # not text
            continue
        found = foreign.search(content.decode(errors="replace"))
        assert found is None, f"{file.relative_to(ROOT)}: {found.group()}"


# The built package


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from the sdist: what the wheel needs has to be in there."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (file,) = dist.glob("*.whl")
    return file


def package_files() -> set[str]:
    """Names of the tracked files below `gdetkd/`, relative to the checkout."""
    return {
        file.relative_to(ROOT).as_posix()
        for file in tracked_files()
        if file.is_relative_to(ROOT / "gdetkd")
    }


def test_wheel_holds_the_package_and_the_hook_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"gdetkd", f"gdetkd-{gdetkd.__version__}.dist-info", HOOK}
    assert package_files() - {f"gdetkd/{HOOK}"} <= set(names)
    assert f"gdetkd/{HOOK}" not in names
    assert not [name for name in names if "__pycache__" in name]


def test_sdist_holds_sources_tests_and_pins(dist: Path) -> None:
    (file,) = dist.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    wanted = {"pyproject.toml", "requirements.txt", "LICENSE", "README.md", "tests/conftest.py"}
    assert wanted | package_files() <= names
    assert not [name for name in names if name.startswith((".venv", "data", "work_dirs"))]


def test_editable_install_carries_the_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # PEP 660 calls the build in the project's folder
    built = zipfile.ZipFile(tmp_path / hatchling.build.build_editable(str(tmp_path)))
    startup = [name for name in built.namelist() if name.endswith(".pth")]
    # Python runs them in the order of their names, and the hook needs the path to import gdetkd.
    assert sorted(startup) == ["_gdetkd.pth", HOOK]
    assert Path(built.read("_gdetkd.pth").decode()) == ROOT


# The installed copy


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; every other package is the running environment's."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python"]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    # A folder named in a .pth file joins the path, but its own .pth files are not run:
    # the checkout stays out of sight, and the hook is the wheel's.
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "zz_libraries.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def run_installed(installed: Path, *command: str) -> str:
    """Run a program of the installed copy away from the checkout; return what it printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [installed / "bin" / command[0], *command[1:]],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_start_of_python_stays_light(installed: Path) -> None:
    """The hook runs in every process of the environment: it must not import any library."""
    code = "import sys; print(*sorted(m for m in sys.modules if m.split('.')[0] in "
    code += "('gdetkd', 'torch', 'numpy', 'mmcv', 'mmengine', 'mmdet')))"
    assert run_installed(installed, "python", "-c", code) == "gdetkd gdetkd.startup"


def test_installed_copy_loads_configs_and_knows_what_was_measured(installed: Path) -> None:
    code = """
from mmdet.apis import init_detector  # first: nothing of gdetkd has been imported by hand
from pathlib import Path
import gdetkd, mmcv._ext
from mmengine.config import Config
print(Path(gdetkd.__file__).parent)
folder = Path(gdetkd.__file__).with_name("configs")
for place in sorted(folder.iterdir()):  # one of each; tests/test_configs.py reads them all
    if place.name != "_base_" and place.is_dir():
        Config.fromfile(next(iter(sorted(place.glob("gdetkd*.py")) or sorted(place.glob("*.py")))))
        print(place.name)
from gdetkd.reproduce.report import headline
print(headline())
"""
    package, *configs, measured = run_installed(installed, "python", "-c", code).splitlines()
    assert Path(package).is_relative_to(installed)
    places = {path.name for path in (ROOT / "gdetkd/configs").iterdir() if path.is_dir()}
    assert set(configs) == places - {"_base_", "__pycache__"} != set()
    assert measured.startswith("On record")


WITHOUT_EXTRAS = """
import sys  # as where nothing but the core is installed
names = "mmdet mmengine mmcv cv2 pandas matplotlib scipy pycocotools transformers onnx"
for name in (names + " onnxruntime onnxscript skimage yaml").split():
    sys.modules[name] = None
"""


def test_installed_core_distils_and_names_the_extra_that_is_missing(installed: Path) -> None:
    """The hook at the start of Python has run before, and did no harm without MMEngine."""
    train = """
import torch, gdetkd
from gdetkd import Distiller, losses
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as build
student, teacher = (build(num_classes=3, weights_backbone=None, min_size=64) for _ in range(2))
distiller = Distiller(student, teacher, dict(imitation=dict(weight=1.0)))
target = dict(boxes=torch.tensor([[5, 5, 40, 40.0]]), labels=torch.tensor([1]))
print(float(distiller([torch.rand(3, 64, 64)], [target])["kd_imitation_loss"].detach()) > 0)
"""
    command = """
from gdetkd.cli import main
open("c.py", "w").close()
for arguments in (["train", "c.py"], ["demo"], ["bench", "contrastive"]):
    sys.argv = ["gdetkd", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 1
sys.argv = ["gdetkd", "--help"]
main()
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [installed / "bin/python", "-c", WITHOUT_EXTRAS + train + command],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    messages = done.stderr.strip().splitlines()
    form = r"gdetkd: this needs \w+, which is not installed; install it with pip install "
    assert len(messages) == 3, done.stderr
    assert all(re.fullmatch(form + r"'gdetkd\[mmdet\]'", line) for line in messages), messages
    assert done.stdout.startswith("True\n") and "Usage: gdetkd" in done.stdout


def test_installed_command_answers(installed: Path) -> None:
    assert "Usage: gdetkd" in run_installed(installed, "gdetkd", "--help")
