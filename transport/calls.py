"""Requests under way on one connection: who waits for which answer, and until when. Pure."""

from __future__ import annotations

from .seam import OnReply


class PendingCalls:
    """Correlation ids are unique per connection, begin at 1 and are never used twice."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[OnReply, int, int]] = {}  # id -> (on_reply, expires_ms, timeout_ms)
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._calls)

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def add(self, call_id: int, on_reply: OnReply, expires_ms: int, timeout_ms: int) -> None:
        self._calls[call_id] = (on_reply, expires_ms, timeout_ms)

    def take(self, call_id: int) -> OnReply | None:
        """Return who waits for this answer, once; None: nobody (any more)."""
        call = self._calls.pop(call_id, None)
        return call[0] if call else None

    def take_expired(self, now_ms: int) -> list[tuple[OnReply, int]]:
        """Return, with their timeouts, those whose time is over, in the order they were asked."""
        expired = [call_id for call_id, call in self._calls.items() if call[1] <= now_ms]
        return [(call[0], call[2]) for call in map(self._calls.pop, expired)]

    def take_all(self) -> list[OnReply]:
        calls = [call[0] for call in self._calls.values()]
        self._calls.clear()
        return calls

    def earliest_expiry_ms(self) -> int | None:
        return min((call[1] for call in self._calls.values()), default=None)
