"""What an installation has and lacks, with the remedy for whatever is missing."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import click
from packaging.requirements import Requirement
from rich.table import Table

from gdetkd.cli.common import DATA_ROOT, show

# The package's other modules are imported where they are checked: they need what may be missing.

# Distributions that bring the same modules as a dependency; any one of them will do.
SUBSTITUTES = {
    "mmcv-lite": ("mmcv",),
    "mmdet": ("onedl-mmdetection",),
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python"),
}
DEVELOPMENT = {"dev"}  # extras that users of the package do not need


@dataclass(frozen=True)
class Finding:
    """The result of one check; `remedy` is what to do if it is not fine."""

    what: str
    found: str
    fine: bool
    remedy: str = ""
    optional: bool = False


def examine(data_root: str) -> list[Finding]:
    """Check Python, all dependencies, operators, accelerator, shipped weights and the benchmark."""
    return [
        *check_dependencies(),
        _operators(),
        _accelerator(),
        _teacher(),
        _digits(data_root),
    ]


def check_dependencies() -> Iterator[Finding]:
    """Compare what is installed with what the package's metadata require, extras included."""
    try:
        package = metadata.metadata("gdetkd")
    except metadata.PackageNotFoundError:
        yield Finding("gdetkd", "not installed", False, "pip install -e . in the checkout")
        return
    python, wanted = platform.python_version(), package["Requires-Python"]
    fine = wanted is None or Requirement(f"python{wanted}").specifier.contains(python)
    yield Finding("Python", python, fine, "" if fine else f"use Python {wanted}")
    modules = modules_by_distribution()
    extras = set(package.get_all("Provides-Extra") or []) - DEVELOPMENT
    seen = set()
    for line in package.get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        if requirement.name == "gdetkd":  # an extra that takes in another one
            continue
        if requirement.marker is None or requirement.marker.evaluate(dict(extra="")):
            yield check_requirement(requirement, modules)
            continue
        for extra in sorted(extras):
            if requirement.marker.evaluate(dict(extra=extra)) and requirement.name not in seen:
                seen.add(requirement.name)
                yield check_requirement(requirement, modules, extra)
                break


def check_requirement(
    requirement: Requirement, modules: dict[str, list[str]], extra: str = ""
) -> Finding:
    """Whether a dependency is installed, in a version that fits, and can be imported."""
    wanted = f"{requirement.name}{requirement.specifier}"
    install = f"pip install '{wanted}'" if not extra else f"pip install 'gdetkd[{extra}]'"
    label = requirement.name + (f" ({extra})" if extra else "")
    for name in (requirement.name, *SUBSTITUTES.get(requirement.name, ())):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        shown = found if name == requirement.name else f"{name} {found}"
        replaced = name != requirement.name  # its versions are its own
        if not replaced and not requirement.specifier.contains(found, prereleases=True):
            return Finding(label, shown, False, install, bool(extra))
        try:
            for module in modules.get(_normal(name), ()):
                importlib.import_module(module)
        except Exception as error:  # whatever a broken installation raises
            remedy = f"reinstall it: pip install --force-reinstall --no-deps '{name}=={found}'"
            return Finding(
                label, f"{shown}: {type(error).__name__}: {error}", False, remedy, bool(extra)
            )
        return Finding(label, shown, True)
    return Finding(label, "not installed", False, install, bool(extra))


def modules_by_distribution() -> dict[str, list[str]]:
    """The module to import for each installed distribution, by the distribution's name.

    It is the one of the same name, or else every public module that the distribution brings.
    """
    found: dict[str, list[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        if module.isidentifier() and not module.startswith("_"):
            for name in distributions:
                found.setdefault(_normal(name), []).append(module)
    return {
        name: [module for module in modules if _normal(module) == name] or modules
        for name, modules in found.items()
    }


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _operators() -> Finding:
    try:
        module = importlib.import_module("mmcv._ext")
    except Exception as error:  # a compiled one for another torch, for instance
        optional = importlib.util.find_spec("mmcv") is None  # then it is missing above
        remedy = "pip install 'gdetkd[mmdet]'"
        return Finding("mmcv operators", str(error), False, remedy, optional)
    ours = str(getattr(module, "__file__", "")).endswith("mmcv_ext.py")
    return Finding("mmcv operators", "torchvision's kernels" if ours else "compiled mmcv", True)


def _unusable(what: str, error: Exception) -> Finding:
    """A part of the package that does not work: a module of an extra is missing, or a file."""
    missing = isinstance(error, ModuleNotFoundError) and (error.name or "gdetkd") != "gdetkd"
    remedy = "pip install 'gdetkd[mmdet]'" if missing else "reinstall gdetkd"
    return Finding(what, str(error), False, remedy, optional=missing)


def _accelerator() -> Finding:
    try:
        import torch
    except Exception:
        return Finding("accelerator", "unknown without torch", False, "see torch", optional=True)
    if torch.cuda.is_available():
        return Finding("accelerator", torch.cuda.get_device_name(), True)
    remedy = "fine for digits; COCO needs GPUs"
    return Finding("accelerator", "none, the CPU is used", False, remedy, optional=True)


def _teacher() -> Finding:
    try:
        from gdetkd.checkpoints.hub import find_checkpoint

        find_checkpoint("gdetkd::digits_faster_rcnn_r34.pth")
    except (ImportError, OSError) as error:
        return _unusable("shipped teacher", error)
    return Finding("shipped teacher", "digits_faster_rcnn_r34.pth", True)


def _digits(root: str) -> Finding:
    try:
        from gdetkd.datasets.embedded import verify
    except ImportError as error:
        return _unusable("digits", error)
    if verify(root):
        return Finding("digits", f"complete, in {root}", True)
    return Finding("digits", f"not in {root}", False, "gdetkd data digits", optional=True)


@click.command()
def doctor() -> None:
    """Print what is installed, what is missing and what to do about it."""
    findings = examine(DATA_ROOT)
    table = Table(show_lines=False)
    for column in ("", "what", "found", "what to do"):
        table.add_column(column)
    for finding in findings:
        lack = "[yellow]--[/]" if finding.optional else "[red]no[/]"
        mark = "[green]ok[/]" if finding.fine else lack
        table.add_row(mark, finding.what, finding.found, finding.remedy)
    show(table)
    if not all(finding.fine or finding.optional for finding in findings):
        sys.exit(1)
