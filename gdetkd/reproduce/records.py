"""Records of runs: one JSON line a run, appended when it has ended, never changed."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import pandas as pd

from gdetkd.evaluation.records import append_json_line, read_json_lines

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
METRICS = dict(AP="mAP", AP50="mAP_50", APs="mAP_s", APm="mAP_m", APl="mAP_l")  # MMDetection's
# What a resolved config says beside what a run computes: where it writes, what it prints, which
# modules register its types. The seed has a field of its own.
WITHOUT_EFFECT = (
    "work_dir", "log_level", "default_hooks", "visualizer", "vis_backends", "resume", "randomness",
    "custom_imports",
)  # fmt: skip


def append(path: str | os.PathLike, record: dict[str, Any]) -> None:
    """Add one record; raises ValueError if a field is missing or of another type."""
    check(record)
    append_json_line(path, record)


def load(path: str | os.PathLike) -> pd.DataFrame:
    """All records as a frame, one row per run; empty when there is no file."""
    rows = read_json_lines(path)
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
    for key in WITHOUT_EFFECT:
        content.pop(key, None)
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
