"""The actor of one replica: owns the log's files, performs what the rules decide.

Life: open and recover the log (off the loop) → wait for the controller's word → lead (or, later, follow) →
close. A role change is always *stop, then start in the new role and epoch*.

Rules of this file:

1. A mailbox turn is one write: batches accepted in it are appended together in ``on_drained``, their flush
   covers them all (group commit). Only a second batch of the same producer forces an earlier write: the
   sequence rules look at what the log knows.
2. At most one fdatasync runs; what was appended meanwhile is in the next one.
3. An actor that failed does not lead on in its old epoch, even if it reopens the same log: it asks the
   controller for another (``led_epochs`` remembers what this process has led).
4. Any failure of the log fails the actor. What waited is answered by the router (outcome unknown). A full disk is
   none: the log is as it was, the batches are refused, the partition is read on and written again when there is room.
5. A disk that fails under it takes its directory along (``../logdirs.py``): said there before this actor fails, so that
   its successor, and every other replica of the directory, opens and syncs nothing. They stay, offline.
6. An actor touches no file while a pool job of an earlier one is at them (``pool_jobs``): two recoveries at once
   could cut away what the second has kept and the leader acknowledged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from ...errors import BrokerResponseError, CorruptRecordError, ErrorCode, StorageError, StorageFull
from ...model import BrokerId, LeaderEpoch, Offset, PartitionKey, TopicPartition
from ...storage.batch import check_batch, restamp
from ...storage.log import Log
from ...transport.loop import Timer
from ...transport.messages import MAX_TIMESTAMP, ListOffsetsEntryReply, ReplicaDescription
from ..log import event
from ..logdirs import LogDirectory, is_disk_failure
from ..mailbox import PoolDone
from ..runtime import Context, LoopActor, LoopRef
from .events import (
    Answer,
    Answers,
    Append,
    Assign,
    Checkpointed,
    DeleteRecords,
    DescribeReplica,
    DirectoryFailed,
    Discard,
    Discarded,
    Effect,
    Fetch,
    Flushed,
    GoOffline,
    Hosted,
    ListOffset,
    Opened,
    Produce,
    Read,
    ReplicaGone,
    RetentionDue,
    Tick,
    Unpark,
)
from .housekeeping import next_look_ms
from .leader import Leader, refusal_of_fetch, refusal_of_produce
from .retention import Deletions, RetentionClock

logger = logging.getLogger(__name__)

DISCARD_RETRY_MS = 50
IDLE_DOUBLINGS_MAX = 4  # of checkpoint_ms, between the ticks of a partition with nothing to do
OPEN_RETRY_MS = 10
FULL_RETRY_MS = 1_000  # a log that could not be opened for want of room
DOORS = ("router", "peers")


class NewEpochNeeded(msgspec.Struct, frozen=True):
    """To the broker: this replica's actor was restarted; ask the controller for a new leader epoch."""

    key: PartitionKey
    leader_epoch: int


class OpenDue(msgspec.Struct, frozen=True):
    """Time to look again whether the log can be opened."""


class Replica(LoopActor):
    """One partition on one broker."""

    handlers: ClassVar[Mapping[type, str]] = {
        Produce: "on_produce",
        Fetch: "on_fetch",
        Unpark: "on_unpark",
        Flushed: "on_flushed",
        Assign: "on_assign",
        OpenDue: "on_open_due",
        Opened: "on_opened",
        GoOffline: "on_go_offline",
        ListOffset: "on_list_offset",
        DeleteRecords: "on_delete_records",
        RetentionDue: "on_retention_due",
        DescribeReplica: "on_describe_replica",
        Tick: "on_tick",
        Checkpointed: "on_checkpointed",
        Discard: "on_discard",
        Discarded: "on_discarded",
    }

    def __init__(
        self,
        context: Context,
        address: str,
        parent: LoopRef | None,
        *,
        key: PartitionKey,
        name: TopicPartition,
        broker_id: BrokerId,
        home: LogDirectory,
        assignment: Assign,
        led_epochs: dict[PartitionKey, LeaderEpoch],
        pool_jobs: Counter[PartitionKey],
        checkpoint_ms: int,
        retention_check_ms: int,
        producer_expiry_ms: int,
        broker_address: str,
    ) -> None:
        super().__init__(context, address, parent)
        self.key = key
        self._name = name
        self._broker_id = broker_id
        self._home = home
        self._directory = f"{home.path}/{key}"
        self._assignment = assignment
        self._led_epochs = led_epochs  # of this process, all partitions; this actor writes its own key only
        self._pool_jobs = pool_jobs  # likewise: jobs under way, of this actor and of those before it
        self._checkpoint_ms = checkpoint_ms
        self._retention_check_ms = retention_check_ms
        self._retention_clock = RetentionClock(context.clock.wall_ms(), context.clock.monotonic_ms())
        self._deletions = Deletions(key)
        self._producer_expiry_ms = producer_expiry_ms
        self._broker_address = broker_address
        self._log: Log | None = None  # None until recovered
        self._leader: Leader | None = None  # None unless leading
        self._staged: list[Append] = []  # accepted in this turn, not written yet
        self._staged_producers: set[int] = set()
        self._answers: list[Answer] = []  # of this turn
        self._is_flushing = False
        self._is_checkpointing = False
        self._idle_ticks = 0  # in a row that found nothing to do: the next one comes later
        self._tick: Timer | None = None
        self._is_full = False
        self.role = "recovering"

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._tell_doors(Hosted(self.key, self.actor_ref))
        self._tell_sibling("hosting", Hosted(self.key, self.actor_ref))
        self.on_open_due(OpenDue())

    def on_open_due(self, _: OpenDue) -> None:
        if self._pool_jobs[self.key]:  # rule 6
            self.set_timer(OPEN_RETRY_MS, OpenDue())
            return
        if self._home.is_failed or self._log is not None:
            self.role = "offline" if self._home.is_failed else self.role
            return
        files, directory, config = self.context.files, self._directory, self._assignment.config
        now_ms, expiry_ms = self.context.clock.wall_ms(), self._producer_expiry_ms
        self.in_pool(
            lambda: Log.open(files, directory, config, now_ms=now_ms, producer_expiry_ms=expiry_ms),
            lambda log, error: Opened(log, error),
        )

    def in_pool(self, job: Callable[[], Any], then: Callable[[Any, BaseException | None], Any]) -> None:
        """Run a job off the loop as any actor may, noted in ``pool_jobs`` until it is done."""
        key, jobs = self.key, self._pool_jobs
        jobs[key] += 1

        def done(result: Any, error: BaseException | None) -> None:
            jobs[key] -= 1
            if not jobs[key]:
                del jobs[key]
            if not self.actor_ref.post(PoolDone(then, result, error)) and isinstance(result, Log):
                result.close(self.context.clock.wall_ms(), clean=False)  # opened for an actor that has ended

        self.context.pool.submit(job, done)

    def on_opened(self, opened: Opened) -> None:
        if self._home.is_failed:
            if opened.log is not None:
                opened.log.close(self.context.clock.wall_ms(), clean=False)
            self.role = "offline"
            return
        if isinstance(opened.error, StorageFull):
            self._note_full(is_full=True)
            self.role = "waiting for room"
            self.set_timer(FULL_RETRY_MS, OpenDue())
            return
        if opened.error is not None:
            self._doubt_disk(opened.error)
            raise opened.error
        log: Log = opened.log
        self._log = log
        log.reconfigure(self._assignment.config)  # it may have changed meanwhile
        event(
            logger,
            "log.opened",
            partition=str(self._name),
            log_start_offset=log.log_start_offset,
            log_end_offset=log.log_end_offset,
            clean=log.recovery.was_clean,
            scanned_bytes=log.recovery.scanned_bytes,
            cut_bytes=log.recovery.cut_bytes,
            gap_offsets=log.recovery.gap_offsets,
        )
        self._set_tick()
        self._set_look(self._retention_check_ms, RetentionDue())
        self._take_role()

    def on_stop(self) -> None:
        if self._leader is not None:
            self._depose(self._assignment)
        if self._log is not None:
            self._log.close(self.context.clock.wall_ms(), clean=not self._home.is_failed)

    def on_failure(self, *failure: Any) -> None:
        self._tell_doors(ReplicaGone(self.key))
        if self._log is not None:
            self._log.close(self.context.clock.wall_ms(), clean=False)

    def on_go_offline(self, _: GoOffline) -> None:
        """The directory has failed: whoever waits learns that the outcome is unknown; no file is touched any more."""
        self._perform(self._deletions.refuse_all(ErrorCode.STORAGE_ERROR))
        self._send_answers()
        self._tell_doors(ReplicaGone(self.key))
        self._staged, self._staged_producers, self._leader = [], set(), None
        log, self._log = self._log, None
        if log is not None:
            log.close(self.context.clock.wall_ms(), clean=False)
        self.role = "offline"

    def _doubt_disk(self, error: BaseException | None, *, of_sync: bool = False) -> None:
        """Before this actor fails by ``error``: have the whole directory given up if it is the disk's (rule 5)."""
        if is_disk_failure(error, of_sync=of_sync):
            why = f"{self._name}: {error}"
            self._home.fail(why)
            self._tell_sibling("hosting", DirectoryFailed(self._home.path, why))

    def on_discard(self, _: Discard) -> None:
        """The topic was deleted: nobody is acknowledged any more, the files go, then the actor ends."""
        if self._home.is_failed:
            error = StorageError(f"its directory failed: it is removed when {self._home.path} serves again")
            self.on_discarded(Discarded(self.key, error))
            return
        if self._log is None:
            self.set_timer(DISCARD_RETRY_MS, Discard())  # still being opened in the pool: its files are in use
            return
        self._staged, self._staged_producers = [], set()
        self._depose(self._assignment)
        self._log.close(self.context.clock.wall_ms(), clean=False)
        self._log = None
        self.role = "being removed"
        key, files, directory = self.key, self.context.files, self._directory
        self.in_pool(lambda: files.remove_tree(directory), lambda _, error: Discarded(key, error))

    def on_discarded(self, discarded: Discarded) -> None:
        self._send_answers()
        self._tell_sibling("hosting", discarded)
        self.finish()

    # -- the controller's word -----------------------------------------------------------------------

    def on_assign(self, assignment: Assign) -> None:
        if assignment.leader_epoch < self._assignment.leader_epoch:
            return  # an old order, late
        self._assignment = assignment
        if self._log is not None:
            self._log.reconfigure(assignment.config)
            self._take_role()

    def _take_role(self) -> None:
        assignment, log = self._assignment, self._log
        if log is None:
            return
        leader = self._leader
        if leader is not None and assignment.is_leader and assignment.leader_epoch == leader.epoch:
            config = assignment.config
            self._perform(leader.on_isr(assignment.isr, assignment.min_insync_replicas))
            self._perform(leader.on_config(config.flush, config.max_message_bytes))
            return
        if leader is not None:
            self._write()
            self._depose(assignment)
        if not assignment.is_leader:
            self.role = "replica"
        elif assignment.leader_epoch <= self._led_epochs.get(self.key, -1):
            self.role = "awaiting epoch"
            self._tell_sibling("hosting", NewEpochNeeded(self.key, assignment.leader_epoch))
        else:
            self._lead(assignment, log)

    def _lead(self, assignment: Assign, log: Log) -> None:
        self._led_epochs[self.key] = assignment.leader_epoch
        log.epochs.assign(assignment.leader_epoch, log.log_end_offset)
        self._leader = Leader(
            self.key,
            broker_id=self._broker_id,
            epoch=assignment.leader_epoch,
            isr=assignment.isr,
            min_insync_replicas=assignment.min_insync_replicas,
            flush=assignment.config.flush,
            max_message_bytes=assignment.config.max_message_bytes,
            producers=log.producers,
            log_start_offset=Offset(log.log_start_offset),
            log_end_offset=Offset(log.log_end_offset),
            durable_offset=Offset(log.durable_offset),
        )
        self.role = "leader"
        event(
            logger,
            "partition.leads",
            partition=str(self._name),
            epoch=assignment.leader_epoch,
            log_end=log.log_end_offset,
        )

    def _depose(self, assignment: Assign) -> None:
        if self._leader is not None:
            self._perform(self._leader.on_deposed(assignment.leader, assignment.leader_epoch))
            self._perform(self._deletions.refuse_all(ErrorCode.NOT_LEADER_FOR_PARTITION))
            self._leader = None
        self._send_answers()

    # -- requests ------------------------------------------------------------------------------------

    def on_produce(self, produce: Produce) -> None:
        leader = self._leader
        if leader is None:
            error, known = self._not_leading(), self._assignment
            refusal = refusal_of_produce(self.key, error, leader=known.leader, leader_epoch=known.leader_epoch)
            self._answers.append(Answer(produce.ticket, refusal))
            return
        try:
            header = check_batch(produce.frames)
        except BrokerResponseError as error:  # damaged, of a layout or a codec that is not spoken here
            refusal = refusal_of_produce(self.key, error.errno, error.detail)
            self._answers.append(Answer(produce.ticket, refusal))
            return
        if header.producer_id in self._staged_producers:
            self._write()
        leader.is_storage_full = self._home.is_full
        self._perform(leader.on_produce(produce, header))

    def on_fetch(self, fetch: Fetch) -> None:
        if self._leader is None:
            error, known = self._not_leading(), self._assignment
            refusal = refusal_of_fetch(self.key, error, leader=known.leader, leader_epoch=known.leader_epoch)
            self._answers.append(Answer(fetch.ticket, refusal))
            return
        self._perform(self._leader.on_fetch(fetch))

    def on_unpark(self, unpark: Unpark) -> None:
        if self._leader is not None:
            self._leader.on_unpark(unpark.ticket)

    def on_list_offset(self, request: ListOffset) -> None:
        leader, log = self._leader, self._log
        if leader is None or log is None:
            reply = ListOffsetsEntryReply(
                topic_id=self.key.topic_id, partition=self.key.partition, error=self._not_leading()
            )
            self._answers.append(Answer(request.ticket, reply))
            return
        effects = leader.on_list_offset(request)
        if effects is None:
            try:
                if request.timestamp_ms == MAX_TIMESTAMP:
                    found = log.offset_of_max_timestamp()
                else:
                    found = log.offset_for_timestamp(request.timestamp_ms)
            except CorruptRecordError as error:
                event(logger, "log.corrupt", logging.ERROR, partition=str(self._name), detail=error.detail)
                self._answers.append(leader.offset_answer(request, error=error.errno))
                return
            is_visible = found is not None and found[0] < leader.high_watermark
            effects = [leader.offset_answer(request, *(found if found and is_visible else (-1, -1)))]
        self._perform(effects)

    def on_delete_records(self, request: DeleteRecords) -> None:
        leader, log = self._leader, self._log
        if leader is None or log is None:
            self._answers.append(self._deletions.refusal(request.ticket, self._not_leading()))
            return
        verdict = self._deletions.judge(request, leader)
        if isinstance(verdict, list):
            self._perform(verdict)
            return
        log.delete_before(verdict, leader.high_watermark)
        leader.on_deleted(Offset(log.log_start_offset))
        event(logger, "log.deleted", partition=str(self._name), log_start_offset=log.log_start_offset, why="asked")
        self._deletions.wait(verdict, request.ticket)  # answered when it is on disk

    def on_describe_replica(self, request: DescribeReplica) -> None:
        log, leader = self._log, self._leader
        if log is None:
            reply = ReplicaDescription(
                topic_id=self.key.topic_id, partition=self.key.partition, role=self.role, directory=self._home.path
            )
        else:
            reply = ReplicaDescription(
                topic_id=self.key.topic_id,
                partition=self.key.partition,
                role=self.role,
                leader_epoch=self._assignment.leader_epoch,
                log_start_offset=log.log_start_offset,
                log_end_offset=log.log_end_offset,
                high_watermark=leader.high_watermark if leader else -1,
                durable_offset=log.durable_offset,
                size_bytes=log.size_bytes,
                segments=log.segment_count,
                producers=len(log.producers),
                directory=self._home.path,
            )
        self._answers.append(Answer(request.ticket, reply))

    # -- the end of a turn: one write, one flush, one message to the router ------------------------------

    def on_drained(self) -> None:
        self._write()
        self._flush()
        if self._deletions and self._leader is not None and self._log is not None:
            self._perform(self._deletions.on_durable(self._log.durable_log_start_offset, self._leader))
        self._send_answers()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Answer):
                self._answers.append(effect)
            elif isinstance(effect, Append):
                self._staged.append(effect)
                if effect.header.producer_id >= 0:  # the others have no sequence that could be judged
                    self._staged_producers.add(effect.header.producer_id)
            else:
                self._read(effect)

    def _write(self) -> None:
        if not self._staged or self._leader is None or self._log is None:
            return
        staged, self._staged, self._staged_producers = self._staged, [], set()
        epoch = self._leader.epoch
        batches = [[restamp(append.frames[0], append.base_offset, epoch), *append.frames[1:]] for append in staged]
        headers = [append.header.at(append.base_offset, epoch) for append in staged]
        try:
            self._log.append(batches, headers, self.context.clock.wall_ms())
        except StorageFull as error:
            self._note_full(is_full=True)
            self._perform(self._leader.on_append_failed(ErrorCode.STORAGE_FULL, f"the disk is full: {error}"))
            return
        except StorageError as error:
            self._doubt_disk(error)
            raise
        self._home.appended(sum([header.length for header in headers]))
        self._note_full(is_full=False)
        if self._idle_ticks:
            self._end_idleness()
        self._perform(self._leader.on_appended(Offset(self._log.log_end_offset)))

    def _note_full(self, *, is_full: bool) -> None:
        if is_full:
            self._home.ran_out()
        if is_full != self._is_full:
            self._is_full = is_full
            name, level = ("log.full", logging.ERROR) if is_full else ("log.has_room", logging.WARNING)
            event(logger, name, level, partition=str(self._name))

    def _read(self, read: Read) -> None:
        if self._leader is None or self._log is None:
            return
        fetch = read.fetch
        try:
            frames = self._log.read(fetch.fetch_offset, fetch.max_bytes, read.up_to_offset)
        except CorruptRecordError as error:
            event(logger, "log.corrupt", logging.ERROR, partition=str(self._name), detail=error.detail)
            self._answers.append(Answer(fetch.ticket, refusal_of_fetch(self.key, error.errno, error.detail)))
            return
        self._perform(self._leader.on_read(fetch, frames, sum(map(len, frames))))

    def _flush(self) -> None:
        if self._is_flushing or self._log is None or self._home.is_failed:
            return
        if self._assignment.config.flush == "os" and not self._deletions:
            return  # nobody waits for the disk: the next checkpoint syncs what the system has not
        job = self._log.begin_flush()
        if job is not None:
            self._is_flushing = True
            self.in_pool(job, lambda _, error: Flushed(job, error))

    def on_flushed(self, flushed: Flushed) -> None:
        self._is_flushing = False
        if self._log is None:
            return
        self._doubt_disk(flushed.error, of_sync=True)
        self._log.end_flush(flushed.job, flushed.error)
        if self._leader is not None:
            self._perform(self._leader.on_flushed(Offset(self._log.durable_offset)))

    def _send_answers(self) -> None:
        if self._answers:
            answers, self._answers = self._answers, []
            for door in {answer.ticket.door for answer in answers}:
                self._tell_sibling(door, Answers([answer for answer in answers if answer.ticket.door == door]))

    # -- housekeeping --------------------------------------------------------------------------------

    def on_tick(self, _: Tick) -> None:
        log = self._log
        if log is None:
            return
        now_ms = self.context.clock.wall_ms()
        try:
            log.roll_if_due(now_ms)
        except StorageFull:
            self._note_full(is_full=True)  # the next tick tries again
        except StorageError as error:
            self._doubt_disk(error)
            raise
        if not self._is_checkpointing and (job := log.begin_checkpoint(now_ms)) is not None:
            self._is_checkpointing = True
            self.in_pool(job, lambda _, error: Checkpointed(error))
        is_idle = not (self._is_checkpointing or self._is_flushing or self._is_full)
        self._idle_ticks = min(self._idle_ticks + 1, IDLE_DOUBLINGS_MAX) if is_idle else 0
        self._set_tick()

    def on_checkpointed(self, done: Checkpointed) -> None:
        self._is_checkpointing = False
        if done.error is not None and self._log is not None:
            self._doubt_disk(done.error, of_sync=True)
            raise done.error

    def on_retention_due(self, _: RetentionDue) -> None:
        """Let the oldest segments go that are past their retention; the files go with the next job, in the pool."""
        leader, log, config, clock = self._leader, self._log, self._assignment.config, self.context.clock
        if log is None:
            return
        self._set_look(self._retention_check_ms, RetentionDue())
        now_ms = self._retention_clock.now(clock.wall_ms(), clock.monotonic_ms())
        if leader is None:
            return
        age_ms = None if config.retention_ms < 0 else config.retention_ms
        size = None if config.retention_bytes < 0 else config.retention_bytes
        before = log.log_start_offset
        try:
            log.retain(now_ms, age_ms, size, leader.high_watermark)
        except StorageFull:
            self._note_full(is_full=True)
        except StorageError as error:
            self._doubt_disk(error)
            raise
        if log.log_start_offset != before:
            leader.on_deleted(Offset(log.log_start_offset))
            event(logger, "log.deleted", partition=str(self._name), log_start_offset=log.log_start_offset, why="old")
            self._end_idleness()

    def _set_tick(self) -> None:
        period_ms = self._checkpoint_ms
        if self._idle_ticks:
            period_ms = max(period_ms, min(period_ms << self._idle_ticks, self._assignment.config.segment_ms))
        self._tick = self._set_look(period_ms, Tick())

    def _set_look(self, period_ms: int, message: Any) -> Timer:
        context = self.context
        return self.set_timer(next_look_ms(context.clock.monotonic_ms(), period_ms, context.random.random()), message)

    def _end_idleness(self) -> None:
        self._idle_ticks = 0
        if self._tick is not None:
            self._tick.cancel()
        self._set_tick()

    # -- inside ----------------------------------------------------------------------------------------

    def _not_leading(self) -> ErrorCode:
        """Leading here but not ready yet is "wait"; leading elsewhere is "ask there"."""
        if self._assignment.is_leader or self._assignment.leader == -1:
            return ErrorCode.LEADER_NOT_AVAILABLE
        return ErrorCode.NOT_LEADER_FOR_PARTITION

    def _tell_doors(self, message: Any) -> None:
        for door in DOORS:
            self._tell_sibling(door, message)

    def _tell_sibling(self, name: str, message: Any) -> None:
        """Tell one of the broker's actors; nothing happens when it is being restarted: it asks for what it missed."""
        sibling = self.context.directory.find(f"{self._broker_address}/{name}")
        if sibling is not None:
            sibling.post(message)
