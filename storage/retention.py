"""Delete from the front: which segments are due, and the order in which they go.

The log start offset moves first, in memory: from then on nobody reads below it. Then the next job writes it into the
checkpoint, on disk, and only then removes the files, the oldest first. So a crash at any moment leaves a log
that begins at the old offset, or at the new one; files that it leaves below that are removed when the log is opened.

Rules of this file:

1. Only whole segments are removed, and never one that holds a record at or above ``up_to_offset``.
2. By time a segment goes when its newest record is older than ``retention_ms``; by size the oldest go while what is
   left is at least ``retention_bytes``.
3. Damage saves nothing and dooms nothing: a segment whose timestamps cannot be read goes when the next one is due.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from ..errors import StorageCorruption
from .files import Files
from .index import NO_TIMESTAMP
from .segment import Segment


def due_count(
    segments: Sequence[Segment],
    now_ms: int,
    retention_ms: int | None,
    retention_bytes: int | None,
    up_to_offset: int,
) -> int:
    """Return how many segments, from the oldest on, are due; the last one may be among them by time only."""
    by_time = 0
    if retention_ms is not None:
        for place, segment in enumerate(segments):
            newest = _newest(segment)
            if segment.next_offset > up_to_offset or not segment.size:
                break
            if newest is None:  # not known: it goes with the one behind it
                continue
            if newest + retention_ms >= now_ms:
                break
            by_time = place + 1
    by_size = 0
    if retention_bytes is not None:
        left = sum(segment.size for segment in segments)
        for segment in segments[:-1]:
            left -= segment.size
            if left < retention_bytes or segment.next_offset > up_to_offset:
                break
            by_size += 1
    return max(by_time, by_size)


def _newest(segment: Segment) -> int | None:
    try:
        newest = segment.max_timestamp
    except StorageCorruption:
        return None
    return None if newest == NO_TIMESTAMP else newest


def make_room(files: Files, doomed: Sequence[Segment]) -> None:
    """Remove what can be rebuilt of segments that are about to go: a full disk must take the checkpoint before that."""
    for segment in doomed:
        with contextlib.suppress(OSError):
            if files.exists(segment.index_path):
                files.remove(segment.index_path)


def remove_segments(files: Files, doomed: Sequence[Segment]) -> None:
    """Remove segments, the oldest first; the checkpoint that lets the log begin behind them is on disk already."""
    for segment in doomed:
        for path in (segment.path, segment.index_path):
            if files.exists(path):
                files.remove(path)
