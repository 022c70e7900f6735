"""Records of measurements: JSON lines that are appended, with where and by what they were made."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

PACKAGES = ("gdetkd", "torch", "torchvision", "mmdet", "mmengine", "mmcv-lite", "numpy", "timm")


def append_json_line(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Add one record as a line of a file that is made if need be, and bring it to the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(record, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a file, one per line; none where there is no file.

    Raises:
        ValueError: A line is not JSON; the message names the file and the line.
    """
    path, rows = Path(path), []
    if not path.exists():
        return rows
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: expected a JSON record: {error}") from error
    return rows


def markdown_table(table: pd.DataFrame) -> str:
    """A table in GitHub's Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def environment() -> dict[str, Any]:
    """Commit, device and versions of this process."""
    return dict(commit=_commit(), device=_device(), versions=_versions())


def _commit() -> str:
    """The checkout's commit, '+' when it has changes; 'installed' outside a checkout.

    A copy of a checkout is told its commit by the variable GDETKD_COMMIT, as `make gpu` does.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return os.environ.get("GDETKD_COMMIT") or "installed"
    git = ["git", "-C", str(root)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True
    )
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no", "--", "gdetkd"],
        capture_output=True, text=True,
    )  # fmt: skip
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {platform.machine()}, {os.cpu_count()} cores"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
