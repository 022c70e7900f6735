"""The pages of results: texts with their figures left open, filled in from the records.

They are Jinja templates. What they may call is in `quotes`; each call names rows of the tables, and
an unknown name or a row without a record is an error.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope

from gdetkd.detectors.mmdet.building import model_settings
from gdetkd.evaluation.records import read_json_lines
from gdetkd.reproduce import explosion, loop_runs, records, statistics
from gdetkd.reproduce.experiments import DIGITS
from gdetkd.reproduce.registry import definitions, experiments_of
from gdetkd.reproduce.report import PAGES, RUNS, shown, teacher_record
from gdetkd.reproduce.teacher import TEACHER
from gdetkd.training.config import load_config

TEMPLATES = {"README.md": "results.md", "RECIPE.md": "recipe.md"}  # by the page made of it


def write_pages(results: Path) -> dict[str, Path]:
    """Write the pages in the folder of all results; gives their paths by `TEMPLATES`' names.

    Raises:
        ValueError: A page quotes a row that has not run, or that no table has.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    quoted, paths = quotes(Path(results)), {}
    for name, template in TEMPLATES.items():
        text = environment.from_string((PAGES / template).read_text()).render(quoted)
        paths[name] = Path(results) / name
        paths[name].write_text(text)
    return paths


def quotes(results: Path) -> dict[str, Any]:
    """What the template may quote: AP and differences in percent and points, as text."""
    plain_loop = loop_runs.as_frame(read_json_lines(results / "digits" / "loop.jsonl"))
    frame = pd.concat([records.load(results / "digits" / RUNS), plain_loop])
    teacher = teacher_record()["AP"]
    baselines = {name: baseline for name, (_, baseline) in definitions().items()}
    differences = statistics.claim_differences(frame)

    def values(name: str, like: str | None = None) -> pd.Series:
        """AP by seed; only of the seeds that another row has too, if one is given."""
        found = frame[frame["experiment"] == name].set_index("seed")["AP"]
        found = found if like is None else found[found.index.isin(values(like).index)]
        if found.empty:
            raise ValueError(f"a page of results quotes {name!r}, and {RUNS} has no run of it")
        return found

    def paired(name: str, other: str | None) -> pd.Series:
        """Differences by seed to another row, or to the row's own baseline."""
        other = other or baselines[name]
        values(name, like=other)  # both have run, on a common seed
        return statistics.paired_gain(frame, name, other)

    def closed(name: str) -> str:
        gain = paired(name, None)
        return f"{gain.mean() / (teacher - values(baselines[name], like=name).mean()):.0%}"

    def deviation(name: str, other: str | None = None) -> str:
        return f"{100 * (values(name) if other is None else paired(name, other)).std():.1f}"

    return dict(
        teacher=f"{100 * teacher:.1f}",
        test=json.loads((results / "digits" / "test.json").read_text()),
        verdicts=differences.loc[differences["paper"].notna(), "verdict"].value_counts(),
        ap=lambda name, like=None: f"{100 * values(name, like).mean():.1f}",
        each=lambda name: " and ".join(f"{100 * value:.1f}" for value in values(name)),
        each_gain=lambda name: " and ".join(f"{100 * gain:+.1f}" for gain in paired(name, None)),
        seeds=lambda name: _in_words(len(values(name))),
        gain=lambda name, other=None: shown(paired(name, other), signed=True),
        size=lambda name, other=None: shown(_positive(paired(name, other))),
        over_teacher=lambda name: f"{100 * (values(name).mean() - teacher):.1f}",
        closed=closed,
        deviation=deviation,
        **_sizes(),
        **_explosions(results / "digits" / "explosion.jsonl"),
        processes=_processes(results / "training" / "processes.jsonl"),
        crowns=_crowns(results / "crowns"),
    )


def _in_words(count: int) -> str:
    words = "zero one two three four five six seven eight nine".split()
    return words[count] if count < len(words) else str(count)


def _positive(difference: pd.Series) -> pd.Series:
    """The difference in the direction in which its mean is not negative."""
    return -difference if difference.mean() < 0 else difference


def _sizes() -> dict[str, Callable[[str], str]]:
    """`millions` of parameters of a row's detector, and how much larger the teacher is."""

    @functools.cache
    def parameters(name: str) -> int:
        if name == "teacher":
            config = load_config(TEACHER)
        else:
            experiment = experiments_of(DIGITS)[name]
            config = load_config(experiment.config, experiment.options)
        with DefaultScope.overwrite_default_scope("mmdet"):
            detector = MODELS.build(model_settings(config.model))
        return sum(parameter.numel() for parameter in detector.parameters())

    return dict(
        millions=lambda name: f"{parameters(name) / 1e6:.1f}",
        larger=lambda name: f"{parameters('teacher') / parameters(name):.1f}",
    )


def _explosions(path: Path) -> dict[str, Callable[..., str]]:
    """`bound` of information in nats, and how many trainings `exploded`, by setting and size."""
    frame = pd.DataFrame(explosion.load(path))

    def some(setting: str, *batches: int) -> pd.DataFrame:
        sizes = frame["batches"].isin(batches) if batches else True
        return frame[(frame["setting"] == setting) & sizes]

    def exploded(setting: str, *batches: int) -> str:
        found = some(setting, *batches)
        return f"{found['exploded'].notna().sum()} of {len(found)}"

    def bound(setting: str, batches: int, digits: int = 1) -> str:
        return f"{some(setting, batches)['information_bound'].mean():.{digits}f}"

    return dict(bound=bound, exploded=exploded)


def _crowns(folder: Path) -> dict[str, dict[str, Any]]:
    """For each file of tree crowns and start of the student: AP in percent, the gain.

    `minutes` are those of the commands that train the teacher and distil it, once.
    """
    files = {"": folder / RUNS, "_24_passes": folder / "runs_24_passes.jsonl"}
    frame = pd.DataFrame(
        each | dict(experiment=each["run"], suffix=suffix)
        for suffix, path in files.items()
        for each in read_json_lines(path)
    )
    start = frame["options"].str.contains("digits").map({True: "digits", False: "imagenet"})
    found = {}
    for name, group in frame.groupby(start + frame["suffix"]):
        gains = statistics.paired_gain(group, "distilled", "alone")
        mean, half = statistics.interval(gains)
        road = group[(group["seed"] == 0) & (group["experiment"] != "alone")]
        found[name] = dict(
            {run: f"{100 * each.mean():.1f}" for run, each in group.groupby("experiment")["AP"]},
            gain=shown(gains, signed=True),
            seeds=_in_words(len(gains)),
            minutes=f"{road['wall_seconds'].sum(skipna=False) / 60:.1f}",
            found="a difference" if abs(mean) > half else "no difference that the seeds show",
        )
    return found


def _processes(path: Path) -> Callable[[int, int, str], str]:
    """A figure of the runs on several processes: AP in percent, or seconds."""
    found = {(one["processes"], one["steps"]): one for one in read_json_lines(path)}

    def figure(count: int, steps: int, key: str) -> str:
        value = found[count, steps][key]
        return f"{100 * value:.1f}" if key == "AP" else f"{value:.2f}"

    return figure
