"""The endpoints of a broker: bound by its two routers, told to the cluster when both serve.

``router`` is the door for clients (administration too), ``peers`` the one for other brokers. A port that was
chosen freely is kept for the life of the process: a router that is restarted comes back where it was known.
What is told may be another address than what is bound (``advertising``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..config import ClusterConfig, ProcessOptions
from ..model import BrokerId
from ..transport import messages as m
from ..transport.addresses import machine_identity, parse_address
from ..transport.seam import Inbound, Server, ServerIdentity
from .advertising import advertised, for_clients, for_peers
from .boots import BootNote
from .metadata.client import Reopen
from .runtime import Context

UNIONS: dict[str, Any] = {"router": m.ClientRequest, "peers": m.PeerRequest}


class Doors:
    """Opens doors, remembers where they are, announces them."""

    def __init__(self, options: ProcessOptions, context: Context) -> None:
        self._options = options
        self._context = context
        self._config: ClusterConfig = options.cluster
        self._binds: dict[str, tuple[str, ...]] = {
            "router": self._wanted("router", options.port),
            "peers": self._wanted("peers", options.peer_port),
        }
        self._open: dict[str, tuple[str, ...]] = {}
        self._boot_note = BootNote(context, f"{options.cluster.data_dir}/{options.name}.boot")

    def opener(self, door: str) -> Callable[[Callable[[list[Inbound]], None]], Server]:
        """Return the function with which a router binds this door."""

        def serve(on_requests: Callable[[list[Inbound]], None]) -> Server:
            options = self._options
            server = self._context.transport.serve(
                self._binds[door],
                UNIONS[door],
                on_requests,
                identity=ServerIdentity(
                    role="broker",
                    name=options.name,
                    cluster_id=options.cluster_id,
                    broker_id=options.broker_id,
                    incarnation=options.incarnation,
                ),
                limits=self._config.limits,
                insecure=self._config.insecure,
            )
            self._binds[door] = self._open[door] = tuple(server.endpoints)
            if self._open.keys() == UNIONS.keys():
                self._announce()
            return server

        return serve

    def _wanted(self, door: str, port: int) -> tuple[str, ...]:
        ipc = f"ipc://{self._options.run_dir}/{self._options.name}-{door}.sock"
        return parse_address(self._config.host)._replace(port=port).endpoint, ipc

    def _announce(self) -> None:
        """Have the broker's session opened: from now on it can be found, and elected."""
        config, number = self._config, self._options.number
        document = {
            "kind": "broker",
            "broker_id": int(BrokerId(self._options.broker_id)),
            "endpoints": list(advertised(self._open["router"], for_clients(config), number)),
            "peer_endpoints": list(advertised(self._open["peers"], for_peers(config), number)),
            "machine": machine_identity(),
            "host": self._options.host_name,
            "is_after_reboot": self._boot_note.is_after_reboot(),
        }
        metadata = self._context.directory.find(f"{self._options.name}/metadata")
        if metadata is not None:
            metadata.post(Reopen(self._options.incarnation, document))
