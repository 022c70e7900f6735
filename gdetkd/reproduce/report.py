"""Tables in Markdown from records: means and 95% intervals, gains paired by seed, verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from gdetkd.evaluation.records import markdown_table
from gdetkd.reproduce import records, statistics
from gdetkd.reproduce.registry import TABLES, definitions, references
from gdetkd.viz.tables import seed_names

PACKAGE = Path(__file__).resolve().parents[1]
ASSETS = PACKAGE / "assets"
# Beside the package in a checkout, inside it when installed.
RECORDS = next((p for p in (PACKAGE.parent, PACKAGE) if (p / "results").is_dir()), PACKAGE)
RESULTS = RECORDS / "results" / "digits"
RUNS = "runs.jsonl"
TEST = RESULTS / "test.json"  # the split that is used once
PAGES = Path(__file__).with_name("pages")
MIN_GAP = 0.01  # in AP: a share of a gap below what a seed changes says nothing


def runs(benchmark: str = "digits") -> pd.DataFrame:
    """The committed records of a benchmark, one row per run; empty where nothing has run."""
    return records.load(RESULTS.parent / benchmark / RUNS)


def table(name: str, frame: pd.DataFrame, teacher: float | None = None) -> pd.DataFrame:
    """A table: one row per experiment, AP in percent; what has not run says so.

    Args:
        name: One of `TABLES`.
        frame: Records of a benchmark.
        teacher: The teacher's AP in [0, 1]: adds how much of the gap to it is closed, where it is
            ahead of the baseline by more than `MIN_GAP`.
    """
    rows, defined = [], definitions()
    with_paper = any(row.paper for row in TABLES[name].rows)
    for row in TABLES[name].rows:
        definition, baseline = defined[row.name]
        cells = {"": definition.label}
        if with_paper:
            cells["paper (COCO)"] = "" if row.paper is None else f"{row.paper:.1f}"
        rows.append(cells | _measured(frame, row.name, baseline, teacher))
    return pd.DataFrame(rows).fillna("")


def _measured(
    frame: pd.DataFrame, name: str, baseline: str, teacher: float | None
) -> dict[str, object]:
    """The measured cells of a row."""
    found = frame[frame["experiment"] == name]
    cells = {"steps": "", "seeds": len(found), "AP": "not run", "AP50": "", "APs": "", "APm": ""}
    cells |= {"gain": ""} | ({"gap closed": ""} if teacher else {}) | {"s/step": ""}
    if found.empty:
        return cells
    cells |= {"steps": f"{found['steps'].iloc[0]:,}", "AP": shown(found["AP"])}
    cells |= {key: f"{100 * found[key].mean():.1f}" for key in ("AP50", "APs", "APm")}
    cells["s/step"] = f"{found['seconds_per_step'].median():.2f}"
    gain = statistics.paired_gain(frame, name, baseline)
    if name in references() or gain.empty:
        return cells
    cells["gain"] = shown(gain, signed=True)
    if teacher:
        # The same seeds on both sides of the gap, as in the gain beside it.
        partners = frame[(frame["experiment"] == baseline) & frame["seed"].isin(gain.index)]
        gap = teacher - partners["AP"].mean()
        cells["gap closed"] = f"{gain.mean() / gap:.0%}" if gap > MIN_GAP else ""
    return cells


def claims_table(
    frame: pd.DataFrame, name: str | None = None, benchmark: str = "digits"
) -> pd.DataFrame:
    """The claims of one table, or of all, and what the records of a benchmark say of them."""
    found = statistics.claim_differences(frame)
    found = found[found["table"] == name].copy() if name else found
    differences = zip(found["mean"], found["half"], strict=True)
    found["paper (COCO)"] = [statistics.plus_minus(value, signed=True) for value in found["paper"]]
    found["difference"] = [statistics.plus_minus(*values, signed=True) for values in differences]
    found[f"on {benchmark}"] = found["verdict"]
    return found[["table", "claim", "paper (COCO)", "difference", "seeds", f"on {benchmark}"]]


def shown(values: pd.Series, signed: bool = False) -> str:
    """Percent with the half width of its 95% interval, where there is more than one value."""
    return statistics.plus_minus(*statistics.interval(100 * values), signed=signed)


def write_tables(folder: Path, frame: pd.DataFrame | None = None) -> list[Path]:
    """Write every table, the claims and the noise as Markdown, beside the records of `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    frame = records.load(folder / RUNS) if frame is None else frame
    teacher = teacher_record()["AP"] if folder.name == "digits" else None
    table_of_its_own = folder.name if folder.name == "photos" else None
    pages = {}
    for name, described in TABLES.items():
        if described.benchmark != table_of_its_own:
            continue
        gap = teacher if described.shows_gap else None
        shown_gap = f" The teacher has {100 * gap:.1f}." if gap else ""
        claims = claims_table(frame, name).drop(columns="table")
        shown_tables = [table(name, frame, gap), *([claims] if len(claims) else [])]
        pages["table", name] = dict(
            name=name, title=described.title, teacher=shown_gap, records=RUNS,
            options=f" --benchmark {folder.name}" if table_of_its_own else "",
            table="\n\n".join(map(markdown_table, shown_tables)),
        )  # fmt: skip
    claims = claims_table(frame, benchmark=folder.name if table_of_its_own else "digits")
    if table_of_its_own:  # most of the others' experiments are not for it
        claims = claims[claims.iloc[:, -1] != "not run"]
    for name, made in (("claims", claims), ("noise", statistics.noise_table(frame))):
        pages[name, name] = dict(table=markdown_table(made))
    for (page, name), parts in pages.items():
        text = (PAGES / f"{page}.md").read_text()
        (folder / f"{name}.md").write_text(text.format(**parts))
    return [folder / f"{name}.md" for _, name in pages]


def teacher_record() -> dict:
    """The record of the shipped teacher: AP and how it was trained."""
    return json.loads((ASSETS / "digits_faster_rcnn_r34.json").read_text())


def teachers(frame: pd.DataFrame) -> dict[int, float]:
    """AP of the shipped teacher, and of one with a longer training if it has run, by steps."""
    shipped = teacher_record()
    longer = frame[frame["experiment"] == "teacher_6000"]
    return {shipped["steps"]: shipped["AP"]} | dict(zip(longer["steps"], longer["AP"], strict=True))


def headline() -> str | None:
    """What is on record of the short, the teacher's, and twice its schedule; None without it.

    On the last one also from a teacher that has trained for as long.
    """
    frame = runs()
    pairs = (
        ("gdetkd", "baseline"),
        ("gdetkd_3000", "baseline_3000"),
        ("gdetkd_6000", "baseline_6000"),
        ("gdetkd_6000_teacher_6000", "baseline_6000"),
    )
    found = {pair: statistics.paired_gain(frame, *pair) for pair in pairs}
    if any(gain.empty for gain in found.values()):
        return None
    schedules = []
    for (distilled, baseline), gain in found.items():
        paired = frame[frame["seed"].isin(gain.index)].groupby("experiment")
        mean = 100 * paired["AP"].mean()
        longer = ", by a teacher of as many" if distilled == pairs[-1][0] else ""
        schedules.append(
            f"in {paired['steps'].first()[distilled]:,} steps{longer} "
            f"({seed_names(gain.index)} of both) "
            f"baseline {mean[baseline]:.1f}, distilled {mean[distilled]:.1f}, "
            f"gain {shown(gain, signed=True)}"
        )
    of_teachers = " and ".join(
        f"{100 * ap:.1f} ({steps:,} steps)" for steps, ap in teachers(frame).items()
    )
    text = (
        f"On record, AP in percent: {'; '.join(schedules)}; "
        f"teachers {of_teachers}. Much of a gain in few steps is speed."
    )
    if not TEST.is_file():
        return text
    test = json.loads(TEST.read_text())
    plain, distilled = (pd.Series(test["AP"][name]).mean() for name in ("baseline", "gdetkd"))
    return (
        f"{text} On the test split, used once, after the short schedule: {100 * plain:.1f}, "
        f"{100 * distilled:.1f}, "
        f"{100 * test['teacher']:.1f}; gain {test['gain']} points."
    )
