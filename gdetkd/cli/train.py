"""`gdetkd train` and `gdetkd distill`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from gdetkd.cli.common import cfg_options, gpus_option, need_benchmark, work_dir_option


@click.command()
@click.argument("config")
@work_dir_option
@click.option("--seed", type=int, help="Instead of the config's.")
@click.option(
    "--resume", is_flag=False, flag_value="last",
    help="From the last checkpoint in the work dir, or from the file given.",
)  # fmt: skip
@click.option("--amp", is_flag=True, help="Mixed precision (GPU).")
@gpus_option
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
@cfg_options
def train(
    config, work_dir, seed, resume, amp, gpus, nodes, node_rank, master_addr, master_port, wait,
    plan, options,
) -> None:  # fmt: skip
    """Train CONFIG: a file, gdetkd::digits/NAME.py or mmdet::NAME.

    Processes that die are started again and go on from the last complete checkpoint.
    """
    from gdetkd.launch import processes
    from gdetkd.launch.learning_rate import scale_learning_rate
    from gdetkd.launch.nodes import join_slurm, resolve_nodes
    from gdetkd.launch.run_lock import claim
    from gdetkd.training.config import load_config
    from gdetkd.training.runner import check_trainable, check_writable
    from gdetkd.training.runner import train as run_training

    loaded = load_config(config, dict(options), work_dir=work_dir, seed=seed, amp=amp)
    if gpus:
        processes.check_devices(gpus)
    machines = resolve_nodes(gpus, nodes, node_rank, master_addr, master_port)
    if plan:
        from gdetkd.launch.plan import show_plan

        show_plan(loaded, (gpus or 1) * (machines.count if machines else 1))
        return
    check_writable(loaded.work_dir)
    need_benchmark(loaded)
    request = dict(
        config=config, options=dict(options), work_dir=loaded.work_dir, seed=seed, amp=amp,
        resume=True if resume == "last" else resume or False,
    )  # fmt: skip
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
            scale_learning_rate(loaded, 1, click.echo)
            run_training(loaded, request["resume"])
    click.echo(f"Checkpoints and logs: {loaded.work_dir}")


@click.command()
@click.argument("teacher")
@click.argument("student")
@click.option(
    "--data", "folder", required=True, type=click.Path(),
    help="COCO 2017 as unpacked, the digits, or what `gdetkd data` has prepared.",
)  # fmt: skip
@click.option("--checkpoint", help="The teacher's weights; by default those of MMDetection's zoo.")
@click.option("--out", type=click.Path(), help="The config's file; default: STUDENT_distilled.py.")
@work_dir_option
@gpus_option
@click.option("--plan", is_flag=True, help="Write the config, print what would be done, and stop.")
def distill(teacher, student, folder, checkpoint, out, work_dir, gpus, plan) -> None:
    """Compose a config in which STUDENT learns from TEACHER, write it and train it.

    Both are configs: files, gdetkd::digits/NAME.py or mmdet::NAME.
    """
    from gdetkd.launch.compose import compose, write_config

    path = Path(out or f"{Path(student.split('::')[-1]).stem}_distilled.py")
    config = compose(teacher, student, Path(folder), checkpoint, gpus or 1)
    write_config(config, path, teacher, student)
    click.echo(f"Config, yours to edit: {path}")
    click.get_current_context().invoke(
        train, config=str(path), work_dir=work_dir, gpus=gpus, plan=plan
    )
