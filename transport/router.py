"""The serving side of the ZeroMQ transport: a ROUTER a server, and who may connect to any of a process's servers.

What arrives goes through ``Gate`` (what is sound), what leaves through ``Outbox`` (what a peer does not read). A peer
that is gone is known by its descriptor, which the monitor names when the connection ends, or by a reply that finds no
way to it. Either may be known before its last requests are read: libzmq keeps what has come until it is read, but takes
no reply any more. So a peer is forgotten only after the socket has been read empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq

from ..config import Limits
from . import codec, monitor, sockets
from .admission import Admission
from .binding import Bound, bind_all
from .doorman import Doorman, received_by, wasted_at_once
from .doors import Doors
from .endless import Endless
from .gate import Gate
from .loop import Clock, Loop, Timer
from .messages import Reply
from .monitor import Monitor
from .multipart import sender_of
from .outbox import Outbox, Sent
from .pump import Pump
from .seam import Inbound, OnRequests, PeerInfo, ServerIdentity
from .software import SOFTWARE
from .turnstile import Turnstile

REQUESTS_A_ROUND = 256
BYTES_A_ROUND = 16 << 20
RETRY_MS = 20  # while replies wait for a slow peer: belt to the braces of its wakeups
LINGER_MS = 1_000  # of a close: mostly nothing is under way, and whoever reads has it at once
CLOSE_WAIT_MS = 500  # for libzmq to release a listening port; it takes about 1

_DONTWAIT = zmq.DONTWAIT.value


class RouterServer:
    """A ``Server``. Made by ``Routers.serve``."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        socket: zmq.Socket[bytes],
        gate: Gate,
        limits: Limits,
        doorman: Doorman,
        on_requests: OnRequests,
        on_closed: Callable[[RouterServer], None],
    ) -> None:
        self._loop, self._clock = loop, clock
        self._socket = socket
        self._recv = socket.recv
        self._try_send = sender_of(socket)
        self._gate = gate
        self._limits = limits
        self._doorman = doorman
        self._endless = Endless(limits.request_bytes)
        self._on_requests = on_requests
        self._on_closed = on_closed
        self._outbox = Outbox(
            self._send_to,
            limits.reply_bytes_waiting_per_peer,
            on_sent=gate.sent,
            on_dropped=gate.dropped,
            on_gone=self._on_peer_gone,
        )
        self._peer_by_descriptor: dict[int, bytes] = {}
        self._descriptors: set[int] = set()  # of open connections, greeted or not
        self._accepted = 0
        self._leaving: dict[bytes, None] = {}  # peers that are gone and may have requests here; in that order
        self._received = 0  # messages, since there was nothing more to read
        self._come_alone = True  # so it was the last time
        self._retry_timer: Timer | None = None
        self._bound: tuple[Bound, ...] = ()
        self._is_open = True
        per_s, burst = limits.connections_wasted_per_second, wasted_at_once()
        self._doors = Doors(loop, clock, Turnstile(per_s, burst, clock.monotonic_ms()), self._on_doors_shut)
        self._monitor = Monitor(loop, socket, self._on_event, monitor.OF_A_SERVER)
        self._pump = Pump(loop, socket, self._receive, self._on_idle)

    def bind(self, binds: Sequence[str], *, is_loopback_only: bool) -> None:
        self._bound = bind_all(self._socket, binds, is_loopback_only=is_loopback_only)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(bound.endpoint for bound in self._bound)

    @property
    def counters(self) -> dict[str, int]:
        now = {"peers": len(self._gate.peers), "connections": len(self._descriptors)}
        return {**self._gate.counters, "connections_seen": self._accepted, **now}

    @property
    def connections(self) -> int:
        """Open connections, those that have not said hello included."""
        return len(self._descriptors)

    def take_news(self) -> None:
        """Learn of every connection that has come or ended by now."""
        self._monitor.drain()

    def end_endless(self) -> None:
        """End the connections on which a message comes that does not end, as far as they are known by now."""
        for descriptor in tuple(self._descriptors):
            received = received_by(descriptor)
            info = self._gate.peers.get(self._peer_by_descriptor.get(descriptor, b""))
            if received >= 0 and self._endless.must_end(descriptor, received, info.requests if info else 0):
                reason = f"a message of more than {self._limits.request_bytes:,} bytes does not end"
                is_ended = self._doorman.end(descriptor, reason)
                self._gate.counters["shown_out"] += is_ended
                if not is_ended:
                    self._endless.ended(descriptor)  # somebody else's by now: look anew

    def peers(self) -> list[PeerInfo]:
        return [
            msgspec.structs.replace(info, waiting_bytes=self._outbox.waiting_bytes(peer))
            for peer, info in self._gate.peers.items()
        ]

    def peer(self, peer: bytes) -> PeerInfo | None:
        return self._gate.peers.get(peer)

    def reply(self, peer: bytes, message: Reply, payload: Sequence[bytes] = ()) -> None:
        if not message.id or not self._is_open:
            return
        self._send(peer, message, payload)

    def close(self) -> None:
        """Stop. What was answered still leaves, if the peer reads: the answer to a kill of who serves here, too."""
        if not self._is_open:
            return
        self._is_open = False
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        self._pump.close()
        self._monitor.stop_watching()
        self._doors.close()
        # Not unbound before: libzmq ends an endpoint's connections with it, and throws away what they have not sent.
        self._socket.close(linger=LINGER_MS)
        self._monitor.wait_for(monitor.CLOSED, len(self._bound), CLOSE_WAIT_MS)
        self._monitor.close_in(LINGER_MS + CLOSE_WAIT_MS)
        for descriptor in self._descriptors:
            self._doorman.ended(descriptor)
        for bound in self._bound:
            bound.remove_file()
        self._on_closed(self)

    # -- in ------------------------------------------------------------------------------------------

    def _receive(self) -> bool:
        """Hand over what is there, a bounded number; return whether it is certain that there is nothing more."""
        recv, admit = self._recv, self._gate.admit
        now_ms = self._clock.monotonic_ms()
        inbound: list[Inbound] = []
        total = 0
        try:
            for _ in range(REQUESTS_A_ROUND):
                frame = recv(_DONTWAIT, False)
                peer = frame.bytes
                if not frame.more:
                    continue
                frame = recv(_DONTWAIT, False)
                is_known = peer in self._gate.peers
                address = "" if is_known else self._meet(peer, frame)
                header = frame.bytes
                size = len(header)
                payload: list[bytes] = []
                excess = 0
                while frame.more:
                    frame = recv(_DONTWAIT, False)
                    if len(payload) < self._limits.request_frames and size <= self._limits.request_bytes:
                        payload.append(frame.bytes)
                        size += len(payload[-1])
                    else:  # read on, keep nothing
                        excess += 1
                        size += len(frame)
                total += size
                if excess and len(payload) >= self._limits.request_frames:
                    verdict: Inbound | Reply | None = self._gate.too_many_frames(len(payload) + excess + 1, header)
                else:
                    verdict = admit(peer, header, payload, size, now_ms, address)
                    if not is_known and peer in self._gate.peers:
                        descriptor = _descriptor_of(frame)
                        self._doorman.greeted(descriptor)
                        self._doors.greeted(descriptor)
                if type(verdict) is Inbound:
                    inbound.append(verdict)
                elif verdict is not None:
                    self._send(peer, verdict, (), may_wait=peer in self._gate.peers)  # type: ignore[arg-type]
                if total > BYTES_A_ROUND:
                    break
                self._received += 1
                if self._received == 1 and self._come_alone:
                    break  # the look at EVENTS that follows costs less than half of an EAGAIN
        except zmq.Again:
            if not total:
                return True
        if inbound:
            self._on_requests(inbound)
        return False

    def _meet(self, peer: bytes, frame: zmq.Frame) -> str:
        """Learn which connection an unknown peer has, while the monitor's news are complete."""
        is_all = self._monitor.drain()  # a descriptor is used again: the end of the one before must be known first
        descriptor = _descriptor_of(frame)
        if is_all and descriptor >= 0 and descriptor not in self._descriptors:
            self._leave(peer)  # it has ended, and will not end again
        else:
            self._peer_by_descriptor[descriptor] = peer
        try:
            return str(frame.get("Peer-Address"))
        except zmq.ZMQError:
            return ""

    # -- out -----------------------------------------------------------------------------------------

    def _send(self, peer: bytes, message: Reply, payload: Sequence[bytes], *, may_wait: bool = True) -> None:
        header = codec.encode(message)
        size = len(header) + sum(map(len, payload)) if payload else len(header)
        self._outbox.send(peer, (peer, header, *payload), size, may_wait=may_wait)
        self._pump.touched()
        if not self._outbox.is_empty:
            self._retry_later()

    def _send_to(self, frames: Sequence[bytes]) -> Sent:
        try:
            return Sent.YES if self._try_send(frames) else Sent.FULL
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.ENOTSOCK, zmq.ETERM):
                return Sent.GONE
            raise

    def _on_idle(self) -> bool:
        """Nothing more to read: so those who have left have no request left here; and slow peers may have room."""
        self._come_alone, self._received = self._received <= 1, 0
        if self._leaving:
            leaving, self._leaving = self._leaving, {}
            for peer in leaving:
                self._gate.gone(peer)
                self._outbox.gone(peer)
        if self._outbox.is_empty:
            return False
        has_sent = self._outbox.retry()
        if not self._outbox.is_empty:
            self._retry_later()
        return has_sent or bool(self._leaving) or self._pump.is_readable

    def _retry_later(self) -> None:
        if self._retry_timer is None:
            self._retry_timer = self._loop.call_later(RETRY_MS / 1_000, self._on_retry_timer)

    def _on_retry_timer(self) -> None:
        self._retry_timer = None
        self._pump.touched()

    # -- peers come and go ---------------------------------------------------------------------------

    def _on_event(self, event: int, value: int) -> None:
        if event == monitor.ACCEPTED:
            self._on_connection_ended(value)  # should its end have escaped us
            self._descriptors.add(value)
            self._accepted += 1
            self._doors.arrived(value)
            self._gate.counters["shown_out"] += self._doorman.accepted(value, self._limits)
        elif event == monitor.DISCONNECTED:
            self._on_connection_ended(value)
        elif event == monitor.LISTENING:
            self._doors.listening(value)

    def _on_doors_shut(self) -> None:
        self._gate.counters["doors_shut"] += 1
        wasted = self._limits.connections_wasted_per_second
        self._doorman.note(f"more than {wasted:,} connections a second come to nothing")

    def _on_connection_ended(self, descriptor: int) -> None:
        self._descriptors.discard(descriptor)
        self._doorman.ended(descriptor)
        self._doors.ended(descriptor)
        self._endless.ended(descriptor)
        peer = self._peer_by_descriptor.pop(descriptor, None)
        if peer is not None:
            self._leave(peer)

    def _on_peer_gone(self, peer: bytes) -> None:
        self._gate.counters["lost_replies"] += 1
        self._leave(peer)

    def _leave(self, peer: bytes) -> None:
        """A peer has gone. Not forgotten yet: what it sent last may still be here, and is not sent again (acks=0)."""
        self._leaving[peer] = None
        self._pump.touched()


def _descriptor_of(frame: zmq.Frame) -> int:
    """Return which connection a frame came by; -1: libzmq does not say."""
    try:
        return int(frame.get("__fd"))
    except (zmq.ZMQError, ValueError):
        return -1


class Routers:
    """All servers of one process and context: what is bounded is bounded for all of them together."""

    def __init__(
        self, loop: Loop, clock: Clock, context: zmq.Context[zmq.Socket[bytes]], options: sockets.SocketOptions
    ) -> None:
        self._loop, self._clock = loop, clock
        self._context, self._options = context, options
        self._doorman = Doorman(loop)
        self._admission = Admission(loop, context, self._may_admit)
        self._servers: list[RouterServer] = []
        self._connections_max = self._connections_per_address_max = 0

    def serve(
        self,
        binds: Sequence[str],
        union: Any,
        on_requests: OnRequests,
        *,
        identity: ServerIdentity,
        limits: Limits,
        insecure: bool,
    ) -> RouterServer:
        self._connections_max = max(self._connections_max, limits.connections)
        self._connections_per_address_max = max(self._connections_per_address_max, limits.connections_per_address)
        options = msgspec.structs.replace(self._options, maxmsgsize=limits.request_bytes)
        gate = Gate(union, identity, limits, SOFTWARE)
        socket = sockets.router(self._context, options)
        try:
            server = RouterServer(
                self._loop, self._clock, socket, gate, limits, self._doorman, on_requests, self._servers.remove
            )
        except zmq.ZMQError:  # too many open files
            socket.close(linger=0)
            raise
        self._servers.append(server)
        try:
            server.bind(binds, is_loopback_only=not insecure)
        except BaseException:
            server.close()
            raise
        return server

    def end_endless(self) -> None:
        for server in self._servers:
            server.end_endless()

    def close(self) -> None:
        for server in list(self._servers):
            server.close()
        self._doorman.close()
        self._admission.close()

    def _may_admit(self, domain: bytes, address: str) -> bool:
        for server in self._servers:
            server.take_news()  # the newcomer is among them
        open_now = sum(server.connections for server in self._servers)
        return (
            domain == sockets.ZAP_DOMAIN
            and open_now <= self._connections_max
            and self._doorman.count(address) <= self._connections_per_address_max
        )
