"""Members of consumer groups inside a simulation: the real consumer, whole, and an application on a strand.

Nothing of the client is played here: ``Consumer`` with all it stands on, its application's thread included
(``strand.py``). What it is asked and told is written down on the way; what it *holds* is looked at after each callback
of its process: a partition is held from when the listener was told until the member has given it back, has lost it, or
is gone. What a paused process believes does not count: its time ends with the pause, and goes on if its session does.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..client.application import Application, ConsumerRebalanceListener, Offsets
from ..client.commits import Commit
from ..client.consumer import Consumer
from ..client.io import Done
from ..errors import CallboardError, CommitFailedError
from ..model import TopicPartition
from .clients import ClientProcess
from .group_history import NOT_COMMITTED
from .group_recording import GroupRecorder
from .machine import ProcessLoop
from .strand import Bell, Strand, StrandIo

LOOK_MS = 60.0  # between two looks of a watcher at what is committed
ASK_MS = 1_000

CommitHow = Literal["auto", "sync", "async"]


@dataclass(frozen=True)
class Habits:
    """How an application goes about it."""

    commits: CommitHow
    poll_ms: int
    poll_records: int
    work_ms: float  # for the records of one partition of one poll, on average
    slow_share: float  # of polls whose records take very long …
    slow_ms: float  # … so long
    closes_after_ms: float | None  # None: it stays


def habits_of(chance: random.Random, *, stays: bool) -> Habits:
    return Habits(
        commits=chance.choice(("auto", "auto", "sync", "async")),
        poll_ms=chance.choice((0, 5, 30, 200)),
        poll_records=chance.choice((1, 5, 500)),
        work_ms=chance.choice((0.5, 5.0, 20.0)),
        slow_share=chance.choice((0.0, 0.05)),
        slow_ms=chance.choice((200.0, 900.0)),
        closes_after_ms=None if stays or chance.random() < 0.6 else 300 + 1_500 * chance.random(),
    )


class ObservedConsumer(Consumer[Any, Any]):
    """A consumer on a strand. Every commit of it, whoever asks for it, is written down."""

    def __init__(
        self, process: ClientProcess, strand: Strand, recorder: GroupRecorder, name: str, **settings: Any
    ) -> None:
        self._observed, self._runs_on, self._notes, self._called = process, strand, recorder, name
        self._names = itertools.count(1)
        self._now_s = lambda: process.now_ns / 1e9
        super().__init__(client_id=name, **settings)
        self._arrived: Any = Bell(strand)
        self._fetching.cluster.rng = process.chance

    def _make_io(self, _: Any) -> Any:
        return StrandIo(self._observed, self._runs_on)

    def _new_member_id(self) -> str:
        return f"{self._called}/{next(self._names)}"

    @property
    def held(self) -> dict[TopicPartition, str]:
        """Return what it owns for sure, each with the member's name: it has been told, and has not lost it."""
        application, group = self._application, self._fetching.group
        if application is None or group is None:
            return {}
        member = group.member
        if application.member_id != member.member_id or not member.may_work(self._observed.clock.monotonic_ms()):
            return {}
        return {key: member.member_id for key in self._inbox.readers if key in member.owned}

    @property
    def begun(self) -> Mapping[TopicPartition, int]:
        group = self._fetching.group
        return group.begun if group is not None else {}

    @property
    def owned(self) -> Collection[TopicPartition]:
        group = self._fetching.group
        return group.member.owned if group is not None else ()

    def _commit_now(
        self, application: Application, offsets: Offsets, member_id: str, epoch: int, bound_ms: float
    ) -> None:
        number = self._notes.invoke_commit(self._observed, member_id, offsets)
        try:
            super()._commit_now(application, offsets, member_id, epoch, bound_ms)
        except CallboardError as error:
            self._note_end(number, error)
            raise
        self._note_end(number, None)

    def _leave_now(self, last: Commit, bound_ms: float) -> None:
        number = self._notes.invoke_commit(self._observed, last.member_id, last.offsets)
        try:
            super()._leave_now(last, bound_ms)
        except CallboardError as error:
            self._note_end(number, error)
            raise
        self._note_end(number, None)

    def _post_commit(
        self, application: Application, offsets: Offsets, member_id: str, epoch: int, done: Done[None]
    ) -> None:
        number = self._notes.invoke_commit(self._observed, member_id, offsets)

        def ended(result: None, error: BaseException | None) -> None:
            self._note_end(number, error)
            done(result, error)

        super()._post_commit(application, offsets, member_id, epoch, ended)

    def _note_end(self, number: int, error: BaseException | None) -> None:
        outcome: Literal["ok", "fail", "info"] = "ok"
        if error is not None:
            is_refused = isinstance(error, CommitFailedError) and not error.outcome_unknown
            outcome = "fail" if is_refused else "info"
        self._notes.end_commit(self._observed, number, outcome, str(error or ""))


class SimMember(ConsumerRebalanceListener):
    """A process with one member in it, which deals with what it is given: polls, works, commits, again."""

    def __init__(
        self,
        process: ClientProcess,
        recorder: GroupRecorder,
        subscription: Mapping[str, Any],
        habits: Habits,
        settings: Mapping[str, Any],
        on_closed: Callable[[SimMember], None],
    ) -> None:
        """``subscription``: what ``subscribe`` is told; ``settings``: of the consumer."""
        self.process = process
        self.problems: list[str] = []
        self.is_gone = False
        self.slow_ms_max = float("inf")  # of what it does with records; less once all is healed
        self._recorder, self._subscription, self._habits = recorder, subscription, habits
        self._settings = settings
        self._on_closed = on_closed
        self._consumer: ObservedConsumer | None = None
        self._told: dict[TopicPartition, None] = {}  # by the listener: assigned, and not taken back
        self._held: dict[TopicPartition, str] = {}  # as it was written down
        self._asked_ns: dict[TopicPartition, int] = {}  # since when it is known that where to begin is asked for
        self._begun: dict[TopicPartition, int] = {}
        self._is_dirty = False  # something was done and not committed
        process.loop.on_ran = self._look
        process.loop.on_paused = self._on_paused
        self._strand = Strand(process.loop, self._live)

    @property
    def held(self) -> Collection[TopicPartition]:
        return self._held

    def kill(self) -> None:
        """The process has died."""
        self._note({})
        self.is_gone = True
        self._strand.kill()

    # -- the application -----------------------------------------------------------------------------

    def _live(self) -> None:
        habits, chance = self._habits, self.process.chance
        consumer = self._consumer = ObservedConsumer(
            self.process,
            self._strand,
            self._recorder,
            self.process.name,
            enable_auto_commit=habits.commits == "auto",
            **self._settings,
        )
        consumer.subscribe(**self._subscription, listener=self)
        until_ns = None
        if habits.closes_after_ms is not None:
            until_ns = self.process.now_ns + habits.closes_after_ms * 1_000_000
        while until_ns is None or self.process.now_ns < until_ns:
            try:
                polled = consumer.poll(habits.poll_ms, habits.poll_records)
            except CallboardError as error:
                self.problems.append(f"poll: {error!r}")
                self._strand.sleep(50)
                continue
            self._look(self.process.loop, consumer.poll)
            for key, records in polled.items():
                if (member := self._held.get(key)) is not None:
                    self._recorder.polled(self.process, key, [record.offset for record in records], member)
            for key, records in polled.items():
                is_slow = chance.random() < habits.slow_share
                slow_ms = min(habits.slow_ms, self.slow_ms_max)
                self._strand.sleep(slow_ms if is_slow else habits.work_ms * chance.expovariate(1.0))
                self._recorder.processed(self.process, key, [record.offset for record in records])
                self._is_dirty = True
            self._commit(consumer)
            if not polled:
                self._strand.sleep(5)
        consumer.close()
        self._note({})
        self.is_gone = True
        self._on_closed(self)

    def _commit(self, consumer: ObservedConsumer) -> None:
        """As the habits are; what fails is tried again with the next poll, as far as it is still ours."""
        how, chance = self._habits.commits, self.process.chance
        if how == "auto" or not self._is_dirty or chance.random() < 0.3:
            return
        self._is_dirty = False
        if how == "async":
            consumer.commit_async(callback=self._on_committed)
            return
        try:
            consumer.commit(timeout_ms=ASK_MS)
        except CallboardError:
            self._is_dirty = True

    def _on_committed(self, _: Any, error: CallboardError | None) -> None:
        self._is_dirty = self._is_dirty or error is not None

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._told |= dict.fromkeys(sorted(assigned))

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if self._habits.commits != "auto" and self._consumer is not None and not self._strand.is_over:
            try:
                self._consumer.commit(timeout_ms=ASK_MS)
            except CallboardError:
                self._is_dirty = True
        self.on_partitions_lost(revoked)

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        for key in lost:
            self._told.pop(key, None)

    # -- looking on ----------------------------------------------------------------------------------

    def _look(self, _: ProcessLoop, __: Callable[..., Any]) -> None:
        consumer = self._consumer
        if consumer is None or self.is_gone:
            return
        self._note({key: name for key, name in sorted(consumer.held.items()) if key in self._told})
        now_ns = self.process.now_ns
        for key in consumer.owned:
            self._asked_ns.setdefault(key, now_ns)
        for key in [key for key in self._asked_ns if key not in consumer.owned]:
            del self._asked_ns[key]
            self._begun.pop(key, None)
        for key, offset in consumer.begun.items():
            if key in self._asked_ns and key not in self._begun:
                self._begun[key] = offset
                self._recorder.read(self.process, key, offset, self._asked_ns[key])

    def _on_paused(self) -> None:
        if self.process.loop.is_paused or self._consumer is None or self.is_gone:
            self._note({})
        else:
            self._look(self.process.loop, self._on_paused)

    def _note(self, held: Mapping[TopicPartition, str]) -> None:
        before, self._held = self._held, dict(held)
        for key, name in before.items():
            if held.get(key) != name:
                self._recorder.disown(self.process, name, key)
        for key, name in held.items():
            if before.get(key) != name:
                self._recorder.own(self.process, name, key)


class Watcher:
    """An administrator: asks again and again what the group has committed."""

    def __init__(
        self,
        process: ClientProcess,
        recorder: GroupRecorder,
        partitions: Collection[TopicPartition],
        settings: Mapping[str, Any],
    ) -> None:
        self.process = process
        self.seen: dict[TopicPartition, int] = {}
        self._recorder, self._partitions, self._settings = recorder, partitions, settings
        self._strand = Strand(process.loop, self._live)

    def kill(self) -> None:
        self._strand.kill()

    def _live(self) -> None:
        consumer = ObservedConsumer(self.process, self._strand, self._recorder, self.process.name, **self._settings)
        while True:
            for key in self._partitions:
                asked_ns = self.process.now_ns
                look = partial(consumer.committed, key, timeout_ms=ASK_MS)
                try:
                    found: int | None = look()
                except CallboardError:
                    self._strand.sleep(20)
                    continue
                self.seen[key] = NOT_COMMITTED if found is None else found
                self._recorder.read(self.process, key, self.seen[key], asked_ns)
            self._strand.sleep(LOOK_MS * (0.5 + self.process.chance.random()))
