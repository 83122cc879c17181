"""The rules of a partition's leader: what it accepts, when it acknowledges, who may read what.

Pure: events in, effects out; no clock, no file, no socket. The rules, in order of appearance:

1. A request of another leader epoch is refused, older and newer differently (KIP-320; B6). A follower must name
   this very epoch (R2): a position in another one's log means nothing here (B4).
2. Too few replicas in sync for ``acks=all``: refused *before* anything is appended (B7). And again before the reply:
   when the set falls below the minimum, who waits is told at once that it may or may not be kept.
3. A batch is appended once: a duplicate is answered with its first offset, a gap is refused (B14, B18).
   A duplicate waits for the high watermark like the original did. A full disk refuses before anything is appended.
4. ``acks=0`` is never answered, ``1`` once the batch is in the page cache, ``all`` once the high watermark has
   passed it.
5. A consumer reads below the high watermark only (P5). A fetch with nothing to read is parked; it is answered
   by the move of the watermark that gives it something.
6. The end of the log is told to consumers only when the high watermark has reached the start of this epoch:
   it must not go back from one leader to the next (R7, B11).
7. A follower reads to the log end, in the page cache or not: it copies while the leader's own disk is still at work.
   Before anything else its lineage is compared (R1); what it says of itself counts only when that agrees.
8. The high watermark moves only while the in-sync set has ``min_insync_replicas`` members (R3, KIP-966): so whoever was
   in it when it fell below still holds all that is committed, and may be elected (ELR, ``../controller/elections.py``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from ...errors import ErrorCode, InvariantViolated
from ...model import BrokerId, LeaderEpoch, Offset, PartitionKey
from ...storage.batch import BatchHeader
from ...storage.epochs import EpochHistory
from ...storage.producers import Duplicate, ProducerStates, Refused
from ...transport.messages import (
    ACKS_ALL,
    ACKS_NONE,
    CONSUMER_REPLICA_ID,
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    UNKNOWN_OFFSET,
    FetchEntryReply,
    ListOffsetsEntryReply,
    ProduceEntryReply,
)
from .events import (
    Answer,
    Append,
    Effect,
    Fetch,
    IsrAnswered,
    ListOffset,
    Produce,
    Progress,
    Read,
    Ticket,
    epoch_error,
)
from .insync import InSync
from .progress import Position

NOT_APPENDED = Offset(UNKNOWN_OFFSET)


class Leader:
    """A leader in one epoch. Another epoch is another ``Leader``."""

    def __init__(
        self,
        key: PartitionKey,
        *,
        broker_id: BrokerId,
        epoch: LeaderEpoch,
        isr: Iterable[int],
        min_insync_replicas: int,
        flush: str,
        max_message_bytes: int,
        producers: ProducerStates,
        epochs: EpochHistory,
        log_start_offset: Offset,
        log_end_offset: Offset,
        durable_offset: Offset,
        high_watermark: Offset,
        replicas: Iterable[int] = (),
        partition_epoch: int = 0,
        lag_ms: int = 3_000,
        now_ms: int = 0,
    ) -> None:
        """Begin to lead.

        Args:
            epochs: the log's own lineage; it has begun this epoch already.
            high_watermark: the last one that this replica heard of as a follower; a lower one is safe, too.
            lag_ms: how long a member of the in-sync set may lag (``replica_lag_ms``).
        """
        self.key = key
        self.broker_id = broker_id
        self.epoch = epoch
        self.insync = InSync(
            broker_id,
            epoch=epoch,
            partition_epoch=partition_epoch,
            replicas=replicas,
            isr=isr,
            flush=flush,
            lag_ms=lag_ms,
            now_ms=now_ms,
        )
        self.min_insync_replicas = min_insync_replicas
        self.max_message_bytes = max_message_bytes
        self.producers = producers  # the log's own: what is appended is known there
        self.epochs = epochs  # likewise
        self.log_start_offset = log_start_offset  # <= high_watermark; moved by on_deleted
        self.log_end_offset = log_end_offset  # >= every offset given out; moved by on_produce
        self.is_storage_full = False  # moved by the replica, before each produce
        self.durable_offset = durable_offset  # <= log_end_offset; moved by on_flushed
        # log_start_offset <= high_watermark <= log_end_offset, never lowered; moved by _advance alone
        self.high_watermark = Offset(min(max(high_watermark, log_start_offset), log_end_offset))
        self.epoch_start_offset = log_end_offset  # where this epoch's first record will stand
        self._appended_offset = log_end_offset  # <= log_end_offset; moved by on_appended alone; where the log ends
        # Who waits, by ticket: what they sent is on its way to the log, and must not be held here as well.
        self._acks_leader: list[tuple[Ticket, Offset]] = []  # staged, to be answered by on_appended
        self._acks_all: list[tuple[Offset, int, Ticket, Offset]] = []  # heap: (end offset, tie, ticket, base offset)
        self._parked: dict[Ticket, Fetch] = {}  # consumers', at or above the high watermark
        self._parked_followers: dict[Ticket, Fetch] = {}  # at the log end
        self._tie = 0
        if broker_id not in self.isr:
            raise InvariantViolated(f"{key}: leader {broker_id} is not in its own ISR {sorted(self.isr)}")
        self._advance()

    @property
    def isr(self) -> frozenset[BrokerId]:
        """The committed in-sync set; holds this broker, always."""
        return self.insync.isr

    @property
    def flush(self) -> str:
        return self.insync.flush

    # -- producing -----------------------------------------------------------------------------------

    def on_produce(self, produce: Produce, header: BatchHeader) -> list[Effect]:
        """Accept or refuse one batch whose checksum and shape have been checked.

        The caller has appended every batch that this accepted before from the same producer: the
        sequence rules look at what the log knows.
        """
        if error := epoch_error(produce.leader_epoch, self.epoch):
            return self._refuse(
                produce.ticket, error, f"request is of epoch {produce.leader_epoch}, leader of {self.epoch}"
            )
        if header.length > self.max_message_bytes:
            detail = f"batch of {header.length} bytes, max_message_bytes is {self.max_message_bytes}"
            return self._refuse(produce.ticket, ErrorCode.MESSAGE_SIZE_TOO_LARGE, detail)
        if produce.acks == ACKS_ALL and len(self.isr) < self.min_insync_replicas:
            detail = f"{len(self.isr)} in sync, min_insync_replicas is {self.min_insync_replicas}"
            return self._refuse(produce.ticket, ErrorCode.NOT_ENOUGH_REPLICAS, detail)
        verdict = self.producers.check(header)
        if isinstance(verdict, Refused):
            return self._refuse(produce.ticket, verdict.code, verdict.detail)
        if isinstance(verdict, Duplicate):
            return self._acknowledge_duplicate(produce, verdict)
        if self.is_storage_full:  # what is there already was acknowledged above
            return self._refuse(produce.ticket, ErrorCode.STORAGE_FULL, "too little room is left in its directory")
        base_offset = self.log_end_offset
        self.log_end_offset = Offset(base_offset + header.count)
        if produce.acks == ACKS_ALL:
            self._await_high_watermark(produce.ticket, base_offset, self.log_end_offset)
        elif produce.acks != ACKS_NONE:
            self._acks_leader.append((produce.ticket, base_offset))
        return [Append(produce.frames, header, base_offset)]

    def on_appended(self, log_end_offset: Offset, now_ms: int) -> list[Effect]:
        """All batches accepted so far are in the page cache: followers may read them, ``acks=1`` is answered."""
        if log_end_offset != self.log_end_offset:
            raise InvariantViolated(
                f"{self.key}: the log ends at {log_end_offset}, its leader at {self.log_end_offset}"
            )
        if self.insync.followers:
            self.insync.before_append(self._appended_offset, now_ms)
        self._appended_offset = log_end_offset
        acknowledged, self._acks_leader = self._acks_leader, []
        answers: list[Effect] = [self._acknowledged(ticket, base_offset) for ticket, base_offset in acknowledged]
        return answers + self._wake_followers() + self._advance()

    def on_append_failed(self, error: ErrorCode, detail: str) -> list[Effect]:
        """None of the batches accepted since the last append is in the log: their offsets go to the next ones."""
        end_offset = self.log_end_offset = self._appended_offset
        lost = [ticket for ticket, _ in self._acks_leader]
        lost += [ticket for _, _, ticket, base_offset in self._acks_all if base_offset >= end_offset]
        self._acks_leader = []
        self._acks_all = [one for one in self._acks_all if one[3] < end_offset]
        heapq.heapify(self._acks_all)
        return [effect for ticket in lost for effect in self._refuse(ticket, error, detail)]

    def on_flushed(self, durable_offset: Offset) -> list[Effect]:
        """Everything below ``durable_offset`` survives power loss."""
        if durable_offset > self.log_end_offset:
            raise InvariantViolated(f"{self.key}: durable to {durable_offset}, log ends at {self.log_end_offset}")
        self.durable_offset = max(self.durable_offset, durable_offset)
        return self._advance()

    def on_deleted(self, log_start_offset: Offset) -> list[Effect]:
        """The log begins there now: nobody reads below it any more, and followers delete likewise."""
        if log_start_offset > self.high_watermark:
            raise InvariantViolated(f"{self.key}: deleted to {log_start_offset}, committed to {self.high_watermark}")
        self.log_start_offset = log_start_offset
        return self._tell_followers(list(self._parked_followers.values()))

    def deleted_offset(self, durable_log_start_offset: Offset) -> Offset:
        """Return below which offset nothing comes back, whoever may lead next; 0 when nobody can say.

        Args:
            durable_log_start_offset: of this replica's own log.
        """
        if len(self.isr) < self.min_insync_replicas:
            return Offset(0)  # who left the set may be elected, too (rule 8), and is not heard
        return self.insync.log_start_offset(durable_log_start_offset)

    # -- reading -------------------------------------------------------------------------------------

    def on_fetch(self, fetch: Fetch, now_ms: int) -> list[Effect]:
        """Read, or park until there is something to read."""
        if fetch.replica_id != CONSUMER_REPLICA_ID:
            return self._on_follower_fetch(fetch, now_ms)
        if error := epoch_error(fetch.leader_epoch, self.epoch):
            detail = f"request is of epoch {fetch.leader_epoch}, leader of {self.epoch}"
            return [Answer(fetch.ticket, self._fetch_reply(error, detail))]
        diverging = self.epochs.divergence(fetch.last_fetched_epoch, fetch.fetch_offset, self._appended_offset)
        if diverging and fetch.fetch_offset > self.log_start_offset:  # it has read what an unclean election lost (B13)
            end = max(diverging.end_offset, self.log_start_offset)
            reply = self._fetch_reply(diverging_epoch=diverging.epoch, diverging_end_offset=end)
            return [Answer(fetch.ticket, reply)]
        if not self.log_start_offset <= fetch.fetch_offset <= self.log_end_offset:
            detail = f"offset {fetch.fetch_offset} is not within {self.log_start_offset}..{self.log_end_offset}"
            return [Answer(fetch.ticket, self._fetch_reply(ErrorCode.OFFSET_OUT_OF_RANGE, detail))]
        if fetch.fetch_offset >= self.high_watermark:  # "not yet" is no error: wait for the watermark (B12)
            self._parked[fetch.ticket] = fetch
            return []
        return [Read(fetch, self.high_watermark)]

    def on_read(self, fetch: Fetch, frames: list[bytes], size: int) -> list[Effect]:
        """The log gave ``size`` bytes. Too few for ``min_bytes``: they go out, and the fetch stays parked."""
        if size < fetch.min_bytes and fetch.replica_id == CONSUMER_REPLICA_ID:
            self._parked[fetch.ticket] = fetch
        return [Answer(fetch.ticket, self._fetch_reply(frames=len(frames)), frames)]

    def on_unpark(self, ticket: Ticket) -> None:
        self._parked.pop(ticket, None)
        self._parked_followers.pop(ticket, None)

    # -- followers -----------------------------------------------------------------------------------

    def _on_follower_fetch(self, fetch: Fetch, now_ms: int) -> list[Effect]:
        self._parked_followers.pop(fetch.ticket, None)
        if error := self._problem_with_follower(fetch):
            return [Answer(fetch.ticket, self._fetch_reply(*error))]
        end = self._appended_offset
        if diverging := self.epochs.divergence(fetch.last_fetched_epoch, fetch.fetch_offset, end):  # R1
            reply = self._fetch_reply(diverging_epoch=diverging.epoch, diverging_end_offset=diverging.end_offset)
            return [Answer(fetch.ticket, reply)]
        if not self.log_start_offset <= fetch.fetch_offset <= end:
            detail = f"offset {fetch.fetch_offset} is not within {self.log_start_offset}..{end}"
            return [Answer(fetch.ticket, self._fetch_reply(ErrorCode.OFFSET_OUT_OF_RANGE, detail))]
        follower = self.insync.followers[BrokerId(fetch.replica_id)]
        self.insync.on_position(
            follower,
            fetch.replica_incarnation,
            Offset(fetch.fetch_offset),
            Offset(fetch.durable_offset),
            end,
            now_ms,
            Offset(fetch.log_start_offset),
        )
        effects = self._after_followers(now_ms)
        if fetch.fetch_offset < end:
            return [*effects, Read(fetch, end)]
        if fetch.high_watermark < self.high_watermark:  # nothing to copy, but to know: should it lead, it begins there
            return [*effects, Answer(fetch.ticket, self._fetch_reply())]
        self._parked_followers[fetch.ticket] = fetch
        if (
            max(follower.log_start_offset, follower.told_start_offset) < self.log_start_offset
        ):  # told, it is at its disk
            effects += self._tell_followers([fetch])
        return effects

    def on_progress(self, progress: Progress, now_ms: int) -> list[Effect]:
        """A follower has more on its disk. Of another epoch, or another life of it than fetches here: it is void."""
        follower = self.insync.followers.get(BrokerId(progress.replica_id))
        if follower is None or not follower.is_heard or progress.leader_epoch != self.epoch:
            return []
        if progress.replica_incarnation != follower.incarnation:
            return []
        self.insync.on_progress(
            follower,
            Offset(progress.durable_offset),
            self._appended_offset,
            now_ms,
            Offset(progress.log_start_offset),
        )
        return self._after_followers(now_ms)

    def on_look_at_followers(self, now_ms: int) -> list[Effect]:
        """Time has passed: propose to go on without those who lag; ask again what was not answered."""
        again = self.insync.on_look()
        effects: list[Effect] = [again] if again is not None else self._propose(now_ms)
        return effects + self._tell_followers(self._behind())

    def on_isr_answered(self, answered: IsrAnswered, now_ms: int) -> list[Effect]:
        """The controller has answered a proposal."""
        if answered.leader_epoch != self.epoch:
            return []
        if self.insync.on_answered(answered):
            return self._after_isr(now_ms)
        return self._advance()  # who was refused counts no more, and may have held the watermark back

    @property
    def needs_watching(self) -> bool:
        """Whether ``on_look_at_followers`` must be called after a while, although nothing else happens."""
        return self.insync.needs_watching(self._appended_offset) or bool(self._behind())

    def look_after_ms(self, now_ms: int) -> int:
        """Return how soon ``on_look_at_followers`` is due."""
        return self.insync.look_after_ms(self._appended_offset, now_ms)

    def _problem_with_follower(self, fetch: Fetch) -> tuple[ErrorCode, str] | None:
        if fetch.leader_epoch != self.epoch:  # R2
            error = epoch_error(fetch.leader_epoch, self.epoch) or ErrorCode.UNKNOWN_LEADER_EPOCH
            return error, f"a follower of epoch {fetch.leader_epoch}, leader of {self.epoch}"
        if fetch.replica_id not in self.insync.followers:
            return ErrorCode.INELIGIBLE_REPLICA, f"broker {fetch.replica_id} has no replica of this partition"
        return None

    def _after_followers(self, now_ms: int) -> list[Effect]:
        """The watermark first: who may join is judged by where it is now."""
        return self._advance() + self._propose(now_ms)

    def _propose(self, now_ms: int) -> list[Effect]:
        needed = max(self.high_watermark, self.epoch_start_offset)  # R4
        proposal = self.insync.propose(self._appended_offset, needed, now_ms, self.log_start_offset)
        return [proposal] if proposal is not None else []

    def _wake_followers(self) -> list[Effect]:
        """What was appended goes to whoever waits for it, before it is on this disk."""
        if not self._parked_followers:
            return []
        waiting, self._parked_followers = self._parked_followers, {}
        return [Read(fetch, self._appended_offset) for fetch in waiting.values()]

    def _behind(self) -> list[Fetch]:
        """Return the followers that have everything and do not know that it is committed, or deleted.

        They are told a while later, not with each move: the next batch tells them for nothing. Should one lead, what
        lies below the high watermark that it knows is read without waiting for the others.
        """
        followers = self.insync.followers
        return [
            fetch
            for fetch in self._parked_followers.values()
            if fetch.high_watermark < self.high_watermark
            or followers[BrokerId(fetch.replica_id)].log_start_offset < self.log_start_offset
        ]

    def _tell_followers(self, fetches: list[Fetch]) -> list[Effect]:
        for fetch in fetches:
            del self._parked_followers[fetch.ticket]
            self.insync.followers[BrokerId(fetch.replica_id)].told_start_offset = self.log_start_offset
        return [Answer(fetch.ticket, self._fetch_reply()) for fetch in fetches]

    def on_list_offset(self, request: ListOffset) -> list[Effect] | None:
        """Answer earliest and latest; None: a timestamp, which the log must look up."""
        if error := epoch_error(request.leader_epoch, self.epoch):
            return [self.offset_answer(request, error=error)]
        if request.timestamp_ms == EARLIEST_TIMESTAMP:
            return [self.offset_answer(request, self.log_start_offset)]
        if self.high_watermark < self.epoch_start_offset:  # R7
            return [self.offset_answer(request, error=ErrorCode.LEADER_NOT_AVAILABLE)]
        if request.timestamp_ms == LATEST_TIMESTAMP:
            return [self.offset_answer(request, self.high_watermark)]
        return None

    def offset_answer(
        self, request: ListOffset, offset: int = -1, timestamp_ms: int = -1, error: int = ErrorCode.NONE
    ) -> Answer:
        reply = ListOffsetsEntryReply(
            topic_id=self.key.topic_id,
            partition=self.key.partition,
            error=error,
            offset=offset,
            timestamp_ms=timestamp_ms,
            leader_epoch=self.epoch,
        )
        return Answer(request.ticket, reply)

    # -- the controller's word -----------------------------------------------------------------------

    def on_isr(self, isr: Iterable[int], partition_epoch: int, min_insync_replicas: int, now_ms: int) -> list[Effect]:
        """The metadata show this in-sync set in this epoch."""
        self.min_insync_replicas = min_insync_replicas
        self.insync.on_committed(isr, partition_epoch)
        return self._after_isr(now_ms)

    def _after_isr(self, now_ms: int) -> list[Effect]:
        refused: list[Effect] = []
        if self._acks_all and len(self.isr) < self.min_insync_replicas:
            waiting, self._acks_all = self._acks_all, []
            detail = f"{len(self.isr)} in sync, min_insync_replicas is {self.min_insync_replicas}"
            for _, _, ticket, _ in sorted(waiting, key=lambda one: one[:2]):
                refused += self._refuse(ticket, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND, detail)
        return refused + self._ask_who_left() + self._after_followers(now_ms)

    def _ask_who_left(self) -> list[Effect]:
        """A follower that was removed and lives has a fetch parked here: answered, it is heard with its next one."""
        followers = self.insync.followers
        asked = [
            fetch for fetch in self._parked_followers.values() if not followers[BrokerId(fetch.replica_id)].is_heard
        ]
        for fetch in asked:
            del self._parked_followers[fetch.ticket]
        return [Answer(fetch.ticket, self._fetch_reply()) for fetch in asked]

    def on_config(self, flush: str, max_message_bytes: int) -> list[Effect]:
        self.insync.flush = flush
        self.max_message_bytes = max_message_bytes
        return self._advance()

    def on_deposed(self, leader: int, epoch: int) -> list[Effect]:
        """Another epoch has begun: everybody who waits here must ask there. Staged writes are *not* acknowledged.

        An ``acks=all`` produce that waited may have been written and may yet be committed by the next leader: it is
        told at which offset. The client retries, and its sequence numbers tell.
        """
        waiting = [(ticket, base_offset) for _, _, ticket, base_offset in self._acks_all] + self._acks_leader
        parked = [*self._parked.values(), *self._parked_followers.values()]
        self._acks_all, self._acks_leader, self._parked, self._parked_followers = [], [], {}, {}
        not_leader = ErrorCode.NOT_LEADER_FOR_PARTITION
        refused: list[Effect] = [
            Answer(
                ticket,
                refusal_of_produce(self.key, not_leader, leader=leader, leader_epoch=epoch, base_offset=base_offset),
            )
            for ticket, base_offset in waiting
        ]
        for fetch in parked:
            reply = refusal_of_fetch(self.key, not_leader, leader=leader, leader_epoch=epoch)
            refused.append(Answer(fetch.ticket, reply))
        return refused

    # -- inside ----------------------------------------------------------------------------------------

    def _advance(self) -> list[Effect]:
        """Move the high watermark as far as the in-sync set allows; answer whoever waited for that."""
        if len(self.isr) < self.min_insync_replicas:
            return []  # rule 8 (R3)
        reached = self.insync.high_watermark(Position(self._appended_offset, self.durable_offset))
        if reached is None or reached <= self.high_watermark:
            return []
        self.high_watermark = reached
        effects: list[Effect] = []
        while self._acks_all and self._acks_all[0][0] <= reached:
            _, _, ticket, base_offset = heapq.heappop(self._acks_all)
            effects.append(self._acknowledged(ticket, base_offset))
        ready = [fetch for fetch in self._parked.values() if fetch.fetch_offset < reached]
        for fetch in ready:
            del self._parked[fetch.ticket]
            effects.append(Read(fetch, reached))
        return effects

    def _acknowledge_duplicate(self, produce: Produce, original: Duplicate) -> list[Effect]:
        if produce.acks == ACKS_NONE:
            return []
        end_offset = Offset(original.last_offset + 1)
        if produce.acks == ACKS_ALL and end_offset > self.high_watermark:
            self._await_high_watermark(produce.ticket, Offset(original.base_offset), end_offset)
            return []
        return [self._acknowledged(produce.ticket, Offset(original.base_offset))]

    def _await_high_watermark(self, ticket: Ticket, base_offset: Offset, end_offset: Offset) -> None:
        self._tie += 1
        heapq.heappush(self._acks_all, (end_offset, self._tie, ticket, base_offset))

    def _acknowledged(self, ticket: Ticket, base_offset: Offset) -> Answer:
        reply = ProduceEntryReply(
            topic_id=self.key.topic_id,
            partition=self.key.partition,
            base_offset=base_offset,
            log_start_offset=self.log_start_offset,
            leader_epoch=self.epoch,
        )
        return Answer(ticket, reply)

    def _refuse(self, ticket: Ticket, error: ErrorCode, detail: str) -> list[Effect]:
        reply = refusal_of_produce(self.key, error, detail, leader=self.broker_id, leader_epoch=self.epoch)
        return [Answer(ticket, reply)]

    def _fetch_reply(
        self,
        error: int = ErrorCode.NONE,
        detail: str = "",
        *,
        frames: int = 0,
        diverging_epoch: int = -1,
        diverging_end_offset: int = -1,
    ) -> FetchEntryReply:
        return FetchEntryReply(
            topic_id=self.key.topic_id,
            partition=self.key.partition,
            error=error,
            detail=detail,
            high_watermark=self.high_watermark,
            log_start_offset=self.log_start_offset,
            leader=self.broker_id,
            leader_epoch=self.epoch,
            diverging_epoch=diverging_epoch,
            diverging_end_offset=diverging_end_offset,
            frames=frames,
        )


def refusal_of_produce(
    key: PartitionKey,
    error: int,
    detail: str = "",
    *,
    leader: int = -1,
    leader_epoch: int = -1,
    base_offset: Offset = NOT_APPENDED,
) -> ProduceEntryReply:
    """``base_offset``: where it stands in this log all the same; -1: it was not appended."""
    return ProduceEntryReply(
        topic_id=key.topic_id,
        partition=key.partition,
        error=error,
        detail=detail,
        base_offset=base_offset,
        leader=leader,
        leader_epoch=leader_epoch,
    )


def refusal_of_fetch(
    key: PartitionKey, error: int, detail: str = "", *, leader: int = -1, leader_epoch: int = -1
) -> FetchEntryReply:
    return FetchEntryReply(
        topic_id=key.topic_id,
        partition=key.partition,
        error=error,
        detail=detail,
        leader=leader,
        leader_epoch=leader_epoch,
    )
