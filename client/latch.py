"""Where user threads wait for one thing that happens once."""

from __future__ import annotations

import contextlib
import threading

_TIMEOUT_S_MAX = threading.TIMEOUT_MAX


class Latch:
    """A ``threading.Event`` that cannot be cleared and costs a tenth: one lock, no condition.

    The lock is held until it is set; a waiter that gets it passes it on to the next. Waiting is interruptible by
    signals, as on every lock of Python. One thread sets it.
    """

    __slots__ = ("_is_set", "_lock")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Let everybody through, now and later. Harmless when repeated."""
        if not self._is_set:
            self._is_set = True
            self._pass_on()  # a waiter whose time is over may have seen that it is set, and have opened it

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is set, or for ``timeout`` seconds; return whether it is set."""
        if self._is_set:
            return True
        try:
            self._lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), _TIMEOUT_S_MAX))
        finally:  # also when a signal's handler raises just now, with the lock in our hands
            if self.is_set():
                self._pass_on()
        return self._is_set

    def _pass_on(self) -> None:
        with contextlib.suppress(RuntimeError):  # open already
            self._lock.release()
