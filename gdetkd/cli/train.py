"""`gdetkd train` and `gdetkd distill`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from gdetkd.cli.common import (
    CHECKPOINT,
    CONFIG,
    TEACHER,
    data_option,
    need_benchmark,
    training_options,
    with_options,
    work_dir_option,
)


@click.command()
@click.argument("config", type=CONFIG)
@data_option
@work_dir_option
@with_options(training_options)
@click.option(
    "--nodes", type=click.IntRange(min=1), default=1, show_default=True,
    help="Machines; under srun, its number counts.",
)  # fmt: skip
@click.option("--node-rank", type=int, default=0, help="This machine's number, from 0.")
@click.option(
    "--master-addr",
    help="Where the other machines reach the first one; on a network that you trust.",
)
@click.option("--master-port", type=int, help="Default: 29500.")
@click.option(
    "--wait", default=600.0, show_default=True, help="Seconds to wait for the other machines."
)
@click.option("--plan", is_flag=True, help="Print what would be done, and do nothing.")
def train(config, **choices) -> None:
    """Train CONFIG: a file, own/NAME, gdetkd::digits/NAME.py or mmdet::NAME.

    Processes that die are started again and go on from the last complete checkpoint.
    """
    run_train(config, **choices)


def run_train(
    config, folder=None, work_dir=None, seed=None, resume=None, amp=False, gpus=None, start=None,
    verbose=False, options=(), nodes=1, node_rank=0, master_addr=None, master_port=None,
    wait=600.0, plan=False, baseline=None,
) -> None:  # fmt: skip
    """Train a config as the options of the command line say."""
    from gdetkd.launch import processes
    from gdetkd.launch.nodes import join_slurm, resolve_nodes
    from gdetkd.launch.run_lock import claim
    from gdetkd.training.config import load_config
    from gdetkd.training.data import check_start
    from gdetkd.training.runner import check_trainable, check_writable

    request = dict(config=config, options=dict(options), work_dir=work_dir, seed=seed, amp=amp,
                   data=folder, start=start)  # fmt: skip
    loaded = load_config(request["config"], **{k: v for k, v in request.items() if k != "config"})
    if gpus:
        processes.check_devices(gpus)
    machines = resolve_nodes(gpus, nodes, node_rank, master_addr, master_port)
    if plan:
        from gdetkd.launch.plan import show_plan

        show_plan(loaded, (gpus or 1) * (machines.count if machines else 1), verbose)
        return
    check_writable(loaded.work_dir)
    need_benchmark(loaded)
    if not resume:
        check_start(loaded.model)
    request.update(work_dir=loaded.work_dir, resume=True if resume == "last" else resume or False)
    if gpus:
        check_trainable(loaded)
    under_srun = not gpus and join_slurm()
    first = os.environ["RANK"] == "0" if under_srun else machines is None or machines.rank == 0
    with claim(loaded.work_dir) if first else contextlib.nullcontext():
        if gpus:
            processes.run_processes(request, gpus, machines, wait=wait)
        elif under_srun:
            from gdetkd.launch.worker import run_worker

            run_worker(request)
        else:
            from gdetkd.cli.running import train_here

            train_here(loaded, request["resume"], verbose, baseline)
    click.echo(f"Checkpoints and logs: {loaded.work_dir}")


@click.command()
@click.argument("teacher", type=TEACHER)
@click.argument("student", type=CONFIG)
@data_option
@click.option(
    "--checkpoint", type=CHECKPOINT,
    help="The teacher's weights; by default the best ones in the work dir of its training, or "
    "those of MMDetection's zoo.",
)  # fmt: skip
@click.option("--transfer-heads", is_flag=True, help="The teacher's heads, frozen.")
@click.option(
    "--preset", type=click.Choice(["recommended", "paper"]), default="recommended",
    show_default=True, help="The paper's has a memory queue; results/RECIPE.md compares them.",
)  # fmt: skip
@click.option("--out", type=click.Path(), help="The config's file; default: STUDENT_distilled.py.")
@work_dir_option
@with_options(training_options)
@click.option("--plan", is_flag=True, help="Write the config, print what would be done, and stop.")
def distill(
    teacher, student, folder, checkpoint, transfer_heads, preset, out, gpus, start, plan, **choices
) -> None:
    """Compose a config in which STUDENT learns from TEACHER, write it and train it.

    Both are configs: files, own/NAME, gdetkd::digits/NAME.py or mmdet::NAME; TEACHER may also be
    the work dir of its training.
    """
    from gdetkd.launch.compose import check_pair, compose, write_config

    if folder is None:
        raise click.UsageError("expected --data DIR, what `gdetkd data` has prepared")
    path = Path(out or f"{Path(student.split('::')[-1]).stem}_distilled.py")
    config = compose(
        teacher, student, Path(folder), checkpoint, gpus or 1, transfer_heads, start, preset
    )
    check_pair(config)
    write_config(config, path, teacher, student)
    click.echo(f"Config, yours to edit: {path}")
    baseline = Path("work_dirs") / Path(student.split("::")[-1]).stem
    run_train(str(path), gpus=gpus, plan=plan, baseline=baseline, **choices)
