"""The command `gdetkd`: one file per command group; libraries are imported inside the commands."""

from __future__ import annotations

import sys
import warnings

import click

from gdetkd import __version__
from gdetkd.cli import bench, compare, data, demo, doctor, evaluate, explore, gpu, reproduce, train

# Which extra brings a module that is missing; the others come with `mmdet`.
EXTRAS = dict(
    transformers="transformers", onnx="onnx", onnxruntime="onnx", onnxscript="onnx", timm="photos"
)


@click.group(context_settings=dict(help_option_names=["-h", "--help"]))
@click.version_option(__version__, prog_name="gdetkd")
def cli() -> None:
    """G-DetKD: knowledge distillation for object detectors."""


for command in (
    demo.demo, data.data, train.train, train.distill, evaluate.test, evaluate.detect,
    evaluate.export, compare.compare, explore.explore, reproduce.reproduce, bench.bench, gpu.gpu,
    doctor.doctor,
):  # fmt: skip
    cli.add_command(command)


def spread_options(arguments: list[str]) -> list[str]:
    """`--cfg-options a=1 b=2`, as MMDetection's tools take it, as one option per value."""
    spread, within = [], False
    for argument in arguments:
        more = within and "=" in argument and not argument.startswith("-")
        if more and spread[-1] != "--cfg-options":
            spread.append("--cfg-options")
        spread.append(argument)
        within = argument == "--cfg-options" or more
    return spread


def main() -> None:
    """Run the command; wrong input gives an error message of one sentence, without a traceback."""
    # MMEngine's, at every config with a base of another package.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    try:
        cli(spread_options(sys.argv[1:]), standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if not module or module == "gdetkd":
            raise
        extra = EXTRAS.get(module, "mmdet")
        click.echo(
            f"gdetkd: this needs {module}, which is not installed; install it with "
            f"pip install 'gdetkd[{extra}]'",
            err=True,
        )
        sys.exit(1)
    except (ValueError, OSError, FloatingPointError) as error:
        click.echo(f"gdetkd: {error}", err=True)
        sys.exit(1)
