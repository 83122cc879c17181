"""What a rebalance costs those who are not concerned, and how soon partitions are read again: real processes.

    measured = measure(Plan(members=10, partitions=100))

Members of one group read a topic into which records flow all the time. One is killed with SIGKILL, another one closes.
Measured are, of each: which partitions have moved; the longest time that any *other* member was without records, beside
its own 99th percentile before; and when the last of the partitions was read by somebody else. And how soon the first
member of a new group has records, counted from ``Consumer(…)``. Beside it stands how busy the machine was before, and
how soon records were acknowledged: where there is more to do than it can, what is measured is the length of its queues.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import psutil

from ..errors import CallboardError, UnknownTopicOrPartitionError
from ..model import OFFSETS_TOPIC
from .clusters import RunningCluster, cluster
from .failover import percentile
from .fault_figures import waits_ms
from .first_member import first_records_ms
from .group_member import MemberProcess
from .workload import Load

TOPIC, GROUP = "rebalanced", "members"
AFTER_S = 1.0  # after the partitions are read again, that still count as "during"
PATIENCE_S = 90.0
LOOK_S = 0.02


@dataclass(frozen=True)
class Plan:
    brokers: int = 3
    members: int = 10
    partitions: int = 100
    rate: int = (
        300  # records a second, over all partitions, each a request of its own: two slow cores carry that easily
    )
    session_timeout_ms: int = 2_000
    heartbeat_interval_ms: int = 500
    joins: int = 10  # lone members of new groups
    rounds: int = 1  # in each one member is killed, one closes; before the next two come in their place; 0: none
    quiet_s: float = 4.0  # of undisturbed reading, of which the percentiles before are


@dataclass
class Departure:
    """One member went, and what came of it. Times in milliseconds from when it did: was killed, or called ``close``."""

    how: str  # "killed" or "closed"
    partitions: int  # that it had
    moved_from_others: int  # partitions that somebody else had to give back: none should
    assigned_ms: float = 0.0  # until the last of its partitions was assigned to somebody
    read_ms: float = 0.0  # the longest that a first record there had waited, since then or since it was made
    gap_ms: float = 0.0  # the longest between two polls with records, of any other member, meanwhile
    gap_above_ms: float = 0.0  # the greatest excess of such a gap over that member's own 99th percentile before
    p99_before_ms: float = 0.0  # of all others
    acknowledged_p50_ms: float = 0.0  # of records, before
    acknowledged_p99_ms: float = 0.0
    busy_percent: float = 0.0  # of all the machine's processors, before


@dataclass
class Measured:
    plan: Plan
    departures: list[Departure] = field(default_factory=list)
    first_records_ms: list[float] = field(default_factory=list)


def measure(plan: Plan, directory: str | os.PathLike[str] | None = None) -> Measured:
    """Start a cluster and a group, let one member die and one leave, and tell.

    Raises:
        CallboardError: partitions were not all read again in time, or members were silent for a session by themselves.
    """
    measured = Measured(plan)
    with ExitStack() as stack:
        running = stack.enter_context(cluster(brokers=plan.brokers, directory=directory))
        replicas = min(3, plan.brokers)
        running.create_topic(TOPIC, partitions=plan.partitions, replication_factor=replicas)
        load = Load(running.bootstrap_servers, TOPIC, partitions=plan.partitions, rate=plan.rate)
        stack.callback(load.abandon)
        load.wait_for_progress(plan.partitions)
        _wait_until(lambda: _is_running(running), f"{OFFSETS_TOPIC} to be made ahead of the first group")
        measured.first_records_ms = first_records_ms(running.bootstrap_servers, TOPIC, plan.joins)
        started = plan.members if plan.rounds else 0
        members = [stack.enter_context(_member(running, plan, number)) for number in range(started)]
        for number in range(plan.rounds):
            while len(members) < plan.members:
                members.append(stack.enter_context(_member(running, plan, plan.members * (number + 1) + len(members))))
            _wait_until_shared(plan, members)
            for how in ("killed", "closed"):
                measured.departures.append(_depart(plan, load, members, how))
    return measured


def _is_running(running: RunningCluster) -> bool:
    """Say whether what a cluster makes ahead is there: groups that come sooner wait for it (docs/groups.md)."""
    with running.admin() as admin:
        try:
            (topic,) = admin.describe_topics([OFFSETS_TOPIC])
        except UnknownTopicOrPartitionError:
            return False
        admin.list_groups()  # that is answered when every coordinator has begun
    return all(one.leader >= 0 and len(one.isr) == len(one.replicas) for one in topic.partitions)


def _member(running: RunningCluster, plan: Plan, number: int) -> MemberProcess:
    return MemberProcess(
        f"member {number}",
        running.bootstrap_servers,
        TOPIC,
        GROUP,
        session_timeout_ms=plan.session_timeout_ms,
        heartbeat_interval_ms=plan.heartbeat_interval_ms,
    )


def _wait_until_shared(plan: Plan, members: list[MemberProcess]) -> None:
    """Return when every partition has one owner and every member its share, and all have given a record."""

    def is_shared() -> bool:
        owned = [member.partitions for member in members]
        fair = plan.partitions // len(members)
        begun = [set(member.first_after("first", 0)) for member in members]
        return (
            sum(map(len, owned)) == plan.partitions
            and set().union(*owned) == set(range(plan.partitions))
            and min(map(len, owned)) >= fair
            and all(mine <= first for mine, first in zip(owned, begun, strict=True))
        )

    _wait_until(is_shared, "the partitions to be shared")


def _depart(plan: Plan, load: Load, members: list[MemberProcess], how: str) -> Departure:
    victim, *others = members
    members.remove(victim)
    for member in others:
        member.polls()
    psutil.cpu_percent()  # from here on
    quiet_ns = time.monotonic_ns()
    time.sleep(plan.quiet_s)
    busy_percent = psutil.cpu_percent()
    before = {member.name: _gaps(member.polls()) for member in others}
    theirs, kept = victim.partitions, {member.name: member.partitions for member in others}
    if how == "killed":
        since_ns = victim.kill()
    else:
        victim.close()
        since_ns = next(event["at"] for event in victim.events if event["event"] == "closing")

    def read_again() -> dict[int, int]:
        return {p: at for member in others for p, at in member.first_after("first", since_ns).items() if p in theirs}

    _wait_until(lambda: set(read_again()) == theirs, f"the partitions of the {how} member to be read again")
    time.sleep(AFTER_S)
    waits = waits_ms(load.sends(), quiet_ns, since_ns)
    assigned = [at for member in others for p, at in member.first_after("assigned", since_ns).items() if p in theirs]
    if not assigned:
        raise CallboardError(f"the member that was {how} had lost its partitions before: the machine is too busy")
    departure = Departure(
        how=how,
        partitions=len(theirs),
        moved_from_others=sum(len(kept[member.name] - member.partitions) for member in others),
        assigned_ms=(max(assigned) - since_ns) / 1e6,
        read_ms=max(_waited_ms(member, theirs, since_ns) for member in others),
        p99_before_ms=percentile([gap for gaps in before.values() for gap in gaps], 0.99),
        acknowledged_p50_ms=percentile(waits, 0.5),
        acknowledged_p99_ms=percentile(waits, 0.99),
        busy_percent=busy_percent,
    )
    for member in others:
        longest = max(_gaps(member.polls()), default=0.0)
        departure.gap_ms = max(departure.gap_ms, longest)
        above = longest - percentile(before[member.name], 0.99)
        departure.gap_above_ms = max(departure.gap_above_ms, above)
    return departure


def _waited_ms(member: MemberProcess, partitions: set[int], since_ns: int) -> float:
    """Return the longest that the member's first record of one of them had waited, since then or since it was made."""
    longest = 0.0
    seen: set[int] = set()
    for event in list(member.events):
        if event["event"] == "first" and event["at"] >= since_ns:
            for partition, waited_ms in zip(event["partitions"], event["waited_ms"], strict=True):
                if partition in partitions - seen:
                    seen.add(partition)
                    longest = max(longest, min(waited_ms, (event["at"] - since_ns) / 1e6))
    return longest


def _gaps(times_ns: list[int]) -> list[float]:
    """Return the times between polls that returned records, in milliseconds."""
    return [(after - before) / 1e6 for before, after in pairwise(times_ns)]


def _wait_until(condition: Any, what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise CallboardError(f"waited {PATIENCE_S:.0f} s for {what}")
        time.sleep(LOOK_S)
