"""Options and steps that several commands share."""

from __future__ import annotations

import ast
from pathlib import Path

import click

DATA_ROOT = "data/digits"


class ConfigOption(click.ParamType):
    """KEY=VALUE; a Python literal, true or false becomes its value, any other stays text."""

    name = "KEY=VALUE"

    def convert(self, value, param, ctx):
        key, equals, text = value.partition("=")
        if not equals or not key:
            self.fail(f"expected KEY=VALUE, got {value!r}", param, ctx)
        try:
            return key, ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return key, {"true": True, "false": False}.get(text.lower(), text)


def cfg_options(function):
    """The option by which a command overrides values of its config."""
    return click.option(
        "--cfg-options", "options", multiple=True, type=ConfigOption(),
        help="Override values of the config by their dotted keys: a.b=1 c=2.",
    )(function)  # fmt: skip


def write_digits(root: str, seed: int) -> dict:
    """Write the benchmark if it is not there, with a progress bar."""
    from tqdm import tqdm

    from gdetkd.datasets.digits import build_digits

    def progress(items, text):
        return tqdm(items, desc=text, leave=False, disable=None)  # None: only on a terminal

    return build_digits(root, seed, progress=progress)


def need_digits(config) -> None:
    """Write the embedded benchmark where a config reads it and it is not there yet."""
    parts = ("train_dataloader", "val_dataloader", "test_dataloader")
    roots = [(config.get(part) or {}).get("dataset", {}).get("data_root") for part in parts]
    if any(root and Path(root) == Path(DATA_ROOT) for root in roots):
        write_digits(DATA_ROOT, seed=0)
