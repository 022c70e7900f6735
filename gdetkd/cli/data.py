"""`gdetkd data`: build, verify and convert data sets."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

from gdetkd.cli.common import (
    DATA_ROOT,
    PHOTOS_ROOT,
    print_table,
    show_progress,
    write_digits,
    write_photos,
)

KINDS = 20  # lines of a report that are shown


class LayoutGroup(click.Group):
    """A command per registered layout, beside those that are written out."""

    def list_commands(self, ctx):
        return [*super().list_commands(ctx), *_layouts()]

    def get_command(self, ctx, name):
        layout = _layouts().get(name)
        return super().get_command(ctx, name) or (layout and layout_command(layout))


def _layouts() -> dict:
    from gdetkd.datasets.prepare import LAYOUTS

    return LAYOUTS


def _import(ctx, param, module: str | None) -> None:
    """Import a module that registers layouts, before commands are looked up."""
    if not module:
        return
    sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise click.BadParameter(f"{error}; expected a module on PYTHONPATH or here") from None


@click.group(cls=LayoutGroup)
@click.option(
    "--import", metavar="MODULE", callback=_import, is_eager=True, expose_value=False,
    help="Import this module first, which registers a layout of yours.",
)  # fmt: skip
def data() -> None:
    """Build or verify a data set."""


@data.command()
@click.option("--root", default=DATA_ROOT, show_default=True, type=click.Path())
@click.option("--seed", default=0, show_default=True, help="Seed of every draw.")
@click.option("--force", is_flag=True, help="Replace what is there, even if it was edited.")
def digits(root: str, seed: int, force: bool) -> None:
    """Write the embedded benchmark: images, COCO JSON, manifest and contact sheet."""
    say_benchmark("digits", root, write_digits(root, seed, force))


@data.command()
@click.option("--root", default=PHOTOS_ROOT, show_default=True, type=click.Path())
@click.option("--seed", default=0, show_default=True, help="Seed of every draw.")
@click.option("--force", is_flag=True, help="Replace what is there, even if it was edited.")
@click.option(
    "--stamps", type=click.Path(),
    help="Folder of Tux Paint's stamps.  [default: where Debian's tuxpaint-stamps-default puts it]",
)  # fmt: skip
def photos(root: str, seed: int, force: bool, stamps: str | None) -> None:
    """Write the embedded benchmark of photographs, from cut-outs that are installed beside it."""
    where = dict(stamps=stamps) if stamps else {}
    say_benchmark("photos", root, write_photos(root, seed, force, **where))
    click.echo("Its images contain GPL-2 cut-outs of Tux Paint: pass them on under that license.")


def say_benchmark(name: str, root: str, manifest: dict) -> None:
    """How many objects of each class an embedded benchmark has."""
    columns = ("split", "images", "objects", *manifest["objects"]["train"])
    rows = [
        (split, *map(str, (manifest["images"][split], sum(counts.values()), *counts.values())))
        for split, counts in manifest["objects"].items()
    ]
    print_table(columns, rows, f"{name} in {root}")
    click.echo(f"Contact sheet: {Path(root) / 'contact_sheet.png'}")


class NamePair(click.ParamType):
    """OLD=NEW, two class names."""

    name = "OLD=NEW"

    def convert(self, value, param, ctx):
        old, equals, new = value.partition("=")
        if not (old.strip() and equals and new.strip()):
            self.fail(f"expected OLD=NEW, got {value!r}", param, ctx)
        return old.strip(), new.strip()


def layout_command(layout) -> click.Command:
    """The command that verifies and converts data sets of a layout, with the options it knows."""
    where = dict(default=layout.root, show_default=True) if layout.root else dict(required=True)
    options = [
        click.Option(["--root"], type=click.Path(), help="Where it lies, as unpacked.", **where),
        click.Option(["--out"], type=click.Path(), help="Default: data/prepared/NAME."),
        click.Option(
            ["--on-error"], type=click.Choice(["strict", "skip"]), default="strict",
            show_default=True,
            help="strict: write nothing where anything is wrong. skip: leave out what is wrong.",
        ),
        click.Option(["--rename"], multiple=True, type=NamePair(), help="Rename a class."),
        click.Option(["--drop"], multiple=True, metavar="NAME", help="Leave out a class."),
        click.Option(["--train"], metavar="SPLIT", help="The split to train on."),
        click.Option(["--val"], metavar="SPLIT", help="The split to validate on."),
        click.Option(
            ["--val-fraction"], type=float, help="Take this part of the only split to validate on."
        ),
        click.Option(
            ["--group"], metavar="PATTERN",
            help="Keep images together whose paths have the same match of this expression.",
        ),
        click.Option(
            ["--turned"], type=click.Choice(["stored", "shown"]),
            help="How boxes of images with an Exif orientation are meant, where nothing tells.",
        ),
        click.Option(
            ["--tile"], type=int, metavar="PX",
            help="Cut the pictures into tiles of this side, for small objects in large pictures.",
        ),
        click.Option(
            ["--overlap"], type=float, default=0.2, show_default=True,
            help="The part of a tile's side that two neighbors share.",
        ),
    ]  # fmt: skip
    if layout.read is not None:
        help_text = "Your own: NAME,NAME,... in the order of the labels."
        options.append(click.Option(["--classes"], help=help_text))
    for flag, text in layout.flags.items():
        options.append(click.Option([f"--{flag.replace('_', '-')}"], is_flag=True, help=text))

    def run(root, out, on_error, classes=None, rename=(), **choices):
        flags = [flag for flag in layout.flags if choices.pop(flag)]
        prepare_data(layout.name, root, out, on_error, classes, flags=flags, rename=dict(rename),
                     **choices)  # fmt: skip

    return click.Command(layout.name, params=options, callback=run, help=layout.help)


def prepare_data(
    layout: str, root: str, out: str | None, on_error: str, classes: str | None, **choices
) -> None:
    """Verify and convert a data set and say what became of it; exit 1 where nothing was written."""
    from gdetkd.datasets.prepare import REPORT, prepare

    name = layout if _layouts()[layout].root and not classes else Path(root).resolve().name
    folder = Path(out or Path("data/prepared") / name)
    names = classes and [name.strip() for name in classes.split(",")]
    prepared = prepare(layout, root, folder, on_error, names, show_progress, **choices)
    report = prepared.report
    for problem in sorted(report.problems, key=lambda problem: not problem.bad)[:KINDS]:
        click.echo(str(problem))
    if len(report.problems) > KINDS:
        click.echo(f"... and {len(report.problems) - KINDS} more lines in {folder / REPORT}:")
        click.echo("; ".join(f"{kind}: {count}" for kind, count in report.kinds().items()))
    click.echo(report.summary())
    if prepared.summary is None:
        click.echo(
            f"Nothing was written but {folder / REPORT}. Mend what it lists, or leave it out with "
            "--on-error skip.",
            err=True,
        )
        sys.exit(1)
    say_result(prepared.summary, root, folder, out is None)


def say_result(summary: dict, root: str, folder: Path, default_out: bool) -> None:
    """Counts, which split is for what, and the config that reads it."""
    from gdetkd.datasets.prepare import one_split
    from gdetkd.datasets.written import SHEET

    say_objects(summary, root)
    click.echo(f"Contact sheet: {folder / SHEET}")
    stages = summary["stages"]
    click.echo(
        f"To train on: {stages['train']}; to validate on: {stages['val']}; to test on: "
        f"{stages['test']}. --train and --val choose others."
    )
    if warning := one_split(summary):
        click.echo(warning, err=True)
    layout = _layouts()[summary["layout"]]
    fixed = layout.classes is not None and summary["classes"] == list(layout.classes.values())
    in_place = all(
        Path(entry["annotations"]).is_relative_to(Path(layout.root or ".").absolute())
        for entry in summary["splits"].values()
    )
    if fixed and (in_place if layout.differs else default_out):
        where = f"gdetkd/configs/_base_/{layout.config}" if layout.config else "MMDetection's base"
        click.echo(f"{where} reads it from there.")
    click.echo(
        f"To train on it:\n  gdetkd train own/faster_rcnn_r50_teacher --data {folder}\n"
        f"  gdetkd distill own/faster_rcnn_r50_teacher own/faster_rcnn_r18 --data {folder}"
    )


def say_objects(summary: dict, root: str) -> None:
    """How many objects of each class a prepared data set has."""
    splits = summary["splits"]
    columns = ("class", *(f"{split}, {entry['count']} images" for split, entry in splits.items()))
    rows = [
        (name, *(str(entry["objects"][name]) for entry in splits.values()))
        for name in summary["classes"]
    ]
    print_table(columns, rows, f"Objects in {root}")
