"""An actor that no longer handles what it is told is found, and fails (D3); its supervisor does the rest. Pure.

A loop that makes no turn is another matter: no actor could look, so a thread in C does (``entry.watch_for_stalls``).
Here the loop turns, and one actor does not: its drain was lost, or an experiment has paused it. It cannot notice that
itself. So somebody looks now and then who has something in the mailbox and has handled nothing since the last look.
Time in which nobody looked (the whole process was stopped) does not count: nobody could have handled anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

LOOKS = 5  # within stall_ms


class Seen(NamedTuple):
    """One actor at one look. ``handled`` only grows."""

    address: str
    waiting: int  # messages
    handled: int


class ActorStalled(Exception):
    """An actor was told something and has handled nothing for too long."""


class StallWatch:
    """Remembers what was seen; tells who has stalled. An actor that was restarted has another ``life``."""

    def __init__(self, stall_ms: int) -> None:
        self.stall_ms = stall_ms
        self._looked_ms = 0
        self._since: dict[tuple[str, int], tuple[int, int]] = {}  # (address, life) -> (handled, monotonic ms)

    @property
    def period_ms(self) -> float:
        return self.stall_ms / LOOKS

    def stalled(self, seen: Iterable[tuple[Seen, int]], now_ms: int) -> list[tuple[str, int]]:
        """Return (address, for how many ms) of the actors that have stalled.

        Args:
            seen: every actor with its life: anything that differs between two actors at one address.
        """
        before, self._since = self._since, {}
        if now_ms - self._looked_ms > 2 * self.period_ms:
            before = {}
        self._looked_ms = now_ms
        found = []
        for one, life in seen:
            if not one.waiting:
                continue
            handled, since_ms = before.get((one.address, life), (-1, now_ms))
            if handled != one.handled:
                since_ms = now_ms
            self._since[one.address, life] = (one.handled, since_ms)
            if now_ms - since_ms >= self.stall_ms:
                found.append((one.address, now_ms - since_ms))
        return found
