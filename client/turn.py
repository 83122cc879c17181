"""Which call of the application this code runs within; and whose turn it is to call it.

What a thread calls belongs to that call, also where it runs elsewhere: a coroutine that is awaited on an event loop,
and what that has done on a thread of the loop's pool. So a call is known by the context, not by the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_within: ContextVar[tuple[object, ...]] = ContextVar("within", default=())  # calls, of which this code is a part


@contextmanager
def _part_of(call: object) -> Iterator[None]:
    _within.set((*_within.get(), call))
    try:
        yield
    finally:
        _within.set(tuple(one for one in _within.get() if one is not call))


class Calls:
    """Calls of the application that are under way. What one has begun may outlive it. From any thread."""

    def __init__(self) -> None:
        self._present: set[object] = set()

    @property
    def is_ours(self) -> bool:
        """Say whether this code is called within one of them."""
        return bool(self._present) and not self._present.isdisjoint(_within.get())

    @contextmanager
    def calling(self) -> Iterator[None]:
        """While this lasts the application is called."""
        call = object()
        self._present.add(call)
        try:
            with _part_of(call):
                yield
        finally:
            self._present.discard(call)


class Turn:
    """Changes of an assignment are performed by one thread at a time. From any thread."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        """``on_end`` is called when a turn has ended: others may want the next one."""
        self._on_end = on_end
        self._present: object | None = None  # new with each turn: what one has begun may outlive it
        self._changed = threading.Condition()

    @property
    def is_taken(self) -> bool:
        return self._present is not None

    @property
    def is_ours(self) -> bool:
        """Say whether this code is called within the turn that there is now."""
        return self._present is not None and self._present in _within.get()

    @contextmanager
    def taken(self, timeout_s: float = 0.0) -> Iterator[bool]:
        """Have a turn while this lasts, as soon as nobody else has one; yields False: somebody still has.

        Not within one's own. An interrupt (Ctrl-C) leaves no turn behind, wherever it comes.
        """
        this = object()
        try:
            with self._changed:
                if self._changed.wait_for(lambda: self._present is None, timeout_s):
                    self._present = this
            if self._present is this:
                with _part_of(this):
                    yield True
            else:
                yield False
        finally:
            if self._present is this:
                self._present = None
                with self._changed:
                    self._changed.notify()
                self._on_end()
