"""What happened here, for whoever asks later: the last notable events of a process, each with its number.

Every event that an actor logs passes by; the notable ones are kept in a ring, whatever ``log_level`` writes to
the file. Whoever wants to follow asks for what came after the last number he has seen, and waits if there is
nothing. The host's ring holds what its processes told, too: so it still knows of a process that was killed.

Rules of this file:

1. Bounded: the ring forgets its oldest, and tells how many somebody has missed; values are cut to a length;
   waiters are few, and each waits for a bounded time.
2. An event may come from any thread; answers are given on the loop.
3. A ring has a name of its own for each life of the process: numbers of an earlier life mean nothing here.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from threading import Lock

from ..transport.loop import Clock, Loop, Timer
from ..transport.messages import EventDescription, EventsReply, EventsRequest
from .log import EventLine, plain_text

EVENTS_MAX = 4_096  # of one ring
EVENTS_A_REPLY = 512
VALUE_CHARS_MAX = 400
WAIT_MS_MAX = 60_000
WAITERS_MAX = 64

NOTABLE = frozenset(
    {
        "actor",
        "controller",
        "directory",
        "election",
        "experiment",
        "follower",
        "group",
        "host",
        "isr",
        "leader",
        "leaders",
        "lease",
        "metadata",
        "partition",
        "process",
        "replica",
        "session",
        "topic",
    }
)
"""First words of the events that are kept; what an actor says of its sockets and files is not for the timeline."""

OnReply = Callable[[EventsReply], None]


@dataclass(slots=True)
class _Waiter:
    after: int
    on_reply: OnReply
    timer: Timer


class Timeline:
    """The ring of one process."""

    def __init__(self, process: str, ring: str, loop: Loop, clock: Clock, *, events_max: int = EVENTS_MAX) -> None:
        self.process, self.ring = process, ring
        self._loop, self._clock = loop, clock
        self._events: deque[EventDescription] = deque(maxlen=events_max)
        self._last = 0
        self._waiters: list[_Waiter] = []
        self._lock = Lock()  # of _events and _last: rule 2
        self._is_waking = False

    def note(self, name: str, values: dict[str, str], *, level: str = "info") -> None:
        """Keep an event of this process. From any thread."""
        told = EventDescription(
            wall_ms=self._clock.wall_ms(),
            monotonic_ms=self._clock.monotonic_ms(),
            process=self.process,
            name=name,
            level=level,
            values=values,
        )
        self.extend([told])

    def extend(self, events: Iterable[EventDescription]) -> None:
        """Keep events, as they are but for their number: own ones, or what another process told."""
        with self._lock:
            for told in events:
                self._last += 1
                self._events.append(_numbered(told, self._last))
            must_wake = bool(self._waiters) and not self._is_waking
            self._is_waking = self._is_waking or must_wake
        if must_wake:
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def answer(self, request: EventsRequest, on_reply: OnReply) -> None:
        """Call ``on_reply`` with what came after the number that the request names; when there is something."""
        after = max(0, request.after.get(self.ring, 0))
        reply = self._reply(after)
        if reply.events or request.max_wait_ms <= 0 or len(self._waiters) >= WAITERS_MAX:
            on_reply(reply)
            return
        waiter = _Waiter(after, on_reply, _NoTimer())
        wait_ms = min(request.max_wait_ms, WAIT_MS_MAX)
        waiter.timer = self._loop.call_later(wait_ms / 1_000, self._time_out, waiter)
        with self._lock:
            self._waiters.append(waiter)
        if self._last > after:  # from another thread, between the look and the line above
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            self._is_waking = False
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.timer.cancel()
            waiter.on_reply(self._reply(waiter.after))

    def _time_out(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter not in self._waiters:
                return
            self._waiters.remove(waiter)
        waiter.on_reply(self._reply(waiter.after))

    def _reply(self, after: int) -> EventsReply:
        with self._lock:
            first = self._events[0].sequence if self._events else self._last + 1
            skipped = max(0, min(after + 1, self._last + 1) - first)
            found = list(islice(self._events, skipped, skipped + EVENTS_A_REPLY))
            last = found[-1].sequence if found else max(0, self._last)
        return EventsReply(ring=self.ring, last=last, missed=max(0, first - after - 1), events=found)


class TimelineHandler(logging.Handler):
    """Puts the notable events that pass through ``logging`` into a ring."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(logging.INFO)
        self._timeline = timeline

    def emit(self, record: logging.LogRecord) -> None:
        line = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if isinstance(line, EventLine) and line.name.partition(".")[0] in NOTABLE:
            values = {key: plain_text(value)[:VALUE_CHARS_MAX] for key, value in line.values.items() if key != "where"}
            self._timeline.note(line.name, values, level=record.levelname.lower())


class _NoTimer:
    """Stands where a timer will be in a moment."""

    def cancel(self) -> None:
        """There is nothing to cancel."""


def _numbered(told: EventDescription, sequence: int) -> EventDescription:
    return EventDescription(
        sequence=sequence,
        wall_ms=told.wall_ms,
        monotonic_ms=told.monotonic_ms,
        process=told.process,
        name=told.name,
        level=told.level,
        values=told.values,
    )
