"""`gdetkd compare`."""

from __future__ import annotations

from pathlib import Path

import click

from gdetkd.cli.common import CHECKPOINT, CONFIG, need_benchmark, print_table

CLASSES = 12  # rows of a table in the terminal; the page has all


@click.command()
@click.argument("a", type=CHECKPOINT)
@click.argument("b", type=CHECKPOINT)
@click.option(
    "--config", "configs", multiple=True, type=CONFIG,
    help="Of checkpoints: that of both, or given twice, that of A and that of B.",
)  # fmt: skip
@click.option(
    "--annotations", type=click.Path(path_type=Path),
    help="COCO annotations; by default those of the config's test set.",
)  # fmt: skip
@click.option(
    "--images", type=click.Path(path_type=Path),
    help="Folder of the images to draw on; by default that of the config's test set.",
)  # fmt: skip
@click.option("--split", help="Another split than the config's, e.g. test.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("compare.html"), show_default=True,
    help="The page.",
)  # fmt: skip
def compare(a, b, configs, annotations, images, split, out) -> None:
    """Compare detectors A and B on the same images: what B changes, and how sure that is.

    Each is a checkpoint with its --config, or a JSON file of detections in COCO's result format, as
    `gdetkd test --detections FILE.json` writes it.
    """
    sources = (a, b)
    if len(configs) > 2:
        raise click.UsageError(f"--config: expected one or two, got {len(configs)}")
    if not configs and not annotations:
        raise click.UsageError(
            "expected --config, or --annotations for two files of detections, got neither"
        )
    unclear = [source for source in sources if not source.endswith(".json")]
    if unclear and not configs:
        raise click.UsageError(
            f"expected --config of the checkpoint {unclear[0]!r}, or a file .json of detections"
        )
    from gdetkd.evaluation.comparison import compare as run
    from gdetkd.evaluation.comparison_page import write_page
    from gdetkd.ops.atomic_write import atomic_write

    classes = None
    found = list(sources)
    if configs:
        found, truth = _detect(sources, configs, split)
        annotations = annotations or truth[0]
        images, classes = images or truth[1], truth[2]
    names = _names(sources)
    comparison = run(*found, annotations, classes=classes, names=names)
    _print(comparison)
    with atomic_write(out) as file:
        file.write(write_page(comparison, images).encode())
    click.echo(f"Page, with the images that changed most: {out}")


def _detect(sources, configs, split):
    """Detections of the checkpoints (results stay files), and the test set of the first config."""
    from gdetkd.checkpoints.hub import find_checkpoint
    from gdetkd.evaluation.testing import detections, truth_of
    from gdetkd.ops.console import quiet
    from gdetkd.training.config import load_config

    loaded = [load_config(name) for name in configs]
    for config in loaded:
        config.log_level = "WARNING"
        need_benchmark(config)
    truths = [truth_of(config, split) for config in loaded]
    if truths[0] != truths[-1]:
        raise ValueError(
            f"--config: expected the same test set and classes in both, got {truths[0][0]} with "
            f"{len(truths[0][2])} classes and {truths[-1][0]} with {len(truths[-1][2])}; compare "
            "files of detections of one test set instead"
        )
    with quiet(None):
        found = [
            source if source.endswith(".json")
            else detections(config, find_checkpoint(source), split)
            for source, config in zip(sources, (loaded[0], loaded[-1]), strict=True)
        ]  # fmt: skip
    return found, truths[0]


def _names(sources) -> tuple[str, str]:
    """Short names: of the file, with its folder where two are the same."""
    paths = [Path(source.split("::")[-1]) for source in sources]
    stems = [path.name.removesuffix(".json").removesuffix(".bbox").removesuffix(".pth")
             for path in paths]  # fmt: skip
    if stems[0] == stems[1]:
        stems = [f"{path.parent.name}/{stem}" for path, stem in zip(paths, stems, strict=True)]
    return ("A", "B") if stems[0] == stems[1] else tuple(stems)


def _print(comparison) -> None:
    from gdetkd.evaluation.comparison import percent, signed, tables

    click.echo(f"{comparison.images} images, {comparison.objects} objects.")
    click.echo(f"{comparison.headline}.")
    for table in tables(comparison):
        rows = [cells for cells, _ in table.rows]
        if len(rows) > CLASSES:
            half = CLASSES // 2
            rows = [*rows[:half], ("...",) * len(table.columns), *rows[-half:]]
        print_table(table.columns, rows, table.title)
    rows = [
        (image.name, percent(image.ap.a), percent(image.ap.b), signed(image.ap.difference))
        for image in comparison.changed
    ]
    title = f"Images that changed most ({comparison.better} rose, {comparison.worse} fell)"
    print_table(("image", *comparison.names, "change"), rows, title)
