"""Records of runs: one JSON line a run, appended when it has ended, never changed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

REQUIRED = {
    "experiment": str, "config": str, "options": dict, "config_hash": str, "seed": int,
    "steps": int, "AP": float, "AP50": float, "APs": float, "APm": float, "losses": dict,
    "seconds": float, "seconds_per_step": float, "threads": int, "device": str, "commit": str,
    "versions": dict, "date": str,
}  # fmt: skip
# Digits has no large objects. Peaks are the highest values of a run: of its distillation losses, of
# their sum with the detector's, and of the gradient's norm before it is clipped; early records lack
# them.
OPTIONAL = {"APl": float, "peaks": dict}
PACKAGES = ("gdetkd", "torch", "torchvision", "mmdet", "mmengine", "mmcv-lite", "numpy")


def append(path: str | os.PathLike, record: dict[str, Any]) -> None:
    """Add one record; raises ValueError if a field is missing or of another type."""
    check(record)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(record, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def load(path: str | os.PathLike) -> pd.DataFrame:
    """All records as a frame, one row a run; empty when there is no file."""
    path = Path(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for row in rows:
        check(row)
    return pd.DataFrame(rows, columns=[*REQUIRED, *OPTIONAL])


def check(record: dict[str, Any]) -> None:
    """Raise ValueError, naming the field, if a record is not of the schema."""
    for name, kind in (REQUIRED | OPTIONAL).items():
        if name in OPTIONAL and name not in record:
            continue
        value = record.get(name)
        if not isinstance(value, kind):
            raise ValueError(
                f"record of {record.get('experiment')!r}, seed {record.get('seed')!r}: expected "
                f"{name} to be {kind.__name__}, got {value!r}"
            )


def config_hash(config: Any) -> str:
    """Twelve hex digits of a resolved config, without what does not change a result."""
    content = config._cfg_dict.to_dict() if hasattr(config, "_cfg_dict") else dict(config)
    for key in ("work_dir", "log_level", "default_hooks", "visualizer", "vis_backends", "resume"):
        content.pop(key, None)
    content.pop("randomness", None)  # the seed has a field of its own
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def environment() -> dict[str, Any]:
    """Commit, device and versions of this process."""
    return dict(commit=_commit(), device=_device(), versions=_versions())


def _commit() -> str:
    """The checkout's commit, '+' when it has changes; 'installed' outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "installed"
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
