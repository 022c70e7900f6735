"""Which machines take part in a training: from the command line, or from SLURM."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

PORT = 29500


class LaunchError(ValueError):
    """The processes could not start or did not end well; the message says why in a sentence."""


@dataclass(frozen=True)
class Nodes:
    """How many machines, the rank of this one, and the address and port of the first."""

    count: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = PORT


def resolve_nodes(
    gpus: int | None, count: int, rank: int, address: str | None, port: int | None
) -> Nodes | None:
    """The machines that the command line names, or else srun; None for this machine alone.

    Raises:
        LaunchError: The options do not fit together.
    """
    if count > 1:
        if not (gpus and address and 0 <= rank < count):
            raise LaunchError(
                "--nodes: expected --gpus, --master-addr and a --node-rank from 0 to "
                f"{count - 1}, got {gpus}, {address} and {rank}"
            )
        return Nodes(count, rank, address, port or PORT)
    return slurm_nodes() if gpus else None


def slurm_nodes(environ: Mapping[str, str] = os.environ) -> Nodes | None:
    """The nodes of an srun step with one task per node; None outside of such a step.

    Raises:
        LaunchError: srun started several tasks per node; then it is the launcher (`join_slurm`).
    """
    if "SLURM_STEP_NODELIST" not in environ or int(environ["SLURM_STEP_NUM_NODES"]) < 2:
        return None
    nodes, tasks = (int(environ[f"SLURM_STEP_NUM_{what}"]) for what in ("NODES", "TASKS"))
    if tasks != nodes:
        raise LaunchError(
            f"--gpus under srun: expected one task per node, got {tasks} tasks on {nodes} nodes; "
            "use srun --ntasks-per-node=1, or leave out --gpus and let srun start a task per GPU"
        )
    address = first_host(environ["SLURM_STEP_NODELIST"])
    return Nodes(nodes, int(environ["SLURM_NODEID"]), address, _slurm_port(environ))


def join_slurm() -> bool:
    """If srun started several tasks, set the variables that torch.distributed reads; else False."""
    environ = os.environ
    if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) < 2:
        return False
    environ.update(
        RANK=environ["SLURM_PROCID"],
        LOCAL_RANK=environ["SLURM_LOCALID"],
        WORLD_SIZE=environ["SLURM_STEP_NUM_TASKS"],
        MASTER_ADDR=first_host(environ["SLURM_STEP_NODELIST"]),
        MASTER_PORT=str(_slurm_port(environ)),
    )
    if environ["SLURM_STEP_NUM_NODES"] == "1":
        environ.update(loopback_variables(), MASTER_ADDR="127.0.0.1")
    return True


def loopback_variables() -> dict[str, str]:
    """Environment variables by which processes exchange tensors over the loopback interface."""
    name = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    return dict(GLOO_SOCKET_IFNAME=name, NCCL_SOCKET_IFNAME=name) if name else {}


def first_host(nodes: str) -> str:
    """The first name in SLURM's list of nodes: 'gpu[03-05,7],login' gives 'gpu03'."""
    prefix, number, rest = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes).groups("")
    return prefix + number + rest


def _slurm_port(environ: Mapping[str, str]) -> int:
    # Derived from the job's number: jobs of several users may share a node.
    return int(environ.get("MASTER_PORT", 20000 + int(environ.get("SLURM_JOB_ID", 0)) % 10000))
