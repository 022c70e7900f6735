"""`gdetkd bench`."""

from __future__ import annotations

from pathlib import Path

import click

from gdetkd.cli.common import DATA_ROOT, print_table, write_digits


@click.command()
@click.argument(
    "what", type=click.Choice(["contrastive", "imitation", "step", "all"]), default="all"
)
@click.option(
    "--repeats", default=7, show_default=True, type=click.IntRange(min=1),
    help="Measurements of each time that a target is about; of others at most 3.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path),
    help="Record in this folder: JSON, a page and a plot.",
)  # fmt: skip
def bench(what: str, repeats: int, out: Path | None) -> None:
    """Measure the losses beside their naive forms, and a distilled step beside its floor.

    Forms are measured in turn and compared round by round. The range of a ratio holds its median in
    19 of 20 cases; where a limit lies within it, the verdict is "undecided". Up to ten minutes on
    one undisturbed core; memory on the CPU needs Linux.
    """
    from gdetkd.benchmarks import report

    names = ("contrastive", "imitation", "step") if what == "all" else (what,)
    records = {}
    for name in names:
        if name == "step":
            write_digits(DATA_ROOT, seed=0)
        records[name] = report.measure(name, repeats, click.echo)
        if out:
            report.write(out, name, records[name])
    print_table(report.TARGET_COLUMNS, report.target_rows(records), "Targets")
    if out:
        click.echo(f"Records, page and plot: {out}")
