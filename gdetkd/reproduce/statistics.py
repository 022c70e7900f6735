"""What records say: intervals over seeds, gains paired by seed, claims and verdicts."""

from __future__ import annotations

import math

import pandas as pd
from scipy import stats

from gdetkd.reproduce.registry import TABLES, Claim, Table, definitions, references

NOISE_COLUMNS = [
    "", "seeds", "sd of AP", "sd of the gain", "± with 3 seeds", "± with 5 seeds", "seeds for ± 1",
]  # fmt: skip
MIN_SEEDS = 3  # for a standard deviation


def half_width(deviation: float, count: int, confidence: float = 0.95) -> float:
    """Half width of Student's t interval of a mean of `count` values with this deviation."""
    return float(stats.t.interval(confidence, count - 1)[1] * deviation / count**0.5)


def interval(values: pd.Series, confidence: float = 0.95) -> tuple[float, float]:
    """Mean and half width of its Student's t interval, NaN below two values."""
    width = half_width(values.std(), len(values), confidence) if len(values) > 1 else math.nan
    return float(values.mean()), width


def plus_minus(mean: float, half: float = math.nan, digits: int = 1, signed: bool = False) -> str:
    """Mean and half width as text; nothing for a mean of NaN, no width for one of NaN."""
    text = "" if math.isnan(mean) else f"{mean:{'+' if signed else ''}.{digits}f}"
    return text if math.isnan(half) else f"{text} ± {half:.{digits}f}"


def paired_gain(frame: pd.DataFrame, experiment: str, reference: str = "baseline") -> pd.Series:
    """AP of an experiment minus that of the reference run of the same seed, by seed."""
    by_seed = frame.pivot_table(index="seed", columns="experiment", values="AP")
    if experiment not in by_seed or reference not in by_seed:
        return pd.Series(dtype=float)
    return (by_seed[experiment] - by_seed[reference]).dropna()


def gains(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Gains over the baseline in AP points, one row per row of a table except baselines.

    Columns: ``row`` (label), ``paper`` (NaN where it has none), ``ours`` (mean of the gains paired
    by seed; NaN if not run), ``half`` (half width of its 95% interval; NaN below two seeds),
    ``seeds``.
    """
    defined, without = definitions(), references()
    rows = []
    for row in TABLES[name].rows:
        if row.name in without:
            continue
        definition, baseline = defined[row.name]
        measured = 100 * paired_gain(frame, row.name, baseline)
        paper = _paper_difference(TABLES[name], row.name, baseline)
        rows.append((definition.label, paper, *interval(measured), len(measured)))
    return pd.DataFrame(rows, columns=["row", "paper", "ours", "half", "seeds"])


def closest_rows(name: str, frame: pd.DataFrame) -> dict[str, object]:
    """The paper's two best rows of a table, and how well seeds can distinguish them.

    Gives ``table``, ``best`` and ``second`` (experiments), the paper's ``lead`` of the one over
    the other in AP points, and the standard ``deviation`` of that difference between ``seeds`` of
    the records (points; NaN below two).
    """
    rows = sorted((row for row in TABLES[name].rows if row.paper), key=lambda row: -row.paper)
    best, second = rows[:2]
    difference = 100 * paired_gain(frame, best.name, second.name)
    return dict(
        table=name,
        best=best.name,
        second=second.name,
        lead=best.paper - second.paper,
        deviation=difference.std(),
        seeds=len(difference),
    )


def all_claims() -> list[tuple[str, Claim]]:
    """The claims of every table, each with the name of its table."""
    return [(table.name, claim) for table in TABLES.values() for claim in table.claims]


def claim_differences(frame: pd.DataFrame) -> pd.DataFrame:
    """Every claim as numbers, in AP points: what the paper measured, and what the records say.

    Columns: ``table``, ``claim``, ``paper`` (difference of the paper's rows; NaN where a row has no
    figure), ``seeds``, ``mean`` of the differences paired by seed, ``half`` width of its 95%
    interval (NaN below two seeds), ``verdict``.
    """
    rows = []
    for table, claim in all_claims():
        difference = 100 * paired_gain(frame, claim.better, claim.worse)
        mean, half = interval(difference)
        paper = _paper_difference(TABLES[table], claim.better, claim.worse)
        said = len(difference), mean, half, verdict(difference, half)
        rows.append((table, claim.statement, paper, *said))
    columns = ["table", "claim", "paper", "seeds", "mean", "half", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def verdict(difference: pd.Series, half_width: float) -> str:
    """What paired differences of AP, one per seed, say of a claim.

    'confirmed' or 'contradicted' if the 95% interval of their mean excludes 0; 'not
    distinguishable' if it contains 0; with fewer than two seeds there is no interval: 'one seed',
    'not run'.
    """
    if len(difference) < 2:
        return "not run" if difference.empty else "one seed"
    mean = difference.mean()
    if abs(mean) <= half_width:
        return "not distinguishable"
    return "confirmed" if mean > 0 else "contradicted"


def noise_table(frame: pd.DataFrame) -> pd.DataFrame:
    """How much a seed changes, in points of AP, and how many seeds an interval of ± 1 point takes.

    One row per experiment of at least `MIN_SEEDS` seeds: the standard deviation of its AP, and
    that of its gain over the baseline of the same seed, from which the number of seeds follows.
    """
    rows, without = [], references()
    for row, baseline in definitions().values():
        values = 100 * frame.loc[frame["experiment"] == row.name, "AP"]
        if len(values) < MIN_SEEDS:
            continue
        gain = 100 * paired_gain(frame, row.name, baseline)
        alone = row.name in without or len(gain) < MIN_SEEDS
        deviation = (values if alone else gain).std()
        enough = (str(n) for n in range(2, 100) if half_width(deviation, n) <= 1)
        rows.append(
            [
                row.label,
                len(values),
                f"{values.std():.2f}",
                "" if alone else f"{deviation:.2f}",
                f"{half_width(deviation, 3):.1f}",
                f"{half_width(deviation, 5):.1f}",
                next(enough, "100 or more"),
            ]
        )
    return pd.DataFrame(rows, columns=NOISE_COLUMNS)


def _paper_difference(table: Table, better: str, worse: str) -> float:
    """Difference of two of the table's figures in AP points; NaN where one of them is missing."""
    paper = {row.name: row.paper for row in table.rows if row.paper is not None}
    return paper[better] - paper[worse] if {better, worse} <= set(paper) else math.nan
