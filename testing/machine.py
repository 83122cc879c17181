"""What one simulated process runs on: its share of the loop, its clocks, its pool. Killed, paused, set wrong.

All processes of a simulation share one ``SimLoop``; each has a ``ProcessLoop`` of its own in front of it. That is where
a process is stopped, because *everything* it does passes there: mailboxes, timers, sockets, the ends of pool jobs.

- ``kill``: nothing of it runs any more, as after SIGKILL. What was under way is void.
- ``pause`` and ``resume``: as SIGSTOP and SIGCONT. Nothing is lost; what fell due meanwhile runs in one burst, in the
  order in which it fell due, and clocks have gone on.

Clocks of different processes agree on nothing: each has an offset and a rate of its own, and a wall clock that jumps.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from ..actors.context import OnDone
from .loop import SimLoop, SimTimer

WALL_MS = 1_700_000_000_000  # of virtual time 0


class ProcessTimer(SimTimer):
    """A callback of one process. To the loop of the simulation it never looks cancelled: it runs, and does nothing."""

    __slots__ = ("is_void", "owner")

    def __init__(self, owner: ProcessLoop, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__(callback, args)
        self.owner = owner
        self.is_void = False

    def cancel(self) -> None:
        self.is_void = True

    def run(self) -> None:
        if self.is_void or self.owner.is_dead:
            return
        if self.owner.is_paused:
            self.owner.held.append(self)
            return
        self.callback(*self.args)
        if self.owner.on_ran is not None:
            self.owner.on_ran(self.owner, self.callback)


class ProcessLoop:
    """A ``Loop``: the callbacks of one process, on the loop of the simulation."""

    def __init__(self, base: SimLoop, name: str, *, rate: float = 1.0) -> None:
        self.base = base
        self.name = name
        self.rate = rate  # of its clock: timers are its own idea of how long
        self.is_dead = False
        self.is_paused = False
        self.on_ran: Callable[[ProcessLoop, Callable[..., Any]], None] | None = None  # looks after each callback
        self.on_paused: Callable[[], None] | None = None  # hears when it is paused or goes on
        self.held: list[ProcessTimer] = []  # fell due while paused

    # -- what a Loop is --------------------------------------------------------------------------------

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> SimTimer:
        timer = ProcessTimer(self, callback, args)
        self.base.put(timer)
        return timer

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> SimTimer:
        return self.call_soon(callback, *args)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> SimTimer:
        timer = ProcessTimer(self, callback, args)
        self.base.put(timer, delay / self.rate)
        return timer

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        self.base.add_reader(fd, callback, *args)

    def remove_reader(self, fd: int) -> bool:
        return self.base.remove_reader(fd)

    # -- what befalls a process ------------------------------------------------------------------------

    def kill(self) -> None:
        self.is_dead = True
        self.held.clear()

    def pause(self) -> None:
        self.is_paused = True
        if self.on_paused is not None:
            self.on_paused()

    def resume(self) -> None:
        self.is_paused = False
        if self.on_paused is not None:
            self.on_paused()
        held, self.held = self.held, []
        for timer in held:
            self.base.put(timer)


class ProcessClock:
    """A ``Clock``. ``wall_offset_ms`` may be moved at any time; the monotonic clock goes at its own rate."""

    def __init__(self, base: SimLoop, *, rate: float = 1.0, boot_ms: int = 0, wall_offset_ms: int = WALL_MS) -> None:
        self._base = base
        self._rate = rate
        self._boot_ms = boot_ms
        self.wall_offset_ms = wall_offset_ms

    def monotonic_ms(self) -> int:
        return self._boot_ms + int(self._base.now_us * self._rate) // 1000

    def wall_ms(self) -> int:
        return self.wall_offset_ms + int(self._base.now_us * self._rate) // 1000


class Latency(Protocol):
    """How long a pool job takes, in milliseconds: asked once for each."""

    def __call__(self, chance: random.Random) -> float: ...


def quick(chance: random.Random) -> float:
    """A disk that is idle: 0.1 ms, with some jitter."""
    return 0.1 + 0.1 * chance.random()


class ProcessPool:
    """A pool. A job runs at some moment between its submission and the news of its end.

    So a process may die when a sync has happened and nobody knows, or before it has.
    """

    def __init__(self, loop: ProcessLoop, chance: random.Random, latency: Latency = quick) -> None:
        self._loop = loop
        self._chance = chance
        self.latency = latency
        self.delay_ms = 0.0  # that every job takes beside that: a slow disk
        self.jobs = 0  # handed in and not yet done

    def submit(self, job: Callable[[], Any], on_done: OnDone) -> None:
        self.jobs += 1
        delay_ms = self.delay_ms + self.latency(self._chance)
        before_ms = delay_ms * self._chance.random()
        self._loop.call_later(before_ms / 1000, self._run, job, on_done, (delay_ms - before_ms) / 1000)

    def _run(self, job: Callable[[], Any], on_done: OnDone, rest: float) -> None:
        result, error = None, None
        try:
            result = job()
        except Exception as raised:  # noqa: BLE001 - whatever it is belongs to the actor that waits
            error = raised
        self._loop.call_later(rest, self._end, on_done, result, error)

    def _end(self, on_done: OnDone, result: Any, error: BaseException | None) -> None:
        self.jobs -= 1
        on_done(result, error)
