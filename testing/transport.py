"""A transport in memory: the real codec, the real gate, the real connections, and a network that obeys tests.

Only the wire is another one. Everything goes through the loop (``call_soon``, or ``call_later`` with a delay), so
on a ``SimLoop`` a run is a function of its seed; order within one connection is kept, as TCP does.

Several transports may share one ``LoopbackNetwork``: one for each simulated process, each with its own clock.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol

from ..config import Limits
from ..errors import ConfigurationError
from ..transport import codec
from ..transport.addresses import parse_address
from ..transport.gate import Gate
from ..transport.loop import Clock, Loop
from ..transport.messages import Message, Reply
from ..transport.peers import PeerConnection
from ..transport.seam import ConnectOptions, Inbound, OnRequests, OnState, PeerInfo, ServerIdentity, Stage
from ..transport.wire import Wire, WireListener

Predicate = Callable[[Message], bool]
SOFTWARE = "callboard/loopback"
_FIRST_PORT = 50_001


class LoopbackNetwork:
    """Who is bound where, and what goes wrong."""

    def __init__(self) -> None:
        self.delay_ms: float = 0.0  # of every message, each way
        self.on_message: Callable[[str, Message], None] | None = None  # sees (endpoint, message) of all that travels
        self._servers: dict[str, LoopbackServer] = {}
        self._cut: dict[str, bool] = {}  # endpoint -> is_silent
        self._drops: list[tuple[Predicate, list[int]]] = []
        self._ports = count(_FIRST_PORT)
        self._links = count(1)
        self.dropped = 0

    def cut(self, endpoint: str, *, is_silent: bool = False) -> None:
        """Nobody reaches ``endpoint`` any more. Its connections end at once; or, silently, just hear nothing."""
        endpoint = parse_address(endpoint).endpoint
        self._cut[endpoint] = is_silent
        server = self._servers.get(endpoint)
        if server is not None and not is_silent:
            server.end_links(endpoint)

    def heal(self, endpoint: str) -> None:
        """Undo ``cut``. What was lost stays lost."""
        self._cut.pop(parse_address(endpoint).endpoint, None)

    def drop_next(self, predicate: Predicate, count: int = 1) -> None:
        """Lose the next ``count`` messages (requests or replies) for which ``predicate`` holds."""
        self._drops.append((predicate, [count]))

    def server_at(self, endpoint: str) -> LoopbackServer | None:
        """Return who can be reached there now; behind a silent cut as well: a connection stands, and hears nothing."""
        return self._servers.get(endpoint) if self._cut.get(endpoint, True) else None

    def bind(self, text: str, server: LoopbackServer) -> str:
        address = parse_address(text, what="bind")
        if address.scheme == "tcp" and address.port == 0:
            address = address._replace(port=next(self._ports))
        if address.endpoint in self._servers:
            raise ConfigurationError(f"{address.endpoint} is in use by another process; choose another port")
        self._servers[address.endpoint] = server
        return address.endpoint

    def unbind(self, endpoint: str, server: LoopbackServer) -> None:
        if self._servers.get(endpoint) is server:
            del self._servers[endpoint]

    def transport(self, loop: Loop, clock: Clock, *, owner: str = "", seed: int | str = 0) -> LoopbackTransport:
        """Return the transport of one process."""
        return LoopbackTransport(loop, clock, network=self, seed=seed, owner=owner)

    def open_wire(self, loop: Loop, owner: str, endpoint: str, listener: WireListener) -> Wire:
        """Begin a connection of the process ``owner``."""
        return LoopbackWire(loop, self, endpoint, listener)

    def next_link(self) -> bytes:
        return b"\0" + next(self._links).to_bytes(4, "big")

    def carries(self, endpoint: str, message: Message | None) -> bool:
        """Decide about one message on its way from or to ``endpoint``."""
        if endpoint in self._cut:
            self.dropped += 1
            return False
        if message is None:
            return True
        if self.on_message is not None:
            self.on_message(endpoint, message)
        for predicate, left in self._drops:
            if left[0] > 0 and predicate(message):
                left[0] -= 1
                self.dropped += 1
                return False
        return True


class Link(Protocol):
    """A server's end of one connection."""

    endpoint: str
    peer: bytes

    def deliver(self, frames: list[bytes]) -> None:
        """Send a reply to the client."""

    def end(self) -> None:
        """The server has closed it."""


class _Pipe:
    """One direction of one connection: first in, first out, whatever order the loop runs callbacks in."""

    def __init__(self, loop: Loop, network: LoopbackNetwork) -> None:
        self._loop, self._network = loop, network
        self._queue: deque[Callable[[], None]] = deque()
        self.is_open = True

    def put(self, deliver: Callable[[], None]) -> None:
        self._queue.append(deliver)
        if self._network.delay_ms:
            self._loop.call_later(self._network.delay_ms / 1_000, self._deliver)
        else:
            self._loop.call_soon(self._deliver)

    def close(self) -> None:
        self.is_open = False

    def _deliver(self) -> None:
        deliver = self._queue.popleft()
        if self.is_open:
            deliver()


class LoopbackWire:
    """A ``Wire``: both ends of one connection."""

    def __init__(self, loop: Loop, network: LoopbackNetwork, endpoint: str, listener: WireListener) -> None:
        self.endpoint = endpoint
        self.peer = network.next_link()
        self.stage = Stage.CONNECT
        self.is_congested = False
        self._network = network
        self._listener = listener
        self._server: LoopbackServer | None = None
        self._there, self._back = _Pipe(loop, network), _Pipe(loop, network)
        self._back.put(self._connect)

    def send(self, frames: Sequence[bytes]) -> None:
        server = self._server
        if server is None:
            return
        sent = [bytes(frame) for frame in frames]
        self._there.put(lambda: server.on_frames(self, sent))

    def close(self, *, is_graceful: bool) -> None:
        self._back.close()
        if not is_graceful:
            self._there.close()
        if self._server is not None:
            self._server.forget(self.peer)
            self._server = None

    def deliver(self, frames: list[bytes]) -> None:
        """A reply on its way to the client."""
        self._back.put(lambda: self._on_frames(frames))

    def end(self) -> None:
        """The server is gone, or cannot be reached any more."""
        self._there.close()
        self._back.put(lambda: self._listener.on_down(Stage.LOST, "the peer closed it or died", ""))

    def _connect(self) -> None:
        server = self._network.server_at(self.endpoint)
        if server is None:
            self._listener.on_down(Stage.CONNECT, "connection refused or not reachable", "is a broker running there?")
            return
        self._server = server
        server.meet(self)
        self.stage = Stage.HELLO
        self._listener.on_up()

    def _on_frames(self, frames: list[bytes]) -> None:
        if self._network.carries(self.endpoint, codec.decode_reply(frames[0])):
            self._listener.on_frames(frames)


class LoopbackServer:
    """A ``Server`` in memory."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        network: LoopbackNetwork,
        union: Any,
        gate: Gate,
        on_requests: OnRequests,
        owner: str = "",
    ) -> None:
        self.endpoints: tuple[str, ...] = ()
        self.loop = loop  # of its process
        self.owner = owner  # the process's name
        self._clock, self._network = clock, network
        self._decoder = codec.decoder_for(union)
        self._gate = gate
        self._on_requests = on_requests
        self._links: dict[bytes, Link] = {}
        self._arrived: list[Inbound] = []
        self._is_open = True

    @property
    def counters(self) -> dict[str, int]:
        return {**self._gate.counters, "peers": len(self._gate.peers), "connections": len(self._links)}

    def peers(self) -> list[PeerInfo]:
        return list(self._gate.peers.values())

    def peer(self, peer: bytes) -> PeerInfo | None:
        return self._gate.peers.get(peer)

    def bind(self, binds: Sequence[str]) -> None:
        for text in binds:
            self.endpoints += (self._network.bind(text, self),)

    def reply(self, peer: bytes, message: Reply, payload: Sequence[bytes] = ()) -> None:
        if message.id:
            self._send(peer, message, payload)

    def close(self) -> None:
        self._is_open = False
        for endpoint in self.endpoints:
            self._network.unbind(endpoint, self)
        for link in list(self._links.values()):
            link.end()
        self._links.clear()

    # -- from the wires ------------------------------------------------------------------------------

    def meet(self, link: Link) -> None:
        self._links[link.peer] = link

    def forget(self, peer: bytes) -> None:
        self._links.pop(peer, None)
        self._gate.gone(peer)

    def end_links(self, endpoint: str) -> None:
        for link in [link for link in self._links.values() if link.endpoint == endpoint]:
            self.forget(link.peer)
            link.end()

    def on_frames(self, link: Link, frames: list[bytes]) -> None:
        if not self._is_open or not self._network.carries(link.endpoint, self._decoded(frames[0])):
            return
        size = sum(map(len, frames))
        verdict = self._gate.admit(
            link.peer, frames[0], frames[1:], size, self._clock.monotonic_ms(), f"loopback:{link.peer.hex()}"
        )
        if isinstance(verdict, Inbound):
            self._arrived.append(verdict)
            if len(self._arrived) == 1:
                self.loop.call_soon(self._hand_over)
        elif verdict is not None:
            self._send(link.peer, verdict, ())

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        if self._is_open and arrived:
            self._on_requests(arrived)

    def _send(self, peer: bytes, message: Reply, payload: Sequence[bytes]) -> None:
        link = self._links.get(peer)
        if link is None or not self._is_open:
            self._gate.counters["lost_replies"] += 1
            return
        frames = [codec.encode(message), *(bytes(frame) for frame in payload)]
        self._gate.sent(peer, sum(map(len, frames)))
        link.deliver(frames)

    def _decoded(self, header: bytes) -> Message | None:
        try:
            return codec.decode_request(self._decoder, header)
        except codec.HeaderRefused:
            return None


class LoopbackTransport:
    """A ``Transport`` in memory. ``cut``, ``heal`` and ``drop_next`` are its network's."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        *,
        network: LoopbackNetwork | None = None,
        seed: int | str = 0,
        owner: str = "",
    ) -> None:
        self._loop, self._clock = loop, clock
        self._owner = owner  # whose transport it is: the name of a process
        self.network = network or LoopbackNetwork()
        self._rng = random.Random(seed)
        self._servers: list[LoopbackServer] = []
        self._connections: dict[PeerConnection, None] = {}  # in order
        self.is_forked = False
        self.cut = self.network.cut
        self.heal = self.network.heal
        self.drop_next = self.network.drop_next

    def serve(
        self,
        binds: Sequence[str],
        union: Any,
        on_requests: OnRequests,
        *,
        identity: ServerIdentity,
        limits: Limits | None = None,
        insecure: bool = False,
    ) -> LoopbackServer:
        del insecure  # there is no network to be safe from
        gate = Gate(union, identity, limits or Limits(), SOFTWARE)
        server = LoopbackServer(self._loop, self._clock, self.network, union, gate, on_requests, self._owner)
        self._servers.append(server)
        server.bind(binds)
        return server

    def connect(
        self, endpoint: str, *, client_id: str, on_state: OnState, options: ConnectOptions | None = None
    ) -> PeerConnection:
        connection = PeerConnection(
            parse_address(endpoint).endpoint,
            client_id=client_id,
            software=SOFTWARE,
            on_state=on_state,
            options=options or ConnectOptions(),
            open_wire=lambda to, listener: self.network.open_wire(self._loop, self._owner, to, listener),
            loop=self._loop,
            clock=self._clock,
            rng=self._rng,
            on_closed=lambda closed: self._connections.pop(closed, None),
        )
        self._connections[connection] = None
        return connection

    def close(self) -> None:
        for connection in list(self._connections):
            connection.close()
        for server in self._servers:
            server.close()
