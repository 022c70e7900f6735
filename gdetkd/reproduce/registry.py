"""What a table of the paper is, and the register of tables.

A table is one file that calls `register_table`. Every file in `reproduce/tables/` is imported;
`load_table` reads one from anywhere else. The rows of a table are experiments with the paper's
figures beside them, and its claims say which row is better than which.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdetkd.reproduce.experiments import Benchmark, Experiment

Options = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A row of a table; with a name alone, the row of that name that another table defines.

    Attributes:
        name: Of the experiment, unique among all tables.
        label: The row's first cell.
        paper: AP in percent that the paper prints, if any.
        student: Which of the benchmark's detectors is trained.
        distilled: With its distilled config, or with its plain one.
        options: What it changes in the config, or a function that gives this for a benchmark.
        seeds: Number of runs.
        baseline: Experiment that its gain is over; the table's by default.
        teacher: Family of a teacher that the row `teacher_FAMILY` trains; the config's by default.
        embedded_only: It is not run on COCO.
    """

    name: str
    label: str = ""
    paper: float | None = None
    student: str = "faster_rcnn"
    distilled: bool = True
    options: Options | Callable[[Benchmark], Options] = field(default_factory=dict)
    seeds: int = 3
    baseline: str | None = None
    teacher: str | None = None
    embedded_only: bool = False

    def on(self, benchmark: Benchmark) -> Experiment:
        """The experiment of this row on a benchmark."""
        config, options = benchmark.student(self.student, self.distilled)
        trained = self.teacher and benchmark.embedded
        options |= benchmark.teacher(self.teacher) if trained else {}
        options |= self.options(benchmark) if callable(self.options) else self.options
        needs = f"teacher_{self.teacher}" if trained else None
        options |= benchmark.options
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
        name: `gdetkd reproduce NAME`.
        order: Tables run and are listed by it, in increasing order.
        shows_gap: Whether the share of the gap to the shipped teacher is a column.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    baseline: str = "baseline"
    shows_gap: bool = True
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
    """Run a Python file that registers one table, and give that table.

    Raises:
        ValueError: It registers no table, or more than one.
    """
    before = set(TABLES)
    runpy.run_path(str(path))
    added = [name for name in TABLES if name not in before]
    if len(added) != 1:
        raise ValueError(f"{path}: expected one call of register_table, got {len(added)}")
    return TABLES[added[0]]


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
    rows = definitions().values()
    return {baseline for _, baseline in rows} | {f"teacher_{row.teacher}" for row, _ in rows}


def experiments_of(benchmark: Benchmark) -> dict[str, Experiment]:
    """All experiments that a benchmark runs, by name, in the order of the tables."""
    return {
        name: row.on(benchmark)
        for name, (row, _) in definitions().items()
        if benchmark.embedded or not row.embedded_only
    }
