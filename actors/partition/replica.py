"""The actor of one replica: owns the log's files, and is leader or follower as the controller decides.

Life: open and recover the log (off the loop) → wait for the controller's word → lead (``leading``) or follow
(``following``) → close. A role change is always *stop, then start in the new role and epoch*: promotion, crash and cold
boot share one path.

Rules of this file:

1. At most one fdatasync runs; what was appended meanwhile is in the next one.
2. An actor that failed does not lead on in its old epoch, even if it reopens the same log: it asks the
   controller for another (``led_epochs`` remembers what this process has led). A follower just follows anew.
3. Any failure of the log fails the actor. What waited is answered by the router (outcome unknown).
4. A disk that fails under it takes its directory along (``../logdirs.py``): said there before this actor fails, so that
   its successor, and every other replica of the directory, opens and syncs nothing. They stay, offline.
5. An actor touches no file while a pool job of an earlier one is at them (``pool_jobs``): two recoveries at once
   could cut away what the second has kept and the leader acknowledged.
6. A log that was here and is gone does not lead: the in-sync set believes in records that this replica no longer has.
   Until it has left the set no empty log is made in its place, or the next life would take that for what it had.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from ...config import BrokerSettings, TopicConfig
from ...errors import ErrorCode, StorageCorruption, StorageError, StorageFull
from ...model import BrokerId, LeaderEpoch, Offset, PartitionKey, TopicPartition
from ...storage.directory import set_aside
from ...storage.log import Log
from ...transport.loop import Timer
from ..log import event
from ..logdirs import LogDirectory, is_disk_failure
from ..made import open_log, remove_log
from ..mailbox import PoolDone
from ..runtime import Context, LoopActor, LoopRef
from .compacting import Compacting, CompactionTurn
from .describing import described
from .events import (
    Answer,
    Answers,
    Assign,
    Checkpointed,
    DeleteRecords,
    DescribeReplica,
    DirectoryFailed,
    Discard,
    Discarded,
    Fetch,
    Flushed,
    GoOffline,
    Hosted,
    ListOffset,
    LogLost,
    NewEpochNeeded,
    Opened,
    Produce,
    ReplicaGone,
    RetentionDue,
    Tick,
)
from .follower import Follower
from .following import Following
from .housekeeping import CHECKPOINT_LOOKS, next_look_ms
from .leader import Leader
from .leading import Leading, not_leading_here
from .retention import RetentionClock
from .sync_time import SyncTime

logger = logging.getLogger(__name__)

DISCARD_RETRY_MS = 50
IDLE_DOUBLINGS_MAX = 4  # of checkpoint_ms, between the ticks of a partition with nothing to do
OPEN_RETRY_MS = 10
FULL_RETRY_MS = 1_000  # a log that could not be opened for want of room
DOORS = ("router", "peers")


class OpenDue(msgspec.Struct, frozen=True):
    """Time to look again whether the log can be opened."""


class _SetAside(msgspec.Struct, frozen=True):
    """A damaged log lies under another name now."""

    error: BaseException | None


class Replica(LoopActor):
    """One partition on one broker."""

    handlers: ClassVar[Mapping[type, str]] = {
        **dict.fromkeys((Produce, Fetch, ListOffset, DeleteRecords), "on_request"),
        Flushed: "on_flushed",
        Assign: "on_assign",
        OpenDue: "on_open_due",
        _SetAside: "on_set_aside",
        Opened: "on_opened",
        GoOffline: "on_go_offline",
        RetentionDue: "on_retention_due",
        **dict.fromkeys((*Leading.handlers, *Following.handlers), "on_for_part"),
        **dict.fromkeys(Compacting.handlers, "on_for_compacting"),
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
        retention_clock: RetentionClock,
        settings: BrokerSettings,
        broker_address: str,
        compaction_turn: CompactionTurn | None = None,
    ) -> None:
        super().__init__(context, address, parent)
        self.key = key
        self.name = name
        self.home = home
        self.answers: list[Answer] = []  # of this turn
        self._broker_id = broker_id
        self._directory = f"{home.path}/{key}"
        self._assignment = assignment
        self._led_epochs = led_epochs  # of this process, all partitions; this actor writes its own key only
        self._pool_jobs = pool_jobs  # likewise: jobs under way, of this actor and of those before it
        self._settings = settings
        self._retention_clock = retention_clock  # of the process: an actor that begins after a jump does not believe it
        self._broker_address = broker_address
        self._compacting = Compacting(self, compaction_turn or CompactionTurn(), settings)
        self._log: Log | None = None  # None until recovered
        self._part: Leading | Following | None = None  # in the epoch of _assignment
        self.sync_time = SyncTime()
        self._is_checkpointing = False
        self._idle_ticks = 0  # in a row: the next one comes later
        self._tick: Timer | None = None
        self._is_full = False
        self._is_damaged = False  # said to the broker; until the log is set aside
        self.role = "recovering"

    @property
    def part(self) -> Leading | Following | None:  # for whoever looks inside
        return self._part

    @property
    def log(self) -> Log | None:  # None until it is recovered
        return self._log

    @property
    def config(self) -> TopicConfig:
        return self._assignment.config

    @property
    def high_watermark(self) -> Offset:
        part = self._part
        return part.high_watermark if part is not None else Offset(self._log.high_watermark if self._log else 0)

    @property
    def is_all_in_sync(self) -> bool:
        """Whether every replica is: each holds all that is committed then."""
        return bool(self._assignment.replicas) and set(self._assignment.replicas) <= set(self._assignment.isr)

    def now_ms(self) -> int:
        return self.context.clock.monotonic_ms()

    def retention_ms(self) -> int:
        """Return the time by which records age."""
        return self._retention_clock.now(self.context.clock.wall_ms(), self.now_ms())

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._tell_doors(Hosted(self.key, self.actor_ref))
        self.tell_sibling("hosting", Hosted(self.key, self.actor_ref))
        self.on_open_due(OpenDue())

    def on_open_due(self, _: OpenDue) -> None:
        if self._pool_jobs[self.key]:  # rule 6
            self.set_timer(OPEN_RETRY_MS, OpenDue())
            return
        if self.home.is_failed or self._log is not None:
            self.role = "offline" if self.home.is_failed else self.role
            return
        if self._assignment.is_lost:
            self._let_go_of_log()
            return
        files, home, key, config = self.context.files, self.home, self.key, self._assignment.config
        now_ms, expiry_ms = self.context.clock.wall_ms(), self._settings.producer_expiry_ms
        self.in_pool(
            lambda: open_log(files, home, key, config, now_ms=now_ms, producer_expiry_ms=expiry_ms),
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
        if self.home.is_failed:
            if opened.log is not None:
                opened.log.close(self.context.clock.wall_ms(), clean=False)
            self.role = "offline"
            return
        if isinstance(opened.error, StorageFull):
            self.note_full(is_full=True)
            self.role = "waiting for room"
            self.set_timer(FULL_RETRY_MS, OpenDue())
            return
        if isinstance(opened.error, StorageCorruption) and self.note_damage(str(opened.error)):
            self.role = "damaged"
            return
        if opened.error is not None:
            self.doubt_disk(opened.error)
            raise opened.error
        log: Log = opened.log
        self._log = log
        log.reconfigure(self._assignment.config)  # it may have changed meanwhile
        event(
            logger,
            "log.opened",
            partition=str(self.name),
            log_start_offset=log.log_start_offset,
            log_end_offset=log.log_end_offset,
            clean=log.recovery.was_clean,
            scanned_bytes=log.recovery.scanned_bytes,
            cut_bytes=log.recovery.cut_bytes,
            gap_offsets=log.recovery.gap_offsets,
        )
        self._set_tick()
        self._set_look(self._settings.retention_check_ms, RetentionDue())
        self._compacting.look_after(self.config)
        self._take_role()

    def on_stop(self) -> None:
        self._compacting.end()
        self._end_part(self._assignment)
        self._send_answers()
        if self._log is not None:
            self._log.close(self.context.clock.wall_ms(), clean=not self.home.is_failed)

    def on_failure(self, *failure: Any) -> None:
        self._compacting.end()
        self._tell_doors(ReplicaGone(self.key))
        if self._log is not None:
            self._log.close(self.context.clock.wall_ms(), clean=False)

    def on_go_offline(self, _: GoOffline) -> None:
        """The directory has failed: whoever waits learns that the outcome is unknown; no file is touched any more."""
        part, self._part = self._part, None
        if isinstance(part, Leading):
            part.abandon()
        elif part is not None:
            part.end()
        self._send_answers()
        self._tell_doors(ReplicaGone(self.key))
        log, self._log = self._log, None
        if log is not None:
            log.close(self.context.clock.wall_ms(), clean=False)
        self.role = "offline"

    def doubt_disk(self, error: BaseException | None, *, of_sync: bool = False) -> None:
        """Before this actor fails by ``error``: have the whole directory given up if it is the disk's (rule 5)."""
        if is_disk_failure(error, of_sync=of_sync):
            why = f"{self.name}: {error}"
            self.home.fail(why)
            self.tell_sibling("hosting", DirectoryFailed(self.home.path, why))

    def on_discard(self, _: Discard) -> None:
        """The topic was deleted: nobody is acknowledged any more, the files go, then the actor ends."""
        if self.home.is_failed:
            error = StorageError(f"its directory failed: it is removed when {self.home.path} serves again")
            self.on_discarded(Discarded(self.key, error))
            return
        if self._log is None:
            self.set_timer(DISCARD_RETRY_MS, Discard())  # still being opened in the pool: its files are in use
            return
        self._end_part(self._assignment, is_written=False)
        self._send_answers()
        self._log.close(self.context.clock.wall_ms(), clean=False)
        self._log = None
        self.role = "being removed"
        key, files, home = self.key, self.context.files, self.home
        self.in_pool(lambda: remove_log(files, home, key), lambda _, error: Discarded(key, error))

    def on_discarded(self, discarded: Discarded) -> None:
        self._send_answers()
        self.tell_sibling("hosting", discarded)
        self.finish()

    # -- the controller's word -----------------------------------------------------------------------

    def on_assign(self, assignment: Assign) -> None:
        known = self._assignment
        if (assignment.leader_epoch, assignment.partition_epoch) < (known.leader_epoch, known.partition_epoch):
            return  # an old order, late
        was_lost, self._assignment = self._assignment.is_lost, assignment
        if assignment.is_lost:
            self._let_go_of_log()
        elif self._log is not None:
            self._log.reconfigure(assignment.config)
            self._compacting.look_after(assignment.config)
            self._take_role()
        elif was_lost:
            self._set_damaged_log_aside()

    def note_damage(self, why: str) -> bool:
        """Have a damaged log replaced by a copy of a sound one; False: there is no other in-sync replica to copy.

        Then what is sound in it is served on, by whoever has it, until a person repairs it.
        """
        others = set(self._assignment.isr) - {self._broker_id}
        if not others or self._is_damaged:
            return self._is_damaged
        self._is_damaged = True
        event(logger, "log.damaged", logging.ERROR, partition=str(self.name), directory=self._directory, why=why)
        return self.tell_sibling("hosting", LogLost(self.key, self._assignment.leader_epoch, "its log is damaged"))

    def _let_go_of_log(self) -> None:
        """It is gone or damaged, and counts as in sync still: nothing is served and nothing is made in its place."""
        self._end_part(self._assignment, is_written=False)
        log, self._log = self._log, None
        if log is not None:
            log.close(self.context.clock.wall_ms(), clean=False)
        self.role = "damaged" if self._is_damaged else "lost its log"
        if self._assignment.is_leader:
            self.tell_sibling("hosting", LogLost(self.key, self._assignment.leader_epoch))

    def _set_damaged_log_aside(self) -> None:
        """It has left the in-sync set: begin anew beside what is kept for a person to look at."""
        files, directory, is_damaged = self.context.files, self._directory, self._is_damaged
        self._is_damaged = False
        self.in_pool(lambda: set_aside(files, directory) if is_damaged else None, lambda _, error: _SetAside(error))

    def on_set_aside(self, done: _SetAside) -> None:
        if done.error is not None:
            self.doubt_disk(done.error)
            raise done.error
        self.on_open_due(OpenDue())

    def _take_role(self) -> None:
        assignment, log, part = self._assignment, self._log, self._part
        if log is None:
            return
        if part is not None and part.rules.epoch == assignment.leader_epoch:
            if isinstance(part, Leading) and assignment.is_leader:
                part.on_assign(assignment)
                return
            if isinstance(part, Following) and not assignment.is_leader and part.leader == assignment.leader:
                return
        self._end_part(assignment)
        if assignment.is_leader:
            self._lead_if_allowed(assignment, log)
        elif assignment.leader in (-1, self._broker_id):  # nobody; or this broker in an earlier life
            self.role = "replica"
        else:
            self._follow(assignment, log)

    def _end_part(self, assignment: Assign, *, is_written: bool = True) -> None:
        """Stop leading or following; the next part begins after that."""
        part, self._part = self._part, None
        if part is None:
            return
        if isinstance(part, Leading):
            part.depose(assignment, is_written=is_written)
        else:
            part.end()
        if self._log is not None:
            self._log.high_watermark = part.high_watermark

    def _lead_if_allowed(self, assignment: Assign, log: Log) -> None:
        if assignment.leader_epoch <= self._led_epochs.get(self.key, -1):
            self.role = "awaiting epoch"
            self.tell_sibling("hosting", NewEpochNeeded(self.key, assignment.leader_epoch))
        else:
            self._lead(assignment, log)

    def _lead(self, assignment: Assign, log: Log) -> None:
        self._led_epochs[self.key] = assignment.leader_epoch
        log.epochs.assign(assignment.leader_epoch, log.log_end_offset)
        leader = Leader(
            self.key,
            broker_id=self._broker_id,
            epoch=assignment.leader_epoch,
            partition_epoch=assignment.partition_epoch,
            replicas=assignment.replicas,
            isr=assignment.isr,
            min_insync_replicas=assignment.min_insync_replicas,
            flush=assignment.config.flush,
            max_message_bytes=assignment.config.max_message_bytes,
            producers=log.producers,
            epochs=log.epochs,
            log_start_offset=Offset(log.log_start_offset),
            log_end_offset=Offset(log.log_end_offset),
            durable_offset=Offset(log.durable_offset),
            high_watermark=Offset(log.high_watermark),
            lag_ms=self._settings.replica_lag_ms,
            now_ms=self.context.clock.monotonic_ms(),
        )
        self._part = Leading(self, leader, log, needs_keys=assignment.config.is_compacted)
        self.role = "leader"
        event(
            logger,
            "partition.leads",
            partition=str(self.name),
            epoch=assignment.leader_epoch,
            log_end=log.log_end_offset,
        )

    def _follow(self, assignment: Assign, log: Log) -> None:
        epoch = assignment.leader_epoch
        log.epochs.truncate_from_end(log.log_end_offset)  # one that it began to lead, and wrote nothing in
        follower = Follower(epoch, log.epochs, Offset(max(log.high_watermark, log.log_start_offset)))
        self._part = following = Following(self, follower, assignment.leader, log)
        self.role = "follower"
        event(
            logger,
            "partition.follows",
            partition=str(self.name),
            epoch=epoch,
            leader=assignment.leader,
            log_end=log.log_end_offset,
        )
        following.begin()

    # -- requests ------------------------------------------------------------------------------------

    def on_request(self, request: Produce | Fetch | ListOffset | DeleteRecords) -> None:
        """Whoever leads answers; anybody else says who does, as far as it knows."""
        if isinstance(self._part, Leading):
            self._part.requests[type(request)](request)
            return
        known = self._assignment
        self.answers.append(not_leading_here(self.key, request, self._not_leading(), known.leader, known.leader_epoch))

    def on_for_part(self, message: Any) -> None:
        """Of one part only: void when this replica has another one now."""
        name = self._part.handlers.get(type(message)) if self._part is not None else None
        if name is not None:
            getattr(self._part, name)(message)

    def on_for_compacting(self, message: Any) -> None:
        getattr(self._compacting, self._compacting.handlers[type(message)])(message)

    def on_describe_replica(self, request: DescribeReplica) -> None:
        self.answers.append(Answer(request.ticket, described(self, self._assignment.leader_epoch)))

    # -- the end of a turn: one write, one flush, one message to the router ------------------------------

    def on_drained(self) -> None:
        if self._part is not None and self._log is not None:
            self._part.on_drained()
            self._log.high_watermark = self._part.high_watermark
        self._flush()
        self._send_answers()

    def on_appended(self, size_bytes: int) -> None:
        """So much was written: there is room, and something to check point."""
        self.home.appended(size_bytes)
        self.note_full(is_full=False)
        if self._idle_ticks:
            self.end_idleness()

    def note_full(self, *, is_full: bool) -> None:
        """The disk had no room for a write, or has again: said once."""
        if is_full:
            self.home.ran_out()
        if is_full != self._is_full:
            self._is_full = is_full
            name, level = ("log.full", logging.ERROR) if is_full else ("log.has_room", logging.WARNING)
            event(logger, name, level, partition=str(self.name))

    def _flush(self) -> None:
        if self.sync_time.is_running or self._log is None or self.home.is_failed:
            return
        is_awaited = self._part is not None and self._part.must_flush
        if self._assignment.config.flush == "os" and not is_awaited:
            return  # nobody waits for the disk: the next checkpoint syncs what the system has not
        if (job := self._log.begin_flush()) is not None:
            self.sync_time.began(self.context.clock.monotonic_ms())
            self.in_pool(job, lambda _, error: Flushed(job, error))

    def give_up_slow_disk(self, epoch: int, due_ms: int) -> bool:
        """Have somebody else lead if the sync that runs has taken too long (a gray failure); True: it was asked for."""
        taken_ms = self.sync_time.on_look(self.context.clock.monotonic_ms(), due_ms)
        if taken_ms < self._settings.storage_slow_ms:
            return False
        event(logger, "disk.slow", logging.ERROR, partition=str(self.name), directory=self.home.path, ms=taken_ms)
        why = f"its disk is slow: a sync has taken {taken_ms} ms so far"
        return self.tell_sibling("hosting", NewEpochNeeded(self.key, epoch, why))

    def on_flushed(self, flushed: Flushed) -> None:
        self.sync_time.ended()
        if self._log is None:
            return
        self.doubt_disk(flushed.error, of_sync=True)
        self._log.end_flush(flushed.job, flushed.error)
        if self._part is not None:
            self._part.on_flushed()

    def _send_answers(self) -> None:
        if self.answers:
            answers, self.answers = self.answers, []
            for door in dict.fromkeys(answer.ticket.door for answer in answers):  # in order: a run is to be repeatable
                self.tell_sibling(door, Answers([answer for answer in answers if answer.ticket.door == door]))

    # -- housekeeping --------------------------------------------------------------------------------

    def on_tick(self, _: Tick) -> None:
        log = self._log
        if log is None:
            return
        now_ms = self.context.clock.wall_ms()
        try:
            log.roll_if_due(now_ms)
        except StorageFull:
            self.note_full(is_full=True)  # the next tick tries again
        except StorageError as error:
            self.doubt_disk(error)
            raise
        max_age_ms = CHECKPOINT_LOOKS * self._settings.checkpoint_ms
        if not self._is_checkpointing and (job := log.begin_checkpoint(now_ms, max_age_ms)) is not None:
            self._is_checkpointing = True
            self.in_pool(job, lambda _, error: Checkpointed(error))
        is_busy = self._is_checkpointing or log.on_disk.is_behind or self.sync_time.is_running or self._is_full
        self._idle_ticks = 0 if is_busy else min(self._idle_ticks + 1, IDLE_DOUBLINGS_MAX)
        self._set_tick()

    def on_checkpointed(self, done: Checkpointed) -> None:
        self._is_checkpointing = False
        if done.error is not None and self._log is not None:
            self.doubt_disk(done.error, of_sync=True)
            raise done.error

    def on_retention_due(self, _: RetentionDue) -> None:
        """Let the oldest segments go that are past their retention; the files go with the next job, in the pool."""
        if self._log is None:
            return
        self._set_look(self._settings.retention_check_ms, RetentionDue())
        now_ms = self.retention_ms()
        if isinstance(self._part, Leading) and self.config.is_deleted_from:
            self._part.retain(now_ms, self.config)

    def _set_tick(self) -> None:
        period_ms = self._settings.checkpoint_ms
        if self._idle_ticks:
            period_ms = max(period_ms, min(period_ms << self._idle_ticks, self._assignment.config.segment_ms))
        self._tick = self._set_look(period_ms, Tick())

    def _set_look(self, period_ms: int, message: Any) -> Timer:
        context = self.context
        return self.set_timer(next_look_ms(context.clock.monotonic_ms(), period_ms, context.random.random()), message)

    def end_idleness(self) -> None:
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
            self.tell_sibling(door, message)

    def tell_sibling(self, name: str, message: Any) -> bool:
        """Tell one of the broker's actors; False when it is being restarted: it asks for what it missed."""
        sibling = self.context.directory.find(f"{self._broker_address}/{name}")
        return sibling is not None and sibling.post(message)
