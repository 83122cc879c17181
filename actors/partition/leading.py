"""A replica while it leads: performs what the leader's rules decide, on the log that it owns.

Part of the replica's actor, made when it begins to lead and thrown away when it ends. Rules of this file:

1. A mailbox turn is one write: batches accepted in it are appended together in ``write``, their flush covers them all
   (group commit). Only a second batch of the same producer forces an earlier write: the sequence rules look at what
   the log knows.
2. A full disk is no failure: the log is as it was, the batches are refused, the partition is read on and written again
   when there is room. Any other error of the log fails the actor.
3. What goes to the controller is asked through the broker, and asked again on a timer until somebody answers.
4. What is damaged is refused, never served. Where another replica is in sync that one leads, and this one copies anew.
5. A leader whose disk has become slow hands over, if others are in sync (``storage_slow_ms``): nobody need wait for it.
   The time in which this process was stopped is not the disk's (``sync_time.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ...config import TopicConfig
from ...errors import BrokerResponseError, CorruptRecordError, ErrorCode, StorageError, StorageFull
from ...model import Offset, PartitionKey
from ...storage.batch import check_batch, restamp
from ...storage.log import Log
from ...storage.sparse import has_all_keys
from ...transport.loop import Timer
from ...transport.messages import MAX_TIMESTAMP, AlterPartitionEntry, ListOffsetsEntryReply, ReplicaDescription
from ..log import event
from .events import (
    Answer,
    Append,
    Assign,
    DeleteRecords,
    Effect,
    Fetch,
    IsrAnswered,
    IsrProposed,
    ListOffset,
    LookAtFollowers,
    Produce,
    Progress,
    ProposeIsr,
    Read,
    Unpark,
)
from .leader import Leader, refusal_of_fetch, refusal_of_produce
from .retention import Deletions, refusal_of_deletion

if TYPE_CHECKING:
    from .replica import Replica

logger = logging.getLogger(__name__)

NOTHING_READ: tuple[tuple[int, int, int], list[bytes]] = ((-1, 0, 0), [])


class Leading:
    """See the top of the file."""

    name = "leader"
    handlers: ClassVar[Mapping[type, str]] = {
        Unpark: "on_unpark",
        Progress: "on_progress",
        LookAtFollowers: "on_look_at_followers",
        IsrAnswered: "on_isr_answered",
    }

    def __init__(self, replica: Replica, leader: Leader, log: Log, *, needs_keys: bool = False) -> None:
        self.rules = leader
        self.requests: dict[type, Callable[[Any], None]] = {
            Produce: self.on_produce,
            Fetch: self.on_fetch,
            ListOffset: self.on_list_offset,
            DeleteRecords: self.on_delete_records,
        }
        self._replica = replica
        self._log = log
        self._needs_keys = needs_keys  # the log is compacted by key
        self._deletions = Deletions(replica.key)
        self._staged: list[Append] = []  # accepted in this turn, not written yet
        self._staged_producers: set[int] = set()
        self._last_read: tuple[tuple[int, int, int], list[bytes]] = NOTHING_READ  # of this turn
        self._watch: Timer | None = None
        self._watch_due_ms = 0
        self._is_handing_over = False  # asked for: whoever leads next does so in another epoch

    @property
    def high_watermark(self) -> Offset:
        return self.rules.high_watermark

    # -- requests ------------------------------------------------------------------------------------

    def on_produce(self, produce: Produce) -> None:
        try:
            header = check_batch(produce.frames)
        except BrokerResponseError as error:  # damaged, of a layout or a codec that is not spoken here
            refusal = refusal_of_produce(self._replica.key, error.errno, error.detail)
            self._replica.answers.append(Answer(produce.ticket, refusal))
            return
        if self._needs_keys and not has_all_keys(produce.frames):
            detail = "the topic is compacted (cleanup_policy): each record needs a key"
            refusal = refusal_of_produce(self._replica.key, ErrorCode.INVALID_RECORD, detail)
            self._replica.answers.append(Answer(produce.ticket, refusal))
            return
        if header.producer_id in self._staged_producers:
            self.write()
        self.rules.is_storage_full = self._replica.home.is_full
        self._perform(self.rules.on_produce(produce, header))

    def on_fetch(self, fetch: Fetch) -> None:
        self._perform(self.rules.on_fetch(fetch, self._now_ms()))

    def on_unpark(self, unpark: Unpark) -> None:
        self.rules.on_unpark(unpark.ticket)

    def on_progress(self, progress: Progress) -> None:
        self._perform(self.rules.on_progress(progress, self._now_ms()))

    def on_list_offset(self, request: ListOffset) -> None:
        leader, log = self.rules, self._log
        effects = leader.on_list_offset(request)
        if effects is None:
            try:
                if request.timestamp_ms == MAX_TIMESTAMP:
                    found = log.offset_of_max_timestamp()
                else:
                    found = log.offset_for_timestamp(request.timestamp_ms)
            except CorruptRecordError as error:
                event(logger, "log.corrupt", logging.ERROR, partition=str(self._replica.name), detail=error.detail)
                self._replica.note_damage(error.detail)
                self._replica.answers.append(leader.offset_answer(request, error=error.errno))
                return
            is_visible = found is not None and found[0] < leader.high_watermark
            effects = [leader.offset_answer(request, *(found if found and is_visible else (-1, -1)))]
        self._perform(effects)

    def on_delete_records(self, request: DeleteRecords) -> None:
        verdict = self._deletions.judge(request, self.rules)
        if isinstance(verdict, list):
            self._perform(verdict)
            return
        self._log.delete_before(verdict, self.rules.high_watermark)
        self.on_deleted("asked")
        self._deletions.wait(verdict, request.ticket)  # answered when it is on the disk of each that is in sync

    def retain(self, now_ms: int, config: TopicConfig) -> None:
        """Let the oldest segments go that are past their retention. A follower's log begins where its leader's does."""
        replica, log, before = self._replica, self._log, self._log.log_start_offset
        age_ms = None if config.retention_ms < 0 else config.retention_ms
        size = None if config.retention_bytes < 0 else config.retention_bytes
        try:
            log.retain(now_ms, age_ms, size, self.high_watermark)
        except StorageFull:
            replica.note_full(is_full=True)
        except StorageError as error:
            replica.doubt_disk(error)
            raise
        if log.log_start_offset != before:
            self.on_deleted("old")
            replica.end_idleness()

    def on_deleted(self, why: str) -> None:
        """The log begins later now."""
        start = self._log.log_start_offset
        self._perform(self.rules.on_deleted(Offset(start)))
        event(logger, "log.deleted", partition=str(self._replica.name), log_start_offset=start, why=why)

    def describe(self, description: dict[str, Any]) -> ReplicaDescription:
        """Return what is described of every replica, and what only a leader knows."""
        return ReplicaDescription(
            **description,
            isr=sorted(self.rules.isr),
            followers=self.rules.insync.described(Offset(self._log.log_end_offset), self._now_ms()),
        )

    # -- the in-sync set -------------------------------------------------------------------------------

    def on_assign(self, assignment: Assign) -> None:
        """The metadata show something else in the same epoch: the in-sync set, or settings."""
        leader, config = self.rules, assignment.config
        before = leader.isr
        self._perform(
            leader.on_isr(assignment.isr, assignment.partition_epoch, assignment.min_insync_replicas, self._now_ms())
        )
        self._perform(leader.on_config(config.flush, config.max_message_bytes))
        self._needs_keys = config.is_compacted
        self._tell_of_isr(before)

    def on_look_at_followers(self, _: LookAtFollowers) -> None:
        self._watch = None
        if not self._is_handing_over and len(self.rules.isr) > 1:
            self._is_handing_over = self._replica.give_up_slow_disk(self.rules.epoch, self._watch_due_ms)
        self._perform(self.rules.on_look_at_followers(self._now_ms()))

    def on_isr_answered(self, answered: IsrAnswered) -> None:
        before = self.rules.isr
        self._perform(self.rules.on_isr_answered(answered, self._now_ms()))
        self._tell_of_isr(before)

    def _propose(self, proposal: ProposeIsr) -> None:
        key = self._replica.key
        entry = AlterPartitionEntry(
            topic_id=key.topic_id,
            partition=key.partition,
            leader_epoch=proposal.leader_epoch,
            partition_epoch=proposal.partition_epoch,
            isr=list(proposal.isr),
        )
        self._replica.tell_sibling("hosting", IsrProposed(key, entry))

    def _tell_of_isr(self, before: frozenset[Any]) -> None:
        after = self.rules.isr
        if after != before:
            event(
                logger,
                "isr.changed",
                partition=str(self._replica.name),
                epoch=self.rules.epoch,
                isr=sorted(after),
                joined=sorted(after - before),
                left=sorted(before - after),
            )

    # -- the end of a turn -----------------------------------------------------------------------------

    def on_drained(self) -> None:
        self.write()
        self._last_read = NOTHING_READ
        if self._deletions:
            deleted_offset = self.rules.deleted_offset(Offset(self._log.durable_log_start_offset))
            self._perform(self._deletions.on_durable(deleted_offset, self.rules))
        if self._watch is None and self.rules.insync.followers and self._needs_watching:
            after_ms = self.rules.look_after_ms(self._now_ms())
            self._watch = self._replica.set_timer(after_ms, LookAtFollowers())
            self._watch_due_ms = self._now_ms() + after_ms

    @property
    def _needs_watching(self) -> bool:
        return self._replica.sync_time.is_running or self.rules.needs_watching

    @property
    def must_flush(self) -> bool:
        """Whether somebody waits for the disk although ``flush`` is "os"."""
        return bool(self._deletions)

    def on_flushed(self) -> None:
        self._perform(self.rules.on_flushed(Offset(self._log.durable_offset)))

    def write(self) -> None:
        """Append what this turn has accepted."""
        if not self._staged:
            return
        replica = self._replica
        staged, self._staged, self._staged_producers = self._staged, [], set()
        epoch = self.rules.epoch
        batches = [[restamp(append.frames[0], append.base_offset, epoch), *append.frames[1:]] for append in staged]
        headers = [append.header.at(append.base_offset, epoch) for append in staged]
        try:
            self._log.append(batches, headers, replica.context.clock.wall_ms())
        except StorageFull as error:
            replica.note_full(is_full=True)
            self._perform(self.rules.on_append_failed(ErrorCode.STORAGE_FULL, f"the disk is full: {error}"))
            return
        except StorageError as error:
            replica.doubt_disk(error)
            raise
        replica.on_appended(sum([header.length for header in headers]))
        self._perform(self.rules.on_appended(Offset(self._log.log_end_offset), self._now_ms()))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Answer):
                self._replica.answers.append(effect)
            elif isinstance(effect, Append):
                self._staged.append(effect)
                if effect.header.producer_id >= 0:  # the others have no sequence that could be judged
                    self._staged_producers.add(effect.header.producer_id)
            elif isinstance(effect, Read):
                self._read(effect)
            else:
                self._propose(effect)

    def _read(self, read: Read) -> None:
        fetch = read.fetch
        wanted = fetch.fetch_offset, fetch.max_bytes, read.up_to_offset
        if wanted == self._last_read[0]:  # followers that keep pace ask for the same
            self._perform(self.rules.on_read(fetch, self._last_read[1], sum(map(len, self._last_read[1]))))
            return
        try:
            frames = self._log.read(*wanted)
        except CorruptRecordError as error:
            event(logger, "log.corrupt", logging.ERROR, partition=str(self._replica.name), detail=error.detail)
            self._replica.note_damage(error.detail)
            refusal = refusal_of_fetch(self._replica.key, error.errno, error.detail)
            self._replica.answers.append(Answer(fetch.ticket, refusal))
            return
        self._last_read = wanted, frames
        self._perform(self.rules.on_read(fetch, frames, sum(map(len, frames))))

    # -- the end -----------------------------------------------------------------------------------------

    def depose(self, assignment: Assign, *, is_written: bool = True) -> None:
        """Stop leading: who waits must ask elsewhere. ``is_written`` False: what was only accepted is dropped."""
        if is_written:
            self.write()
        self._staged, self._staged_producers = [], set()
        if self._watch is not None:
            self._watch.cancel()
        self._perform(self.rules.on_deposed(assignment.leader, assignment.leader_epoch))
        self._perform(self._deletions.refuse_all(ErrorCode.NOT_LEADER_FOR_PARTITION))

    def abandon(self) -> None:
        """The disk has failed: nothing is written any more; what was asked of it has an unknown outcome."""
        self._perform(self._deletions.refuse_all(ErrorCode.STORAGE_ERROR))

    def _now_ms(self) -> int:
        return self._replica.context.clock.monotonic_ms()


def not_leading_here(
    key: PartitionKey, request: Produce | Fetch | ListOffset | DeleteRecords, error: ErrorCode, leader: int, epoch: int
) -> Answer:
    """Return the refusal of a request by a replica that does not lead: who does, if that is known."""
    if isinstance(request, Produce):
        return Answer(request.ticket, refusal_of_produce(key, error, leader=leader, leader_epoch=epoch))
    if isinstance(request, Fetch):
        return Answer(request.ticket, refusal_of_fetch(key, error, leader=leader, leader_epoch=epoch))
    if isinstance(request, DeleteRecords):
        return refusal_of_deletion(key, request.ticket, error)
    return Answer(request.ticket, ListOffsetsEntryReply(topic_id=key.topic_id, partition=key.partition, error=error))
