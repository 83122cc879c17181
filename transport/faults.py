"""Faults on purpose: what travels between this process and another one is lost, or comes late.

For experiments (``callboard cut``, ``callboard delay``). A process has a layer of faults only when its cluster
allows experiments; without it no wire knows that this file exists.

    PeerConnection ── FaultyWire ── DealerWire ── the other process
                          │
                        Faults   who is cut off, in which direction; written by the experiments' actor side

Rules of this file:

1. Faults lie on the wires that this process opened. Between two brokers both have some, so an experiment is made
   of two halves, one in each; with both in force no request and no reply gets through.
2. A cut loses messages, silently, as a cable that was pulled does: nobody is told that a connection ended. What
   was lost stays lost when the link is healed.
3. The other side is known by the name in its ``HelloReply``. A wire that has not heard it yet carries our hello
   and nothing else; the answer is dropped where its sender is cut off, so nothing slips through a new connection.
4. Order within a wire and direction is kept, whatever the delays: TCP keeps it, and everybody relies on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from . import codec
from .loop import Clock, Loop
from .messages import HelloReply
from .seam import Stage
from .wire import OpenWire, Wire, WireListener

Direction = Literal["to", "from"]
DIRECTIONS: tuple[Direction, ...] = ("to", "from")


class Faults:
    """What this process's links suffer just now, by the name of the process at the other end."""

    def __init__(self) -> None:
        self._cuts: set[tuple[str, Direction]] = set()
        self._delays_ms: dict[tuple[str, Direction], int] = {}
        self.dropped = 0  # messages, since the start

    def cut(self, peer: str, direction: Direction) -> None:
        """Lose what goes to, or comes from, ``peer``."""
        self._cuts.add((peer, direction))

    def delay(self, peer: str, direction: Direction, ms: int) -> None:
        """Hold back what goes to, or comes from, ``peer``, each message for ``ms``."""
        self._delays_ms[peer, direction] = ms

    def heal(self, peer: str, direction: Direction, what: str) -> None:
        """Undo ``cut`` or ``delay``; harmless when there is none."""
        if what == "cut":
            self._cuts.discard((peer, direction))
        else:
            self._delays_ms.pop((peer, direction), None)

    def is_cut(self, peer: str, direction: Direction) -> bool:
        return (peer, direction) in self._cuts

    def delay_ms(self, peer: str, direction: Direction) -> int:
        return self._delays_ms.get((peer, direction), 0)

    @property
    def are_none(self) -> bool:
        return not self._cuts and not self._delays_ms


def with_faults(open_wire: OpenWire, faults: Faults, loop: Loop, clock: Clock) -> OpenWire:
    """Return a way to open wires that suffer ``faults``."""

    def open_faulty(endpoint: str, listener: WireListener) -> Wire:
        return FaultyWire(open_wire, endpoint, listener, faults, loop, clock)

    return open_faulty


class FaultyWire:
    """A ``Wire`` around another one, and the listener of that one."""

    def __init__(
        self, open_wire: OpenWire, endpoint: str, listener: WireListener, faults: Faults, loop: Loop, clock: Clock
    ) -> None:
        self._listener, self._faults = listener, faults
        self._peer = ""  # until its hello was seen
        self._is_open = True
        self._outgoing = _Lane(loop, clock, self._send_on)
        self._incoming = _Lane(loop, clock, self._hand_on)
        self._wire = open_wire(endpoint, self)

    @property
    def stage(self) -> Stage:
        return self._wire.stage

    @property
    def is_congested(self) -> bool:
        return self._wire.is_congested

    def send(self, frames: Sequence[bytes]) -> None:
        if self._faults.are_none and self._outgoing.is_empty:
            self._wire.send(frames)
        else:
            self._pass(self._outgoing, "to", frames)

    def close(self, *, is_graceful: bool) -> None:
        self._is_open = False
        if is_graceful:
            self._outgoing.flush()
        self._outgoing.clear()
        self._incoming.clear()
        self._wire.close(is_graceful=is_graceful)

    # -- what the inner wire says (WireListener) -----------------------------------------------------

    def on_up(self) -> None:
        self._listener.on_up()

    def on_frames(self, frames: list[bytes]) -> None:
        if not self._peer:
            self._peer = _name_in(frames)
        if self._faults.are_none and self._incoming.is_empty:
            self._listener.on_frames(frames)
        else:
            self._pass(self._incoming, "from", frames, is_hello_answer=not self._incoming.has_carried)
        self._incoming.has_carried = True

    def on_down(self, stage: Stage, detail: str, advice: str) -> None:
        self._is_open = False
        self._outgoing.clear()
        self._incoming.clear()
        self._listener.on_down(stage, detail, advice)

    # -- inside --------------------------------------------------------------------------------------

    def _pass(
        self, lane: _Lane, direction: Direction, frames: Sequence[bytes], *, is_hello_answer: bool = False
    ) -> None:
        faults, peer = self._faults, self._peer
        is_lost = faults.is_cut(peer, direction) or (is_hello_answer and faults.is_cut(peer, "to"))  # rule 3
        if is_lost:
            faults.dropped += 1
        else:
            lane.put(frames, faults.delay_ms(peer, direction))

    def _send_on(self, frames: Sequence[bytes]) -> None:
        self._wire.send(frames)

    def _hand_on(self, frames: Sequence[bytes]) -> None:
        if self._is_open:
            self._listener.on_frames(list(frames))


class _Lane:
    """One direction of one wire: messages wait for their time, in order (rule 4)."""

    def __init__(self, loop: Loop, clock: Clock, deliver: Callable[[Sequence[bytes]], None]) -> None:
        self._loop, self._clock, self._deliver = loop, clock, deliver
        self._waiting: deque[tuple[int, Sequence[bytes]]] = deque()  # (due, frames); due never falls
        self._is_timed = False
        self.has_carried = False

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def put(self, frames: Sequence[bytes], delay_ms: int) -> None:
        if not delay_ms and not self._waiting:
            self._deliver(frames)
            return
        due_ms = self._clock.monotonic_ms() + delay_ms
        if self._waiting:
            due_ms = max(due_ms, self._waiting[-1][0])
        self._waiting.append((due_ms, frames))
        self._set_timer()

    def flush(self) -> None:
        while self._waiting:
            self._deliver(self._waiting.popleft()[1])

    def clear(self) -> None:
        self._waiting.clear()

    def _set_timer(self) -> None:
        if self._waiting and not self._is_timed:
            self._is_timed = True
            self._loop.call_later(max(0, self._waiting[0][0] - self._clock.monotonic_ms()) / 1_000, self._on_timer)

    def _on_timer(self) -> None:
        self._is_timed = False
        now_ms = self._clock.monotonic_ms()
        while self._waiting and self._waiting[0][0] <= now_ms:
            self._deliver(self._waiting.popleft()[1])
        self._set_timer()


def _name_in(frames: Sequence[bytes]) -> str:
    """Return who answers, from the answer to our hello; empty when it is something else."""
    try:
        reply = codec.decode_reply(frames[0])
    except codec.HeaderRefused:
        return ""
    return reply.name if isinstance(reply, HelloReply) else ""
