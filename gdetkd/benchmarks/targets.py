"""Limits for the time and memory of the losses and the step, compared with the records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import pandas as pd

from gdetkd.benchmarks import contrastive, imitation

SHOWN_DEVICES = dict(cpu="CPU", cuda="CUDA")
Record = Mapping[str, Any]


class Target(NamedTuple):
    """A measured figure and its upper limit."""

    what: str
    limit: float
    figure: float  # NaN: not run
    unit: str = ""

    @property
    def verdict(self) -> str:
        if math.isnan(self.figure):
            return "not run"
        return "met" if self.figure <= self.limit else "missed"


def targets(records: Mapping[str, Record]) -> list[Target]:
    """The targets of those records that are there: 'contrastive', 'imitation', 'step'."""
    by_record = dict(contrastive=_contrastive, imitation=_imitation)
    found = [
        target
        for name, targets_of in by_record.items()
        for device in (SHOWN_DEVICES if name in records else ())
        for target in targets_of(records[name], device)
    ]
    return found + (_step(records["step"]) if "step" in records else [])


def lookup(record: Record, device: str, form: str, shape: Mapping[str, int], field: str) -> float:
    """A figure of the row with this device, beginning of the form and shape; NaN without one."""
    for row in record["time_and_memory"]:
        here = row["device"] == device and row["form"].startswith(form)
        if here and shape.items() <= row.items() and row[field] is not None:
            return row[field]
    return math.nan


def _contrastive(record: Record, device: str) -> list[Target]:
    def of(form: str, field: str, **changes: int) -> float:
        return lookup(record, device, form, asdict(contrastive.PAPER) | changes, field)

    on = SHOWN_DEVICES[device]
    peak, time = of("ours", "peak_bytes"), of("ours", "seconds")
    added = (of("ours", "peak_bytes", N=2 * contrastive.PAPER.N) - peak) / 1e6
    growth = [
        of("ours", "peak_bytes", K=2 * k) / of("ours", "peak_bytes", K=k)
        for k in {row["K"] for row in record["time_and_memory"]}
    ]
    naive_limit = 0.40 if device == "cpu" else 1.00
    of_torch = Target(f"{on}: time / linear_cross_entropy's", 1, time / of("torch", "seconds"))
    extremes = _ours(record["extremes"], device)
    broken = sum(not row["finite"] for row in extremes) if extremes else math.nan
    return [
        Target(f"{on}: peak memory", 64, peak / 1e6, "MB"),
        Target(f"{on}: peak memory / naive's", 1 / 15, peak / of("naive", "peak_bytes")),
        Target(f"{on}: peak memory that twice the N adds", 8, added, "MB"),
        Target(f"{on}: peak memory at twice the K / at K", 2, pd.Series(growth).max()),
        Target(f"{on}: time / naive's", naive_limit, time / of("naive", "seconds")),
        *([of_torch] if device == "cpu" else []),
        Target(f"{on}: error of loss and gradients", 1e-5, _largest_error(record, device)),
        Target(f"{on}: settings that are not finite", 0, broken, f"of {len(extremes) or 12}"),
    ]


def _imitation(record: Record, device: str) -> list[Target]:
    def ratio(field: str) -> float:
        shape = asdict(imitation.PAPER)
        ours, stacked = (lookup(record, device, form, shape, field) for form in ("ours", "stack"))
        return ours / stacked

    on = f"{SHOWN_DEVICES[device]}, imitation"
    return [
        Target(f"{on}: peak memory / stack + einsum's", 0.45, ratio("peak_bytes")),
        Target(f"{on}: time / stack + einsum's", 0.95, ratio("seconds")),
        Target(f"{on}: error of loss and gradients", 1e-5, _largest_error(record, device)),
    ]


def _step(record: Record) -> list[Target]:
    on = "CPU" if record["device"].startswith("CPU") else "CUDA"
    what = f"{on}, step on digits"
    return [
        Target(f"{what}: distilled / floor", 1.15, record["seconds"]["distilled step / floor"]),
        Target(f"{what}: all weights 0 / plain", 1.01, record["seconds"]["all weights 0 / plain"]),
        Target("CUDA, step of R50 from R101 at 2 x 800 x 1333: distilled / floor", 1.10, math.nan),
    ]


def _ours(rows: Iterable[Record], device: str) -> list[Record]:
    return [row for row in rows if (row["device"], row["form"]) == (device, "ours")]


def _largest_error(record: Record, device: str) -> float:
    rows = _ours(record["precision"], device)
    errors = [error for row in rows for error in row["errors"].values()]
    return pd.Series(errors, dtype=float).max(skipna=False)
