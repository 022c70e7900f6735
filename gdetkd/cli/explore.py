"""`gdetkd explore`."""

from __future__ import annotations

from pathlib import Path

import click

from gdetkd.cli.common import data_option, need_benchmark


@click.command()
@click.argument("detectors", nargs=-1, required=True, metavar="CONFIG CHECKPOINT ...")
@data_option
@click.option("--split", help="Of --data, another split than its test set.")
@click.option(
    "--name", "names", multiple=True,
    help="Of a detector, in their order; by default those of the checkpoints.",
)  # fmt: skip
@click.option("--title", default="Proposals", show_default=True, help="Of the page.")
@click.option(
    "--proposals", default=2000, show_default=True, type=click.IntRange(min=3),
    help="How many, at most, on images spread over the set.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("explore.html"),
    show_default=True, help="The page.",
)  # fmt: skip
def explore(detectors, folder, split, names, title, proposals, out) -> None:
    """Show what detectors make of the same proposals, on a page to explore in a browser.

    Give the CONFIG and CHECKPOINT of each, the teacher first: its proposals are shown, and the
    others are compared with it. The page needs no network; three minutes on a CPU for 2,000.
    """
    if len(detectors) % 2:
        raise click.UsageError(
            f"expected pairs of CONFIG and CHECKPOINT, got {len(detectors)} arguments"
        )
    configs, checkpoints = detectors[::2], detectors[1::2]
    names = names or _names(checkpoints)
    if len(set(names)) != len(configs):
        raise click.UsageError(
            f"expected {len(configs)} different names, one --name per detector, got "
            f"{', '.join(names)}"
        )
    if split and not folder:
        raise click.UsageError("expected --data with --split, got --split alone")
    from tqdm import tqdm

    from gdetkd.checkpoints.hub import find_checkpoint
    from gdetkd.evaluation.exploration import explore as run
    from gdetkd.ops.atomic_write import atomic_write
    from gdetkd.ops.console import quiet
    from gdetkd.training.config import load_config
    from gdetkd.viz.explorer import explorer_data, write_explorer

    loaded = [load_config(name, data=folder, split=split) for name in configs]
    for config in loaded:
        need_benchmark(config)
    sources = zip(loaded, map(find_checkpoint, checkpoints), strict=True)
    with quiet(None):
        found = run(
            dict(zip(names, sources, strict=True)), proposals,
            lambda items: tqdm(items, unit="image", leave=False, disable=None),
        )  # fmt: skip
    click.echo(f"{len(found.rois)} proposals on {len(found.pictures)} images; drawing the maps ...")
    with atomic_write(out) as file:
        file.write(write_explorer(explorer_data(found), title).encode())
    click.echo(f"Page, {out.stat().st_size / 1e6:.1f} MB, opens in a browser: {out}")


def _names(checkpoints) -> list[str]:
    """Short names: of the file, with its folder where two are the same."""
    paths = [Path(checkpoint.split("::")[-1]) for checkpoint in checkpoints]
    stems = [path.name.removesuffix(".pth") for path in paths]
    same = len(set(stems)) < len(stems)
    return [f"{p.parent.name}/{s}" if same else s for p, s in zip(paths, stems, strict=True)]
