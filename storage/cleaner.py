"""What a log knows of its compaction: what was compacted, what is under way, what is yet to be exchanged on disk.

Owned by the log, on whose lists of segments it works; one thread, like the log.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..config import TopicConfig
from .checkpoint import Checkpoint
from .cleaned import Cleaned, forget_cleaned
from .compaction import Compaction, Terms, plan
from .epochs import EpochHistory
from .files import Files
from .producers import ProducerStates
from .segment import Segment
from .swapping import Swap, Swapping, install


class Cleaner:
    """See the top of the file."""

    def __init__(
        self, files: Files, directory: str, segments: list[Segment], bases: list[int], cleaned: Cleaned
    ) -> None:
        self.cleaned = cleaned  # offset <= recovery point on disk; moved by end and before_cut
        self.swapping: Swapping | None = None  # made in memory already; the log's next job makes it on disk
        self._files = files
        self._directory = directory
        self._segments = segments  # the log's own list
        self._bases = bases
        self._compaction: Compaction | None = None  # under way; none if the log was cut meanwhile

    def begin(
        self,
        unsynced: Collection[Segment],
        on_disk: Checkpoint | None,
        config: TopicConfig,
        terms: Terms,
        epochs: EpochHistory,
        producers: ProducerStates,
    ) -> Compaction | None:
        """Return what is to be done; None: too little."""
        if self.swapping is not None:
            return None
        chosen = plan(self._segments, unsynced, on_disk, config, self.cleaned, terms)
        if chosen is None:
            return None
        kept = producers.batch_offsets()
        self._compaction = Compaction(self._files, self._directory, chosen, config, epochs.copy(), kept)
        return self._compaction

    def is_current(self, compaction: Compaction) -> bool:
        return compaction is self._compaction

    def end(self, compaction: Compaction, now_ms: int) -> Sequence[Swap] | None:
        """Exchange the segments in memory; return what was exchanged, or None: the compaction is void."""
        if compaction is not self._compaction or self.swapping is not None:
            compaction.discard()
            return None
        self._compaction = None
        swaps = install(self._segments, self._bases, compaction.swaps)
        left = [segment for swap in compaction.give_up(swaps) for segment in swap.inputs if segment in self._segments]
        if not left:  # else those are not compacted: what was deleted from the front meanwhile took part of them along
            self.cleaned = compaction.cleaned(now_ms)
        self.swapping = Swapping(self._files, self._directory, swaps, self.cleaned)
        return swaps

    def end_swapping(self, done: Swapping | None) -> None:
        """The files have been exchanged."""
        if done is not None:
            for swap in done.swaps:
                swap.segment.close()  # opened from now on by the name that it has now
            self.swapping = None

    def swap_now(self) -> None:
        """Exchange the files if that is yet to be done. Blocks; raises ``OSError``."""
        if self.swapping is not None:
            self.swapping()
            self.end_swapping(self.swapping)

    def is_unnamed(self, segment: Segment) -> bool:
        """Whether its file does not have its name yet, so that it must stay open."""
        return self.swapping is not None and any(swap.segment is segment for swap in self.swapping.swaps)

    def before_cut(self, end_offset: int) -> None:
        """What comes behind ``end_offset`` will be other records. Blocks."""
        self._compaction = None
        if end_offset < self.cleaned.offset:
            self.cleaned = Cleaned()
            forget_cleaned(self._files, self._directory)
