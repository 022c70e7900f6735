"""`gdetkd demo`."""

from __future__ import annotations

from pathlib import Path

import click

from gdetkd.cli.common import data_root_option, print_table, write_digits


@click.command()
@click.option(
    "--steps", default=500, show_default=True, type=click.IntRange(min=2),
    help="Steps of either student.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Seed of both runs.")
@data_root_option
@click.option("--work-dir", default="work_dirs/demo", show_default=True, type=click.Path())
def demo(steps: int, seed: int, data_root: str, work_dir: str) -> None:
    """Train a baseline and a distilled student, and compare them with their teacher.

    Writes the embedded benchmark first if it is not there. About ten minutes on two cores.
    """
    from gdetkd.demo import run_demo
    from gdetkd.ops.console import quiet, say
    from gdetkd.reproduce.report import headline

    write_digits(data_root, seed=0)
    click.echo(
        "Teacher: a Faster R-CNN, ResNet-34, trained beforehand and shipped with the package.\n"
        "Student: a Faster R-CNN, ResNet-18, a quarter of the teacher's width, from scratch."
    )
    with quiet(Path(work_dir) / "console.log"):
        rows, picture = run_demo(Path(work_dir), steps, data_root, seed, say)
    columns = ("detector", *rows[0].metrics, "gap closed", "minutes")
    cells = [
        (
            row.name,
            *(f"{value:.3f}" for value in row.metrics.values()),
            "" if row.gap is None else f"{row.gap:.0%}",
            "" if row.seconds is None else f"{row.seconds / 60:.1f}",
        )
        for row in rows
    ]
    print_table(columns, cells, f"digits val, {steps} steps, seed {seed}")
    recorded = headline()
    if recorded:
        click.echo(recorded)
    click.echo(f"Picture: {picture}\nStudents: {work_dir}/*/iter_{steps}*.pth")
