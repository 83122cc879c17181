"""What must be looked at later: thousands of deadlines, a few wake-ups.

Deadlines are rounded up to a grain, and those of one grain come up together. One that is not needed any more is not
taken away: who is asked to look finds that there is nothing to do.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

GRAIN_MS = 10

T = TypeVar("T")


class Deadlines(Generic[T]):
    """What to look at, and when; in the order of time, then of ``add``."""

    __slots__ = ("_at", "_times")

    def __init__(self) -> None:
        self._at: dict[int, list[T]] = {}  # by time, a multiple of GRAIN_MS; never an empty list
        self._times: list[int] = []  # heap of _at's keys, each once

    def add(self, due_ms: int, what: T) -> int:
        """Look at ``what`` then; return when that will be, at most a grain later."""
        at = -(-due_ms // GRAIN_MS) * GRAIN_MS
        if (there := self._at.get(at)) is not None:
            there.append(what)
        else:
            self._at[at] = [what]
            heapq.heappush(self._times, at)
        return at

    @property
    def next_ms(self) -> int | None:
        return self._times[0] if self._times else None

    def pop_due(self, now_ms: int) -> list[T]:
        """Return what must be looked at by now, and forget it."""
        due: list[T] = []
        while self._times and self._times[0] <= now_ms:
            due += self._at.pop(heapq.heappop(self._times))
        return due
