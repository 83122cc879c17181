"""A small event loop for one thread: what the client's I/O thread runs. Needs no asyncio (imports in 1 ms).

The problem is waking up. Another thread puts a callback into ``_ready`` and must wake the loop if, and only if,
it sleeps: waking costs a system call, so none is made while the loop is awake. The rule that makes
it safe: the loop says that it will sleep, *then* looks at ``_ready`` once more; the other side puts first, *then*
looks whether the loop sleeps. Whatever the order, one of the two sees the other.

Callbacks that callbacks ask for run in the same turn, up to ``ROUNDS_MAX`` generations: a look at the descriptors
between them costs more than most of them.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .descriptors import Descriptors, descriptors

_log = logging.getLogger("callboard.transport")

SLEEP_S_MAX = 86_400.0  # what a selector can be asked for; longer timers just wake it once a day
ROUNDS_MAX = 8  # generations of callbacks in one turn, before descriptors and timers are looked at again


class Handle:
    """A callback that is to run, soon or at a time."""

    __slots__ = ("args", "at", "callback", "is_cancelled", "order")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], at: float = 0.0, order: int = 0) -> None:
        self.callback = callback
        self.args = args
        self.at = at
        self.order = order
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        self.args = ()  # let go of what they hold: a cancelled timer may lie in the heap for long

    def __lt__(self, other: Handle) -> bool:
        return (self.at, self.order) < (other.at, other.order)


def log_failure(error: BaseException) -> None:
    """The default for what a callback raised: it is a bug, it is logged, the loop goes on."""
    _log.error("loop.callback_failed error=%r", error, exc_info=error)


class SelectorLoop:
    """A ``Loop``. ``run`` on the one thread that owns it, then ``close``; only ``…_threadsafe`` from others."""

    def __init__(
        self,
        on_failure: Callable[[BaseException], None] = log_failure,
        make_descriptors: Callable[[], Descriptors[Handle]] = descriptors,
    ) -> None:
        self._on_failure = on_failure
        self._descriptors = make_descriptors()
        self._wait = self._descriptors.wait
        self._ready: deque[Handle] = deque()
        self._timers: list[Handle] = []  # a heap
        self._cancelled_max = 64  # timers in the heap before those that were cancelled are swept out
        self._order = 0
        self._is_asleep = False
        self._is_stopping = False
        self._is_closed = False
        self._thread_id = 0
        self.wakeups = 0  # returns from the selector; an idle loop has none

    # -- what a Loop is ------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds on the clock of the timers."""
        return time.monotonic()

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Handle:
        handle = Handle(callback, args)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> Handle:
        """Run ``callback`` soon, from any thread.

        Raises:
            RuntimeError: the loop is closed and will never run it.
        """
        if self._is_closed:
            raise RuntimeError("the loop is closed")
        handle = Handle(callback, args)
        self._ready.append(handle)
        if self._is_asleep:
            self._wake()
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Handle:
        self._order += 1
        handle = Handle(callback, args, time.monotonic() + max(0.0, delay), self._order)
        heapq.heappush(self._timers, handle)
        if len(self._timers) > self._cancelled_max:
            self._sweep()
        return handle

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        self.remove_reader(fd)
        self._descriptors.watch(fd, Handle(callback, args))

    def remove_reader(self, fd: int) -> bool:
        handle = self._descriptors.forget(fd)
        if handle is None:
            return False
        handle.cancel()  # it may be among those that run in this very turn
        return True

    # -- life ----------------------------------------------------------------------------------------

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller runs on the loop's thread."""
        return self._thread_id == threading.get_ident()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def run(self) -> None:
        """Run callbacks until ``stop``; then those that are ready already once more, and return."""
        self._thread_id = threading.get_ident()
        try:
            while not self._is_stopping:
                self._turn()
            self._run_ready()
        finally:
            self._thread_id = 0
            self._is_stopping = False

    def stop(self) -> None:
        """Make ``run`` return after its present turn. From any thread, also before ``run``."""
        self._is_stopping = True
        if self._is_asleep:
            self._wake()

    def close(self) -> None:
        """Release the descriptors. Not while it runs. Harmless when repeated."""
        if self._is_closed:
            return
        self._is_closed = True
        self._ready.clear()
        self._timers.clear()
        self._descriptors.close()

    def _turn(self) -> None:
        ready = self._ready
        self._is_asleep = True
        if ready or self._is_stopping:
            self._is_asleep = False
        timeout = self._sleep_s()
        ready.extend(self._wait(timeout))
        self._is_asleep = False
        self.wakeups += timeout != 0.0
        if self._timers:
            self._ring()
        for _ in range(ROUNDS_MAX):
            if not ready or self._is_stopping:
                return
            self._run_ready()

    def _sleep_s(self) -> float | None:
        if not self._is_asleep:
            return 0.0
        while self._timers and self._timers[0].is_cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        left = self._timers[0].at - time.monotonic()
        return 0.0 if left < 0.0 else left if left < SLEEP_S_MAX else SLEEP_S_MAX

    def _ring(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].at <= now:
            self._ready.append(heapq.heappop(self._timers))

    def _run_ready(self) -> None:
        """Run what is ready now; what that adds comes in the next round."""
        ready = self._ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.is_cancelled:
                continue
            try:
                handle.callback(*handle.args)
            except Exception as error:  # noqa: BLE001 - one broken callback must not end everybody else's I/O
                self._on_failure(error)

    def _sweep(self) -> None:
        self._timers = [timer for timer in self._timers if not timer.is_cancelled]
        heapq.heapify(self._timers)
        self._cancelled_max = max(64, 2 * len(self._timers))

    def _wake(self) -> None:
        """End the sleep. Once is enough, however many callbacks follow: hence from now on nobody else does it."""
        self._is_asleep = False
        try:
            self._descriptors.wake()
        except BaseException as error:
            # A signal's handler (Ctrl-C) may raise before the call has happened: then nobody would ever do it.
            if not self._is_closed:
                self._descriptors.wake()
                raise
            if not isinstance(error, OSError):
                raise
