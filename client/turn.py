"""Whose turn it is to call the application: changes of an assignment are performed by one thread at a time.

What that thread calls belongs to its turn, also where it runs elsewhere: a coroutine that is awaited on an event loop,
and what that has done on a thread of the loop's pool. So the turn is known by the context, not by the thread.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar

_within: ContextVar[tuple[object, ...]] = ContextVar("within", default=())  # turns, within which this code runs


class Turn:
    """From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: object | None = None  # new with each turn: what one has begun may outlive it

    @property
    def is_taken(self) -> bool:
        return self._present is not None

    @property
    def is_ours(self) -> bool:
        """Say whether this code is called within the turn that there is now."""
        present = self._present
        return present is not None and any(one is present for one in _within.get())

    def take(self, timeout_s: float = 0.0) -> bool:
        """Begin a turn, as soon as nobody else has one; False: somebody still has. Not within one's own."""
        if not self._lock.acquire(timeout=max(0.0, timeout_s)):
            return False
        self._present = object()
        _within.set((*_within.get(), self._present))
        return True

    def end(self) -> None:
        """End it, in the thread that took it."""
        ended, self._present = self._present, None
        _within.set(tuple(one for one in _within.get() if one is not ended))
        self._lock.release()
