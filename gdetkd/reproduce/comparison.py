"""The paper's gains beside ours, as numbers: what the last notebook draws."""

from __future__ import annotations

import math

import pandas as pd

from gdetkd.reproduce.claims import BASELINES, REFERENCES, TABLES
from gdetkd.reproduce.experiments import BENCHMARKS, experiments_of
from gdetkd.reproduce.tables import interval, paired_gain


def gains(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Gains over the baseline in AP points, one row a row of a table except baselines.

    Columns: ``row`` (label), ``paper`` (NaN where it has none), ``ours`` (mean of the gains paired
    by seed; NaN if not run), ``half`` (half width of its 95% interval; NaN below two seeds),
    ``seeds``.
    """
    table = TABLES[name]
    paper = {row.experiment: row.paper for row in table.rows}
    rows = []
    for row in table.rows:
        baseline = BASELINES.get(row.experiment, table.baseline)
        if row.experiment in {baseline, *REFERENCES}:
            continue
        measured = 100 * paired_gain(frame, row.experiment, baseline)
        mean, half = interval(measured) if len(measured) else (math.nan, math.nan)
        known = row.paper is not None and paper.get(baseline) is not None
        printed = row.paper - paper[baseline] if known else math.nan
        rows.append((_label(row.experiment), printed, mean, half, len(measured)))
    return pd.DataFrame(rows, columns=["row", "paper", "ours", "half", "seeds"])


def closest_rows(name: str, frame: pd.DataFrame) -> dict[str, object]:
    """The paper's two best rows of a table: how far apart they are, and how surely that is seen.

    Gives ``table``, ``best`` and ``second`` (experiments), the paper's ``lead`` of the one over
    the other in AP points, and the standard ``deviation`` of that difference between ``seeds`` of
    the records (points; NaN below two).
    """
    rows = sorted((row for row in TABLES[name].rows if row.paper), key=lambda row: -row.paper)
    best, second = rows[:2]
    difference = 100 * paired_gain(frame, best.experiment, second.experiment)
    return dict(
        table=name,
        best=best.experiment,
        second=second.experiment,
        lead=best.paper - second.paper,
        deviation=difference.std(),
        seeds=len(difference),
    )


def _label(experiment: str) -> str:
    for benchmark in BENCHMARKS.values():
        known = experiments_of(benchmark)
        if experiment in known:
            return known[experiment].label
    return experiment
