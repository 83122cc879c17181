"""How long a partition takes no records when its leader goes: measured on real processes, with where the time went.

    measured = measure(Plan(kills=100))
    print(report(measured))

A *failover* is the time from the signal to the first ``acks="all"`` acknowledgement of a record that was sent after it,
of one partition that the victim led. Its parts, by the clocks of one machine:

    signal ── detect ──► the victim's session has ended (metadata process)
           ── elect ───► the partition leads elsewhere (the new leader's log: ``partition.leads``)
           ── client ──► the acknowledgement reaches the application

Before each kill the cluster is whole again: every replica in sync, leaders where they are preferred. At the end
everything is read and judged (``history``): lost, twice, out of order.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ..client.admin import AdminClient
from ..errors import CallboardError
from ..transport.messages import PartitionMetadata
from .clusters import RunningCluster, cluster
from .history import Anomaly
from .workload import Load, Reader, Watch, read_everything, verdict

How = Literal["kill", "pause", "all"]

TOPIC, FILLING = "failover", "filling"
WHOLE_S = 60.0  # for the cluster to be whole again
WRITABLE_S = 60.0  # for all partitions to take records again
FILL_BYTES = 64 << 10  # of one record when the logs are filled
LOOK_S = 0.02
SETTLE_S = 0.3, 0.6  # of quiet load before each signal; by chance, so that it meets no rhythm of the cluster's


@dataclass(frozen=True)
class Plan:
    """``how``: "kill" is SIGKILL of one broker, "pause" SIGSTOP, "all" SIGKILL of all brokers at once."""

    kills: int = 100
    how: How = "kill"
    brokers: int = 3
    partitions: int = 50
    rate: int = 1_000
    fill_bytes: int = 0  # in the topic before the first signal
    seed: int = 1


@dataclass(frozen=True)
class Part:
    """One partition's failover, in milliseconds. ``None``: the logs do not say (nobody else was elected)."""

    partition: int
    total_ms: float
    detect_ms: float | None = None
    elect_ms: float | None = None
    client_ms: float | None = None


@dataclass(frozen=True)
class Failover:
    """One signal and what came of it."""

    victims: tuple[int, ...]
    was_controller: bool
    parts: tuple[Part, ...]

    @property
    def worst_ms(self) -> float:
        return max((part.total_ms for part in self.parts), default=0.0)


@dataclass
class Measured:
    plan: Plan
    failovers: list[Failover] = field(default_factory=list)
    sent: int = 0
    errors: list[str] = field(default_factory=list)  # that reached producer or consumer
    anomalies: list[Anomaly] = field(default_factory=list)


def measure(plan: Plan, directory: str | os.PathLike[str] | None = None) -> Measured:
    """Start a cluster, break it ``plan.kills`` times under load, judge what was acknowledged.

    Raises:
        CallboardError: the cluster did not heal, or a partition took no records again, in a minute.
    """
    with cluster(brokers=plan.brokers, directory=directory) as running:
        return _Measurement(plan, running).run()


class _Measurement:
    def __init__(self, plan: Plan, running: RunningCluster) -> None:
        self._plan, self._running = plan, running
        self._rng = random.Random(plan.seed)
        self._logs = Logs(running.data_dir / "log")
        self._servers = running.bootstrap_servers

    def run(self) -> Measured:
        plan, measured = self._plan, Measured(self._plan)
        with AdminClient(bootstrap_servers=self._servers) as admin:
            replicas = min(3, plan.brokers)
            topic = {"num_partitions": plan.partitions, "replication_factor": replicas}
            admin.create_topics({TOPIC: topic})
            if plan.fill_bytes:
                admin.create_topics({FILLING: topic})
                self._fill(plan.fill_bytes)
            load = Load(self._servers, TOPIC, partitions=plan.partitions, rate=plan.rate)
            reader = Reader(self._servers, TOPIC, partitions=plan.partitions)
            try:
                for number in range(plan.kills):
                    partitions = self._make_whole(admin)
                    if not load.watch(range(plan.partitions)).is_complete.wait(WHOLE_S):
                        raise CallboardError(f"not every partition took records within {WHOLE_S:.0f} s")
                    time.sleep(self._rng.uniform(*SETTLE_S))
                    measured.failovers.append(self._strike(admin, load, partitions, number))
                self._make_whole(admin)
                measured.anomalies = verdict(load, self._servers, reader, partitions=plan.partitions)
            finally:
                load.stop()
                reader.stop()
        measured.sent = load.acknowledged
        measured.errors = [str(error) for error in (*load.errors, *reader.errors)]
        return measured

    def _fill(self, total: int) -> None:
        """Put so many bytes into the cluster's logs, beside the topic that is measured."""
        load = Load(
            self._servers,
            FILLING,
            partitions=self._plan.partitions,
            rate=4_000,
            record_bytes=FILL_BYTES,
            name="filling",
        )
        try:
            while load.acknowledged * FILL_BYTES < total:
                load.wait_for_progress(50)
        finally:
            load.stop()

    def _make_whole(self, admin: AdminClient) -> list[PartitionMetadata]:
        """Return the partitions once every replica is in sync and the preferred ones lead."""
        until = time.monotonic() + WHOLE_S
        while True:
            partitions = admin.describe_topics([TOPIC])[0].partitions
            if all(set(one.isr) == set(one.replicas) and one.leader >= 0 for one in partitions):
                if all(one.leader == one.replicas[0] for one in partitions):
                    return list(partitions)
                admin.elect_leaders("preferred", raise_errors=False)
            if time.monotonic() > until:
                raise CallboardError(f"the cluster was not whole again within {WHOLE_S:.0f} s")
            time.sleep(LOOK_S)

    def _strike(self, admin: AdminClient, load: Load, partitions: list[PartitionMetadata], number: int) -> Failover:
        controller = admin.describe_cluster().controller_id
        others = [broker for broker in range(1, self._plan.brokers + 1) if broker != controller]
        if self._plan.how == "all":
            victims = tuple(sorted([controller, *others]))
        else:  # every second time the active controller
            victims = (controller if number % 2 else self._rng.choice(others),)
        affected = [one.partition for one in partitions if one.leader in victims]
        pids = {victim: self._running.broker_pid(victim) for victim in victims}
        self._logs.skip()
        watch, wall_s = load.watch(affected), time.time()
        for pid in pids.values():
            os.kill(pid, signal.SIGSTOP if self._plan.how == "pause" else signal.SIGKILL)
        try:
            if not watch.is_complete.wait(WRITABLE_S):
                raise CallboardError(f"partitions {sorted(watch.missing)} took no records for {WRITABLE_S:.0f} s")
        finally:
            if self._plan.how == "pause":
                for pid in pids.values():
                    os.kill(pid, signal.SIGCONT)
        parts = self._logs.parts_of(watch, wall_s, victims)
        if self._plan.how != "pause":
            for victim, pid in pids.items():
                self._running.wait_for_new_pid(victim, pid)
        return Failover(victims, controller in victims, tuple(parts))


# -- where the time went ---------------------------------------------------------------------------

LINE = re.compile(r"^(\S+Z) \S+ +\d+ (\S+)(.*)$")


class Logs:
    """What the cluster's processes have logged since the last look."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}  # bytes of each file that have been looked at

    def skip(self) -> None:
        """What has been logged until now is of no interest."""
        for path in self._directory.glob("*.log"):
            self._read[path] = path.stat().st_size

    def events(self) -> list[tuple[float, str, str, dict[str, str]]]:
        """Return (wall clock in seconds, process, event, values) of each line since, by time."""
        found = []
        for path in sorted(self._directory.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file.read().decode(errors="replace").splitlines():
                    if match := LINE.match(line):
                        stamp, name, rest = match.groups()
                        values = dict(re.findall(r"(\w+)=(\"[^\"]*\"|\S*)", rest))
                        found.append((datetime.fromisoformat(stamp).timestamp(), path.stem, name, values))
        return sorted(found, key=lambda one: one[0])

    def parts_of(self, watch: Watch, wall_s: float, victims: Sequence[int]) -> list[Part]:
        """Split each partition's failover into its parts. ``wall_s``: when the signal was sent."""
        events = self.events()
        ended = [time_s for time_s, _, name, values in events if name == "session.ended" and _is_of(values, victims)]
        leads = {
            values["partition"]: (time_s - wall_s) * 1e3
            for time_s, _, name, values in reversed(events)
            if name == "partition.leads"
        }
        detect_ms = (max(ended) - wall_s) * 1e3 if ended else None
        parts = []
        for partition, acknowledged_ns in sorted(watch.acknowledged_ns.items()):
            total_ms = (acknowledged_ns - watch.since_ns) / 1e6
            leads_ms = leads.get(f"{TOPIC}-{partition}")
            if detect_ms is None or leads_ms is None:
                parts.append(Part(partition, total_ms))
            else:
                parts.append(Part(partition, total_ms, detect_ms, leads_ms - detect_ms, total_ms - leads_ms))
        return parts


def _is_of(values: dict[str, str], victims: Sequence[int]) -> bool:
    return values.get("name") in {f"broker-{victim}" for victim in victims}


# -- telling ---------------------------------------------------------------------------------------


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that ``share`` of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 1).__int__() - 1)] if ordered else 0.0


def summary(measured: Measured) -> dict[str, Any]:
    """Return the figures as they are printed, for people and as JSON."""
    groups = {}
    for name, was_controller in (("not the controller", False), ("the controller", True)):
        failovers = [one for one in measured.failovers if one.was_controller == was_controller]
        parts = [part for one in failovers for part in one.parts]
        if failovers:
            groups[name] = {
                "signals": len(failovers),
                "partitions": len(parts),
                "ms": _distribution([part.total_ms for part in parts]),
                "worst_of_a_signal_ms": _distribution([one.worst_ms for one in failovers]),
                "detect_ms": _distribution([part.detect_ms for part in parts if part.detect_ms is not None]),
                "elect_ms": _distribution([part.elect_ms for part in parts if part.elect_ms is not None]),
                "client_ms": _distribution([part.client_ms for part in parts if part.client_ms is not None]),
            }
    plan = measured.plan
    return {
        "how": plan.how,
        "brokers": plan.brokers,
        "partitions": plan.partitions,
        "rate": plan.rate,
        "fill_bytes": plan.fill_bytes,
        "victim_was": groups,
        "acknowledged": measured.sent,
        "errors_seen_by_clients": len(measured.errors),
        "first_errors": measured.errors[:5],
        "anomalies": len(measured.anomalies),
        "first_anomalies": [f"{one.name} {one.partition}: {one.detail}" for one in measured.anomalies[:5]],
    }


def _distribution(values: list[float]) -> dict[str, float]:
    return {
        "p50": round(percentile(values, 0.5), 1),
        "p99": round(percentile(values, 0.99), 1),
        "max": round(max(values, default=0.0), 1),
    }


__all__ = ["Failover", "How", "Logs", "Measured", "Part", "Plan", "measure", "percentile", "read_everything", "summary"]
