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
    naive_limit = 0.40 if device == "cpu" else 1.00
    of_naive, of_torch = (
        time_ratio(f"{on}: time / {name}", limit, record, device, ("ours", form), paper)
        for name, limit, form in (
            ("naive's", naive_limit, "naive"), ("linear_cross_entropy's", 1, "torch"),
        )
    )  # fmt: skip
    extremes = _ours(record["extremes"], device)
    broken = sum(not row["finite"] for row in extremes) if extremes else math.nan
    return [
        memory(f"{on}: peak memory", 64, peak / 1e6, device),
        Target(f"{on}: peak memory / naive's", 1 / 15, peak / of("naive", "peak_bytes")),
        memory(f"{on}: peak memory that twice the N adds", 8, added, device),
        Target(f"{on}: peak memory at twice the K / at K", 2, pd.Series(growth).max()),
        of_naive,
        *([of_torch] if device == "cpu" else []),
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
    ranges = record.get("ranges", {})
    return [
        *(
            Target(
                f"{what}: {name}",
                limit,
                record["seconds"].get(name, math.nan),
                "",
                ranges.get(name),
            )
            for name, limit in limits.items()
        ),
        Target("CUDA, step of R50 from R101 at 2 x 800 x 1333: distilled / floor", 1.10, math.nan),
    ]


def _ours(rows: Iterable[Record], device: str) -> list[Record]:
    return [row for row in rows if (row["device"], row["form"]) == (device, "ours")]


def _largest_error(record: Record, device: str) -> float:
    rows = _ours(record["precision"], device)
    errors = [error for row in rows for error in row["errors"].values()]
    return pd.Series(errors, dtype=float).max(skipna=False)
