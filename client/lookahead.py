"""Where the fetch after the one under way will begin: a guess, so that two of a partition can be under way. Pure.

The problem: a fetch begins where the one before has ended, and that is known when its answer is there. Asked one after
the other, a consumer that is behind waits for a round trip with every answer.

The theory: a broker answers with whole batches, the first of which *contains* the offset that was asked for. So a guess
need not be exact: any offset within the batch that follows gives the right answer. Too low, and some batches come
twice (readers skip what is below their position); too high, and there is a gap: the answer is of no use.

Rules of this file:

1. The last answer tells how many records one brings: its own number when it was full, else what its batches make of a
   full one. The guess aims at the middle of the batch that follows. Where an answer holds many batches, which vary,
   a sixteenth less: some bytes twice are cheaper than an answer in vain.
2. A guess always lies below the high watermark: it is answered at once and never waits at the broker.
3. Whoever guesses wrong pauses: for one answer, then two, then four, up to ``PAUSE_MAX``. A right guess forgives all.
"""

from __future__ import annotations

from typing import NamedTuple

MARGIN = 16  # of so many batches one less is counted on
PAUSE_MAX = 64  # answers to exact fetches, between guesses that are always wrong


class Span(NamedTuple):
    """The offsets that some contiguous batches hold: [first, next_offset)."""

    first: int
    next_offset: int
    batches: int
    last_epoch: int = -1  # leader epoch of the last one


class Lookahead:
    """The guesses for one partition."""

    __slots__ = ("_answers_to_come", "_half", "_misses", "_records")

    def __init__(self) -> None:
        self._records = 0  # that the next answer will bring; 0: nobody knows
        self._half = 0  # of the records of one batch
        self._misses = 0  # wrong guesses in a row
        self._answers_to_come = 0  # before the next guess

    def on_data(self, span: Span, size: int, full_bytes: int) -> None:
        """An answer has brought ``span`` in ``size`` bytes; one is full that has no room for another such batch."""
        records, batches = span.next_offset - span.first, max(1, span.batches)
        if size + size // batches <= full_bytes:  # a short one: at the end of the log or of a segment
            fitting = full_bytes * batches // max(1, size)
            records, batches = fitting * records // batches, fitting
        self._half = records // (2 * batches)
        self._records = records - records // batches * (batches // MARGIN)
        self._answers_to_come = max(0, self._answers_to_come - 1)

    def guess(self, fetch_offset: int, under_way: int, high_watermark: int) -> int | None:
        """Return where to fetch beyond what ``under_way`` fetches from ``fetch_offset`` on will bring; None: better
        wait for them."""
        if not self._records or self._answers_to_come:
            return None
        offset = fetch_offset + under_way * self._records + self._half
        return offset if offset < high_watermark else None

    def on_hit(self) -> None:
        self._misses = 0

    def on_miss(self) -> None:
        self._answers_to_come = min(PAUSE_MAX, 1 << self._misses)
        self._misses = min(self._misses + 1, PAUSE_MAX)
