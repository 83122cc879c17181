"""A loop with virtual time: the same callbacks in the same order, every time, as fast as they can run.

Rules of this file:

1. Time stands still while callbacks run. It moves only when nothing is ready, to the next timer, and never
   past what the test asked for.
2. Order is a function of the seed alone. Without ``shuffle`` callbacks run first in, first out, as on asyncio;
   with it, one of those that are ready is picked by the seed: every order that a real cluster could show.
3. A callback that raises ends the run with that exception: nothing is logged away.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from ..actors.context import OnDone
from ..errors import InvariantViolated

STEPS_MAX = 5_000_000  # of one run: beyond it two callbacks are calling each other for ever


class SimTimer:
    """A callback of a ``SimLoop``; ``cancel`` also takes back one that is ready but has not run."""

    __slots__ = ("args", "callback", "is_cancelled")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def run(self) -> None:
        self.callback(*self.args)


class SimLoop:
    """A ``Loop`` whose time is virtual. Microseconds inside, seconds for delays, milliseconds for tests."""

    def __init__(self, seed: int = 0, *, shuffle: bool = False) -> None:
        self.now_us = 0
        self.steps = 0  # callbacks run so far: two runs of one seed agree on it
        self._bits = random.Random(seed).getrandbits
        self._shuffle = shuffle
        self._ready: list[SimTimer] = []
        self._timers: list[tuple[int, int, SimTimer]] = []
        self._timer_count = 0  # breaks ties: equal times run in the order they were set
        self._readers: dict[int, SimTimer] = {}

    # -- what a Loop is -----------------------------------------------------------------------------

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> SimTimer:
        timer = SimTimer(callback, args)
        self._ready.append(timer)
        return timer

    def put(self, timer: SimTimer, delay: float | None = None) -> None:
        """Have a timer of somebody's own making run: soon, or after ``delay``."""
        if delay is None:
            self._ready.append(timer)
            return
        self._timer_count += 1
        heapq.heappush(self._timers, (self.now_us + max(0, round(delay * 1e6)), self._timer_count, timer))

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> SimTimer:
        return self.call_soon(callback, *args)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> SimTimer:
        timer = SimTimer(callback, args)
        self.put(timer, delay)
        return timer

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """Remember a reader; ``make_readable`` calls it. There are no real descriptors here."""
        self._readers[fd] = SimTimer(callback, args)

    def remove_reader(self, fd: int) -> bool:
        return self._readers.pop(fd, None) is not None

    def make_readable(self, fd: int) -> None:
        reader = self._readers[fd]
        self.call_soon(reader.callback, *reader.args)

    # -- what a test does with it -------------------------------------------------------------------

    def run_until_idle(self) -> int:
        """Run all that is ready, and what that makes ready, without moving time. Returns the callbacks run."""
        before = self.steps
        while self._ready:
            self._step(before)
        return self.steps - before

    def advance(self, ms: float) -> None:
        """Let ``ms`` pass: run every timer that falls due on the way, at its own time."""
        until_us = self.now_us + round(ms * 1000)
        self.run_until_idle()
        while (due_us := self._next_due_us()) is not None and due_us <= until_us:
            self._ring(due_us)
            self.run_until_idle()
        self.now_us = until_us

    def run_until(self, condition: Callable[[], object], timeout_ms: float = 60_000) -> None:
        """Run until ``condition()`` holds, looking after every callback.

        Raises:
            TimeoutError: it did not come to hold within ``timeout_ms`` of virtual time, or nothing is left to run.
        """
        until_us = self.now_us + round(timeout_ms * 1000)
        before = self.steps
        while not condition():
            if self._ready:
                self._step(before)
                continue
            due_us = self._next_due_us()
            if due_us is None or due_us > until_us:
                waited = "nothing is left to run" if due_us is None else f"{timeout_ms} ms have passed"
                raise TimeoutError(f"the condition did not come to hold: {waited} (virtual time {self.now_us} us)")
            self._ring(due_us)

    def _step(self, before: int) -> None:
        ready = self._ready
        timer = ready.pop(self._choice(len(ready)) if self._shuffle else 0)
        if timer.is_cancelled:
            return
        self.steps += 1
        if self.steps - before > STEPS_MAX:
            raise InvariantViolated(f"{STEPS_MAX} callbacks in one run: {timer.callback!r} and others never rest")
        timer.run()

    def _choice(self, count: int) -> int:
        """Return what ``Random.randrange(count)`` would; it is asked for each callback."""
        bits = count.bit_length()
        while (number := self._bits(bits)) >= count:
            pass
        return number

    def _next_due_us(self) -> int | None:
        while self._timers and self._timers[0][2].is_cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _ring(self, due_us: int) -> None:
        self.now_us = max(self.now_us, due_us)
        while self._timers and self._timers[0][0] <= due_us:
            self._ready.append(heapq.heappop(self._timers)[2])


class SimClock:
    """The clocks of a simulated machine: virtual time, and a wall clock that a test may set wrong."""

    def __init__(self, loop: SimLoop, wall_offset_ms: int = 1_700_000_000_000) -> None:
        self._loop = loop
        self.wall_offset_ms = wall_offset_ms

    def monotonic_ms(self) -> int:
        return self._loop.now_us // 1000

    def wall_ms(self) -> int:
        return self.wall_offset_ms + self._loop.now_us // 1000


class SimPool:
    """A pool whose jobs run on the loop after a while: ``delay_ms`` each, plus up to ``jitter_ms`` by chance."""

    def __init__(
        self, loop: SimLoop, *, delay_ms: float = 0.1, jitter_ms: float = 0.0, chance: random.Random | None = None
    ) -> None:
        self._loop = loop
        self._chance = chance or random.Random(0)
        self.delay_ms = delay_ms
        self.jitter_ms = jitter_ms
        self.jobs = 0  # handed in and not yet done

    def submit(self, job: Callable[[], Any], on_done: OnDone) -> None:
        self.jobs += 1
        delay_ms = self.delay_ms + self.jitter_ms * self._chance.random()
        self._loop.call_later(delay_ms / 1000, self._run, job, on_done)

    def _run(self, job: Callable[[], Any], on_done: OnDone) -> None:
        self.jobs -= 1
        result, error = None, None
        try:
            result = job()
        except Exception as raised:  # noqa: BLE001 - whatever it is belongs to the actor that waits
            error = raised
        on_done(result, error)
