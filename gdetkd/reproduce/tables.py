"""Tables from records: means and 95% intervals, gains paired by seed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from scipy import stats

from gdetkd.reproduce import records
from gdetkd.reproduce.experiments import MAIN

PACKAGE = Path(__file__).resolve().parents[1]
ASSETS = PACKAGE / "assets"
# Beside the package in a checkout, inside it when installed.
RECORDS = next((p for p in (PACKAGE.parent, PACKAGE) if (p / "results").is_dir()), PACKAGE)
RESULTS = RECORDS / "results" / "digits"


def interval(values: pd.Series, confidence: float = 0.95) -> tuple[float, float]:
    """Mean and half width of Student's t interval of the mean; NaN for a single value."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan")
    return mean, float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))


def paired_gain(frame: pd.DataFrame, experiment: str, reference: str = "baseline") -> pd.Series:
    """AP of an experiment less that of the reference run of the same seed, by seed."""
    by_seed = frame.pivot_table(index="seed", columns="experiment", values="AP")
    if experiment not in by_seed or reference not in by_seed:
        return pd.Series(dtype=float)
    return (by_seed[experiment] - by_seed[reference]).dropna()


def main_table(frame: pd.DataFrame, teacher: float) -> pd.DataFrame:
    """One row an experiment, in the order of `MAIN`; AP in percent; what has not run says so."""
    rows = []
    baselines = frame[frame["experiment"] == "baseline"].set_index("seed")["AP"]
    for experiment in MAIN:
        runs = frame[frame["experiment"] == experiment.name]
        row = {"": experiment.label, "steps": "", "seeds": len(runs)}
        if runs.empty:
            rows.append(row | {"AP": "not run"})
            continue
        gain = paired_gain(frame, experiment.name)
        # The same seeds on both sides of the gap, as in the gain beside it.
        partners = baselines.loc[baselines.index.intersection(gain.index)]
        closed = gain.mean() / (teacher - partners.mean()) if len(gain) else float("nan")
        rows.append(
            row
            | {
                "steps": f"{runs['steps'].iloc[0]:,}",
                "AP": shown(runs["AP"]),
                "AP50": f"{100 * runs['AP50'].mean():.1f}",
                "APs": f"{100 * runs['APs'].mean():.1f}",
                "APm": f"{100 * runs['APm'].mean():.1f}",
                "gain": "" if experiment.name == "baseline" else shown(gain, signed=True),
                "gap closed": ""
                if experiment.name == "baseline" or closed != closed
                else f"{closed:.0%}",
                "s/step": f"{runs['seconds_per_step'].median():.2f}",
            }
        )
    return pd.DataFrame(rows).fillna("")


def shown(values: pd.Series, signed: bool = False) -> str:
    """Percent with the half width of its 95% interval, where there is more than one value."""
    if values.empty:
        return ""
    mean, half = interval(100 * values)
    text = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    return text if half != half else f"{text} ± {half:.1f}"


def write_tables(path: Path) -> None:
    """Render `NAME.md` beside the records `NAME.jsonl`."""
    frame = records.load(path)
    if frame.empty:
        return
    teacher = teacher_record()["AP"]
    table = main_table(frame, teacher)
    text = (
        "# Two-stage pairs on digits: every component\n\n"
        f"AP on val in percent, mean ± 95% interval over seeds; gains are paired by seed. The "
        f"teacher has {100 * teacher:.1f}; 'gap closed' is the share of the way there from the "
        "baseline. Made from the records beside it by `gdetkd reproduce main`.\n\n"
        f"{markdown(table)}\n"
    )
    path.with_suffix(".md").write_text(text)


def markdown(table: pd.DataFrame) -> str:
    """A table in GitHub's Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def teacher_record() -> dict:
    """The record of the shipped teacher: AP and how it was trained."""
    return json.loads((ASSETS / "digits_faster_rcnn_r34.json").read_text())


def headline() -> str | None:
    """The recorded full-schedule result in a sentence; None without records."""
    frame = records.load(RESULTS / "main.jsonl")
    if not {"baseline", "gdetkd"} <= set(frame["experiment"]):
        return None
    parts = {name: frame.loc[frame["experiment"] == name] for name in ("baseline", "gdetkd")}
    gain = paired_gain(frame, "gdetkd")
    return (
        f"On record ({parts['gdetkd']['steps'].iloc[0]:,} steps, {len(gain)} seeds): baseline AP "
        f"{parts['baseline']['AP'].mean():.3f}, distilled {parts['gdetkd']['AP'].mean():.3f}, "
        f"teacher {teacher_record()['AP']:.3f}; gain {shown(gain, signed=True)} points."
    )
