"""How long the sync that runs has taken, as far as that is the disk's doing. Pure.

A disk that takes seconds for a sync is given up (a gray failure). But a process that was stopped meanwhile finds on
waking that the clock has gone on, and that its disk "took" all that time. Whoever comes late to look has slept, and
cannot judge: the sync is timed anew from then on, so a disk that is slow indeed is found one term later.
"""

from __future__ import annotations

SLEPT_MS_MIN = 100  # a look that late means that this process was not running, or had no time for anything


class SyncTime:
    """Times one sync after another."""

    def __init__(self) -> None:
        self._began_ms: int | None = None  # of the one that runs, or since when it is timed anew; None: none runs

    @property
    def is_running(self) -> bool:
        return self._began_ms is not None

    def began(self, now_ms: int) -> None:
        self._began_ms = now_ms

    def ended(self) -> None:
        self._began_ms = None

    def on_look(self, now_ms: int, due_ms: int) -> int:
        """Return how many ms the sync has taken, at a look that was due at ``due_ms``; 0: none runs."""
        if self._began_ms is None:
            return 0
        if now_ms - due_ms >= SLEPT_MS_MIN:
            self._began_ms = now_ms
        return now_ms - self._began_ms
