"""What must be true on disk, and in memory, while a log is cut at its end.

First the recovery point goes down and the producers' snapshot goes, then the bytes: neither may ever know of records
that the log does not have.
"""

from __future__ import annotations

from collections.abc import Sequence

from .checkpoint import Checkpoint
from .producers import ProducerStates
from .segment import Mark, Segment


def lowered(
    known: Checkpoint | None, log_start_offset: int, epochs: Sequence[tuple[int, int]], last: Segment, mark: Mark
) -> Checkpoint | None:
    """Return the checkpoint that is true before and after a cut of ``last`` at ``mark``; None: the known one is."""
    if known is None or known.segment < last.base_offset:
        return None
    if known.segment == last.base_offset and known.position <= mark.size:
        return None
    return Checkpoint(
        log_start_offset=min(log_start_offset, mark.next_offset),
        recovery_offset=last.base_offset,
        segment=last.base_offset,
        position=0,
        segment_created_ms=last.created_ms,
        epochs=tuple(entry for entry in epochs if entry[1] <= last.base_offset),
        has_producers=known.has_producers,
        high_watermark=min(known.high_watermark, last.base_offset),
    )


def rebuild_producers(producers: ProducerStates, segments: Sequence[Segment], log_start_offset: int) -> None:
    """Read the producers from the headers that are left; those deleted from the front stay known until they expire."""
    before = producers.copy()
    producers.clear()
    for state in before.values():
        producers.keep_below(state, log_start_offset)
    for segment in segments:
        for header in segment.headers(log_start_offset):
            if header.producer_id >= 0:
                known = before.get(header.producer_id)
                producers.record(header, known.active_ms if known else 0)
