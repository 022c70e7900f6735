"""A training on one machine listens on the loopback interface alone; on several, on one address."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from helpers import faster_rcnn
from processes import free_port, gdetkd, worker_of_rank, write_config

from gdetkd.launch.nodes import LaunchError, Nodes, loopback_variables
from gdetkd.launch.rendezvous import between_machines, bound_store

pytestmark = pytest.mark.timeout(900)
LISTEN = "0A"  # of the kernel's states of a TCP socket


def listening(table):
    """Address by inode of the sockets that listen, from /proc/net/tcp or tcp6."""
    rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
    return {row[9]: row[1].rpartition(":")[0] for row in rows if row[3] == LISTEN}


def is_loopback(address):
    """Whether an address in the kernel's hexadecimal form is 127.0.0.0/8 or ::1."""
    if len(address) == 8:  # the bytes are in reverse
        return address.endswith("7F")
    mapped = address.startswith("0000000000000000FFFF0000")
    return address == "0" * 24 + "01000000" or (mapped and address.endswith("7F"))


def process_tree(root):
    """The process and all below it."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            parents[int(process.name)] = int(fields[1])
    tree = {root}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return tree


def listening_addresses(pids):
    """The addresses on which any of the processes listens."""
    open_sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    open_sockets.add(os.readlink(descriptor))
    known = listening("/proc/net/tcp") | listening("/proc/net/tcp6")
    return {address for inode, address in known.items() if f"socket:[{inode}]" in open_sockets}


def test_listening_sockets_of_a_process_are_found():
    """The measuring instrument: it sees what listens on all addresses, and what on one."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert not all(map(is_loopback, listening_addresses([os.getpid()])))
    del store
    bound = bound_store("127.0.0.1")
    client = dist.TCPStore("127.0.0.1", bound.port, is_master=False)
    client.set("key", "value")
    assert bound.get("key") == b"value"
    found = listening_addresses([os.getpid()])
    assert found and all(map(is_loopback, found))


def test_a_launch_on_one_machine_listens_on_loopback_alone(digits, tmp_path):
    """Also where the environment names another interface, as it may for several machines."""
    config = write_config(tmp_path / "config.py", faster_rcnn(), digits, steps=6, interval=2)
    run = gdetkd(tmp_path, "train", config, "--gpus", 2, "--work-dir", "work",
                 prepare=lambda: os.environ.update(GLOO_SOCKET_IFNAME="eth0"))  # fmt: skip
    found, workers = set(), 0
    while not (run.ended() or list(tmp_path.glob("work/iter_*.pth"))):
        tree = process_tree(run.pid)
        workers = max(workers, len(tree) - 1)
        found |= listening_addresses(tree)
        time.sleep(0.05)
    code, output = run.wait()
    assert code == 0, output
    assert workers >= 2
    assert found, "gloo listens somewhere"
    assert all(map(is_loopback, found)), found
    assert "Warning" not in output


def test_several_machines_are_warned_and_bound_to_the_address(tmp_path):
    from torch.distributed.launcher.api import LaunchConfig

    config = LaunchConfig(min_nodes=2, max_nodes=2, nproc_per_node=1)
    port = free_port()
    warning = between_machines(config, Nodes(2, 0, "127.0.0.1", port), wait=5)
    assert f"127.0.0.1:{port}" in warning and "private network" in warning
    descriptor = config.rdzv_configs["listener"]
    try:
        assert all(map(is_loopback, listening_addresses([os.getpid()])))
        other = LaunchConfig(min_nodes=2, max_nodes=2, nproc_per_node=1)
        between_machines(other, Nodes(2, 1, "127.0.0.1", port), wait=5)
        assert other.local_addr == "127.0.0.1" and other.rdzv_configs["listener"] is None
    finally:
        os.close(descriptor)
    unbound = Nodes(2, 0, "203.0.113.1", free_port())  # of no machine: as if forwarded to this one
    assert "listens on all addresses of this machine" in between_machines(config, unbound, wait=1)
    os.close(config.rdzv_configs["listener"])
    with pytest.raises(LaunchError, match="expected this machine's name or address"):
        between_machines(config, Nodes(2, 0, "no-such-host.invalid", port), wait=1)


def test_loopback_is_named_for_both_backends():
    variables = loopback_variables()
    assert variables["GLOO_SOCKET_IFNAME"] == variables["NCCL_SOCKET_IFNAME"] == "lo"


@pytest.mark.slow
def test_two_nodes_train_together_and_meet_again_after_a_kill(digits, tmp_path):
    """Two agents of this machine, as of two. Only one restarts its worker by its own count."""
    config = write_config(tmp_path / "config.py", faster_rcnn(), digits, steps=24, interval=4)
    nodes = ["--gpus", 1, "--nodes", 2, "--master-addr", "127.0.0.1", "--master-port", free_port()]
    runs = [
        gdetkd(tmp_path, "train", config, *nodes, "--node-rank", rank, "--work-dir", "two nodes")
        for rank in range(2)
    ]
    found = set()
    while not (runs[0].ended() or (tmp_path / "two nodes" / "iter_4.pth").exists()):
        # The stores are the agents'. Gloo's own sockets are where GLOO_SOCKET_IFNAME says.
        found |= listening_addresses([run.pid for run in runs])
        time.sleep(0.05)
    assert not runs[0].ended(), runs[0].output.read_text()
    assert found and all(map(is_loopback, found)), found
    os.kill(worker_of_rank(1, "two nodes"), signal.SIGKILL)
    outputs = []
    for run in runs:
        code, output = run.wait()
        outputs.append(output)
        assert code == 0 and "Warning: the processes of 2 machines meet at" in output, output
    assert "Started again; goes on from" in "".join(outputs)
    assert (tmp_path / "two nodes" / "iter_24.pth").exists()
