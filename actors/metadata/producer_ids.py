"""Producer ids, handed out of blocks that the metadata process allots. Pure.

A block is a broker's alone, so an id is given to one producer ever. The next one is asked for before the last is used
up; what a broker had not handed out when it ended is never used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ...errors import ErrorCode
from ...transport.messages import InitProducerIdReply

PRODUCER_IDS_BLOCK = 1_000
PRODUCER_IDS_LOW = 100  # ask for the next block while so many are left
PRODUCER_IDS_WAITING_MAX = 10_000


class ProducerIds:
    """The ids that a broker has to give, and who waits for one."""

    def __init__(self) -> None:
        self.is_asking = False  # for a block; moved by whoever asks
        self._next = self._end = 0  # handed out below, ours below; _next <= _end
        self._next_block: tuple[int, int] | None = None
        self._waiting: deque[Callable[[InitProducerIdReply], Any]] = deque()  # only while nothing is left

    @property
    def is_anybody_waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def needs_block(self) -> bool:
        """Whether a block is to be asked for now."""
        return not self.is_asking and self._next_block is None and self._end - self._next < PRODUCER_IDS_LOW

    def on_wanted(self, reply: Callable[[InitProducerIdReply], Any]) -> None:
        """Hand one out, now or with the next block; too many that wait are refused."""
        if len(self._waiting) >= PRODUCER_IDS_WAITING_MAX:
            reply(InitProducerIdReply(error=ErrorCode.OVERLOADED, detail="too many wait for producer ids"))
            return
        self._waiting.append(reply)
        self._hand_out()

    def on_block(self, first: int, count: int) -> None:
        """``first`` to ``first + count - 1`` are ours."""
        self._next_block = (first, first + count)
        self._hand_out()

    def refuse(self, error: ErrorCode, detail: str) -> None:
        """Nobody who waits gets one now."""
        waiting, self._waiting = self._waiting, deque()
        for reply in waiting:
            reply(InitProducerIdReply(error=error, detail=detail))

    def _hand_out(self) -> None:
        while self._waiting:
            if self._next == self._end:
                if self._next_block is None:
                    return
                (self._next, self._end), self._next_block = self._next_block, None
            producer_id, self._next = self._next, self._next + 1
            self._waiting.popleft()(InitProducerIdReply(producer_id=producer_id, producer_epoch=0))
