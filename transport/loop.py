"""The seams that everything timed or event-driven goes through.

An asyncio loop *is* a ``Loop`` (the method names are asyncio's), and so is uvloop's; the client's I/O
thread runs a small one of its own; ``testing`` has one with virtual time. Whoever needs the time, a timer
or a readable descriptor asks for one of these and never calls ``time`` or ``asyncio`` itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A callback that has been put off."""

    def cancel(self) -> None:
        """Do not call it. Harmless when it was called or cancelled before."""


class Loop(Protocol):
    """Runs callbacks one at a time on one thread. Delays are in **seconds** (asyncio's unit)."""

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Any: ...

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> Any: ...

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Timer: ...

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> Any: ...

    def remove_reader(self, fd: int) -> Any: ...


class Clock(Protocol):
    """Two clocks, for two purposes. Milliseconds both."""

    def monotonic_ms(self) -> int:
        """Time since boot, sleep included. Never goes back; the same for all processes of a host.

        For leases, deadlines, timeouts, backoff.
        """

    def wall_ms(self) -> int:
        """Time since 1970. May jump: for records' timestamps and for people, never for decisions of safety."""


class SystemClock:
    """The machine's clocks."""

    _boot = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def monotonic_ms(self) -> int:
        return time.clock_gettime_ns(self._boot) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
