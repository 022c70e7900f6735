"""Options and steps that several commands share."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from gdetkd.checkpoints.hub import find_checkpoint, find_config

DATA_ROOT = "data/digits"
PHOTOS_ROOT = "data/photos"
WIDE = 160  # characters of a table where no terminal bounds it


class ConfigOption(click.ParamType):
    """KEY=VALUE; Python literals, true and false become values, anything else stays text."""

    name = "KEY=VALUE"

    def convert(self, value, param, ctx):
        key, equals, text = value.partition("=")
        if not equals or not key:
            self.fail(f"expected KEY=VALUE, got {value!r}", param, ctx)
        try:
            return key, ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return key, {"true": True, "false": False}.get(text.lower(), text)


class Existing(click.ParamType):
    """The name of a file that is there, or of a URL: said before the libraries are loaded.

    It stays the name that was given, which says more than a path in the package or the cache.
    """

    def __init__(self, kind: str, find: Callable[[str], str]) -> None:
        self.name, self.find = kind, find

    def convert(self, value, param, ctx):
        if not value.startswith(("http://", "https://")):
            self.find(value)
        return value


def _find_teacher(name: str) -> str:
    """A teacher's config may also be the one that its training left."""
    folders = (Path(name), Path("work_dirs") / Path(name.split("::")[-1]).stem)
    return name if any(folder.is_dir() for folder in folders) else find_config(name)


CONFIG, CHECKPOINT = Existing("config", find_config), Existing("checkpoint", find_checkpoint)
TEACHER = Existing("teacher", _find_teacher)
cfg_options = click.option(
    "--cfg-options", "options", multiple=True, type=ConfigOption(),
    help="Override values of the config by their dotted keys: a.b=1 c=2.",
)  # fmt: skip
work_dir_option = click.option(
    "--work-dir", type=click.Path(), help="Default: work_dirs/CONFIG."
)  # fmt: skip
gpus_option = click.option(
    "--gpus", type=click.IntRange(min=1), metavar="N",
    help="Processes of this machine, one per GPU, under torchrun's agent; without GPUs, on the "
    "CPU. On one machine they are not reachable from the network.",
)  # fmt: skip
data_option = click.option(
    "--data", "folder", type=click.Path(file_okay=False),
    help="COCO 2017 as unpacked, the digits, or what `gdetkd data` has prepared: sets files, "
    "classes, and for data of your own image sizes and schedule.",
)  # fmt: skip
init_option = click.option(
    "--init", "start", metavar="none|imagenet|FILE",
    help="What the backbone starts from; by default as in the config.",
)  # fmt: skip
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Show what the libraries print, and the whole config."
)
training_options = (
    click.option("--seed", type=int, help="Instead of the config's."),
    click.option(
        "--resume", is_flag=False, flag_value="last",
        help="From the last checkpoint in the work dir, or from the file given.",
    ),
    click.option("--amp", is_flag=True, help="Mixed precision (GPU)."),
    gpus_option,
    init_option,
    verbose_option,
    cfg_options,
)  # fmt: skip


def with_options(options: Iterable[Callable]) -> Callable:
    """A decorator that adds several options."""

    def decorate(function: Callable) -> Callable:
        for option in reversed(tuple(options)):
            function = option(function)
        return function

    return decorate


force_option = click.option("--force", is_flag=True, help="Replace a file that is there.")
data_root_option = click.option(
    "--data-root", default=DATA_ROOT, show_default=True, help="Folder of the benchmark."
)


def keep_existing(path: str, force: bool) -> None:
    """Raise ValueError if a file would be overwritten that nobody said to replace."""
    if Path(path).exists() and not force:
        raise ValueError(f"{path} is there; --force replaces it, another name keeps both")


def show(table: Table) -> None:
    """Print a table as wide as the terminal; in a file or a notebook, as wide as it is."""
    console = Console()
    bounded = console.is_terminal and not console.is_dumb_terminal
    if not bounded and "COLUMNS" not in os.environ:
        console = Console(width=WIDE, height=WIDE)  # of a dumb terminal it takes both or none
    console.print(table)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table whose first column is left-aligned and whose others hold numbers."""
    table = Table(title=title or None)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    show(table)


def write_digits(root: str, seed: int, force: bool = False) -> dict:
    """Write the benchmark if it is not there, with a progress bar.

    Raises:
        ValueError: Other data are there, and `force` does not say to replace them.
    """
    from gdetkd.datasets.digits import build_digits

    return build_digits(root, seed, progress=show_progress, force=force)


def write_photos(root: str, seed: int, force: bool = False, **settings) -> dict:
    """Write the benchmark of photographs if it is not there, with a progress bar.

    Raises:
        click.ClickException: The stamps that it is made of are not installed.
        ValueError: Other data are there, and `force` does not say to replace them.
    """
    from gdetkd.datasets.photos import build_photos

    try:
        return build_photos(root, seed, progress=show_progress, force=force, **settings)
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None


def show_progress(items: Iterable, text: str) -> Iterable:
    """A bar over the items, on a terminal alone."""
    from tqdm import tqdm

    return tqdm(items, desc=text, leave=False, disable=None)


def need_benchmark(config) -> None:
    """Write an embedded benchmark if a config reads it and it is not there yet.

    A benchmark of another seed is used as it is; so is one with edited annotations, with a note.

    Raises:
        ValueError: Files of it are missing.
    """
    from gdetkd.datasets.embedded import edits, verify

    parts = ("train_dataloader", "val_dataloader", "test_dataloader")
    roots = [(config.get(part) or {}).get("dataset", {}).get("data_root") for part in parts]
    for place, write in ((DATA_ROOT, write_digits), (PHOTOS_ROOT, write_photos)):
        if not any(root and Path(root) == Path(place) for root in roots):
            continue
        found = edits(place)
        if found and "is not the file that was built" in found:
            click.echo(f"Note: {place} was edited ({found}); it is used as it is.", err=True)
        elif not verify(place):
            write(place, seed=0)
