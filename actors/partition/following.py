"""A replica while it follows: performs what the follower's rules decide, on the log that it owns.

Part of the replica's actor, made for one leader in one epoch. Rules of this file:

1. One answer is one append, performed at once: the leader has sent whole batches, as many as there were.
2. The next fetch is asked for when the batches are in the page cache; when they are on disk the leader is told apart.
   Where the rules want it, and the leader counts what is on disk, it is asked for behind the sync, and says so itself.
3. A full disk is no failure: the follower falls behind and tries again. A cut that fails, or any other error of the
   log, fails the actor: its successor recovers the log and follows anew.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from ...errors import StorageError, StorageFull
from ...model import Offset
from ...storage.log import Log
from ...transport.loop import Timer
from ...transport.messages import FetchEntry, ReplicaDescription
from ..log import event
from .events import (
    BeginAnew,
    Copy,
    DeleteBefore,
    Durable,
    Fetched,
    FetcherBegan,
    FetchNext,
    Follow,
    FollowerEffect,
    Truncate,
    Unfollow,
)
from .follower import TROUBLE_RETRY_MS, Follower, next_fetch

if TYPE_CHECKING:
    from .replica import Replica

logger = logging.getLogger(__name__)

FETCH_BYTES = 1_048_576  # of one partition in one answer; a larger batch comes all the same


class FetchAgain(msgspec.Struct, frozen=True):
    """The pause before the next fetch is over."""

    epoch: int


class Following:
    """See the top of the file."""

    name = "follower"
    handlers: ClassVar[Mapping[type, str]] = {
        Fetched: "on_fetched",
        FetchAgain: "on_fetch_again",
        FetcherBegan: "on_fetcher_began",
    }

    def __init__(self, replica: Replica, follower: Follower, leader: int, log: Log) -> None:
        self.rules = follower
        self.leader = leader  # broker id
        self._replica = replica
        self._log = log
        self._pause: Timer | None = None
        self._told_durable_offset = -1
        self._told_start_offset = 0  # likewise durable
        self._problem = ""
        self._is_held = False  # the next fetch: until a sync has ended

    @property
    def high_watermark(self) -> Offset:
        return self.rules.high_watermark

    @property
    def must_flush(self) -> bool:
        """Whether somebody waits for the disk although ``flush`` is "os": for what was deleted, or with a fetch."""
        return self._is_held or self._log.durable_log_start_offset < self._log.log_start_offset

    def begin(self) -> None:
        """Ask the leader for the first time."""
        self._perform(self.rules.begin(*self._ends()))

    def on_fetcher_began(self, _: FetcherBegan) -> None:
        """The fetcher knows of nobody: ask again."""
        self.begin()

    def on_fetched(self, fetched: Fetched) -> None:
        self._perform(self.rules.on_fetched(fetched.reply, fetched.frames, *self._ends()))
        if self.rules.problem != self._problem:
            self._problem = self.rules.problem
            if self._problem:
                event(
                    logger,
                    "follower.stuck",
                    logging.WARNING,
                    partition=str(self._replica.name),
                    leader=self.leader,
                    why=self._problem,
                )

    def on_fetch_again(self, again: FetchAgain) -> None:
        if again.epoch == self.rules.epoch:
            self._pause = None
            self._ask(next_fetch(self.rules.epochs, *self._ends()))

    def on_flushed(self) -> None:
        """The leader counts what is on disk here: tell it now, with the fetch that waited for that, or apart."""
        log, replica = self._log, self._replica
        if self._is_held:
            self._ask(next_fetch(self.rules.epochs, *self._ends()))
            return
        is_longer = log.durable_offset > self._told_durable_offset
        if is_longer or log.durable_log_start_offset > self._told_start_offset:
            self._told_durable_offset, self._told_start_offset = log.durable_offset, log.durable_log_start_offset
            told = Durable(replica.key, self.rules.epoch, log.durable_offset, log.durable_log_start_offset)
            replica.tell_sibling("replication", told)

    def on_drained(self) -> None:
        """Nothing is collected over a turn: an answer was appended when it came."""

    def describe(self, description: dict[str, Any]) -> ReplicaDescription:
        return ReplicaDescription(**description)

    def end(self) -> None:
        """Follow no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._replica.tell_sibling("replication", Unfollow(self._replica.key))

    # -- inside ----------------------------------------------------------------------------------------

    def _perform(self, effects: list[FollowerEffect]) -> None:
        for effect in effects:
            try:
                self._perform_one(effect)
            except StorageFull:
                self._replica.note_full(is_full=True)
                self._ask(next_fetch(self.rules.epochs, *self._ends(), TROUBLE_RETRY_MS))
                return
            except StorageError as error:
                self._replica.doubt_disk(error)
                raise

    def _perform_one(self, effect: FollowerEffect) -> None:
        log = self._log
        if isinstance(effect, Copy):
            log.append([[batch] for batch in effect.batches], effect.headers, self._wall_ms())
            self._replica.on_appended(sum([header.length for header in effect.headers]))
        elif isinstance(effect, FetchNext):
            if effect.after_sync and self._replica.config.flush == "ack":
                self._is_held = True
                return
            self._ask(effect if effect.fetch_offset >= 0 else next_fetch(self.rules.epochs, *self._ends()))
        elif isinstance(effect, Truncate):
            self._tell_of_cut("log.truncated", to_offset=effect.to_offset)
            log.truncate_to(effect.to_offset)
            self._told_durable_offset = -1
        elif isinstance(effect, BeginAnew):
            self._tell_of_cut("log.begun_anew", log_start_offset=effect.log_start_offset)
            log.begin_anew(effect.log_start_offset, self._wall_ms())
            self._told_durable_offset = -1
        elif isinstance(effect, DeleteBefore):
            log.delete_before(effect.log_start_offset, self.rules.high_watermark)

    def _ask(self, fetch: FetchNext) -> None:
        replica = self._replica
        self._is_held = False
        if fetch.after_ms:
            replica.tell_sibling("replication", Unfollow(replica.key))  # the others need not wait for this one
            if self._pause is None:
                self._pause = replica.set_timer(fetch.after_ms, FetchAgain(self.rules.epoch))
            return
        if self._pause is not None:  # asked before it was over: not twice
            self._pause.cancel()
            self._pause = None
        durable_offset = min(self._log.durable_offset, fetch.fetch_offset)
        self._told_durable_offset = max(self._told_durable_offset, durable_offset)
        self._told_start_offset = self._log.durable_log_start_offset
        entry = FetchEntry(
            topic_id=replica.key.topic_id,
            partition=replica.key.partition,
            leader_epoch=self.rules.epoch,
            fetch_offset=fetch.fetch_offset,
            last_fetched_epoch=fetch.last_fetched_epoch,
            durable_offset=durable_offset,
            high_watermark=self.rules.high_watermark,
            log_start_offset=self._log.durable_log_start_offset,
            max_bytes=FETCH_BYTES,
        )
        replica.tell_sibling("replication", Follow(replica.key, self.leader, entry, replica.actor_ref))

    def _tell_of_cut(self, name: str, **values: int) -> None:
        event(
            logger,
            name,
            logging.WARNING,
            partition=str(self._replica.name),
            epoch=self.rules.epoch,
            leader=self.leader,
            log_end_offset=self._log.log_end_offset,
            high_watermark=self.rules.high_watermark,
            **values,
        )

    def _ends(self) -> tuple[Offset, Offset]:
        return Offset(self._log.log_start_offset), Offset(self._log.log_end_offset)

    def _wall_ms(self) -> int:
        return self._replica.context.clock.wall_ms()
