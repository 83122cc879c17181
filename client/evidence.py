"""What a member's heartbeat says of its fetching. Pure but for what it looks at.

The problem: a consumer that has lost the thread (a partition that nobody fetches any more, a broker that is asked and
does not lead, an answer that never comes) looks alive, and its application waits for ever. The coordinator resets such
a member (``actors/groups/watchdog.py``); but it must be told by somebody who does not believe in his own books. So the
membership says what is *owned*, and of each of these partitions something is demanded from those who should know:

1. the fetcher knows it, and somebody reads what comes of it: a reader of that position, or it lies there to be read;
2. and a fetch of it was answered, and what was asked since is not late (``FetchState.fed_until_ms``); a broker that
   refuses for what ails itself has answered, one that says that it does not lead, has not;
3. or nothing is wanted of it now: it is paused, the application was told of an error and has to do something, or as
   much as may be is fetched and not consumed. Whether that is so is looked up where the records lie: a buffer that
   counts as full, and holds nothing, would never be fetched into again.

Whatever else is the case, the partition is stalled, for now. Most are for a moment, when they were just assigned.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ..model import TopicPartition
from .fetch_state import FetchState
from .fetcher import Fetcher


class Shelf(Protocol):
    """Where fetched records lie for the application. Asked from the I/O thread, beside whoever reads there."""

    def has_reader(self, key: TopicPartition, generation: int) -> bool:
        """Say whether what is fetched for that position will be handed out, as far as it is known just now."""

    def holds(self, key: TopicPartition | None, generation: int) -> bool:
        """Say whether something lies there for that position (``None``: for any), or may."""


class Evidence:
    """Of one consumer."""

    def __init__(self, fetcher: Fetcher, shelf: Shelf) -> None:
        self._fetcher, self._shelf = fetcher, shelf

    def stalled(self, owned: Collection[TopicPartition], now_ms: int) -> list[TopicPartition]:
        """Return the partitions among these of which it cannot be shown that they are fetched."""
        states = self._fetcher.states
        return [key for key in owned if not self._is_fed(key, states.get(key), now_ms)]

    def _is_fed(self, key: TopicPartition, state: FetchState | None, now_ms: int) -> bool:
        if state is None or not self._shelf.has_reader(key, state.generation):
            return False
        return now_ms <= state.fed_until_ms or self._wants_nothing(state)

    def _wants_nothing(self, state: FetchState) -> bool:
        if state.is_paused or state.error is not None or state.is_truncated:
            return True
        fetcher = self._fetcher
        if state.credit.buffered >= fetcher.settings.partition_bytes:
            return self._shelf.holds(state.key, state.generation)
        return fetcher.total.buffered >= fetcher.settings.buffer_bytes and self._shelf.holds(None, 0)
