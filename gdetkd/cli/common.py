"""Options and steps that several commands share."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

DATA_ROOT = "data/digits"


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
force_option = click.option("--force", is_flag=True, help="Replace a file that is there.")
data_root_option = click.option(
    "--data-root", default=DATA_ROOT, show_default=True, help="Folder of the benchmark."
)


def keep_existing(path: str, force: bool) -> None:
    """Raise ValueError if a file would be overwritten that nobody said to replace."""
    if Path(path).exists() and not force:
        raise ValueError(f"{path} is there; --force replaces it, another name keeps both")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table whose first column is left-aligned and whose others hold numbers."""
    table = Table(title=title or None)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def write_digits(root: str, seed: int, force: bool = False) -> dict:
    """Write the benchmark if it is not there, with a progress bar.

    Raises:
        ValueError: Other data are there, and `force` does not say to replace them.
    """
    from tqdm import tqdm

    from gdetkd.datasets.digits import build_digits

    def progress(items, text):
        return tqdm(items, desc=text, leave=False, disable=None)  # None: only on a terminal

    return build_digits(root, seed, progress=progress, force=force)


def need_digits(config) -> None:
    """Write the embedded benchmark if a config reads it and it is not there yet.

    A benchmark of another seed is used as it is; so is one with edited annotations, with a note.

    Raises:
        ValueError: Files of it are missing.
    """
    from gdetkd.datasets.digits import edits, verify_digits

    parts = ("train_dataloader", "val_dataloader", "test_dataloader")
    roots = [(config.get(part) or {}).get("dataset", {}).get("data_root") for part in parts]
    if any(root and Path(root) == Path(DATA_ROOT) for root in roots):
        found = edits(DATA_ROOT)
        if found and "is not the file that was built" in found:
            click.echo(f"Note: {DATA_ROOT} was edited ({found}); it is used as it is.", err=True)
        elif not verify_digits(DATA_ROOT):
            write_digits(DATA_ROOT, seed=0)
