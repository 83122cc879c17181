"""The transport as everybody else sees it: who serves, who connects, what arrives.

Nothing here knows ZeroMQ. ``transport.endpoint.ZmqTransport`` is the real one, ``testing.transport.
LoopbackTransport`` delivers in memory on any loop, the simulation has a network that fails.

Promises that every transport keeps:

1. **One thread.** All calls are made, and all callbacks run, on the loop's thread.
2. **A request is answered exactly once** to its caller: by the reply, or by an error that says whether the
   request may have taken effect. Nothing relies on delivery (DESIGN §3).
3. **A handler sees only sound requests**: greeted peers, decoded messages of the server's union, a version
   that is spoken here, a deadline that has not passed, a size within the limits.
4. **Nothing blocks.** A peer that does not read has a bounded queue; over the bound its replies are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from ..config import Limits
from ..errors import CallboardError
from .messages import HelloReply, Reply, Request

OnReply = Callable[["Reply | CallboardError", list[bytes]], None]


class ServerIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself in its ``HelloReply``."""

    role: str  # "broker", "metadata", "host"
    name: str  # "broker-1"
    cluster_id: str = ""
    broker_id: int = -1
    incarnation: str = ""


class Inbound(msgspec.Struct, frozen=True, gc=False):
    """One request as a handler gets it. ``payload``: the frames behind the header, copied once, by the socket."""

    peer: bytes  # opaque; give it back to ``Server.reply``
    message: Request
    payload: list[bytes]
    received_ms: int  # monotonic clock of the receiver
    size: int  # bytes of all frames


OnRequests = Callable[[list[Inbound]], None]


class PeerInfo(msgspec.Struct, kw_only=True):
    """What a server knows of one connection. Counters only grow."""

    peer: bytes
    client_id: str = ""
    software: str = ""
    address: str = ""  # as the socket tells it; empty when it does not
    connected_ms: int = 0  # monotonic clock at its hello
    requests: int = 0
    replies: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: int = 0  # replies thrown away because the peer did not read
    waiting_bytes: int = 0  # in its queue now


class Stage(StrEnum):
    """How far a connection has come; of a failure: where it failed."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    HANDSHAKE = "handshake"
    HELLO = "hello"
    READY = "ready"
    LOST = "lost"  # it had been ready


class ConnectionState(msgspec.Struct, frozen=True, kw_only=True):
    """A step in a connection's life: ready, or one attempt that failed (the next one follows by itself)."""

    endpoint: str
    stage: Stage
    detail: str = ""  # why it failed
    advice: str = ""  # what to try
    attempt: int = 1  # 1, 2, … since the last success
    error: int = 0  # code, when the other side or this one refused for good: UNSUPPORTED_VERSION

    @property
    def is_ready(self) -> bool:
        return self.stage is Stage.READY

    def __str__(self) -> str:
        text = f"{self.endpoint}: {self.stage.value}"
        text += f": {self.detail}" if self.detail else ""
        return text + (f" ({self.advice})" if self.advice else "")


OnState = Callable[[ConnectionState], None]


class ConnectOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a connection behaves. Milliseconds."""

    attempt_timeout_ms: int = 5_000  # from the first packet to the HelloReply
    backoff_min_ms: int = 50  # doubled after each failure, with jitter …
    backoff_max_ms: int = 2_000
    backoff_jitter: float = 0.2  # … of this share, up or down
    waiting_max: int = 10_000  # requests that wait for the connection to be ready


class Server(Protocol):
    """A bound endpoint. Its handler was given to ``Transport.serve``."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where it can be reached, ports as they really are: ``tcp://127.0.0.1:9192``, ``ipc:///…``."""

    @property
    def counters(self) -> dict[str, int]:
        """What was received, refused, dropped since the start; by name."""

    def reply(self, peer: bytes, message: Reply, payload: Sequence[bytes] = ()) -> None:
        """Send a reply; never blocks, never raises for a peer that is gone or does not read.

        ``message.id`` is the request's. A request with id 0 wants none: nothing is sent.
        ``payload`` must not change afterwards: ``bytes`` only.
        """

    def peers(self) -> list[PeerInfo]:
        """Return the connected peers; copies."""

    def peer(self, peer: bytes) -> PeerInfo | None:
        """Return one of them, no copy, without ``waiting_bytes``: for each request. None: it is gone."""

    def close(self) -> None:
        """Stop serving. The port is free and socket files are gone when it returns. Harmless when repeated."""


class Connection(Protocol):
    """One peer that is asked things. Reconnects by itself until closed."""

    @property
    def endpoint(self) -> str: ...

    @property
    def is_ready(self) -> bool: ...

    @property
    def hello(self) -> HelloReply | None:
        """Who answers there; None while not ready."""

    def request(
        self, message: Request, on_reply: OnReply, payload: Sequence[bytes] = (), timeout_ms: int = 30_000
    ) -> None:
        """Ask. The connection stamps id, version and deadline; a request made before it is ready waits for it.

        ``on_reply`` is called exactly once, never from within this call, with the reply (which may carry an
        error code) and its payload, or with one of:

        - ``ConnectionLostError``: sent, then the connection ended. It may have taken effect.
        - ``CallboardTimeoutError``: sent, no reply within ``timeout_ms``. It may have taken effect.
        - ``ConnectionFailedError``: never sent (no connection within ``timeout_ms``, or closed).
        - ``MessageSizeTooLargeError``: never sent, the peer would not take a frame of this size.
        """

    def send(self, message: Request, payload: Sequence[bytes] = ()) -> bool:
        """Send a request that gets no reply (``acks=0``). False: not sent, now is not a good time."""

    def close(self) -> None:
        """End it. Requests under way fail with ``ConnectionLostError``, in the loop's next turn."""


class Transport(Protocol):
    """Makes servers and connections on one loop."""

    def serve(
        self,
        binds: Sequence[str],
        union: Any,
        on_requests: OnRequests,
        *,
        identity: ServerIdentity,
        limits: Limits | None = None,
        insecure: bool = False,
    ) -> Server:
        """Bind and serve the requests of ``union`` (``messages.ClientRequest``, …).

        ``binds``: ``tcp://127.0.0.1:0`` (any free port), ``ipc:///path``, … ``on_requests`` gets what has
        arrived in one turn of the loop, in order of arrival per peer.

        Raises:
            ConfigurationError: an endpoint cannot be bound (in use, no such address, not allowed, not loopback
                without ``insecure``); one line that names it.
        """

    def connect(
        self, endpoint: str, *, client_id: str, on_state: OnState, options: ConnectOptions | None = None
    ) -> Connection:
        """Begin to connect; returns at once. ``on_state`` hears of success and of every failed attempt.

        Raises:
            ConfigurationError: ``endpoint`` is not one.
        """

    def close(self) -> None:
        """Close every server and connection. Never hangs."""
