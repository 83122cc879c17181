"""What groups cost the brokers: heartbeats of many groups, and commits beside produces. Real processes.

    measured = measure(Plan(groups=1_000))

A thousand groups of one member each live on few connections here, so that the cost of clients is not in the way.
Told are the CPU time of all brokers while nothing but heartbeats comes, as a share of one core, and how many commit
requests and how many produce requests (one batch of one record, ``acks="all"``) the cluster answers a second with
equally many under way, in alternation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any

import psutil

from ..client.admin import AdminClient
from ..client.io import Done, IoThread
from ..errors import CallboardError, ErrorCode
from ..storage.batch import encode_batch
from ..transport import group_messages as g
from ..transport import messages as m
from ..transport.addresses import choose_endpoint
from ..transport.seam import Connection
from .clusters import RunningCluster, cluster

TOPIC = "costs"
PATIENCE_MS = 60_000
RETRY_MS = 50
ACKS_ALL = -1

Ask = tuple[int, m.Request, list[bytes]]  # of which broker, what, payload


@dataclass(frozen=True)
class Plan:
    brokers: int = 3
    groups: int = 1_000
    partitions: int = 10  # that each member has, and each commit names
    in_flight: int = 50
    pairs: int = 5
    run_s: float = 3.0  # of each measurement
    heartbeat_interval_ms: int = 1_000  # as by default
    settle_s: float = 5.0  # before the idle brokers are looked at: the topic of offsets was just made


@dataclass
class Measured:
    plan: Plan
    heartbeats_a_second: float = 0.0
    idle_percent: float = 0.0  # of a core, all brokers, without any member
    heartbeat_percent: float = 0.0  # … with all of them, less that
    commits_a_second: list[float] = field(default_factory=list)  # requests, each of ``partitions`` offsets
    produces_a_second: list[float] = field(default_factory=list)


def measure(plan: Plan, directory: str | os.PathLike[str] | None = None) -> Measured:
    """Start a cluster and measure.

    Raises:
        CallboardError: something was refused that must not be.
    """
    with cluster(brokers=plan.brokers, directory=directory) as running:
        running.create_topic(TOPIC, partitions=plan.partitions, replication_factor=min(3, plan.brokers))
        members = _Members(running, plan)
        try:
            return members.measure()
        finally:
            members.close()


class _Members:
    """All members, and who asks for them: on the I/O thread what begins with ``_on_`` and what it calls."""

    def __init__(self, running: RunningCluster, plan: Plan) -> None:
        self._running, self.plan = running, plan
        self.io = IoThread("group costs", self)
        self.connections: dict[int, Connection] = {}
        self._groups = [f"group-{number}" for number in range(plan.groups)]
        self._homes: dict[str, int] = {}  # the broker of each group's coordinator
        self._epochs: dict[str, int] = {}  # of each member
        self._told: set[str] = set()  # who has said what it owns
        self._heartbeats = 0
        self._is_beating = False
        with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
            self._topic = admin.describe_topics([TOPIC])[0]
            brokers = admin.describe_cluster().brokers
        self.io.ask(lambda done: self._connect(brokers, done), PATIENCE_MS / 1e3, "connecting")

    def measure(self) -> Measured:
        measured, plan = Measured(self.plan), self.plan
        self._find_coordinators()
        self._cpu_percent(plan.settle_s)
        measured.idle_percent = self._cpu_percent(2 * plan.run_s)
        self.io.ask(self._join_all, PATIENCE_MS / 1e3, "joining")
        self._cpu_percent(2 * plan.heartbeat_interval_ms / 1e3)  # until all have found their rhythm
        begun, before = time.monotonic(), self._heartbeats
        measured.heartbeat_percent = self._cpu_percent(2 * plan.run_s) - measured.idle_percent
        measured.heartbeats_a_second = (self._heartbeats - before) / (time.monotonic() - begun)
        for number in range(plan.pairs + 1):
            rates = {}
            for what in (self._commits, self._produces) if number % 2 else (self._produces, self._commits):
                rates[what] = self._rate(what())
            if number:  # the first pair warms up
                measured.commits_a_second.append(rates[self._commits])
                measured.produces_a_second.append(rates[self._produces])
        return measured

    def close(self) -> None:
        self._is_beating = False
        self.io.stop()

    def on_fork(self) -> None:
        self.io.is_forked = True

    # -- connections and coordinators

    def _connect(self, brokers: list[m.BrokerMetadata], done: Done[None]) -> None:
        def on_state(_: object) -> None:
            if all(connection.is_ready for connection in self.connections.values()):
                done(None, None)

        for broker in brokers:
            endpoint = choose_endpoint(broker.endpoints, broker.machine)
            self.connections[broker.id] = self.io.transport.connect(
                endpoint, client_id="group costs", on_state=on_state
            )

    def _find_coordinators(self) -> None:
        """Ask until every group has one: the topic of offsets is made for the first who asks."""
        anyone = next(iter(self.connections))
        until = time.monotonic() + PATIENCE_MS / 1e3
        while len(self._homes) < len(self._groups):
            if time.monotonic() > until:
                raise CallboardError("not every group had a coordinator in time")
            reply = self._ask(anyone, g.FindCoordinatorsRequest(group_ids=self._groups))
            for entry in getattr(reply, "coordinators", ()):
                if not entry.error:
                    self._homes[entry.group_id] = entry.broker_id
            time.sleep(RETRY_MS / 1e3)

    def _ask(self, broker: int, message: m.Request) -> Any:
        def start(done: Done[Any]) -> None:
            self.connections[broker].request(message, lambda reply, _: done(reply, None), timeout_ms=PATIENCE_MS)

        return self.io.ask(start, PATIENCE_MS / 1e3, type(message).__name__)

    # -- heartbeats

    def _join_all(self, done: Done[None]) -> None:
        self._is_beating = True
        for group in self._groups:
            self._beat(group, lambda: done(None, None))

    def _beat(self, group: str, on_all_joined: Callable[[], None]) -> None:
        """Join, or say that the member lives; and again as soon as that is answered."""
        epoch = self._epochs.get(group, g.JOINING)
        owned = g.TopicPartitions(
            topic=TOPIC, topic_id=self._topic.topic_id, partitions=list(range(self.plan.partitions))
        )
        is_new = epoch == g.JOINING
        request = g.GroupHeartbeatRequest(
            group_id=group,
            member_id=f"member of {group}",
            member_epoch=epoch,
            topics=[TOPIC] if is_new else None,
            owned=[] if is_new else [owned] if group not in self._told else None,
            max_wait_ms=0 if is_new else self.plan.heartbeat_interval_ms,
            is_fetching=True,
        )
        if not is_new:
            self._told.add(group)

        def on_reply(reply: Any, _: list[bytes]) -> None:
            if not self._is_beating:
                return
            if not isinstance(reply, g.GroupHeartbeatReply) or reply.error:
                self.io.loop.call_later(RETRY_MS / 1e3, self._beat, group, on_all_joined)
                return
            self._heartbeats += 1
            self._epochs[group] = reply.member_epoch
            if len(self._epochs) == len(self._groups):
                on_all_joined()
            self._beat(group, on_all_joined)

        self.connections[self._homes[group]].request(request, on_reply, timeout_ms=PATIENCE_MS)

    def _cpu_percent(self, seconds: float) -> float:
        """Return the CPU time of all brokers meanwhile, in percent of one core."""
        processes = [psutil.Process(self._running.broker_pid(number + 1)) for number in range(self.plan.brokers)]
        begun, before = time.monotonic(), [sum(process.cpu_times()[:2]) for process in processes]
        time.sleep(seconds)
        spent = sum(sum(process.cpu_times()[:2]) for process in processes) - sum(before)
        return 100 * spent / (time.monotonic() - begun)

    # -- commits and produces

    def _commits(self) -> Iterator[Ask]:
        for offset, group in zip(count(1), cycle(self._groups)):
            entries = [
                g.OffsetCommitEntry(topic=TOPIC, topic_id=self._topic.topic_id, partition=number, offset=offset)
                for number in range(self.plan.partitions)
            ]
            message = g.OffsetCommitRequest(
                group_id=group, member_id=f"member of {group}", member_epoch=self._epochs[group], entries=entries
            )
            yield self._homes[group], message, []

    def _produces(self) -> Iterator[Ask]:
        batch = encode_batch(None, [b"v" * 100], [1_700_000_000_000])
        for partition in cycle(self._topic.partitions):
            entry = m.ProduceEntry(
                topic_id=self._topic.topic_id,
                partition=partition.partition,
                leader_epoch=partition.leader_epoch,
                frames=len(batch),
            )
            yield partition.leader, m.ProduceRequest(acks=ACKS_ALL, entries=[entry]), batch

    def _rate(self, asks: Iterator[Ask]) -> float:
        """Return how many a second are answered, with ``in_flight`` under way."""

        def start(done: Done[float]) -> None:
            _Run(self, asks, done).begin()

        return self.io.ask(start, self.plan.run_s + PATIENCE_MS / 1e3, "a rate")


class _Run:
    """One measurement, on the I/O thread."""

    def __init__(self, members: _Members, asks: Iterator[Ask], done: Done[float]) -> None:
        self._members, self._asks, self._done = members, asks, done
        self._answered = self._under_way = 0
        self._is_over = False

    def begin(self) -> None:
        plan = self._members.plan
        self._begun = time.perf_counter()
        self._members.io.loop.call_later(plan.run_s, self._end)
        for _ in range(plan.in_flight):
            self._next()

    def _next(self) -> None:
        broker, message, payload = next(self._asks)
        self._under_way += 1
        self._members.connections[broker].request(message, self._on_reply, payload, timeout_ms=PATIENCE_MS)

    def _on_reply(self, reply: Any, _: list[bytes]) -> None:
        self._under_way -= 1
        problem = _problem_of(reply)
        if problem:
            why = f"a broker refused what is measured ({problem}): the machine is too busy; try again when it is quiet"
            self._done(None, CallboardError(why))
            self._is_over = True
        elif not self._is_over:
            self._answered += 1
            self._next()

    def _end(self) -> None:
        self._is_over = True
        self._done(self._answered / (time.perf_counter() - self._begun), None)


def _problem_of(reply: Any) -> str:
    if not isinstance(reply, m.Reply):
        return str(reply)
    errors = [reply.error, *(entry.error for entry in getattr(reply, "entries", ()))]
    name = next((ErrorCode(error).name for error in errors if error), "")
    return f"{name}: {reply.detail}" if name and reply.detail else name
