"""What an installation has and lacks, with the remedy for each lack."""

from __future__ import annotations

import importlib
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import click
from packaging.version import Version
from rich.console import Console
from rich.table import Table

from gdetkd.cli.common import DATA_ROOT

# The package's own modules are imported where they are looked at: they need what may be missing.
NEEDED = {
    "torch": "2.6", "torchvision": "0.21", "mmdet": "3.3", "mmengine": "0.10.7",
    "pycocotools": "2.0.7", "numpy": "1.26",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` is what to do if it is not fine."""

    what: str
    found: str
    fine: bool
    remedy: str = ""
    optional: bool = False


def examine(data_root: str) -> list[Finding]:
    """Look at Python, packages, operators, accelerator, shipped weights and the benchmark."""
    fine = sys.version_info >= (3, 11)
    remedy = "" if fine else "use Python 3.11 or later"
    findings = [Finding("Python", platform.python_version(), fine, remedy)]
    findings += [_package(name, least) for name, least in NEEDED.items()]
    findings += [_setuptools(), _operators(), _accelerator(), _teacher(), _digits(data_root)]
    return findings


def _package(name: str, least: str) -> Finding:
    try:
        found = version(name)
        importlib.import_module(name)
    except PackageNotFoundError:
        return Finding(name, "not installed", False, f"pip install '{name}>={least}'")
    except Exception as error:  # whatever a broken installation provokes
        said = f"{type(error).__name__}: {error}"
        return Finding(name, said, False, f"make 'import {name}' work: reinstall what it names")
    fine = Version(found) >= Version(least)
    return Finding(name, found, fine, "" if fine else f"pip install '{name}>={least}'")


def _setuptools() -> Finding:
    remedy = "pip install 'setuptools<81': mmengine needs it"
    try:
        found = version("setuptools")
    except PackageNotFoundError:
        return Finding("setuptools", "not installed", False, remedy)
    fine = Version(found) < Version("81")
    return Finding("setuptools", found, fine, "" if fine else remedy)


def _operators() -> Finding:
    try:
        module = importlib.import_module("mmcv._ext")
    except Exception as error:  # a compiled one for another torch, for instance
        return Finding("mmcv operators", str(error), False, "pip install mmcv-lite==2.1.0")
    ours = str(getattr(module, "__file__", "")).endswith("mmcv_ext.py")
    return Finding("mmcv operators", "on torchvision's kernels" if ours else "compiled mmcv", True)


def _accelerator() -> Finding:
    try:
        import torch
    except Exception:
        return Finding("accelerator", "unknown without torch", False, "see torch", optional=True)
    if torch.cuda.is_available():
        return Finding("accelerator", torch.cuda.get_device_name(), True)
    remedy = "fine for digits; COCO wants GPUs"
    return Finding("accelerator", "none, the CPU is used", False, remedy, optional=True)


def _teacher() -> Finding:
    try:
        from gdetkd.checkpoints.hub import find_checkpoint

        find_checkpoint("gdetkd::digits_faster_rcnn_r34.pth")
    except (ImportError, OSError) as error:
        return Finding("shipped teacher", str(error), False, "reinstall gdetkd")
    return Finding("shipped teacher", "digits_faster_rcnn_r34.pth", True)


def _digits(root: str) -> Finding:
    try:
        from gdetkd.datasets.digits import verify_digits
    except ImportError as error:
        return Finding("digits", str(error), False, "reinstall gdetkd")
    if verify_digits(root):
        return Finding("digits", f"complete, in {root}", True)
    return Finding("digits", f"not in {root}", False, "gdetkd data digits", optional=True)


@click.command()
def doctor() -> None:
    """Say what is installed, what is missing and what to do about it."""
    findings = examine(DATA_ROOT)
    table = Table(show_lines=False)
    for column in ("", "what", "found", "what to do"):
        table.add_column(column)
    for finding in findings:
        mark = "[green]ok[/]" if finding.fine else "[red]no[/]"
        table.add_row(mark, finding.what, finding.found, finding.remedy)
    Console().print(table)
    if not all(finding.fine or finding.optional for finding in findings):
        sys.exit(1)
