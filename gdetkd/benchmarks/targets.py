"""Limits for the time and memory of the losses and the step, compared with the records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import pandas as pd

from gdetkd.benchmarks import contrastive, imitation

# Seconds of the three products of N x K x D at the peak rates of an H100.
PRODUCTS = dict(float32=0.67e-3, TF32=0.091e-3)
SHOWN_DEVICES = dict(cpu="CPU", cuda="CUDA")
Record = Mapping[str, Any]


class Target(NamedTuple):
    """A measured figure, its upper limit, and the range that repeated measurements leave it.

    Records from before ranges were measured have none; a figure then stands for itself.
    """

    what: str
    limit: float
    figure: float  # NaN: not run
    unit: str = ""
    range: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        if math.isnan(self.figure):
            return "not run"
        low, high = self.range or (self.figure, self.figure)
        if low <= self.limit < high:
            return "undecided"
        return "met" if high <= self.limit else "missed"


def targets(records: Mapping[str, Record]) -> list[Target]:
    """The targets of those records that are there; a GPU's own record goes before."""
    by_record = dict(contrastive=_contrastive, imitation=_imitation)
    found = []
    for name, targets_of in by_record.items():
        for device in SHOWN_DEVICES:
            record = records.get(name)
            if device == "cuda":
                record = records.get(f"{name}_gpu", record)
            found += targets_of(record, device) if record else []
    for name in ("step", "step_gpu"):
        found += _step(records[name]) if name in records else []
    if "step" in records or "large_step" in records:
        large = records.get("large_step_gpu", records.get("large_step", dict(seconds={})))
        what = "CUDA, step of R50 from R101 at 2 x 800 x 1333: distilled / floor"
        found.append(_ratio(what, 1.05, large, "distilled step / floor"))
    return found


def lookup(record: Record, device: str, form: str, shape: Mapping[str, int], field: str) -> float:
    """A figure of the row with this device, beginning of the form and shape; NaN without one."""
    for row in record["time_and_memory"]:
        here = row["device"] == device and row["form"].startswith(form)
        if here and shape.items() <= row.items() and row[field] is not None:
            return row[field]
    return math.nan


def time_ratio(
    what: str, limit: float, record: Record, device: str, forms: tuple[str, str], shape: Any
) -> Target:
    """The target of one form's time by another's, of paired measurements where there are."""
    figures = [lookup(record, device, form, shape, "seconds") for form in forms]
    for row in record["time_and_memory"]:
        if row["device"] == device and row["form"] == forms[0] and shape.items() <= row.items():
            for other, (low, median, high) in row.get("ratios", {}).items():
                if other.startswith(forms[1]):
                    return Target(what, limit, median, range=(low, high))
    return Target(what, limit, figures[0] / figures[1])


def memory(what: str, limit: float, megabytes: float, device: str) -> Target:
    """A target of memory; on the CPU, where resident memory is counted to about 1 MB."""
    around = (megabytes - 1, megabytes + 1) if device == "cpu" else None
    return Target(what, limit, megabytes, "MB", around)


def _contrastive(record: Record, device: str) -> list[Target]:
    def of(form: str, field: str, **changes: int) -> float:
        return lookup(record, device, form, asdict(contrastive.PAPER) | changes, field)

    on = SHOWN_DEVICES[device]
    peak, paper = of("ours", "peak_bytes"), asdict(contrastive.PAPER)
    added = (of("ours", "peak_bytes", N=2 * contrastive.PAPER.N) - peak) / 1e6
    growth = [
        of("ours", "peak_bytes", K=2 * k) / of("ours", "peak_bytes", K=k)
        for k in {row["K"] for row in record["time_and_memory"]}
    ]
    naive_limit = 0.30 if device == "cpu" else 1.00
    of_naive, of_torch, of_loop = (
        time_ratio(f"{on}: time / {name}", limit, record, device, ("ours", form), paper)
        for name, limit, form in (
            ("naive's", naive_limit, "naive"), ("linear_cross_entropy's", 1, "torch"),
            ("its own loop's", 0.85, "loop"),
        )
    )  # fmt: skip
    extremes = _ours(record["extremes"], device)
    broken = sum(not row["finite"] for row in extremes) if extremes else math.nan
    floats, tf32 = (record.get("blocks", {}).get(f"16 MB, {kind}", math.nan)
                    for kind in ("float32", "TF32"))  # fmt: skip
    limits = [
        Target(f"{on}: time / that of the products alone", 1.5, floats / PRODUCTS["float32"]),
        Target(f"{on}: the same with TF32", 2, tf32 / PRODUCTS["TF32"]),
    ]
    return [
        memory(f"{on}: peak memory", 64, peak / 1e6, device),
        Target(f"{on}: peak memory / naive's", 1 / 15, peak / of("naive", "peak_bytes")),
        memory(f"{on}: peak memory that twice the N adds", 8, added, device),
        Target(f"{on}: peak memory at twice the K / at K", 2, pd.Series(growth).max()),
        of_naive,
        *([of_torch, of_loop] if device == "cpu" else limits),
        Target(f"{on}: error of loss and gradients", 1e-5, _largest_error(record, device)),
        Target(f"{on}: settings that are not finite", 0, broken, f"of {len(extremes) or 12}"),
    ]


def _imitation(record: Record, device: str) -> list[Target]:
    paper, on = imitation.PAPER, f"{SHOWN_DEVICES[device]}, imitation"
    # The levels' gradients alone are 0.445 of the stacked form's peak: no loss can do without them.
    gradients = 4 * paper.L * paper.N * paper.C * paper.bins**2
    beyond = lookup(record, device, "ours", asdict(paper), "peak_bytes") - gradients
    forms = "ours", "stack"
    what = f"{on}: time / stack + einsum's"
    return [
        memory(f"{on}: peak memory beyond the gradients", 8, beyond / 1e6, device),
        time_ratio(what, 0.95, record, device, forms, asdict(paper)),
        Target(f"{on}: error of loss and gradients", 1e-5, _largest_error(record, device)),
    ]


def _step(record: Record) -> list[Target]:
    on = "CPU" if record["device"].startswith("CPU") else "CUDA"
    what = f"{on}, step on digits"
    limits = {
        "distilled step / floor": 1.15,
        "distilled step, pyramids cached / plain step": 1.30,
        "all weights 0 / plain": 1.01,
    }
    return [_ratio(f"{what}: {name}", limit, record, name) for name, limit in limits.items()]


def _ratio(what: str, limit: float, record: Record, name: str) -> Target:
    """The target of a ratio of a step's record, with its range."""
    figure = record["seconds"].get(name, math.nan)
    return Target(what, limit, figure, range=record.get("ranges", {}).get(name))


def _ours(rows: Iterable[Record], device: str) -> list[Record]:
    return [row for row in rows if (row["device"], row["form"]) == (device, "ours")]


def _largest_error(record: Record, device: str) -> float:
    rows = _ours(record["precision"], device)
    errors = [error for row in rows for error in row["errors"].values()]
    return pd.Series(errors, dtype=float).max(skipna=False)
