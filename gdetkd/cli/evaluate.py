"""`gdetkd test`, `gdetkd detect` and `gdetkd export`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from gdetkd.cli.common import (
    CHECKPOINT,
    CONFIG,
    cfg_options,
    data_option,
    force_option,
    keep_existing,
    need_benchmark,
    print_table,
    verbose_option,
    work_dir_option,
)


@click.command()
@click.argument("config", type=CONFIG)
@click.argument("checkpoint", type=CHECKPOINT)
@data_option
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
@verbose_option
@cfg_options
def test(
    config, checkpoint, folder, split, submission, detections, force, work_dir, verbose, options
) -> None:
    """Evaluate CHECKPOINT; of a distilled detector's, the student alone."""
    from gdetkd.checkpoints.hub import find_checkpoint
    from gdetkd.evaluation.testing import test as run
    from gdetkd.ops.console import quiet
    from gdetkd.training.config import load_config

    loaded = load_config(
        config, dict(options), work_dir=work_dir, data=folder, split=split if folder else None
    )
    if submission:
        keep_existing(submission, force)
        from gdetkd.evaluation.submission import submit

        count = submit(loaded, find_checkpoint(checkpoint), submission)
        click.echo(f"{submission}: {count} detections, as the server for test-dev2017 takes them")
        return
    need_benchmark(loaded)
    if detections:
        keep_existing(detections, force)
    log = Path(loaded.work_dir) / "console.log"
    with contextlib.nullcontext() if verbose else quiet(log):
        metrics = run(loaded, find_checkpoint(checkpoint), None if folder else split, detections)
    where = split or loaded.test_dataloader.dataset.get("ann_file", "the config's test set")
    rows = [
        (name, f"{value:.3f}" if value >= 0 else "no such objects")
        for name, value in metrics.items()
    ]
    print_table(("metric", "value"), rows, f"{Path(checkpoint).name} on {where}")


@click.command()
@click.argument("config", type=CONFIG)
@click.argument("checkpoint", type=CHECKPOINT)
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Folder of the pictures and of detections.json.")  # fmt: skip
@click.option("--threshold", default=0.3, show_default=True, type=click.FloatRange(0, 1),
              help="The least score of a box that is drawn; the JSON has all of them.")  # fmt: skip
def detect(config, checkpoint, images, out, threshold) -> None:
    """Detect on IMAGES, files or folders; of a distilled detector's checkpoint, with the student.

    CONFIG is the one that the training left in its work dir, or any other of that detector.
    """
    from tqdm import tqdm

    from gdetkd.checkpoints.hub import find_checkpoint
    from gdetkd.evaluation.pictures import RESULTS, detect_pictures, picture_files
    from gdetkd.ops.console import quiet

    files = picture_files(images)
    with quiet(None):
        found = detect_pictures(
            config, find_checkpoint(checkpoint), files, out, threshold,
            progress=lambda items: tqdm(items, unit="picture", leave=False, disable=None),
        )  # fmt: skip
    boxes = sum(score >= threshold for each in found for score in each["scores"])
    click.echo(f"{len(files)} pictures with {boxes} boxes of score {threshold:g} or more: {out}/")
    click.echo(f"All detections: {out / RESULTS}")


@click.command()
@click.argument("checkpoint", type=CHECKPOINT)
@click.argument("out")
@click.option("--half", is_flag=True, help="Store the weights in fp16.")
@click.option(
    "--onnx", "model", metavar="MODEL",
    help="Write an ONNX file instead, of a student of another library: MODEL is a folder of "
    "transformers with its config.json, or the name of a detector of torchvision.",
)  # fmt: skip
@click.option("--classes", type=int, help="Of torchvision's, num_classes, the background included.")
@click.option("--size", nargs=2, type=int, default=(640, 640), show_default=True, help="H W, px.")
@force_option
def export(
    checkpoint: str, out: str, half: bool, model: str | None, classes, size, force: bool
) -> None:
    """Write the student of CHECKPOINT alone to OUT, for MMDetection's init_detector."""
    from gdetkd.checkpoints.hub import find_checkpoint

    keep_existing(out, force)
    checkpoint = find_checkpoint(checkpoint)
    if model:
        _export_onnx(checkpoint, out, model, classes, size)
    else:
        from gdetkd.checkpoints.student import export_student

        which = export_student(checkpoint, out, half=half)
        size = Path(out).stat().st_size / 1e6
        click.echo(f"{out}: the student's weights ({which}), {size:.1f} MB")


def _export_onnx(checkpoint: str, out: str, model: str, classes: int | None, size) -> None:
    """CHECKPOINT is what `torch.save(distiller.student_state_dict(), ...)` wrote, read as data.

    Raises:
        ValueError: The model is neither, or the weights are not its own.
    """
    import torch

    from gdetkd.detectors import export_onnx

    if Path(model).is_dir():
        from transformers import AutoConfig, AutoModelForObjectDetection

        detector = AutoModelForObjectDetection.from_config(AutoConfig.from_pretrained(model))
        image = torch.rand(1, 3, *size)
    else:
        from torchvision.models import detection, get_model, list_models

        known = list_models(detection)
        if model not in known or classes is None:
            raise ValueError(
                "export --onnx: expected a folder with a config.json, or --classes N and one of "
                f"{', '.join(known)}; got {model!r} and --classes {classes}"
            )
        detector = get_model(model, weights=None, weights_backbone=None, num_classes=classes)
        image = torch.rand(3, *size)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    try:
        detector.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} has other weights than {model}: {error}") from error
    export_onnx(detector, out, image)
    click.echo(f"{out}: {type(detector).__name__}, {Path(out).stat().st_size / 1e6:.1f} MB")
