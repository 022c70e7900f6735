"""`gdetkd bench`."""

from __future__ import annotations

from pathlib import Path

import click

from gdetkd.cli.common import DATA_ROOT, print_table, write_digits


@click.command()
@click.argument(
    "what", default="all",
    type=click.Choice(["contrastive", "imitation", "step", "large_step", "all"]),
)  # fmt: skip
@click.option(
    "--repeats", default=7, show_default=True, type=click.IntRange(min=1),
    help="Measurements of each time that a target is about; of others at most 3.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path),
    help="Record in this folder: JSON, a page and a plot.",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]),
    help="Measure the losses on this one alone.  [default: all that are there]",
)  # fmt: skip
def bench(what: str, repeats: int, out: Path | None, device: str | None) -> None:
    """Measure the losses beside their naive forms, and a distilled step beside its floor.

    large_step, an R50 that learns from an R101 of images of 800 x 1333 px, is meant for a GPU, and
    not part of all.

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
        records[name] = report.measure(name, repeats, click.echo, device)
        if out:
            report.write(out, name, records[name])
    print_table(report.TARGET_COLUMNS, report.target_rows(records), "Targets")
    if out:
        click.echo(f"Records, page and plot: {out}")
