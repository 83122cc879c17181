"""A connection to one peer that outlives its wires: hello, correlation, deadlines, reconnecting.

    ┌─ waiting ◄──────────────── any failure, after a backoff ───────────────┐
    ▼                                                                        │
    opening ── wire is up ──► greeting ── HelloReply ──► ready ── wire down ─┘        close() from anywhere

The rules.

1. Each attempt has a wire of its own. Nothing of an earlier wire is ever resent: whether a request is tried
   again is decided by who knows what it does (the producer, the metadata client), not here.
2. Every request is answered once, and never from within ``request``. A request that was handed to a wire ends
   as reply, *lost* or *timed out*; one that was not waits for the next wire and can only *fail*: so the
   caller knows whether it may have taken effect.
3. One timer for all deadlines. It is set for the earliest when a request is made and looked at again when it
   fires, so an idle connection has none.
4. Deadlines travel on the peer's clock, which ``HelloReply.clock_ms`` tells. The reading lies somewhere
   between our sending and our receiving: the middle is taken.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum

from msgspec.structs import replace

from ..errors import (
    CallboardError,
    CallboardTimeoutError,
    ConnectionFailedError,
    ConnectionLostError,
    ErrorCode,
    MessageSizeTooLargeError,
    error_for_code,
)
from . import codec
from .calls import PendingCalls
from .loop import Clock, Loop, Timer
from .messages import API_VERSION, API_VERSION_MIN, ErrorReply, Hello, HelloReply, Reply, Request
from .seam import ConnectionState, ConnectOptions, OnReply, OnState, Stage
from .wire import OpenWire, Wire


class _Phase(Enum):
    WAITING = 1
    OPENING = 2
    GREETING = 3
    READY = 4
    CLOSED = 5


class _Waiting:
    """A request that no wire has had yet."""

    __slots__ = ("expires_ms", "message", "on_reply", "payload", "timeout_ms")

    def __init__(
        self, message: Request, on_reply: OnReply, payload: Sequence[bytes], expires_ms: int, timeout_ms: int
    ) -> None:
        self.message, self.on_reply, self.payload = message, on_reply, payload
        self.expires_ms, self.timeout_ms = expires_ms, timeout_ms


class PeerConnection:
    """A ``Connection`` on any kind of wire. It begins to connect when it is made."""

    def __init__(
        self,
        endpoint: str,
        *,
        client_id: str,
        software: str,
        on_state: OnState,
        options: ConnectOptions,
        open_wire: OpenWire,
        loop: Loop,
        clock: Clock,
        rng: random.Random,
        on_closed: Callable[[PeerConnection], None] = lambda _: None,
    ) -> None:
        self.endpoint = endpoint
        self.hello: HelloReply | None = None
        self.counters = {"requests": 0, "replies": 0, "stray_replies": 0, "garbage": 0, "connects": 0, "failures": 0}
        self._client_id, self._software = client_id, software
        self._on_state, self._on_closed = on_state, on_closed
        self._options = options
        self._open_wire = open_wire
        self._loop, self._clock, self._rng = loop, clock, rng
        self._phase = _Phase.WAITING
        self._wire: Wire | None = None
        self._attempt = 0  # since the last success
        self._phase_timer: Timer | None = None  # bounds an attempt, or the pause before the next
        self._calls = PendingCalls()
        self._waiting: deque[_Waiting] = deque()
        self._timer: Timer | None = None  # fires at or before the earliest deadline of calls and waiting
        self._timer_at_ms = 0
        self._clock_offset_ms = 0  # the peer's monotonic clock minus ours
        self._hello_sent_ms = 0
        self._last_failure = ""
        self._open()

    @property
    def is_ready(self) -> bool:
        return self._phase is _Phase.READY

    @property
    def is_closed(self) -> bool:
        return self._phase is _Phase.CLOSED

    @property
    def clock_offset_ms(self) -> int:
        """The peer's monotonic clock minus ours."""
        return self._clock_offset_ms

    @property
    def in_flight(self) -> int:
        """How many requests were sent and not answered."""
        return len(self._calls)

    # -- asking --------------------------------------------------------------------------------------

    def request(
        self, message: Request, on_reply: OnReply, payload: Sequence[bytes] = (), timeout_ms: int = 30_000
    ) -> None:
        expires_ms = self._clock.monotonic_ms() + timeout_ms
        if self._phase is _Phase.READY:
            self._send_request(message, on_reply, payload, expires_ms, timeout_ms)
        elif self._phase is _Phase.CLOSED:
            self._fail_soon(on_reply, ConnectionFailedError(f"{self.endpoint}: this connection was closed"))
            return
        elif len(self._waiting) >= self._options.waiting_max:
            error = ConnectionFailedError(f"{self.endpoint}: {len(self._waiting):,} requests wait for it already")
            self._fail_soon(on_reply, error)
            return
        else:
            self._waiting.append(_Waiting(message, on_reply, payload, expires_ms, timeout_ms))
        if self._timer is None or expires_ms < self._timer_at_ms:
            self._arm(expires_ms)

    def send(self, message: Request, payload: Sequence[bytes] = ()) -> bool:
        wire = self._wire
        if self._phase is not _Phase.READY or wire is None or wire.is_congested:
            return False
        header = codec.encode(replace(message, id=0, v=API_VERSION))
        if self._oversize(header, payload):
            return False
        self.counters["requests"] += 1
        wire.send((header, *payload))
        return True

    def close(self) -> None:
        if self._phase is _Phase.CLOSED:
            return
        self._phase = _Phase.CLOSED
        self.hello = None
        self._drop_wire(is_graceful=True)
        self._set_phase_timer(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fail_calls(ConnectionLostError(f"{self.endpoint}: closed before the reply came"))
        waiting, self._waiting = self._waiting, deque()
        for item in waiting:
            self._fail_soon(item.on_reply, ConnectionFailedError(f"{self.endpoint}: closed before it was connected"))
        self._on_closed(self)

    def _send_request(
        self, message: Request, on_reply: OnReply, payload: Sequence[bytes], expires_ms: int, timeout_ms: int
    ) -> None:
        if self._wire is None:  # pragma: no cover (READY has a wire)
            return
        call_id = self._calls.next_id()
        stamped = replace(message, id=call_id, v=API_VERSION, deadline_ms=max(1, expires_ms + self._clock_offset_ms))
        header = codec.encode(stamped)
        if detail := self._oversize(header, payload):
            self._fail_soon(on_reply, MessageSizeTooLargeError(detail))
            return
        self._calls.add(call_id, on_reply, expires_ms, timeout_ms)
        self.counters["requests"] += 1
        self._wire.send((header, *payload))

    def _oversize(self, header: bytes, payload: Sequence[bytes]) -> str:
        """The peer's socket ends the whole connection over one big frame: so do not send it."""
        limit = self.hello.request_bytes_max if self.hello else 0
        size = len(header) + sum(map(len, payload))
        return f"{self.endpoint}: a request of {size:,} bytes; it takes {limit:,}" if 0 < limit < size else ""

    # -- one attempt ---------------------------------------------------------------------------------

    def _open(self) -> None:
        self._attempt += 1
        self._phase = _Phase.OPENING
        self._set_phase_timer(self._options.attempt_timeout_ms, self._on_attempt_timeout)
        self._wire = self._open_wire(self.endpoint, self)

    def on_up(self) -> None:
        """The wire is up: say hello. (WireListener)"""
        if self._phase is not _Phase.OPENING or self._wire is None:
            return
        self._phase = _Phase.GREETING
        self._hello_sent_ms = self._clock.monotonic_ms()
        hello = Hello(id=self._calls.next_id(), client_id=self._client_id, software=self._software)
        self._wire.send((codec.encode(hello),))

    def on_frames(self, frames: list[bytes]) -> None:
        """A reply has come. (WireListener)"""
        try:
            reply = codec.decode_reply(frames[0])
        except codec.HeaderRefused as refused:
            self.counters["garbage"] += 1
            if self._phase is _Phase.GREETING:
                self.on_down(Stage.HELLO, f"its answer was not understood: {refused.detail}", _NOT_CALLBOARD)
            return
        if self._phase is _Phase.READY:
            on_reply = self._calls.take(reply.id)
            if on_reply is None:
                self.counters["stray_replies"] += 1  # its caller has been told "timed out"
                return
            self.counters["replies"] += 1
            on_reply(reply, frames[1:])
        elif self._phase is _Phase.GREETING:
            self._on_hello(reply)

    def on_down(self, stage: Stage, detail: str, advice: str, error: int = 0) -> None:
        """The attempt failed, or the connection is lost: say so, and try again after a pause. (WireListener)"""
        if self._phase in (_Phase.CLOSED, _Phase.WAITING):
            return
        was_ready = self._phase is _Phase.READY
        if self._phase is _Phase.GREETING and stage is Stage.LOST:
            stage, detail = Stage.HELLO, detail or "the connection ended before it said who it is"
        self._phase = _Phase.WAITING
        self.hello = None
        self.counters["failures"] += 1
        self._drop_wire(is_graceful=False)
        self._set_phase_timer(self._backoff_ms(), self._open)
        state = ConnectionState(
            endpoint=self.endpoint,
            stage=stage,
            detail=detail,
            advice=advice,
            attempt=max(1, self._attempt),
            error=error,
        )
        self._last_failure = str(state)
        self._on_state(state)
        if was_ready:
            lost = f"{self.endpoint}: connection lost before the reply came" + (f": {detail}" if detail else "")
            self._fail_calls(ConnectionLostError(lost))

    def _on_hello(self, reply: Reply) -> None:
        if not isinstance(reply, HelloReply) or reply.error:
            stage, detail = Stage.HELLO, reply.detail or error_for_code(reply.error).errno.name
            is_version = reply.error == ErrorCode.UNSUPPORTED_VERSION
            advice = error_for_code(reply.error).advice if reply.error else _NOT_CALLBOARD
            self.on_down(stage, detail, advice, reply.error)
            self.counters["garbage"] += not is_version and not isinstance(reply, HelloReply | ErrorReply)
            return
        if reply.version_min > API_VERSION or reply.version_max < API_VERSION_MIN:
            spoken = f"it speaks versions {reply.version_min} to {reply.version_max}, this one {API_VERSION}"
            version = ErrorCode.UNSUPPORTED_VERSION
            self.on_down(Stage.HELLO, spoken, error_for_code(version).advice, version)
            return
        now_ms = self._clock.monotonic_ms()
        self._clock_offset_ms = reply.clock_ms - (self._hello_sent_ms + now_ms) // 2
        self._phase = _Phase.READY
        self.hello = reply
        attempt, self._attempt = self._attempt, 0
        self.counters["connects"] += 1
        self._set_phase_timer(None)
        self._on_state(ConnectionState(endpoint=self.endpoint, stage=Stage.READY, attempt=attempt))
        self._send_waiting(now_ms)

    def _send_waiting(self, now_ms: int) -> None:
        """Send what has waited, in order; a callback may meanwhile have closed or lost the connection."""
        while self._waiting and self._phase is _Phase.READY:
            item = self._waiting.popleft()
            if item.expires_ms > now_ms:
                self._send_request(item.message, item.on_reply, item.payload, item.expires_ms, item.timeout_ms)
            else:
                self._fail_soon(item.on_reply, self._never_sent(item.timeout_ms))

    def _on_attempt_timeout(self) -> None:
        self._phase_timer = None
        stage = Stage.HELLO if self._phase is _Phase.GREETING else self._wire.stage if self._wire else Stage.CONNECT
        self.on_down(stage, f"no answer within {self._options.attempt_timeout_ms:,} ms", _ADVICE_SILENT[stage])

    def _drop_wire(self, *, is_graceful: bool) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close(is_graceful=is_graceful)

    # -- time ----------------------------------------------------------------------------------------

    def _backoff_ms(self) -> float:
        options = self._options
        doublings = min(20, max(0, self._attempt - 1))
        pause = float(min(options.backoff_max_ms, options.backoff_min_ms << doublings))
        return pause * (1 + options.backoff_jitter * (2 * self._rng.random() - 1))

    def _set_phase_timer(self, delay_ms: float | None, callback: Callable[[], None] = lambda: None) -> None:
        if self._phase_timer is not None:
            self._phase_timer.cancel()
        self._phase_timer = None if delay_ms is None else self._loop.call_later(delay_ms / 1_000, callback)

    def _arm(self, at_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_ms = at_ms
        delay_ms = max(0, at_ms - self._clock.monotonic_ms())
        self._timer = self._loop.call_later(delay_ms / 1_000, self._on_timer)

    def _on_timer(self) -> None:
        """Rule 3: end what is over, set the timer for the earliest that is left."""
        self._timer = None
        now_ms = self._clock.monotonic_ms()
        late = [item for item in self._waiting if item.expires_ms <= now_ms]
        if late:
            self._waiting = deque(item for item in self._waiting if item.expires_ms > now_ms)
        expired = self._calls.take_expired(now_ms)
        earliest = [item.expires_ms for item in self._waiting]
        if (call_ms := self._calls.earliest_expiry_ms()) is not None:
            earliest.append(call_ms)
        if earliest:
            self._arm(min(earliest))
        for item in late:
            self._fail_soon(item.on_reply, self._never_sent(item.timeout_ms))
        for on_reply, timeout_ms in expired:
            self._fail_soon(on_reply, CallboardTimeoutError(f"{self.endpoint}: no reply within {timeout_ms:,} ms"))

    # -- failing -------------------------------------------------------------------------------------

    def _never_sent(self, timeout_ms: int) -> CallboardError:
        why = self._last_failure or f"{self.endpoint}: not connected yet"
        return ConnectionFailedError(f"{why}; not sent within {timeout_ms:,} ms")

    def _fail_calls(self, error: CallboardError) -> None:
        for on_reply in self._calls.take_all():
            self._fail_soon(on_reply, error)

    def _fail_soon(self, on_reply: OnReply, error: CallboardError) -> None:
        """Each in a callback of its own: one that raises must not cost the next one its answer."""
        self._loop.call_soon(on_reply, error, [])


_NOT_CALLBOARD = "is a Callboard broker listening there?"
_ADVICE_SILENT = {
    Stage.RESOLVE: "check the name and the resolver",
    Stage.CONNECT: "check the address, the network and firewalls",
    Stage.HANDSHAKE: _NOT_CALLBOARD,
    Stage.HELLO: "it accepted the connection and says nothing: it may be paused or overloaded",
}
