"""How a coordinator learns what its log says. Pure.

A leader that has just been elected does not know how much of its log is committed: what it heard of the high watermark
may be old, and above it there may be commits that were acknowledged (B22). So the coordinator first appends a marker
with ``acks=all``: when that is acknowledged, everything before it is committed, whoever wrote it. Then all is read,
from the start of the log up to the marker. Whatever else was still under way, from an earlier coordinator, is either
before the marker, or was fenced by the leader epoch, and will never be there.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...storage.batch import decode_batch, iter_batches
from .events import Record


class Loading:
    """One walk through the log: ``next_offset`` is what to read next, until ``is_complete``."""

    def __init__(self, log_start_offset: int, marker_offset: int) -> None:
        self.next_offset = log_start_offset  # only grows; moved by on_read
        self.marker_offset = marker_offset
        self.records = 0  # read so far

    @property
    def is_complete(self) -> bool:
        return self.next_offset >= self.marker_offset

    def on_read(self, frames: Sequence[bytes]) -> list[Record]:
        """Return the records of what was read from ``next_offset`` on, in the log's order.

        Raises:
            CorruptRecordError: it is damaged.
        """
        data = b"".join(frames)
        found: list[Record] = []
        for header, at in iter_batches(data):
            if header.base_offset >= self.marker_offset:
                self.next_offset = self.marker_offset
                break
            columns = decode_batch(data, at)
            found += [(key, value) for key, value in zip(columns.keys, columns.values, strict=True) if key is not None]
            self.next_offset = header.next_offset
        self.records += len(found)
        return found
