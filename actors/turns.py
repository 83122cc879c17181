"""The mailboxes that are to be drained, one after the other, within one callback of the loop.

A request goes from the router to a partition and back. With a callback of the loop for each of the three drains, the
loop would look at its descriptors between them: system calls and, on asyncio's own loop, as much Python as a drain.

Rules of this file:

1. First in, first out: the order is that of ``call_soon``, only the looks at the descriptors between are left out.
2. A callback runs at most ``DRAINS_MAX`` of them; what is left follows in the next, after the descriptors and timers.
3. Never from within a drain: an actor runs to completion before another one does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..transport.loop import Loop

DRAINS_MAX = 64  # in one callback of the loop


class Turns:
    """What is to be drained. On the loop's thread only."""

    def __init__(self, loop: Loop) -> None:
        self._call_soon = loop.call_soon
        self._drains: deque[Callable[[], None]] = deque()
        self._is_scheduled = False
        self._is_running = False

    def soon(self, drain: Callable[[], None]) -> None:
        self._drains.append(drain)
        if not self._is_scheduled and not self._is_running:
            self._schedule()

    def run(self) -> None:
        """Drain now what is waiting: for a callback of the loop that has just put something into a mailbox."""
        if self._is_running:
            return
        self._is_running = True
        drains = self._drains
        try:
            for _ in range(DRAINS_MAX):
                if not drains:
                    break
                drains.popleft()()
        finally:  # also when the loop is ended by what a drain has raised
            self._is_running = False
            if drains and not self._is_scheduled:
                self._schedule()

    def _schedule(self) -> None:
        self._call_soon(self._on_loop)  # raises when the loop is closed; so it does the next time
        self._is_scheduled = True

    def _on_loop(self) -> None:
        self._is_scheduled = False
        self.run()
