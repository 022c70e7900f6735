"""`gdetkd test` and `gdetkd export`."""

from __future__ import annotations

from pathlib import Path

import click

from gdetkd.cli.common import (
    cfg_options,
    force_option,
    keep_existing,
    need_benchmark,
    print_table,
    work_dir_option,
)


@click.command()
@click.argument("config")
@click.argument("checkpoint")
@click.option("--split", help="Another split than the config's, e.g. test.")
@click.option(
    "--submission", type=click.Path(), metavar="FILE.zip",
    help="Detect on COCO's test-dev2017 instead and write what its server takes.",
)  # fmt: skip
@click.option(
    "--detections", type=click.Path(), metavar="FILE.json",
    help="Also write the detections, for `gdetkd compare`.",
)  # fmt: skip
@force_option
@work_dir_option
@cfg_options
def test(config, checkpoint, split, submission, detections, force, work_dir, options) -> None:
    """Evaluate CHECKPOINT; of a distilled detector's, the student alone."""
    from gdetkd.checkpoints.hub import find_checkpoint
    from gdetkd.evaluation.testing import test as run
    from gdetkd.training.config import load_config

    loaded = load_config(config, dict(options), work_dir=work_dir)
    if submission:
        keep_existing(submission, force)
        from gdetkd.evaluation.submission import submit

        count = submit(loaded, find_checkpoint(checkpoint), submission)
        click.echo(f"{submission}: {count} detections, as the server for test-dev2017 takes them")
        return
    need_benchmark(loaded)
    if detections:
        keep_existing(detections, force)
    metrics = run(loaded, find_checkpoint(checkpoint), split, detections)
    where = split or loaded.test_dataloader.dataset.get("ann_file", "the config's test set")
    rows = [
        (name, f"{value:.3f}" if value >= 0 else "no such objects")
        for name, value in metrics.items()
    ]
    print_table(("metric", "value"), rows, f"{Path(checkpoint).name} on {where}")


@click.command()
@click.argument("checkpoint")
@click.argument("out")
@click.option("--half", is_flag=True, help="Store the weights in fp16.")
@force_option
def export(checkpoint: str, out: str, half: bool, force: bool) -> None:
    """Write the student of CHECKPOINT alone to OUT, for MMDetection's init_detector."""
    from gdetkd.checkpoints.student import export_student

    keep_existing(out, force)
    which = export_student(checkpoint, out, half=half)
    size = Path(out).stat().st_size / 1e6
    click.echo(f"{out}: the student's weights ({which}), {size:.1f} MB")
