"""What a broker asks of the active controller: its own, by a message; another broker's, over a connection.

Rules of this file:

1. Nothing is relied on: a question may be lost, and its answer. The asker asks again, after a time of its own.
2. A question that waits for the connection waits ``CONNECTING_MS`` at most. What a leader wanted when a link was cut
   may be wrong when it has healed: who lagged then has caught up, and would leave the in-sync set all the same.
3. Connecting is tried anew often. An attempt whose first packets were lost hears nothing for as long as it lasts,
   although the link has healed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import CallboardError
from ..model import BrokerId
from ..transport import messages as m
from ..transport.addresses import choose_endpoint
from ..transport.seam import Connection, ConnectOptions
from .context import Context
from .controller.controller import AdminCommand
from .controller.image import ClusterImage
from .controller.internal import is_for_cluster

CONNECT = ConnectOptions(attempt_timeout_ms=1_000, backoff_min_ms=20, backoff_max_ms=200)
CONNECTING_MS = 500  # for connecting and the answer, where there is no connection yet


class ControllerLine:
    """A broker's way to whoever is active."""

    def __init__(self, context: Context, broker_id: BrokerId, broker_address: str) -> None:
        self._context = context
        self._broker_id = broker_id
        self._broker_address = broker_address
        self._connections: dict[int, Connection] = {}  # by broker; one for each that was active in this life

    def ask(
        self,
        image: ClusterImage,
        request: m.Request,
        on_reply: Callable[[m.Reply | CallboardError], Any],
        timeout_ms: int,
    ) -> None:
        """Ask the controller of this picture; without one, or on a line that fails, there may be no answer."""
        controller_id = image.controller_id
        if controller_id == self._broker_id:
            controller = self._context.directory.find(f"{self._broker_address}/controller")
            if controller is not None:
                controller.post(AdminCommand(request, on_reply, is_internal=is_for_cluster(request)))
        elif controller_id >= 0 and (connection := self._connection(image, controller_id)) is not None:
            if not connection.is_ready:
                timeout_ms = min(timeout_ms, CONNECTING_MS)
            connection.request(request, lambda reply, _payload: on_reply(reply), timeout_ms=timeout_ms)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _connection(self, image: ClusterImage, broker_id: int) -> Connection | None:
        session = image.sessions.get(f"broker-{broker_id}")
        if session is None or not session.peer_endpoints:
            return None
        endpoint = choose_endpoint(session.peer_endpoints, session.machine)
        connection = self._connections.get(broker_id)
        if connection is None or connection.endpoint != endpoint:
            if connection is not None:
                connection.close()
            connection = self._connections[broker_id] = self._context.transport.connect(
                endpoint, client_id=self._broker_address, on_state=lambda _: None, options=CONNECT
            )
        return connection
