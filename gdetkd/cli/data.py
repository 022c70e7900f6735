"""`gdetkd data`: build, verify and convert data sets."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from gdetkd.cli.common import DATA_ROOT, write_digits

DATA_ROOTS = dict(coco="data/coco", voc07="data/VOCdevkit", bdd100k="data/bdd100k")


@click.group()
def data() -> None:
    """Build or verify a data set."""


@data.command()
@click.option("--root", default=DATA_ROOT, show_default=True, type=click.Path())
@click.option("--seed", default=0, show_default=True, help="Seed of every draw.")
def digits(root: str, seed: int) -> None:
    """Write the embedded benchmark: images, COCO JSON, manifest and contact sheet."""
    manifest = write_digits(root, seed)
    table = Table(title=f"digits in {root}")
    for column in ("split", "images", "objects", *manifest["objects"]["train"]):
        table.add_column(column, justify="right")
    for split, counts in manifest["objects"].items():
        numbers = [manifest["images"][split], sum(counts.values()), *counts.values()]
        table.add_row(split, *map(str, numbers))
    Console().print(table)
    click.echo(f"Look at {Path(root) / 'contact_sheet.png'}")


def data_command(layout: str, text: str) -> None:
    """Add the command that verifies and converts data sets of a layout."""
    root = DATA_ROOTS.get(layout)
    where = dict(default=root, show_default=True) if root else dict(required=True)

    @data.command(layout, help=text)
    @click.option("--root", type=click.Path(), help="Where it lies, as unpacked.", **where)
    @click.option("--out", type=click.Path(), help="Default: data/prepared/NAME.")
    @click.option(
        "--on-error", type=click.Choice(["strict", "skip"]), default="strict", show_default=True,
        help="strict: write nothing where anything is wrong. skip: leave out what is wrong.",
    )  # fmt: skip
    @click.option("--classes", help="Your own: NAME,NAME,... in the order of the labels.")
    def command(root: str, out: str | None, on_error: str, classes: str | None) -> None:
        prepare_data(layout, root, out, on_error, classes)


data_command("coco", "Verify COCO 2017, or own data in its layout.")
data_command("voc07", "Verify and convert VOC2007, or own data in its layout.")
data_command("bdd100k", "Verify and convert BDD100K, either release of labels.")
data_command("own", "Verify and convert own data in COCO's or VOC's layout.")


def prepare_data(
    layout: str, root: str, out: str | None, on_error: str, classes: str | None
) -> None:
    """Verify and convert a data set and say what became of it; exit 1 where nothing was written."""
    from tqdm import tqdm

    from gdetkd.datasets.prepare import REPORT, SHEET, config_options, one_split, prepare

    def progress(items, text):
        return tqdm(items, desc=text, leave=False, disable=None)  # None: only on a terminal

    name = layout if layout != "own" else Path(root).resolve().name
    folder = Path(out or Path("data/prepared") / name)
    names = classes and [name.strip() for name in classes.split(",")]
    prepared = prepare(layout, root, folder, on_error, names, progress)
    report = prepared.report
    for problem in report.problems[:20]:
        click.echo(str(problem))
    if len(report.problems) > 20:
        click.echo(f"... and {len(report.problems) - 20} more lines in {folder / REPORT}")
    click.echo(report.summary())
    if prepared.summary is None:
        click.echo(
            f"Nothing was written but {folder / REPORT}. Mend what it lists, or leave it out with "
            "--on-error skip.",
            err=True,
        )
        sys.exit(1)
    say_objects(prepared.summary, root)
    click.echo(f"Look at {folder / SHEET}")
    if warning := one_split(prepared.summary):
        click.echo(warning, err=True)
    expected = root == DATA_ROOTS[layout] and not report.bad if layout == "coco" else out is None
    if layout in DATA_ROOTS and expected and not classes:
        click.echo(f"gdetkd/configs/_base_/{layout}.py reads it from there.")
        return
    options = [f"{k}={v}" for k, v in config_options(prepared.summary).items()]
    lines = " \\\n    ".join(["  --cfg-options", *map(shlex.quote, options)])
    click.echo(f"To train another config on it, whose heads have as many classes:\n{lines}")


def say_objects(summary: dict, root: str) -> None:
    """How many objects of each class a prepared data set has."""
    splits = summary["splits"]
    table = Table(title=f"Objects in {root}")
    table.add_column("class")
    for split, entry in splits.items():
        table.add_column(f"{split}, {entry['count']} images", justify="right")
    for name in summary["classes"]:
        table.add_row(name, *(str(entry["objects"][name]) for entry in splits.values()))
    Console().print(table)
