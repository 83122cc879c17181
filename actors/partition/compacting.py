"""When a replica's log is compacted by key, and who does it: the shell around ``storage/compaction.py``.

Part of the replica's actor, for its whole life; leader and follower alike, each its own log. Rules of this file:

1. One log of a process at a time (``CompactionTurn``), in the pool, a step at a time, with as much rest as work: the
   flushes of others wait for a step at most, and the loop has the interpreter half of the time.
2. The loop does what takes no time: it chooses the segments, and lets the new ones take the place of the old.
3. A tombstone goes only while every replica is in sync: each then holds all that is committed, so none can come back
   later with what the tombstone had deleted (B24).
4. A full disk or a segment that was deleted meanwhile ends it without harm; the next look begins anew. Damage ends it
   until the log is opened again. Any other error of the disk fails the actor.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from ...config import BrokerSettings, TopicConfig
from ...errors import StorageCorruption
from ...model import PartitionKey
from ...storage.compaction import Compaction, Terms
from ...storage.files import DISK_FULL
from ...storage.log import Log
from ...transport.loop import Timer
from ..log import event
from .housekeeping import next_look_ms

if TYPE_CHECKING:
    from .replica import Replica

logger = logging.getLogger(__name__)

REST_MS_MIN = 1  # between two steps
AGAIN_MS = 1_000  # after one that was done: the map of keys may have been full


class CompactionDue(msgspec.Struct, frozen=True):
    """Time to look whether the log is to be compacted."""


class NextStep(msgspec.Struct, frozen=True):
    """The rest between two steps is over."""

    compaction: Any  # storage.compaction.Compaction


class Stepped(msgspec.Struct, frozen=True):
    """A step has ended in the pool."""

    compaction: Any  # storage.compaction.Compaction
    is_done: bool
    error: BaseException | None


class CompactionTurn:
    """Whose log is compacted; one for all partitions of a process, outlives their actors."""

    def __init__(self) -> None:
        self._holder: PartitionKey | None = None

    def take(self, key: PartitionKey) -> bool:
        if self._holder is None:
            self._holder = key
        return self._holder == key

    def give_back(self, key: PartitionKey) -> None:
        if self._holder == key:
            self._holder = None


class Compacting:
    """See the top of the file."""

    handlers: ClassVar[Mapping[type, str]] = {
        CompactionDue: "on_due",
        NextStep: "on_next_step",
        Stepped: "on_stepped",
    }

    def __init__(self, replica: Replica, turn: CompactionTurn, settings: BrokerSettings) -> None:
        self._replica = replica
        self._turn = turn
        self._settings = settings
        self._look: Timer | None = None
        self._log: Log | None = None  # that ``_compaction`` is of
        self._compaction: Compaction | None = None  # under way
        self._began_ms = 0  # the step that runs
        self._worked_ms = 0
        self._damaged: Log | None = None  # not compacted any more

    def look_after(self, config: TopicConfig) -> None:
        """The log is open, or has other settings: look at it now and then if it is compacted."""
        if config.is_compacted and self._look is None:
            self._look_in(self._settings.compaction_check_ms)

    def end(self) -> None:
        """The actor ends, or the log is gone: what was written for it is removed when it is opened again."""
        self._log = self._compaction = None
        self._turn.give_back(self._replica.key)

    # -- events ----------------------------------------------------------------------------------------

    def on_due(self, _: CompactionDue) -> None:
        self._look = None
        replica = self._replica
        if replica.log is None or not replica.config.is_compacted:
            return  # whoever opens it, or alters its settings, has it looked at again
        self._look_in(self._settings.compaction_check_ms)
        is_hindered = replica.home.is_failed or replica.home.is_full or replica.log is self._damaged
        if self._compaction is None and not is_hindered and self._turn.take(replica.key):
            self._begin(replica.log)

    def on_next_step(self, due: NextStep) -> None:
        if self._is_current(due.compaction):
            self._step(due.compaction)

    def on_stepped(self, stepped: Stepped) -> None:
        compaction, log = stepped.compaction, self._log
        if log is None or not self._is_current(compaction):
            return
        if not log.cleaner.is_current(compaction):  # cut meanwhile
            self._give_up(compaction)
            return
        if stepped.error is not None:
            self._on_error(stepped.error, compaction, log)
            return
        taken_ms = self._replica.now_ms() - self._began_ms
        self._worked_ms += taken_ms
        if stepped.is_done:
            self._finish(compaction, log)
        else:
            self._replica.set_timer(max(taken_ms, REST_MS_MIN), NextStep(compaction))

    # -- inside ----------------------------------------------------------------------------------------

    def _begin(self, log: Log) -> None:
        replica = self._replica
        terms = Terms(
            replica.high_watermark,
            replica.retention_ms(),
            replica.is_all_in_sync,
            self._settings.compaction_memory_bytes,
        )
        compaction = log.begin_compaction(terms)
        if compaction is None:
            self.end()
            return
        self._log, self._compaction, self._worked_ms = log, compaction, 0
        self._step(compaction)

    def _step(self, compaction: Compaction) -> None:
        self._began_ms = self._replica.now_ms()
        self._replica.in_pool(compaction.step, lambda is_done, error: Stepped(compaction, bool(is_done), error))

    def _finish(self, compaction: Compaction, log: Log) -> None:
        replica, figures = self._replica, compaction.figures
        log.end_compaction(compaction, replica.retention_ms())
        self.end()
        event(
            logger,
            "log.compacted",
            partition=str(replica.name),
            to_offset=compaction.clean_to,
            bytes_before=figures.bytes_before,
            bytes_after=figures.bytes_after,
            records_before=figures.records_before,
            records_after=figures.records_after,
            tombstones_dropped=figures.tombstones_dropped,
            segments=log.segment_count,
            ms=self._worked_ms,
        )
        replica.end_idleness()  # its files are exchanged by the next job
        self._look_in(AGAIN_MS)

    def _on_error(self, error: BaseException, compaction: Compaction, log: Log) -> None:
        replica = self._replica
        self._give_up(compaction)
        if isinstance(error, StorageCorruption):
            self._damaged = log
            event(logger, "log.corrupt", logging.ERROR, partition=str(replica.name), detail=str(error))
            replica.note_damage(str(error))
        elif isinstance(error, OSError) and error.errno in DISK_FULL:
            replica.note_full(is_full=True)
        elif not isinstance(error, FileNotFoundError):
            replica.doubt_disk(error)
            raise error

    def _give_up(self, compaction: Compaction) -> None:
        compaction.discard()
        self.end()

    def _is_current(self, compaction: Compaction) -> bool:
        """Whether it is the one under way, of the log that the replica still has."""
        if compaction is not self._compaction:
            return False
        if self._replica.log is not self._log:
            self.end()
            return False
        return True

    def _look_in(self, period_ms: int) -> None:
        if self._look is not None:
            self._look.cancel()
        replica = self._replica
        chance = replica.context.random.random()
        self._look = replica.set_timer(next_look_ms(replica.now_ms(), period_ms, chance), CompactionDue())
