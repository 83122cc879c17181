"""``on_error``: how a client tells the application what no call of its own would raise in time.

It is called on a thread of its own, never on the client's I/O thread and never under a lock of the client's: it may
block, call the client, and close it. The thread exists only while there is something to tell. Of each class of errors
one is told in ``TELL_EVERY_MS``; what comes meanwhile is in the log only. What it raises is logged, and harmless.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import CallboardError

TELL_EVERY_MS = 1_000  # of one class of errors
WAITING_MAX = 100  # while the hook is busy with one; beyond, they are dropped


class ErrorHook:
    """The hook of one client. All methods from any thread; none waits, none raises."""

    def __init__(self, call: Callable[[CallboardError], Any] | None, client_id: str, now_ms: Callable[[], int]) -> None:
        self._call, self._client_id, self._now_ms = call, client_id, now_ms
        self._lock = threading.Lock()  # held for moments, never while the hook runs
        self._waiting: deque[CallboardError] = deque()
        self._told_ms: dict[type[CallboardError], int] = {}
        self._is_running = False
        self._is_closed = False

    def __bool__(self) -> bool:
        return self._call is not None

    def tell(self, error: CallboardError) -> None:
        """Have the application called with this, soon; unless it was told of another such one just now."""
        if self._call is None:
            return
        now, kind = self._now_ms(), type(error)
        with self._lock:
            is_repeated = kind in self._told_ms and now < self._told_ms[kind] + TELL_EVERY_MS
            if is_repeated or self._is_closed or len(self._waiting) >= WAITING_MAX:
                return
            self._told_ms[kind] = now
            self._waiting.append(error)
            if self._is_running:
                return
            self._is_running = True
        try:
            threading.Thread(target=self._run, name=f"on_error of {self._client_id}", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter ends: it stands in the log
            self._is_running = False

    def close(self) -> None:
        """No more calls begin."""
        with self._lock:
            self._is_closed = True
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._call is None:
                    self._is_running = False
                    return
                error = self._waiting.popleft()
            try:
                self._call(error)
            except BaseException:  # the application's code, and nobody above to tell: SystemExit ends no thread, either
                import logging

                logging.getLogger("callboard.client").exception("%s: on_error raised", self._client_id)
