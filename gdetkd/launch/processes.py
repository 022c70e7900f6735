"""Training on several processes: a GPU each, or on the CPU with gloo where there is none.

torchrun's agent starts the processes of a node, watches them, and starts all of them again when one
dies; they go on from the last whole checkpoint. On SLURM the agents find each other by what srun
says; where srun starts every process itself, it is the launcher.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gdetkd.training.last_checkpoint import run_number

RESTARTS = 3
PORT = 29500


class LaunchError(ValueError):
    """The processes could not start or did not end well; says in a sentence why."""


@dataclass(frozen=True)
class Nodes:
    """The machines of a run, this one's number, and where the first can be reached."""

    count: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = PORT


def machines(
    gpus: int | None, count: int, rank: int, address: str | None, port: int | None
) -> Nodes | None:
    """The machines that a command asks for, or that srun says; None for this one alone.

    Raises:
        LaunchError: What is asked for does not fit together.
    """
    if count > 1:
        if not (gpus and address and 0 <= rank < count):
            raise LaunchError(
                "--nodes: expected --gpus, --master-addr and a --node-rank from 0 to "
                f"{count - 1}, got {gpus}, {address} and {rank}"
            )
        return Nodes(count, rank, address, port or PORT)
    if gpus and port:
        return Nodes(port=port)
    return slurm_nodes() if gpus else None


def slurm_nodes(environ: Mapping[str, str] = os.environ) -> Nodes | None:
    """The nodes of an srun step with one task a node; None outside of one.

    Raises:
        LaunchError: srun started several tasks a node; then it is the launcher (`join_slurm`).
    """
    if "SLURM_STEP_NODELIST" not in environ or int(environ["SLURM_STEP_NUM_NODES"]) < 2:
        return None
    nodes, tasks = (int(environ[f"SLURM_STEP_NUM_{what}"]) for what in ("NODES", "TASKS"))
    if tasks != nodes:
        raise LaunchError(
            f"--gpus under srun: expected one task a node, got {tasks} tasks on {nodes} nodes; use "
            "srun --ntasks-per-node=1, or leave out --gpus and let srun start a task a GPU"
        )
    address = first_host(environ["SLURM_STEP_NODELIST"])
    return Nodes(nodes, int(environ["SLURM_NODEID"]), address, _slurm_port(environ))


def join_slurm() -> bool:
    """Where srun has started several tasks, a process each, tell torch.distributed who is who."""
    said = os.environ
    if int(said.get("SLURM_STEP_NUM_TASKS", 1)) < 2:
        return False
    said.update(
        RANK=said["SLURM_PROCID"],
        LOCAL_RANK=said["SLURM_LOCALID"],
        WORLD_SIZE=said["SLURM_STEP_NUM_TASKS"],
        MASTER_ADDR=first_host(said["SLURM_STEP_NODELIST"]),
        MASTER_PORT=str(_slurm_port(said)),
    )
    return True


def first_host(nodes: str) -> str:
    """The first name in SLURM's list of nodes: 'gpu[03-05,7],login' gives 'gpu03'."""
    prefix, number, rest = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes).groups("")
    return prefix + number + rest


def _slurm_port(environ: Mapping[str, str]) -> int:
    # Jobs of several users may share a node.
    return int(environ.get("MASTER_PORT", 20000 + int(environ.get("SLURM_JOB_ID", 0)) % 10000))


def run_processes(
    request: Mapping[str, Any],
    per_node: int,
    nodes: Nodes | None = None,
    *,
    restarts: int = RESTARTS,
    wait: float = 600.0,
) -> None:
    """Train as `gdetkd.launch.worker` is asked to, on processes of this node and maybe others.

    Args:
        request: What `worker.work` takes; plain literals.
        per_node: Processes on every node.
        nodes: The machines, where there are several or a port is given.
        restarts: How often all are started again after one has died.
        wait: Seconds to wait for the other nodes.

    Raises:
        LaunchError: They could not start, or one failed; every process's sentence is in it.
    """
    check_devices(per_node)
    if nodes is not None:
        _meet(nodes, wait)
    cores = os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // per_node))
    os.environ["OMP_NUM_THREADS"] = threads
    os.environ.setdefault("MKL_NUM_THREADS", threads)
    _quiet()
    with tempfile.TemporaryDirectory(prefix="gdetkd-") as folder:
        run = run_number(request["work_dir"], request["resume"])
        asked = dict(request, failures=folder, run=run, restarts=restarts)
        command = ["-u", "-m", "gdetkd.launch.worker", repr(asked)]
        try:
            elastic_launch(_agent(per_node, nodes, restarts, wait), sys.executable)(*command)
        except ChildFailedError as error:
            raise LaunchError(_why(Path(folder), error, restarts)) from None
        except SignalException as error:
            raise LaunchError(
                f"stopped by {error.sigval.name}; go on with --resume, from the last checkpoint"
            ) from None
        except (RendezvousError, torch.distributed.DistError) as error:
            at = f"{nodes.address}:{nodes.port}" if nodes else "this machine"
            raise LaunchError(
                f"the processes did not meet at {at} ({_first_line(error)}); start the same "
                f"command on every node, within {wait:.0f} s, with the first node's --master-addr"
            ) from None


def check_devices(per_node: int) -> None:
    """Raise LaunchError if there are GPUs, but not so many."""
    found = torch.cuda.device_count()
    if per_node < 1:
        raise LaunchError(f"--gpus: expected at least 1, got {per_node}")
    if found and per_node > found:
        raise LaunchError(f"--gpus: expected at most {found}, which are here, got {per_node}")


def _agent(per_node: int, nodes: Nodes | None, restarts: int, wait: float) -> LaunchConfig:
    if nodes is None:  # whatever port is free
        return LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=per_node, max_restarts=restarts,
            run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1", logs_specs=DefaultLogsSpecs(),
        )  # fmt: skip
    return LaunchConfig(
        min_nodes=nodes.count, max_nodes=nodes.count, nproc_per_node=per_node,
        max_restarts=restarts, run_id=f"gdetkd-{nodes.port}", rdzv_backend="c10d",
        rdzv_endpoint=f"{nodes.address}:{nodes.port}", logs_specs=DefaultLogsSpecs(),
        rdzv_configs=dict(is_host=nodes.rank == 0, join_timeout=int(wait), read_timeout=int(wait)),
    )  # fmt: skip


def _meet(nodes: Nodes, wait: float) -> None:
    """Say at once, in a sentence, what torchrun says after minutes in a page."""
    at = f"{nodes.address}:{nodes.port}"
    if nodes.rank == 0:
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", nodes.port))
            except OSError as error:
                raise LaunchError(
                    f"port {nodes.port} of this machine cannot be used ({error.strerror}); give "
                    "all nodes another --master-port"
                ) from None
        return
    until = time.monotonic() + wait
    while True:
        try:
            socket.create_connection((nodes.address, nodes.port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise LaunchError(
                    f"node {nodes.rank} could not reach the first node at {at} within {wait:.0f} s "
                    f"({error.strerror or error}); start the same command there with --node-rank "
                    "0, and check --master-addr, --master-port and the firewall"
                ) from None
            time.sleep(min(1.0, wait / 10))


def _why(folder: Path, error: ChildFailedError, restarts: int) -> str:
    """What the processes themselves said, or how the first one died."""
    said = [path.read_text() for path in sorted(folder.glob("*.txt"))]
    if said:
        return "\n".join(dict.fromkeys(said))
    rank, failure = error.get_first_failure()
    how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    return (
        f"process {rank} died ({how}), and again after {restarts} restarts; what it said is above. "
        "Checkpoints are intact: go on with --resume"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _quiet() -> None:
    """The agent's own pages of log say less than our sentences; the processes' output stays."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def say_scaled_rate(config: Any, processes: int, report: Callable[[str], None]) -> None:
    """Let MMEngine scale the learning rate with the images a step, where the config has a base."""
    scaling = config.get("auto_scale_lr") or {}
    base = scaling.get("base_batch_size")
    if not base:
        return
    images = processes * config.train_dataloader.batch_size
    config.auto_scale_lr.enable = True
    rate = config.optim_wrapper.optimizer.lr
    if images != base:
        report(
            f"Learning rate {rate:g} is for {base} images a step; with {images} "
            f"({processes} x {config.train_dataloader.batch_size}) it is {rate * images / base:g}."
        )
