"""The rules of a follower: what it copies, when it cuts, when it asks again. Pure.

A follower's log is its leader's, as far as it has come. It pulls: each fetch says where its own log ends and under
which epoch its last record was written, so the leader sees whether the two logs agree before it sends anything. Rules:

1. **Lineage first** (R1). Nothing is appended in an epoch before the leader of that epoch has found the logs to agree;
   the answer to each fetch carries that proof. Told that they part, the follower cuts to what both have, and asks
   again: once is not enough after a fast double failover (B3).
2. **Only this leader's word** (R2). An answer of another epoch changes nothing, least of all the log's end (B4).
3. **Never by the high watermark.** What lies above it may be committed: it is cut only where the lineage says so
   (B1, B2).
4. **Byte for byte.** Whole batches, each checksum computed anew, each at the very offset where this log ends. Anything
   else is not appended but asked for again. One exception: where the leader has compacted its log, a batch of no
   records may cover offsets that are here already; its range is taken from the log's end on.
5. Where the leader has nothing that old any more, or nothing at all of what is here, the log is begun anew at the
   leader's log start offset (B36): a log that began later than the leader's would lack what lies between.
6. A gap in the leader's log, as an operator's repair leaves one, is never stepped over: what is missing there was
   acknowledged once, and a copy that lacks it must not count as in sync. The follower says so, and asks seldom.
7. Little that came is synced before more is asked for: the fetch says at once that it is on disk, and nothing need be
   told apart. Behind much the next fetch is asked for as soon as it is in the page cache; the disk follows.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import CorruptRecordError, ErrorCode
from ...model import LeaderEpoch, Offset
from ...storage.batch import BatchHeader, check_crc, parse_header
from ...storage.epochs import EpochEnd, EpochHistory
from ...storage.sparse import empty_batch
from ...transport.messages import FetchEntryReply
from .events import BeginAnew, Copy, DeleteBefore, FetchNext, FollowerEffect, Truncate

LITTLE_BYTES = 16_384  # that came with one answer
RETRY_MS = 20  # the leader has not heard of its election yet, or this broker not of the next one
TROUBLE_RETRY_MS = 500  # what the leader sent cannot be used, or it cannot serve it

_NOT_YET = frozenset(
    {
        ErrorCode.NOT_LEADER_FOR_PARTITION,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
    }
)


class Follower:
    """A follower of one leader in one epoch. Another epoch is another ``Follower``.

    The log's ends are told by whoever owns the log, with each event; nothing of the log is kept here but what the
    leader said of it.
    """

    def __init__(self, epoch: LeaderEpoch, epochs: EpochHistory, high_watermark: Offset) -> None:
        self.epoch = epoch
        self.epochs = epochs  # the log's own; moved by what the actor does with the effects
        self.high_watermark = high_watermark  # the highest that this replica has heard of and holds
        self.problem = ""  # why the last answer could not be used; for people

    def begin(self, log_start_offset: Offset, log_end_offset: Offset) -> list[FollowerEffect]:
        """Ask for the first time in this epoch."""
        return [self._next(log_start_offset, log_end_offset)]

    def on_fetched(
        self,
        reply: FetchEntryReply,
        frames: Sequence[bytes],
        log_start_offset: Offset,
        log_end_offset: Offset,
    ) -> list[FollowerEffect]:
        """Decide on the leader's answer to the fetch from ``log_end_offset``.

        A ``FetchNext`` behind another effect asks from where the log ends *after* it: ``fetch_offset`` -1.
        """
        before, self.problem = self.problem, ""
        if reply.error:
            return self._on_refused(reply, log_start_offset, log_end_offset)
        if reply.leader_epoch != self.epoch:  # rule 2 (R2)
            return [self._next(log_start_offset, log_end_offset, RETRY_MS)]
        if reply.diverging_epoch >= 0:  # R1
            return self._on_diverging(reply, log_start_offset, log_end_offset)
        try:
            batches, headers = whole_batches(frames)
        except CorruptRecordError as error:
            self.problem = f"the leader sent a damaged batch: {error.detail}"
            return [self._next(log_start_offset, log_end_offset, TROUBLE_RETRY_MS)]
        effects: list[FollowerEffect] = []
        _shorten_first(batches, headers, log_end_offset)
        if headers and headers[0].base_offset != log_end_offset:
            if not self._begins_within(headers[0], log_start_offset, log_end_offset):
                self.problem = _gap_between(log_end_offset, headers[0].base_offset)
                is_lasting = self.problem == before  # rule 6; the first time it may be an answer that came late
                return [self._next(log_start_offset, log_end_offset, TROUBLE_RETRY_MS if is_lasting else RETRY_MS)]
            log_start_offset = Offset(headers[0].base_offset)
            effects.append(BeginAnew(log_start_offset))
        end_offset = log_end_offset
        if headers:
            effects.append(Copy(batches, headers))
            end_offset = Offset(headers[-1].next_offset)
        self.high_watermark = Offset(max(self.high_watermark, min(reply.high_watermark, end_offset)))
        effects += self._delete_with_leader(reply, log_start_offset, end_offset)
        if not headers:
            effects.append(self._next(log_start_offset, log_end_offset))
        else:
            is_little = sum([header.length for header in headers]) <= LITTLE_BYTES
            effects.append(AFTER_SYNC if is_little else AFTER_THAT)
        return effects

    # -- the branches ----------------------------------------------------------------------------------

    def _on_refused(
        self, reply: FetchEntryReply, log_start_offset: Offset, log_end_offset: Offset
    ) -> list[FollowerEffect]:
        is_out_of_range = reply.error == ErrorCode.OFFSET_OUT_OF_RANGE and reply.leader_epoch == self.epoch
        is_empty = log_start_offset == log_end_offset  # and not behind: the leader's log ends before it
        if is_out_of_range and (is_empty or reply.log_start_offset > log_end_offset):  # rule 5
            return self._begin_anew(reply)
        if reply.error in _NOT_YET:
            return [self._next(log_start_offset, log_end_offset, RETRY_MS)]
        self.problem = f"the leader refused: {reply.detail or 'no reason given'} [code {reply.error}]"
        return [self._next(log_start_offset, log_end_offset, TROUBLE_RETRY_MS)]

    def _on_diverging(
        self, reply: FetchEntryReply, log_start_offset: Offset, log_end_offset: Offset
    ) -> list[FollowerEffect]:
        point = self.epochs.truncation_point(
            EpochEnd(reply.diverging_epoch, reply.diverging_end_offset), log_end_offset
        )
        if point < log_start_offset:  # rule 5
            return self._begin_anew(reply)
        to_offset = Offset(point)
        if to_offset >= log_end_offset:  # it says that the logs part, and names no place: it cannot be
            self.problem = f"the logs part at epoch {reply.diverging_epoch}, but nothing is to be cut"
            return [self._next(log_start_offset, log_end_offset, TROUBLE_RETRY_MS)]
        self.high_watermark = Offset(min(self.high_watermark, to_offset))
        return [Truncate(to_offset), AFTER_THAT]

    def _begin_anew(self, reply: FetchEntryReply) -> list[FollowerEffect]:
        self.high_watermark = Offset(reply.log_start_offset)
        return [BeginAnew(Offset(reply.log_start_offset)), AFTER_THAT]

    def _delete_with_leader(
        self, reply: FetchEntryReply, log_start_offset: Offset, end_offset: Offset
    ) -> list[FollowerEffect]:
        """The log begins where the leader's does: retention and ``delete_records`` are decided there."""
        start = Offset(min(reply.log_start_offset, self.high_watermark, end_offset))
        return [DeleteBefore(start)] if start > log_start_offset else []

    def _begins_within(self, first: BatchHeader, log_start_offset: Offset, log_end_offset: Offset) -> bool:
        """An empty log that was begun in the middle of a batch: the batch comes whole."""
        return log_start_offset == log_end_offset and first.base_offset < log_end_offset < first.next_offset

    def _next(self, log_start_offset: Offset, log_end_offset: Offset, after_ms: int = 0) -> FetchNext:
        return next_fetch(self.epochs, log_start_offset, log_end_offset, after_ms)


def _gap_between(log_end_offset: int, base_offset: int) -> str:
    said = f"the leader sent offset {base_offset}, this log ends at {log_end_offset}"
    if base_offset > log_end_offset:
        said += "; if it stays so, a repair has left a gap in the leader's log: see docs/storage-format.md"
    return said


AFTER_THAT = FetchNext(Offset(-1), -1)  # from where the log ends when the effects before it are performed
AFTER_SYNC = FetchNext(Offset(-1), -1, after_sync=True)  # likewise


def next_fetch(epochs: EpochHistory, log_start_offset: Offset, log_end_offset: Offset, after_ms: int = 0) -> FetchNext:
    """Return what a follower asks whose log is this: from its end, in the name of its last record's epoch."""
    last_epoch = epochs.epoch_at(log_end_offset - 1) if log_end_offset > log_start_offset else -1
    return FetchNext(log_end_offset, last_epoch, after_ms)


def _shorten_first(batches: list[bytes | memoryview], headers: list[BatchHeader], log_end_offset: int) -> None:
    """Let a first batch of no records that reaches back behind the log's end begin there (rule 4)."""
    if headers and not headers[0].count and headers[0].base_offset < log_end_offset < headers[0].next_offset:
        batches[0] = empty_batch(log_end_offset, headers[0].next_offset, headers[0].leader_epoch)
        headers[0] = parse_header(batches[0])


def whole_batches(frames: Sequence[bytes]) -> tuple[list[bytes | memoryview], list[BatchHeader]]:
    """Return the batches of a leader's answer, each checked: in order, without a hole between two.

    Raises:
        CorruptRecordError: one is damaged or cut short, or does not follow the one before it.
    """
    batches: list[bytes | memoryview] = []
    headers: list[BatchHeader] = []
    for frame in frames:
        data, position = memoryview(frame), 0
        while position < len(data):
            header = parse_header(data, position)
            if position + header.length > len(data):
                raise CorruptRecordError(f"batch at offset {header.base_offset} is cut short")
            check_crc(data, position, header)
            if headers and header.base_offset != headers[-1].next_offset:
                raise CorruptRecordError(
                    f"batch at offset {header.base_offset} does not follow {headers[-1].last_offset}"
                )
            batches.append(data[position : position + header.length])
            headers.append(header)
            position += header.length
    return batches, headers
