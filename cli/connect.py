"""How commands get their clients: the one place that imports them, and only when a command needs one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..client.admin import AdminClient
    from ..client.consumer import Consumer
    from ..client.producer import Producer

CLIENT_ID = "callboard-cli"
BOOTSTRAP_MS = 5_000  # a person waits: tell soon that nobody answers


class Clients:
    """Makes the real clients. Tests hand ``main`` another object with these three methods."""

    def admin(self, bootstrap_servers: str, timeout_ms: int) -> AdminClient:
        from ..client.admin import AdminClient

        return AdminClient(
            bootstrap_servers=bootstrap_servers,
            client_id=CLIENT_ID,
            request_timeout_ms=timeout_ms,
            bootstrap_timeout_ms=min(timeout_ms, BOOTSTRAP_MS),
        )

    def producer(self, bootstrap_servers: str, **settings: Any) -> Producer[Any, Any]:
        from ..client.producer import Producer

        return Producer(
            bootstrap_servers=bootstrap_servers, client_id=CLIENT_ID, bootstrap_timeout_ms=BOOTSTRAP_MS, **settings
        )

    def consumer(self, bootstrap_servers: str, **settings: Any) -> Consumer[Any, Any]:
        from ..client.consumer import Consumer

        return Consumer(
            bootstrap_servers=bootstrap_servers, client_id=CLIENT_ID, bootstrap_timeout_ms=BOOTSTRAP_MS, **settings
        )
