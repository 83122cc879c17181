"""What the application has taken over of its member's changes: the consumer's side of a group, between the threads.

The I/O thread says what has to be done (``on_change``) and what has ended (``ended``); the application's threads do it
in ``poll``. A *change* is performed by one thread (``turn.py``), in order, each once; meanwhile nothing is handed out
to others, and who leaves waits.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..errors import CallboardError, IllegalStateError
from ..model import AnyRecord, OffsetAndMetadata, TopicPartition
from .applicant import Change
from .config import ConsumerConfig
from .group import GroupSide
from .inbox import Inbox
from .membership import Phase
from .turn import Turn

JOIN_MS_MAX = 5_000  # how long the first poll waits until the member has joined, whatever its timeout …
SHARE_MS_MAX = 250  # … and then for others to give back what it is to have
NOT_KNOWN = -1

log = logging.getLogger("callboard.client")

Offsets = dict[TopicPartition, OffsetAndMetadata]
CommitCallback = Callable[[Mapping[TopicPartition, OffsetAndMetadata], "CallboardError | None"], Any]


class ConsumerRebalanceListener:
    """Told when partitions come and go. Called in ``poll`` (and ``unsubscribe``, ``close``), in the caller's thread.

    An exception here reaches the caller of ``poll``; the change is done all the same, and the consumer goes on.
    """

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """These go to others when this returns. They can still be committed: the last chance to do so."""

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """These are read from now on, from where the group has committed; ``seek`` here begins elsewhere."""

    def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        """These may be somebody else's by now: a commit will be refused. As it stands: ``on_partitions_revoked``."""
        self.on_partitions_revoked(lost)


class AsyncConsumerRebalanceListener:
    """The same for ``AsyncConsumer``: called on the event loop, awaited."""

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """See ``ConsumerRebalanceListener``."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """See ``ConsumerRebalanceListener``."""

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        """See ``ConsumerRebalanceListener``."""
        await self.on_partitions_revoked(lost)


class EndedCommit(NamedTuple):
    """A ``commit_async`` whose callback has not been called yet."""

    callback: CommitCallback
    offsets: Offsets
    error: CallboardError | None


class Application:
    """One consumer's application as a member of its group. Under the consumer's lock, but where it says otherwise."""

    def __init__(self, config: ConsumerConfig, inbox: Inbox, now_ms: Callable[[], int], woken: Callable[[], None]):
        self._config, self._inbox = config, inbox
        self._now_ms, self._woken = now_ms, woken
        self.group: GroupSide | None = None  # set once, before anything else
        self.changes: deque[Change] = deque()  # the I/O thread appends
        self.ended: deque[EndedCommit] = deque()  # the I/O thread appends
        self.listener: Any = None
        self.member_id = ""  # under which the partitions are held that were taken over
        self.member_epoch = -1
        self.former: dict[TopicPartition, tuple[str, int]] = {}  # partitions that went, and under which name they did
        self.asked: dict[TopicPartition, OffsetAndMetadata] = {}  # of the last commit that went out, by partition …
        self.committed: dict[TopicPartition, int] = {}  # … and what that one has committed; NOT_KNOWN: not yet, perhaps
        self.handing: AnyRecord | None = None  # of an iteration whose step has not finished
        self.named: set[TopicPartition] = set()  # in commits since it began to leave: what it says itself counts
        self.turn = Turn(woken)  # of who performs changes
        self.life = 0  # grows whenever it leaves: what was granted or asked back before counts no more
        self.join_until_ms = 0  # the first poll waits so long for an assignment; 0: it does not
        self.has_come = False  # it has polled since it subscribed
        self.has_left = False  # the group, or is about to: by close or unsubscribe
        self._counting = threading.Lock()
        self.left_ms = NOT_KNOWN  # when a thread left a poll last
        self._inside = 0  # threads that are in a poll
        self._next_commit_ms = now_ms() + config.auto_commit_interval_ms
        self.is_commit_due = False  # moved by the I/O thread too; for iterations, which look at no clock

    # -- what the I/O thread sees and says ---------------------------------------------------------

    def step(self) -> object:
        record = self.handing
        return None if record is None else (record.topic, record.partition, record.offset)

    @property
    def is_waiting(self) -> bool:
        return self._inside > 0

    def has_reader(self, key: TopicPartition, generation: int) -> bool:
        return self._inbox.has_reader(key, generation)

    def holds(self, key: TopicPartition | None, generation: int) -> bool:
        return self._inbox.holds(key, generation)

    def on_change(self, change: Change) -> None:
        self.changes.append(change)
        self._woken()

    def on_heartbeat(self) -> None:
        if self._config.enable_auto_commit and self._now_ms() >= self._next_commit_ms:
            self.is_commit_due = True
        if self.join_until_ms:
            self._woken()

    # -- polling -----------------------------------------------------------------------------------

    def enter(self) -> None:
        """A thread polls."""
        if self.turn.is_ours:
            raise IllegalStateError("poll: a rebalance listener must not poll")
        self.handing = None  # whatever it was busy with, it has finished
        with self._counting:
            self._inside += 1

    def comes_first(self) -> bool:
        """Say whether this is the first poll since it subscribed, once: then the member joins."""
        if self.has_come:
            return False
        self.has_come = True
        self.join_until_ms = self._now_ms() + JOIN_MS_MAX
        return True

    def leave(self) -> None:
        with self._counting:
            self.left_ms = self._now_ms()
            self._inside -= 1

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While this lasts the poll does not wait, but calls the application, which may take too long, as between
        polls. Outside of a poll it makes no difference."""
        with self._counting:
            count = int(self._inside > 0)
            if count:
                self.left_ms = self._now_ms()
                self._inside -= 1
        try:
            yield
        finally:
            with self._counting:
                self._inside += count

    def on_fork(self) -> None:
        """Whoever held the lock is not in this process."""
        self._counting = threading.Lock()
        self.turn = Turn(self._woken)
        self.ended.clear()

    def on_leaving(self) -> None:
        """It leaves the group: what the I/O thread tells until it hears of that is of before."""
        self.has_left = True
        self.life += 1

    def on_subscribed(self, listener: Any) -> None:
        if self.has_left:
            self.has_come = self.has_left = False
        self.listener = listener

    @property
    def has_work(self) -> bool:
        """Whether a poll has something to do before it looks for records."""
        return bool(self.changes) or bool(self.ended)

    def may_read(self) -> bool:
        """Say whether records may be handed out now: nobody performs a change, and the session is not over."""
        return not self.turn.is_taken and (self.group is None or self.group.member.may_work(self._now_ms()))

    def is_joining(self) -> bool:
        """Say whether the first poll still waits for what it is about to be given."""
        if not self.join_until_ms or self._inbox.subscription is None:
            return False  # what was assigned by hand is there
        member = self.group.member if self.group is not None else None
        now = self._now_ms()
        if member is not None and member.phase is Phase.JOINED and not self.changes:
            is_taken_over = len(self._inbox.readers) >= len(member.owned)  # the change itself may be on its way yet
            is_there = is_taken_over and (member.is_complete or bool(member.owned))
            self.join_until_ms = 0 if is_there else min(self.join_until_ms, member.joined_ms + SHARE_MS_MAX)
        if now >= self.join_until_ms:
            self.join_until_ms = 0
        return self.join_until_ms > 0

    def next_change(self) -> Change | None:
        """Return what to perform now. What was granted or asked back and is lost by now, or left, is passed over."""
        while self.changes:
            change = self.changes.popleft()
            is_lost = change.kind != "lost" and any(
                later.kind == "lost" and later.member_id == change.member_id for later in self.changes
            )
            if change.life == self.life and not is_lost:
                return change
            self._inbox.sort()
            self._inbox.give_up((), change.generations.values())
        return None

    def take_over(self, change: Change) -> set[TopicPartition]:
        """The application has what it was assigned."""
        self._inbox.sort()
        taken = set(self._inbox.take_over(change.generations.values()))
        self._on_performed(change)
        for key in taken:
            self.former.pop(key, None)
            self._forget_commits(key)
        return taken

    def give_up(self, change: Change) -> None:
        """What was revoked or lost is not read any more."""
        self._inbox.sort()
        held = self.member_id, self.member_epoch
        for key in self._inbox.give_up(change.partitions):
            self.former[key] = held
            self._forget_commits(key)
        self._on_performed(change)

    def _on_performed(self, change: Change) -> None:
        self.member_id, self.member_epoch = change.member_id, change.member_epoch

    # -- committing --------------------------------------------------------------------------------

    def should_commit(self) -> bool:
        """Say whether an automatic commit is due; if so the next one is due an interval later."""
        if not self._config.enable_auto_commit or self._now_ms() < self._next_commit_ms:
            return False
        self.is_commit_due = False
        self._next_commit_ms = self._now_ms() + self._config.auto_commit_interval_ms
        return True

    def done_with(self, keys: Collection[TopicPartition] | None = None) -> Offsets:
        """Return what the application has done with and not committed: the positions of polls before, and of an
        iteration but for the record whose step has not finished."""
        found: Offsets = {}
        begun = self.group.begun if self.group is not None else {}
        record = self.handing
        for key, reader in self._inbox.readers.items():
            position = reader.position
            if position is None or (keys is not None and key not in keys):
                continue
            if record is not None and record.topic_partition == key:
                position = min(position, record.offset)
            if position != self.committed.get(key, begun.get(key, NOT_KNOWN)):
                found[key] = OffsetAndMetadata(position)
        return found

    def on_asked(self, offsets: Offsets) -> None:
        """A commit goes out, automatic or not: what was committed before counts no more. From any thread."""
        with self._counting:
            self.asked.update(offsets)
            self.committed.update(dict.fromkeys(offsets, NOT_KNOWN))

    def _forget_commits(self, key: TopicPartition) -> None:
        with self._counting:
            self.asked.pop(key, None)
            self.committed.pop(key, None)

    def on_committed(self, offsets: Offsets) -> None:
        """A commit has succeeded. From any thread."""
        with self._counting:
            for key, given in offsets.items():
                if self.asked.get(key) is given:  # none has gone out behind it
                    self.committed[key] = given.offset

    def on_partitions(self, kind: str, partitions: set[TopicPartition]) -> None:
        """Call the listener, outside the lock."""
        listener = self.listener
        if listener is None or not partitions:
            return
        call = getattr(listener, f"on_partitions_{kind}", None)
        if call is None and kind == "lost":
            call = listener.on_partitions_revoked
        if call is not None:
            call(partitions)

    def run_last_callbacks(self) -> None:
        """Call all that are left, also when one raises: nobody will come again. The first exception is raised."""
        try:
            self.run_callbacks()
        finally:
            if self.ended:
                self.run_last_callbacks()

    def run_callbacks(self) -> None:
        """Call the callbacks of commits that have ended, in order, outside the lock."""
        while self.ended:
            try:
                done = self.ended.popleft()
            except IndexError:  # another thread was faster
                return
            with self.at_work():
                done.callback(done.offsets, done.error)


def check_listener(listener: Any) -> None:
    """Raise if it cannot be one."""
    for name in ("on_partitions_revoked", "on_partitions_assigned"):
        if not callable(getattr(listener, name, None)):
            raise TypeError(
                f"listener: expected a ConsumerRebalanceListener, got {type(listener).__name__} without {name}"
            )
