"""Tables from records: means and 95% intervals, gains paired by seed, claims and verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from scipy import stats

from gdetkd.evaluation.records import markdown_table
from gdetkd.reproduce import records
from gdetkd.reproduce.claims import BASELINES, CLAIMS, REFERENCES, TABLES, verdict
from gdetkd.reproduce.experiments import BENCHMARKS, Experiment, experiments_of

PACKAGE = Path(__file__).resolve().parents[1]
ASSETS = PACKAGE / "assets"
# Beside the package in a checkout, inside it when installed.
RECORDS = next((p for p in (PACKAGE.parent, PACKAGE) if (p / "results").is_dir()), PACKAGE)
RESULTS = RECORDS / "results" / "digits"
RUNS = "runs.jsonl"
TEST = RESULTS / "test.json"  # the split that is used once
CLAIMS_INTRODUCTION = (
    "# Every claim",
    "",
    "Directions that the paper's tables show, or that ours add, and what the records say of them: "
    "differences of AP on val in points, paired by seed, mean ± 95% interval. 'confirmed' and "
    "'contradicted' leave 0 out of the interval, 'not told apart' does not.",
    "",
)
NOISE_INTRODUCTION = (
    "# What a seed changes",
    "",
    "Standard deviations over seeds, in points of AP on val, of every experiment of three seeds or "
    "more: of its AP, and of its gain over the baseline of the same seed. The half width of a 95% "
    "interval with 3 and with 5 seeds follows from the latter, for a baseline from the former, "
    "and so does the number of seeds that brings it to 1 point.",
    "",
)
NOISE_COLUMNS = [
    "", "seeds", "sd of AP", "sd of the gain", "± with 3 seeds", "± with 5 seeds", "seeds for ± 1",
]  # fmt: skip
FEWEST = 3  # seeds that a standard deviation is taken of
LEAST_GAP = 0.01  # in AP: a share of less than what a seed changes says nothing


def runs(benchmark: str = "digits") -> pd.DataFrame:
    """The committed records of a benchmark, one row a run; empty where nothing has run."""
    return records.load(RESULTS.parent / benchmark / RUNS)


def interval(values: pd.Series, confidence: float = 0.95) -> tuple[float, float]:
    """Mean and half width of Student's t interval of the mean; NaN where there are too few."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan")
    return mean, half_width(values.std(), len(values), confidence)


def paired_gain(frame: pd.DataFrame, experiment: str, reference: str = "baseline") -> pd.Series:
    """AP of an experiment less that of the reference run of the same seed, by seed."""
    by_seed = frame.pivot_table(index="seed", columns="experiment", values="AP")
    if experiment not in by_seed or reference not in by_seed:
        return pd.Series(dtype=float)
    return (by_seed[experiment] - by_seed[reference]).dropna()


def table(name: str, frame: pd.DataFrame, teacher: float | None = None) -> pd.DataFrame:
    """A table of `claims.TABLES`: one row an experiment; AP in percent; what has not run says so.

    Args:
        name: Of the table.
        frame: Records of a benchmark.
        teacher: The teacher's AP in [0, 1]: adds how much of the gap to it is closed, where it is
            ahead of the baseline by more than `LEAST_GAP`.
    """
    described, labels = TABLES[name], {e.name: e.label for e in _experiments(*BENCHMARKS)}
    rows = []
    for row in described.rows:
        shown_row = {"": labels[row.experiment]}
        if any(other.paper for other in described.rows):
            shown_row["paper (COCO)"] = "" if row.paper is None else f"{row.paper:.1f}"
        done = frame[frame["experiment"] == row.experiment]
        baseline = BASELINES.get(row.experiment, described.baseline)
        rows.append(shown_row | _measured(frame, done, row.experiment, baseline, teacher))
    return pd.DataFrame(rows).fillna("")


def _measured(
    frame: pd.DataFrame, done: pd.DataFrame, name: str, baseline: str, teacher: float | None
) -> dict[str, object]:
    """The measured cells of a row."""
    cells = {"steps": "", "seeds": len(done), "AP": "not run", "AP50": "", "APs": "", "APm": ""}
    cells |= {"gain": ""} | ({"gap closed": ""} if teacher else {}) | {"s/step": ""}
    if done.empty:
        return cells
    cells |= {"steps": f"{done['steps'].iloc[0]:,}", "AP": shown(done["AP"])}
    cells |= {key: f"{100 * done[key].mean():.1f}" for key in ("AP50", "APs", "APm")}
    cells["s/step"] = f"{done['seconds_per_step'].median():.2f}"
    gain = paired_gain(frame, name, baseline)
    if name in {baseline, *REFERENCES} or gain.empty:
        return cells
    cells["gain"] = shown(gain, signed=True)
    if teacher:
        # The same seeds on both sides of the gap, as in the gain beside it.
        partners = frame[(frame["experiment"] == baseline) & frame["seed"].isin(gain.index)]
        gap = teacher - partners["AP"].mean()
        cells["gap closed"] = f"{gain.mean() / gap:.0%}" if gap > LEAST_GAP else ""
    return cells


def claim_differences(frame: pd.DataFrame) -> pd.DataFrame:
    """Every claim as numbers, in AP points: what the paper measured, and what the records say.

    Columns: ``table``, ``claim``, ``paper`` (difference of the paper's rows; NaN where a row has no
    figure), ``seeds``, ``mean`` of the differences paired by seed, ``half`` width of its 95%
    interval (NaN below two seeds), ``verdict``.
    """
    rows = []
    for claim in CLAIMS:
        difference = 100 * paired_gain(frame, claim.better, claim.worse)
        printed = {row.experiment: row.paper for row in TABLES[claim.table].rows}
        better, worse = printed.get(claim.better), printed.get(claim.worse)
        mean, half = interval(difference)
        rows.append(
            dict(
                table=claim.table,
                claim=claim.statement,
                paper=better - worse if better and worse else float("nan"),
                seeds=len(difference),
                mean=mean,
                half=half,
                verdict=verdict(difference, half),
            )
        )
    return pd.DataFrame(rows)


def claims_table(frame: pd.DataFrame, name: str | None = None) -> pd.DataFrame:
    """The paper's directions and what the records say of them, of one table or of all."""
    found = claim_differences(frame)
    found = found[found["table"] == name] if name else found
    return pd.DataFrame(
        {
            "table": found["table"],
            "claim": found["claim"],
            "paper (COCO)": [_points(value) for value in found["paper"]],
            "difference": [
                _points(*values) for values in zip(found["mean"], found["half"], strict=True)
            ],
            "seeds": found["seeds"],
            "on digits": found["verdict"],
        }
    )


def noise_table(frame: pd.DataFrame) -> pd.DataFrame:
    """How much a seed changes, in points of AP, and how many seeds an interval of +- 1 point asks.

    One row an experiment of at least `FEWEST` seeds: the standard deviation of its AP, and that
    of its gain over the baseline of the same seed, from which the number of seeds follows.
    """
    of_tables = {row.experiment: t.baseline for t in TABLES.values() for row in t.rows}
    rows, baselines = [], of_tables | BASELINES
    for experiment in _experiments(*BENCHMARKS):
        values = 100 * frame.loc[frame["experiment"] == experiment.name, "AP"]
        if len(values) < FEWEST:
            continue
        baseline = baselines[experiment.name]
        gain = 100 * paired_gain(frame, experiment.name, baseline)
        alone = experiment.name in {"baseline", *REFERENCES} or len(gain) < FEWEST
        deviation = (values if alone else gain).std()
        asked = (str(n) for n in range(2, 100) if half_width(deviation, n) <= 1)
        rows.append(
            [
                experiment.label,
                len(values),
                f"{values.std():.2f}",
                "" if alone else f"{deviation:.2f}",
                f"{half_width(deviation, 3):.1f}",
                f"{half_width(deviation, 5):.1f}",
                next(asked, "100 or more"),
            ]
        )
    return pd.DataFrame(rows, columns=NOISE_COLUMNS)


def half_width(deviation: float, count: int, confidence: float = 0.95) -> float:
    """Of Student's t interval of a mean of `count` values with this standard deviation."""
    return float(stats.t.ppf((1 + confidence) / 2, count - 1) * deviation / count**0.5)


def shown(values: pd.Series, signed: bool = False) -> str:
    """Percent with the half width of its 95% interval, where there is more than one value."""
    return _points(*interval(100 * values), signed=signed)


def _points(mean: float, half: float = float("nan"), signed: bool = True) -> str:
    """AP points as text; nothing for NaN."""
    if mean != mean:
        return ""
    text = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    return text if half != half else f"{text} ± {half:.1f}"


def write_tables(folder: Path, frame: pd.DataFrame | None = None) -> list[Path]:
    """Render every table, and the claims, beside the records of `folder`, as Markdown."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    frame = records.load(folder / RUNS) if frame is None else frame
    teacher = teacher_record()["AP"] if folder.name == "digits" else None
    written = []
    for name, described in TABLES.items():
        gap = teacher if described.teacher else None
        lines = [f"# {described.title}", ""]
        lines.append(
            "AP on val in percent, mean ± 95% interval over seeds; gains are paired by seed. "
            + (f"The teacher has {100 * gap:.1f}. " if gap else "")
            + f"Made from `{RUNS}` by `gdetkd reproduce {name}`."
        )
        lines += ["", markdown_table(table(name, frame, gap)), ""]
        claims = claims_table(frame, name)
        if len(claims):
            lines += [markdown_table(claims.drop(columns="table")), ""]
        written.append(folder / f"{name}.md")
        written[-1].write_text("\n".join(lines))
    written += [folder / "claims.md", folder / "noise.md"]
    written[-2].write_text(
        "\n".join([*CLAIMS_INTRODUCTION, markdown_table(claims_table(frame)), ""])
    )
    written[-1].write_text("\n".join([*NOISE_INTRODUCTION, markdown_table(noise_table(frame)), ""]))
    return written


def teacher_record() -> dict:
    """The record of the shipped teacher: AP and how it was trained."""
    return json.loads((ASSETS / "digits_faster_rcnn_r34.json").read_text())


def headline() -> str | None:
    """The recorded full-schedule result in a sentence; None without records."""
    frame = runs()
    if not {"baseline", "gdetkd"} <= set(frame["experiment"]):
        return None
    gain = paired_gain(frame, "gdetkd")
    paired = frame[frame["seed"].isin(gain.index)]
    parts = {name: paired.loc[paired["experiment"] == name] for name in ("baseline", "gdetkd")}
    said = (
        f"On record ({parts['gdetkd']['steps'].iloc[0]:,} steps, {len(gain)} seeds), "
        f"AP in percent: baseline {100 * parts['baseline']['AP'].mean():.1f}, "
        f"distilled {100 * parts['gdetkd']['AP'].mean():.1f}, "
        f"teacher {100 * teacher_record()['AP']:.1f}; gain {shown(gain, signed=True)} points."
    )
    if not TEST.is_file():
        return said
    held_out = json.loads(TEST.read_text())
    plain, distilled = (pd.Series(held_out["AP"][name]).mean() for name in ("baseline", "gdetkd"))
    return (
        f"{said} On the test split, used once: {100 * plain:.1f}, {100 * distilled:.1f}, "
        f"{100 * held_out['teacher']:.1f}; gain {held_out['gain']} points."
    )


def _experiments(*benchmarks: str) -> list[Experiment]:
    """Their experiments, each name once."""
    return list(
        {k: e for b in benchmarks for k, e in experiments_of(BENCHMARKS[b]).items()}.values()
    )
