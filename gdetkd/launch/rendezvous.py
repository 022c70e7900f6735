"""Where the processes of a training meet, and who else can reach that place.

torchrun's agents keep their state in a store, as a pickle: whoever can write to the store can run
code. On one machine the stores are therefore files of a private folder. Between machines they are
TCP stores, which by themselves listen on every address; here, on one.
"""

from __future__ import annotations

import datetime
import errno
import ipaddress
import os
import socket
import time
import uuid
from typing import Any

from torch.distributed import FileStore, Store, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousTimeout,
)
from torch.distributed.launcher.api import LaunchConfig
from torch.distributed.rendezvous import rendezvous

from gdetkd.launch.nodes import LaunchError, Nodes

BACKEND = "gdetkd"  # the name of our rendezvous among torch's


def on_this_machine(config: LaunchConfig, folder: str) -> None:
    """Let the agent of a single machine keep its state in a file of `folder`."""
    config.run_id, config.rdzv_backend = uuid.uuid4().hex, BACKEND
    config.rdzv_endpoint, config.local_addr = os.path.join(folder, "agent"), "127.0.0.1"
    config.rdzv_configs = dict(store="file")


def between_machines(config: LaunchConfig, nodes: Nodes, wait: float) -> str:
    """Let the agents of several machines meet at the first one's address; give a warning to print.

    Args:
        wait: Seconds to wait for the first node.

    Raises:
        LaunchError: The port is taken, or the first node cannot be reached.
    """
    listener, everywhere = None, ""
    if nodes.rank == 0:
        listener, bound = _listen_at_first_node(nodes)
        local_address = nodes.address
        everywhere = "" if bound else "It listens on all addresses of this machine. "
    else:
        local_address = _wait_for_first_node(nodes, wait)
    config.run_id, config.rdzv_backend = f"gdetkd-{nodes.port}", BACKEND
    config.rdzv_endpoint = f"{nodes.address}:{nodes.port}"
    config.local_addr = local_address
    config.rdzv_configs = dict(
        store="tcp", address=nodes.address, port=nodes.port, wait=wait,
        listener=None if listener is None else listener.detach(),
    )  # fmt: skip
    return (
        f"Warning: the processes of {nodes.count} machines meet at {nodes.address}:{nodes.port}, "
        f"this one from {local_address}, without a password or encryption. Whoever reaches that "
        f"port can run code on these machines: use a private network. {everywhere}"
        "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose the interface for tensors."
    )


def bound_store(
    address: str, port: int = 0, listener: int | None = None, **settings: Any
) -> TCPStore:
    """A TCP store that listens on one address alone, where torch's listen on all.

    Args:
        listener: Descriptor of a socket that listens there already.
        settings: As for `torch.distributed.TCPStore`.
    """
    if listener is None:
        server, _ = _listen(address, port)
        port = server.getsockname()[1]
        listener = server.detach()
    return TCPStore(
        address, port, is_master=True, wait_for_workers=False, master_listen_fd=listener, **settings
    )


def environment_store() -> Store:
    """The store at MASTER_ADDR and MASTER_PORT, of torchrun's agent or else of rank 0."""
    if os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return bound_store(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    return next(rendezvous("env://"))[0]


class RoundRendezvous(DynamicRendezvousHandler):
    """torch's rendezvous, with a different run id in each round.

    The agents' store outlives its workers. Workers that are started again put the run id before
    their keys, so that they do not find the addresses of those that have died. All nodes take part
    in every round, so their numbers agree; a node's count of restarts need not.
    """

    _rounds = 0

    def get_backend(self) -> str:
        """The name under which it is registered."""
        return BACKEND

    def next_rendezvous(self):
        """See the base class."""
        self._rounds += 1
        return super().next_rendezvous()

    def get_run_id(self) -> str:
        """The run id and the number of the round."""
        return f"{super().get_run_id()}.{self._rounds}"

    def _create_tcp_store_server(self, master_addr: str, master_port: int) -> TCPStore:
        return bound_store(master_addr, master_port)


def _create(parameters: RendezvousParameters) -> DynamicRendezvousHandler:
    get, timeout = parameters.get, None
    if get("store") == "file":
        store = FileStore(parameters.endpoint)
    else:
        wait = datetime.timedelta(seconds=max(1.0, get("wait")))
        timeout = RendezvousTimeout(join=wait)
        address, port, listener = get("address"), get("port"), get("listener")
        try:
            if listener is None:
                store = TCPStore(address, port, is_master=False, timeout=wait)
            else:
                store = bound_store(address, port, listener, timeout=wait)
        except (ValueError, RuntimeError) as error:
            raise RendezvousConnectionError(str(error)) from error
    backend = C10dRendezvousBackend(store, parameters.run_id)
    return RoundRendezvous.from_backend(
        parameters.run_id, store, backend, parameters.min_nodes, parameters.max_nodes,
        parameters.local_addr, timeout,
    )  # fmt: skip


rendezvous_handler_registry.register(BACKEND, _create)


def _listen(address: str, port: int) -> tuple[socket.socket, bool]:
    """A listening socket, and whether it is bound to the address alone.

    It listens everywhere where it must: at an address that is forwarded to this machine, or a name
    that other machines know and that is loopback here (as Debian writes it into /etc/hosts).
    """
    places = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    family, *_, place = min(places, key=lambda each: each[0] != socket.AF_INET)
    is_loopback = ipaddress.ip_address(place[0]).is_loopback
    if not is_loopback or address in ("localhost", place[0]):
        try:
            return socket.create_server(place[:2], family=family), True
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    return socket.create_server(("", port)), False


def _listen_at_first_node(nodes: Nodes) -> tuple[socket.socket, bool]:
    try:
        return _listen(nodes.address, nodes.port)
    except socket.gaierror as error:
        raise LaunchError(
            f"--master-addr {nodes.address}: expected this machine's name or address, as the other "
            f"nodes know it, got one that is not known here ({error.strerror})"
        ) from None
    except OSError as error:
        raise LaunchError(
            f"port {nodes.port} of this machine cannot be used ({error.strerror}); give all nodes "
            "another --master-port"
        ) from None


def _wait_for_first_node(nodes: Nodes, wait: float) -> str:
    """This machine's address on the way to the first node, once that one answers.

    torchrun would report an unreachable node after minutes, on a page.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            with socket.create_connection((nodes.address, nodes.port), timeout=5) as connection:
                return connection.getsockname()[0]
        except OSError as error:
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"node {nodes.rank} could not reach the first node at {nodes.address}:"
                    f"{nodes.port} within {wait:.0f} s ({error.strerror or error}); start the same "
                    "command there with --node-rank 0, and check --master-addr, --master-port and "
                    "the firewall"
                ) from None
            time.sleep(min(1.0, wait / 10))
