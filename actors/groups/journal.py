"""What a coordinator has decided and not yet seen survive: one batch at a time. Pure.

Rules of this file:

1. One batch is under way. Whatever is decided meanwhile goes into the next one, together (group commit): so no batch is
   ever in the log without those before it, and a log that ends anywhere is a state that the coordinator was in.
2. Records of one ``Write`` stay in one batch.
"""

from __future__ import annotations

from collections import deque

from .events import Record, Write

BATCH_BYTES = 256 * 1024  # of keys and values; one write may be larger


class Journal:
    """Writes on their way to the log."""

    def __init__(self) -> None:
        self._waiting: deque[Write] = deque()
        self._under_way = 0  # the number of the last write of the batch under way; 0: none is

    @property
    def under_way(self) -> int:
        """The number of the last write of the batch under way; 0: none is."""
        return self._under_way

    @property
    def is_idle(self) -> bool:
        return not self._under_way

    def add(self, write: Write) -> None:
        self._waiting.append(write)

    def next_batch(self) -> list[Record]:
        """Begin the next batch, and return its records; none: there is nothing to write, or one is under way."""
        if self._under_way or not self._waiting:
            return []
        records: list[Record] = []
        size = 0
        while self._waiting:
            write = self._waiting[0]
            size += sum([len(key) + len(value or b"") for key, value in write.records])
            if records and size > BATCH_BYTES:
                break
            self._waiting.popleft()
            records += write.records
            self._under_way = write.number
        return records

    def on_survived(self) -> int:
        """The batch under way survives; return the number of its last write."""
        number, self._under_way = self._under_way, 0
        return number
