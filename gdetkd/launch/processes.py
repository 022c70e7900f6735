"""Training on several processes: one per GPU, or on the CPU with gloo where there is no GPU.

torchrun's agent starts the processes of a node, watches them, and starts all of them again when one
dies; they go on from the last complete checkpoint. On SLURM the agents find each other from what
srun sets; where srun starts every process itself, srun is the launcher.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gdetkd.launch import rendezvous
from gdetkd.launch.nodes import LaunchError, Nodes, loopback_variables
from gdetkd.training.last_checkpoint import run_number

RESTARTS = 3


def run_processes(
    request: Mapping[str, Any],
    per_node: int,
    nodes: Nodes | None = None,
    *,
    restarts: int = RESTARTS,
    wait: float = 600.0,
) -> None:
    """Train with `gdetkd.launch.worker` on processes of this node and possibly of others.

    On one node nothing listens on the network: the processes meet in files of a private folder and
    exchange tensors over the loopback interface. Several nodes need a network that they trust; a
    warning names the address.

    Args:
        request: What `worker.run_worker` takes; plain literals.
        per_node: Processes on every node.
        nodes: The machines, if there are several.
        restarts: How often all processes are started again after one has died.
        wait: Seconds to wait for the other nodes.

    Raises:
        LaunchError: The processes could not start, or one failed; every process's error message is
            in it.
    """
    check_devices(per_node)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // per_node))
    variables = dict(OMP_NUM_THREADS=threads)
    variables.setdefault("MKL_NUM_THREADS", os.environ.get("MKL_NUM_THREADS", threads))
    _silence_agent()
    with tempfile.TemporaryDirectory(prefix="gdetkd-") as folder:
        run = run_number(request["work_dir"], request["resume"])
        config = LaunchConfig(
            min_nodes=nodes.count if nodes else 1, max_nodes=nodes.count if nodes else 1,
            nproc_per_node=per_node, max_restarts=restarts, logs_specs=DefaultLogsSpecs(),
        )  # fmt: skip
        if nodes is None:
            rendezvous.on_this_machine(config, folder)
            variables |= loopback_variables()
            variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # no second store
        else:
            print(rendezvous.between_machines(config, nodes, wait), flush=True)
        request = dict(
            request, folder=folder, agent=os.getpid(), one_machine=nodes is None,
            run=run, restarts=restarts,
        )  # fmt: skip
        command = ["-u", "-m", "gdetkd.launch.worker", repr(request)]
        try:
            with _environment(variables):
                elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as error:
            raise LaunchError(_explain(Path(folder), error, restarts)) from None
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
    """Raise LaunchError if this machine has GPUs, but fewer than asked for."""
    found = torch.cuda.device_count()
    if per_node < 1:
        raise LaunchError(f"--gpus: expected at least 1, got {per_node}")
    if found and per_node > found:
        raise LaunchError(f"--gpus: expected at most {found}, the GPUs found here, got {per_node}")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # fewer than the machine's in a container or a SLURM job
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that the processes inherit, and this one loses again."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _explain(folder: Path, error: ChildFailedError, restarts: int) -> str:
    """The processes' own error messages, or how the first one died."""
    messages = [path.read_text() for path in sorted(folder.glob("*.txt"))]
    if messages:
        return "\n".join(dict.fromkeys(messages))
    rank, failure = error.get_first_failure()
    how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    return (
        f"process {rank} died ({how}), and again after {restarts} restarts; its output is above. "
        "Checkpoints are intact: go on with --resume"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _silence_agent() -> None:
    """Hide the agent's own pages of log; the processes' output stays."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
