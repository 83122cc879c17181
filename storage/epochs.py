"""Which leader wrote which part of a log: the lineage that followers compare before they append anything.

An entry says where an epoch's records begin; an epoch ends where the next entry begins, the last one at the log
end. Entries grow in both numbers. An epoch that wrote nothing has no entry once a later one begins at the same
offset: a question about it is answered by the largest epoch below, which ends at that very offset.

The rule of divergence (KIP-101, KIP-279): a follower names the epoch of its last record and where that record
ends. The leader answers with the end of the *largest epoch not above it* that it knows. Does the follower's log go
past that end, or is its epoch missing here, it cuts to what both have and asks again, until epochs are equal:
asking once, about one epoch, is the bug of a fast double failover.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import InvariantViolated


class EpochEnd(NamedTuple):
    """Where an epoch ends in this log; (-1, -1): it knows no epoch that low or that high."""

    epoch: int
    end_offset: int  # exclusive


UNKNOWN_END = EpochEnd(-1, -1)


class EpochHistory:
    """The epochs of one log, oldest first."""

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        self._epochs: list[int] = []  # strictly ascending
        self._starts: list[int] = []  # strictly ascending; as many as epochs
        for epoch, start_offset in entries:
            self.assign(epoch, start_offset)

    @property
    def entries(self) -> tuple[tuple[int, int], ...]:
        """(epoch, start offset), oldest first."""
        return tuple(zip(self._epochs, self._starts, strict=True))

    @property
    def latest(self) -> int:
        """The newest epoch; -1 when there is none."""
        return self._epochs[-1] if self._epochs else -1

    def assign(self, epoch: int, start_offset: int) -> None:
        """Begin ``epoch`` at ``start_offset``; nothing happens when it has begun already.

        Raises:
            InvariantViolated: it lies before the newest one, in epoch or offset.
        """
        if epoch == self.latest or epoch < 0:
            return
        if epoch < self.latest or (self._starts and start_offset < self._starts[-1]):
            raise InvariantViolated(f"epoch {epoch} at offset {start_offset} after {self.latest} at {self._starts[-1]}")
        if self._starts and self._starts[-1] == start_offset:
            self._epochs.pop()
            self._starts.pop()
        self._epochs.append(epoch)
        self._starts.append(start_offset)

    def epoch_at(self, offset: int) -> int:
        """Return the epoch of the record at ``offset``; -1 when that lies before the first known epoch."""
        place = bisect_right(self._starts, offset)
        return self._epochs[place - 1] if place else -1

    def end_offset_for(self, epoch: int, log_end_offset: int) -> EpochEnd:
        """Return the largest known epoch not above ``epoch``, and where it ends."""
        if epoch < 0 or epoch > self.latest:
            return UNKNOWN_END
        place = bisect_right(self._epochs, epoch)
        if place == 0:  # older than all: nothing of it is here
            return EpochEnd(epoch, self._starts[0])
        end_offset = self._starts[place] if place < len(self._starts) else log_end_offset
        return EpochEnd(self._epochs[place - 1], end_offset)

    def divergence(self, last_fetched_epoch: int, fetch_offset: int, log_end_offset: int) -> EpochEnd | None:
        """Return where a follower's log parts from this one, or None when it does not.

        Args:
            last_fetched_epoch: of the follower's last record; -1: it has none.
            fetch_offset: the follower's log end.
        """
        if last_fetched_epoch < 0:
            return None
        end = self.end_offset_for(last_fetched_epoch, log_end_offset)
        if end.epoch < last_fetched_epoch or end.end_offset < fetch_offset:
            return end
        return None

    def truncation_point(self, leader_end: EpochEnd, log_end_offset: int) -> int:
        """Return where a follower cuts its log, told ``leader_end`` about its last epoch; then it asks again.

        Always below ``log_end_offset`` when the leader found a divergence.
        """
        if leader_end.epoch < 0:  # nothing in common
            return self._starts[0] if self._starts else log_end_offset
        own_end = self.end_offset_for(leader_end.epoch, log_end_offset)
        return min(leader_end.end_offset, own_end.end_offset, log_end_offset)

    def truncate_from_end(self, end_offset: int) -> None:
        """Forget the epochs that begin at or behind ``end_offset``, the new log end."""
        while self._starts and self._starts[-1] >= end_offset:
            self._starts.pop()
            self._epochs.pop()

    def truncate_from_start(self, log_start_offset: int) -> None:
        """Let the log begin at ``log_start_offset``: the epoch that spans it begins there now."""
        while len(self._starts) > 1 and self._starts[1] <= log_start_offset:
            del self._starts[0], self._epochs[0]
        if self._starts and self._starts[0] < log_start_offset:
            self._starts[0] = log_start_offset

    def copy(self) -> EpochHistory:
        return EpochHistory(self.entries)
