"""A group at work while a cluster is being broken, and what its members saw: for ``group_history`` to judge.

    group = GroupLoad(servers, "orders", "billing", members=2)
    …                                   # break something
    group.stop()
    assert group_anomalies(group.history) == []

Each member is a consumer in a thread of its own: it polls, deals with the records, commits behind them and waits for
that. An administrator asks all the while what is committed. Rules of what is noted:

1. A partition is held from when the listener hears of it until the listener is told to give it back. One that is *lost*
   was held until the member last worked: what it believed after that it acted on no more.
2. A commit that was refused did not happen; one with any other error may have.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Any

from ..client.admin import AdminClient
from ..client.application import ConsumerRebalanceListener
from ..client.consumer import Consumer
from ..errors import CallboardError, CommitFailedError
from ..model import OffsetAndMetadata, TopicPartition
from .group_history import NOT_COMMITTED, Commit, CommittedRead, GroupHistory, Owned, Processed
from .history import Outcome

POLL_MS = 50
READ_S = 0.05  # between two questions what is committed
PATIENCE_S = 60.0


class GroupLoad:
    """Members of one group in threads. ``settings`` are the consumers'."""

    def __init__(
        self, bootstrap_servers: list[str], topic: str, group: str, *, members: int = 2, **settings: Any
    ) -> None:
        self.group, self.topic = group, topic
        self.history = GroupHistory()
        self.errors: list[CallboardError] = []  # that reached an application
        self.refused: list[CommitFailedError] = []  # commits of members that had lost their partitions
        self._servers = bootstrap_servers
        self._is_over = threading.Event()
        self.members = [_Worker(self, f"{group}-{number}", settings) for number in range(members)]
        self._asker = threading.Thread(target=self._ask, name=f"asks for {group}")
        for worker in (*self.members, self._asker):
            worker.start()

    @property
    def is_over(self) -> bool:
        return self._is_over.is_set()

    @property
    def owned(self) -> dict[str, set[TopicPartition]]:
        """Return what each member holds now."""
        return {member.name: set(member.held) for member in self.members}

    @property
    def acknowledged(self) -> int:
        """Return how many commits have succeeded so far."""
        return sum(member.acknowledged for member in self.members)

    def wait_until_shared(self, partitions: int, deadline_s: float = PATIENCE_S) -> None:
        """Return when the members hold all the partitions, and each one some of them."""
        until = time.monotonic() + deadline_s
        while sum(map(len, self.owned.values())) != partitions or not all(self.owned.values()):
            if time.monotonic() > until:
                raise CallboardError(f"group {self.group} did not share within {deadline_s:.0f} s: {self.owned}")
            time.sleep(0.01)

    def wait_for_commits(self, count: int, deadline_s: float = PATIENCE_S) -> None:
        """Return when every member has had ``count`` more commits acknowledged.

        Raises:
            CallboardError: not in time.
        """
        goals = {member: member.acknowledged + count for member in self.members}
        until = time.monotonic() + deadline_s
        while any(member.acknowledged < goal for member, goal in goals.items()):
            if time.monotonic() > until:
                missing = [member.name for member, goal in goals.items() if member.acknowledged < goal]
                raise CallboardError(f"{', '.join(missing)}: fewer than {count} commits in {deadline_s:.0f} s")
            time.sleep(0.01)

    def stop(self) -> None:
        """Have the members close, and read once more what is committed. Harmless when repeated."""
        if self._is_over.is_set():
            return
        self._is_over.set()
        for worker in (*self.members, self._asker):
            worker.join()
        with AdminClient(bootstrap_servers=self._servers) as admin:
            self._ask_once(admin)

    def _ask(self) -> None:
        with AdminClient(bootstrap_servers=self._servers) as admin:
            while not self._is_over.wait(READ_S):
                try:
                    self._ask_once(admin)
                except CallboardError as error:
                    self.errors.append(error)

    def _ask_once(self, admin: AdminClient) -> None:
        acknowledged = {commit.partition for commit in list(self.history.commits) if commit.outcome == "ok"}
        invoked = time.monotonic_ns()
        found = admin.list_group_offsets([self.group])[self.group]
        completed = time.monotonic_ns()
        for key in acknowledged | set(found):
            offset = found[key].offset if key in found else NOT_COMMITTED
            self.history.reads.append(CommittedRead(self.group, key, offset, invoked, completed))


class _Worker(threading.Thread, ConsumerRebalanceListener):
    """One member. Everything but ``stop`` in its own thread."""

    def __init__(self, load: GroupLoad, name: str, settings: dict[str, Any]) -> None:
        super().__init__(name=name)
        self.acknowledged = 0  # commits
        self.given_back: list[tuple[str, set[TopicPartition]]] = []  # "revoked" or "lost", in order
        self.held: dict[TopicPartition, int] = {}  # since when
        self._load = load
        self._settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "max_poll_records": 20}
        self._settings |= {"client_id": name, **settings}
        self._worked_ns = 0  # when it last did anything with records

    def run(self) -> None:
        consumer: Consumer[Any, Any] = Consumer(
            bootstrap_servers=self._load._servers, group_id=self._load.group, **self._settings
        )
        with consumer:
            consumer.subscribe([self._load.topic], listener=self)
            while not self._load.is_over:
                try:
                    self._work(consumer)
                except CallboardError as error:
                    self._load.errors.append(error)
            for key in consumer.assignment():
                self._check(consumer, key)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.held.update(dict.fromkeys(assigned, time.monotonic_ns()))

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._give_back("revoked", revoked, time.monotonic_ns())

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self._give_back("lost", lost, self._worked_ns)

    def _give_back(self, how: str, keys: Collection[TopicPartition], until_ns: int) -> None:
        if not self._load.is_over:
            self.given_back.append((how, set(keys)))
        for key in keys:
            since = self.held.pop(key)
            self._load.history.owned.append(Owned(self._load.group, key, self.name, since, max(since, until_ns)))

    def _work(self, consumer: Consumer[Any, Any]) -> None:
        """Deal with some records, and commit behind them."""
        offsets = {}
        for key, records in consumer.poll(timeout_ms=POLL_MS).items():
            now = self._worked_ns = time.monotonic_ns()
            self._load.history.processed += [Processed(self._load.group, key, record.offset, now) for record in records]
            offsets[key] = OffsetAndMetadata(records[-1].offset + 1, self.name)
        if not offsets:
            return
        invoked = time.monotonic_ns()
        outcome: Outcome = "info"
        try:
            consumer.commit(offsets)
            outcome, self._worked_ns = "ok", time.monotonic_ns()
            self.acknowledged += 1
        except CommitFailedError as error:
            outcome = "fail"
            self._load.refused.append(error)
        finally:
            completed = time.monotonic_ns()
            self._load.history.commits += [
                Commit(self._load.group, key, given.offset, self.name, outcome, invoked, completed)
                for key, given in offsets.items()
            ]

    def _check(self, consumer: Consumer[Any, Any], key: TopicPartition) -> None:
        """What the member itself is told that is committed counts as much."""
        invoked = time.monotonic_ns()
        offset = consumer.committed(key)
        read = CommittedRead(
            self._load.group, key, NOT_COMMITTED if offset is None else offset, invoked, time.monotonic_ns()
        )
        self._load.history.reads.append(read)
