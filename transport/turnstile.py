"""How many connections a door takes that come to nothing: pure rules, no socket, no clock.

Whoever connects costs this process some tenths of a millisecond before anything is known of him, and whoever does so
again and again takes them from those who have work. He cannot be told from a sound client by the way he knocks, but
by what comes of it. So connections are paid for with tokens:

1. An arrival takes a token, and brings it back when it says hello: however many sound clients come, they are free.
2. Whoever has said hello and ends within ``BRIEF_MS`` of his arrival takes one for good: so a hello is no free pass.
3. Tokens come back, so many a second, up to ``burst``.
4. Without one the door is shut; it opens when there are some again, at most ``DEBT_S`` and a few ms later: those who
   stood before it when it was shut come in nevertheless, and may cost more than there was.

A door that is shut keeps everybody out who was not there before, so he waits: his kernel knocks again by itself
after 1, 3 and 7 s. Who is connected is not concerned.
"""

from __future__ import annotations

BRIEF_MS = 1_000
DEBT_S = 1.0  # of tokens: what is spent beyond is forgiven
OPENING_S = 0.1  # of tokens: there must be so many before a door that was shut is opened


class Turnstile:
    """One door. Times are of one clock that never goes back, in ms."""

    def __init__(self, per_s: float, burst: float, now_ms: int) -> None:
        """``per_s``, ``burst``: connections that come to nothing, lasting and at once."""
        self._per_s = per_s
        self._burst = max(1.0, burst)
        self._tokens = self._burst  # -per_s * DEBT_S <= tokens <= burst
        self._at_ms = now_ms  # when there were so many
        self._came_ms: dict[int, int] = {}  # open connections, by descriptor
        self._greeted: set[int] = set()  # a part of them
        self.is_shut = False  # moved only by _settle

    def arrived(self, descriptor: int, now_ms: int) -> None:
        """A connection has come. Its descriptor is that of no other one."""
        self._greeted.discard(descriptor)
        self._came_ms[descriptor] = now_ms
        self._settle(-1, now_ms)

    def greeted(self, descriptor: int, now_ms: int) -> None:
        """It has said hello. Harmless when repeated, or when it is none that has come."""
        if descriptor in self._came_ms and descriptor not in self._greeted:
            self._greeted.add(descriptor)
            self._settle(1, now_ms)

    def ended(self, descriptor: int, now_ms: int) -> None:
        """It is gone. Harmless when repeated."""
        came_ms = self._came_ms.pop(descriptor, None)
        if descriptor in self._greeted:
            self._greeted.discard(descriptor)
            if came_ms is not None and now_ms - came_ms < BRIEF_MS:
                self._settle(-1, now_ms)

    def opens_in_ms(self, now_ms: int) -> int:
        """Return in how many ms the door may open, if nothing else happens; 0: it is open."""
        self._settle(0, now_ms)
        if not self.is_shut:
            return 0
        return max(1, int((self._opening - self._tokens) / self._per_s * 1_000) + 1)

    @property
    def _opening(self) -> float:
        return min(self._burst, max(1.0, self._per_s * OPENING_S))

    def _settle(self, change: int, now_ms: int) -> None:
        passed_s = max(0, now_ms - self._at_ms) / 1_000
        self._at_ms = max(self._at_ms, now_ms)
        tokens = min(self._burst, self._tokens + passed_s * self._per_s) + change
        self._tokens = max(-self._per_s * DEBT_S, min(self._burst, tokens))
        if self.is_shut:
            self.is_shut = self._tokens < self._opening
        else:
            self.is_shut = self._tokens < 1
