"""How commands get their clients: the one place that imports them, and only when a command needs one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionFailedError
from .output import say

if TYPE_CHECKING:
    from ..client.admin import AdminClient
    from ..client.consumer import Consumer
    from ..client.producer import Producer

CLIENT_ID = "callboard-cli"
BOOTSTRAP_MS = 5_000  # a person waits: tell soon that nobody answers


class _Briefly(logging.Handler):
    """Prints what clients log. That no broker answers is said in short: the error that ends the command says it all."""

    def emit(self, record: logging.LogRecord) -> None:
        given = record.args if isinstance(record.args, tuple) else ()
        is_unreachable = any(isinstance(one, ConnectionFailedError) for one in given)
        say("callboard: no broker answers so far; trying on" if is_unreachable else record.getMessage())


def _listen_to_clients() -> None:
    logger = logging.getLogger("callboard.client")
    if not any(isinstance(handler, _Briefly) for handler in logger.handlers):
        logger.addHandler(_Briefly(logging.WARNING))


class Clients:
    """Makes the real clients. Tests hand ``main`` another object with these three methods."""

    def admin(self, bootstrap_servers: str, timeout_ms: int) -> AdminClient:
        from ..client.admin import AdminClient

        _listen_to_clients()
        return AdminClient(
            bootstrap_servers=bootstrap_servers,
            client_id=CLIENT_ID,
            request_timeout_ms=timeout_ms,
            bootstrap_timeout_ms=min(timeout_ms, BOOTSTRAP_MS),
        )

    def producer(self, bootstrap_servers: str, **settings: Any) -> Producer[Any, Any]:
        from ..client.producer import Producer

        _listen_to_clients()
        return Producer(
            bootstrap_servers=bootstrap_servers, client_id=CLIENT_ID, bootstrap_timeout_ms=BOOTSTRAP_MS, **settings
        )

    def consumer(self, bootstrap_servers: str, **settings: Any) -> Consumer[Any, Any]:
        from ..client.consumer import Consumer

        _listen_to_clients()
        return Consumer(
            bootstrap_servers=bootstrap_servers, client_id=CLIENT_ID, bootstrap_timeout_ms=BOOTSTRAP_MS, **settings
        )
