"""Several hosts on one machine, joined to one cluster through a proxy whose links a test can cut.

    with joined_hosts({"a": 2, "b": 1}) as hosts:
        hosts["b"].cut()
        hosts["b"].heal()

Each host believes to be on a machine of its own (``CALLBOARD_MACHINE``), so what passes between two hosts takes tcp,
and every tcp address that a host advertises is a link of the proxy. The processes of one host talk over unix sockets,
which no link touches. A host that joins has its own link to the metadata process, too. What it asks of *brokers* of
other hosts passes their links: who wants to cut that off as well cuts theirs.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import CallboardError
from ..transport.addresses import MACHINE_VARIABLE
from .clusters import RunningCluster
from .proxy import Link, Proxy

PORTS = range(20_000, 32_000)  # below those that systems give out by themselves
TRIES = 100


class Host:
    """One ``callboard up``, and the links by which others reach it.

    ``links``: ``"clients-<n>"``, ``"peers-<n>"`` of its n-th broker (from 0), ``"desk"``; of a host
    that joins, and towards the first one, ``"metadata"``.
    """

    def __init__(self, name: str, running: RunningCluster, links: dict[str, Link], metadata_port: int) -> None:
        self.name, self.running, self.links = name, running, links
        self.metadata_port = metadata_port  # of the first host: where others join, were there no proxy

    @property
    def broker_ids(self) -> list[int]:
        return [int(broker["id"]) for broker in self.running.ready()["brokers"]]

    def cut(self) -> None:
        """Let nobody reach this host, nor it the metadata process. What it asks of other brokers still passes."""
        for link in self.links.values():
            link.cut()

    def heal(self) -> None:
        for link in self.links.values():
            link.heal()


@contextmanager
def joined_hosts(brokers: Mapping[str, int], *, options: tuple[str, ...] = ()) -> Iterator[dict[str, Host]]:
    """Run hosts of these names with so many brokers each; the first one has the metadata process.

    Everything is stopped and removed afterwards.
    """
    directory = Path(tempfile.mkdtemp(prefix="hosts-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        proxy = stack.enter_context(Proxy())
        hosts: dict[str, Host] = {}
        metadata_port = 0
        for name, count in brokers.items():
            host = a_host(proxy, directory / name, name, count, metadata_port=metadata_port, options=options)
            stack.callback(host.running.stop)
            host.running.start()
            hosts[name] = host
            metadata_port = host.metadata_port
        yield hosts


def a_host(
    proxy: Proxy,
    directory: Path,
    name: str,
    brokers: int,
    *,
    metadata_port: int = 0,
    options: tuple[str, ...] = (),
) -> Host:
    """Return a host that is not started yet, with its links. ``metadata_port`` 0: it is the first one."""
    directory.mkdir()
    bound, told = free_ports(2 * brokers + 2), free_ports(2 * brokers + 2)
    links = {}
    for number in range(brokers):
        for door, place in (("clients", number), ("peers", brokers + number)):
            links[f"{door}-{number}"] = proxy.link("127.0.0.1", bound[place], listen_port=told[place])
    links["desk"] = proxy.link("127.0.0.1", bound[-2], listen_port=told[-2])
    if metadata_port:
        links["metadata"] = proxy.link("127.0.0.1", metadata_port)
        more = ("--join", links["metadata"].endpoint)
    else:
        more = ("--metadata-listen", f"tcp://127.0.0.1:{bound[-1]}")
    config = directory / "host.toml"
    config.write_text(
        f"peer_port = {bound[brokers]}\n"
        f"desk_port = {bound[-2]}\n"
        f'advertise = "127.0.0.1:{told[0]}"\n'
        f'advertise_peers = "127.0.0.1:{told[brokers]}"\n'
        f'advertise_desk = "127.0.0.1:{told[-2]}"\n'
    )
    running = RunningCluster(
        directory,
        brokers=brokers,
        options=("--host-name", name, "--port", str(bound[0]), "--config", str(config), *more, *options),
        environment={MACHINE_VARIABLE: name},
    )
    return Host(name, running, links, metadata_port or bound[-1])


def free_ports(count: int) -> list[int]:
    """Return so many ports in a row that nobody listens on now.

    Raises:
        CallboardError: there are none.
    """
    chance = random.Random(os.urandom(8))
    for _ in range(TRIES):
        first = chance.randrange(PORTS.start, PORTS.stop - count)
        ports = list(range(first, first + count))
        if all(map(_is_free, ports)):
            return ports
    raise CallboardError(f"no {count} free ports in a row between {PORTS.start} and {PORTS.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
