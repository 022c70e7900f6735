"""What a table of the paper is, and the register of tables.

A table is one YAML file: its rows are experiments with the paper's figures beside them, its claims
say which row is better than which. The keys are the attributes of `Table`, `Row` and `Claim`. Those
in `reproduce/tables/` are registered by being there; `load_table` reads one from anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gdetkd.reproduce.experiments import Benchmark, Experiment, component, only
from gdetkd.training.config import schedule


@dataclass(frozen=True)
class Row:
    """A row of a table; with no label, it refers to the row of that name in another table.

    Attributes:
        name: Of the experiment, unique among all tables.
        label: The row's first cell.
        paper: AP in percent that the paper prints, if any.
        value: Position on the axis of a figure, if the table is drawn as a curve.
        student: Which of the benchmark's detectors is trained.
        distilled: With its distilled config, or with its plain one.
        teacher: Family of a teacher that the row `teacher_FAMILY` trains; the config's by default.
        teacher_steps: Length of that row's schedule.
        only: Switch off every other component, and head transfer.
        components: Settings by component.
        queue_batches: The queue's size K in gathered batches, of which the present one is one.
        replaces_imitation: A component that has the weight of SGFI on this benchmark.
        steps: Length of the schedule; the config's by default.
        options: Other options of the config, by dotted key.
        seeds: Number of runs.
        baseline: Experiment that its gain is over; the table's by default.
        embedded_only: It is not run on COCO.
    """

    name: str
    label: str = ""
    paper: float | None = None
    value: float | None = None
    student: str = "faster_rcnn"
    distilled: bool = True
    teacher: str | None = None
    teacher_steps: int = 3000
    only: Sequence[str] | None = None
    components: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    queue_batches: int | None = None
    replaces_imitation: str | None = None
    steps: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 3
    baseline: str | None = None
    embedded_only: bool = False

    def runs_on(self, benchmark: Benchmark) -> bool:
        """Whether the benchmark has its detectors."""
        if not benchmark.embedded:
            return not self.embedded_only and self.student in benchmark.detectors
        teacher = {f"teacher_{self.teacher}"} if self.teacher else set()
        return {self.student} | teacher <= benchmark.detectors.keys()

    def on(self, benchmark: Benchmark) -> Experiment:
        """The experiment of this row on a benchmark."""
        config, options = benchmark.student(self.student, self.distilled)
        family = self.teacher or (benchmark.trained_teacher if self.distilled else None)
        trained = family if benchmark.embedded else None
        options |= benchmark.teacher(trained, self.teacher_steps) if trained else {}
        options |= {} if self.only is None else only(*self.only)
        for name, settings in self.components.items():
            options |= component(name, **settings)
        if self.queue_batches:
            capacity = (self.queue_batches - 1) * benchmark.proposals
            options |= component("contrastive", queue_capacity=capacity)
        if self.replaces_imitation:
            options |= component(self.replaces_imitation, weight=benchmark.imitation)
        options |= self.options | (schedule(self.steps) if self.steps else {}) | benchmark.options
        needs = f"teacher_{trained}" if trained else None
        return Experiment(self.name, self.label, config, options, self.seeds, needs)


@dataclass(frozen=True)
class Claim:
    """A direction that a table shows: the experiment `better` has a higher AP than `worse`."""

    statement: str
    better: str
    worse: str


@dataclass(frozen=True)
class Table:
    """A table: its rows, the experiment that gains are over, and the claims that it supports.

    Attributes:
        name: That of its file, and of `gdetkd reproduce NAME`.
        order: Tables run and are listed by it, in increasing order.
        shows_gap: Whether the share of the gap to the shipped teacher is a column.
        benchmark: The only one whose results it shows; by default all but photos, which has a table
            of its own.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    baseline: str = "baseline"
    shows_gap: bool = True
    benchmark: str | None = None
    order: int = 100


TABLES: dict[str, Table] = {}  # in their order


def register_table(
    name: str, title: str, rows: Iterable[Row], claims: Iterable[Claim] = (), **settings: Any
) -> Table:
    """Add a table to the register; `settings` are the other attributes of `Table`.

    Raises:
        ValueError: Its name, or the name of a row that it defines, is taken.
    """
    table = Table(name, title, tuple(rows), tuple(claims), **settings)
    if name in TABLES:
        raise ValueError(f"table {name!r}: expected a new name, got that of another table")
    defined, known = [row.name for row in table.rows if row.label], definitions()
    taken = sorted({name for name in defined if defined.count(name) > 1 or name in known})
    if taken:
        raise ValueError(
            f"table {name!r}: expected new names of rows, got {taken}, which are defined "
            "already; a row without a label refers to the one that is"
        )
    TABLES[name] = table
    for each in sorted(TABLES.values(), key=lambda each: each.order):
        TABLES[each.name] = TABLES.pop(each.name)
    return table


def load_table(path: str | Path) -> Table:
    """Register the table that a YAML file describes, by the name of the file.

    Raises:
        ValueError: It is not a table; the message names the file and what does not fit.
    """
    try:
        described = yaml.safe_load(Path(path).read_text())
        described["rows"] = [Row(**row) for row in described["rows"]]
        described["claims"] = [Claim(**claim) for claim in described.get("claims", ())]
        return register_table(Path(path).stem, **described)
    except (TypeError, KeyError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path}: expected a table with the keys of Table, Row and Claim in "
            f"gdetkd/reproduce/registry.py, got {error}"
        ) from error


def definitions() -> dict[str, tuple[Row, str]]:
    """Every row that some table defines, by name, with the experiment that its gain is over."""
    return {
        row.name: (row, row.baseline or table.baseline)
        for table in TABLES.values()
        for row in table.rows
        if row.label
    }


def references() -> set[str]:
    """Rows without a gain: those that others are compared with, and teachers."""
    rows = definitions()
    baselines = {baseline for _, baseline in rows.values()}
    return baselines | {name for name in rows if name.startswith("teacher_")}


def experiments_of(benchmark: Benchmark) -> dict[str, Experiment]:
    """All experiments that a benchmark runs, by name, in the order of the tables."""
    return {
        name: row.on(benchmark)
        for name, (row, _) in definitions().items()
        if row.runs_on(benchmark)
    }


for _path in sorted((Path(__file__).parent / "tables").glob("*.yaml")):
    load_table(_path)
