"""Where a row of the fault matrix plays: a topic under load and read all the time, whole before each strike.

with Stage(running, "f5", plan) as stage:
    before = stage.rest()                      # all in sync, preferred leaders; then a quiet spell
    since_ns = stage.strike(lambda: …)         # the moment of the fault
    …
    outcome.anomalies, outcome.errors = stage.judge()
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from ..client.admin import AdminClient
from ..errors import CallboardError, UnknownTopicOrPartitionError
from ..transport.messages import PartitionMetadata
from .clusters import RunningCluster
from .failover import Logs, percentile
from .fault_figures import MS, Outcome, longest_wait_ms, waits_ms
from .history import Anomaly, Polled, Send
from .soak import make_whole
from .straggler import Led
from .workload import Load, Reader, Watch, verdict

QUIET_S = 1.5  # of undisturbed load before each strike: what is normal
SETTLE_S = 0.0, 0.3  # … and more by chance, so that a strike meets no rhythm of the cluster's
WHOLE_S = 60.0
WRITABLE_S = 60.0
TWICE = "duplicate"  # the key of the aim that counts records that were stored twice
NORMAL_TIMES, NORMAL_MS_MIN = 2.0, 50.0  # a wait is normal up to twice the 99th percentile before, or so much


@dataclass(frozen=True)
class Plan:
    """What all rows have in common. ``runs``: how often each fault strikes."""

    runs: int = 5
    partitions: int = 6
    rate: int = 1_000
    fill_bytes: int = 1 << 30  # in the logs before all brokers are killed (F12), …
    fill_partitions: int = 100  # … in so many partitions
    seed: int = 1


class Stage:
    """``servers``: where its clients begin, if not at the cluster's own addresses; ``assignments``: replicas of each
    partition, if not three wherever the cluster puts them.
    """

    def __init__(
        self,
        running: RunningCluster,
        topic: str,
        plan: Plan,
        *,
        partitions: int = 0,
        rate: int = 0,
        servers: Sequence[str] = (),
        assignments: Sequence[Sequence[int]] = (),
    ) -> None:
        self.running, self.topic = running, topic
        self.partitions, self.rate = partitions or plan.partitions, rate or plan.rate
        self.servers = list(servers) or running.bootstrap_servers
        self.admin: AdminClient = running.admin()
        self.logs = Logs(running.data_dir / "log")
        self.more_sends: list[Send] = []  # of others, for the verdict
        self.more_polls: dict[str, list[Polled]] = {}
        self._rng = random.Random(f"{plan.seed}/{topic}")
        self._described: list[PartitionMetadata] = []
        if assignments:
            self.admin.create_topics({topic: {"assignments": dict(enumerate(map(list, assignments)))}})
        elif topic not in self.admin.list_topics():
            running.create_topic(topic, partitions=self.partitions, replication_factor=3)
        self.load = Load(self.servers, topic, partitions=self.partitions, rate=self.rate)
        self.reader = Reader(self.servers, topic, partitions=self.partitions)
        self.load.wait_for_progress(self.partitions)

    # -- before a strike ---------------------------------------------------------------------------------

    def rest(self) -> float:
        """Wait until every replica is in sync and the preferred ones lead; then a quiet spell.

        Returns:
            The 99th percentile of its waits, in ms.
        """
        self.make_whole()
        begin_ns = time.monotonic_ns()
        time.sleep(QUIET_S + self._rng.uniform(*SETTLE_S))
        return percentile(self.waits_ms(begin_ns, time.monotonic_ns() - 100 * MS), 0.99)

    def make_whole(self) -> None:
        """Return when every replica is in sync, the preferred ones lead, and every partition takes records."""
        until = time.monotonic() + WHOLE_S
        self._wait_until_known(until)
        make_whole(self.running, self.topic)
        while True:
            (topic,) = self.admin.describe_topics([self.topic])
            if all(one.leader == one.replicas[0] and set(one.isr) == set(one.replicas) for one in topic.partitions):
                break
            if time.monotonic() > until:
                raise CallboardError(f"{self.topic} was not whole again within {WHOLE_S:.0f} s")
            self.admin.elect_leaders("preferred", raise_errors=False)
            time.sleep(0.02)
        self._described = list(topic.partitions)
        self.wait_for(self.load.watch(range(self.partitions)))

    def _wait_until_known(self, until_s: float) -> None:
        """A broker that has just come back, or been resumed, may not have heard of a new topic yet."""
        while True:
            try:
                self.admin.describe_topics([self.topic])
                return
            except UnknownTopicOrPartitionError:
                if time.monotonic() > until_s:
                    raise
            time.sleep(0.1)

    # -- who is who, as of the last rest -----------------------------------------------------------------

    def leader(self, partition: int = 0) -> int:
        return self._described[partition].leader

    def follower(self, partition: int = 0) -> int:
        """Return one that is not the active controller, if there is one."""
        one = self._described[partition]
        followers = [broker for broker in one.replicas if broker != one.leader]
        return next((broker for broker in followers if broker != self.controller()), followers[0])

    def led_by(self, broker: int) -> list[int]:
        return [one.partition for one in self._described if one.leader == broker]

    def followed_by(self, broker: int) -> list[int]:
        """Return the partitions that a broker has a replica of and another one leads."""
        return [one.partition for one in self._described if broker in one.replicas and one.leader != broker]

    def controller(self) -> int:
        return self.admin.describe_cluster().controller_id

    def as_led(self, broker: int) -> list[Led]:
        """Return what a broker leads, for a ``Straggler``: epochs and high watermarks as they are now."""
        (topic,) = self.admin.describe_topics([self.topic])
        marks = {
            one.partition: one.high_watermark for one in self.admin.describe_replicas([self.topic]).get(broker, [])
        }
        return [
            Led(self.topic, topic.topic_id, one.partition, one.leader_epoch, marks[one.partition])
            for one in topic.partitions
            if one.leader == broker
        ]

    # -- after it ----------------------------------------------------------------------------------------

    def wait_for(self, watch: Watch) -> None:
        """Raises ``CallboardError`` if a watched partition took no record in a minute."""
        if not watch.is_complete.wait(WRITABLE_S):
            raise CallboardError(f"{self.topic}: {sorted(watch.missing)} took no records for {WRITABLE_S:.0f} s")

    def writable_ms(self, partitions: Iterable[int], strike: Callable[[], object]) -> float:
        """Strike, and return how long until each of these partitions acknowledged a record sent after that."""
        watch = self.load.watch(partitions)
        strike()
        self.wait_for(watch)
        return (max(watch.acknowledged_ns.values()) - watch.since_ns) / MS

    def waits_ms(self, begin_ns: int, end_ns: int, partitions: Iterable[int] | None = None) -> list[float]:
        """See ``fault_figures``. Waits until what was sent before ``end_ns`` has been answered."""
        return waits_ms(self.sends(end_ns), begin_ns, end_ns, partitions)

    def longest_wait_ms(self, begin_ns: int, end_ns: int, partitions: Iterable[int] | None = None) -> float:
        return longest_wait_ms(self.sends(end_ns), begin_ns, end_ns, partitions)

    def sends(self, until_ns: int) -> list[Send]:
        """Return what was sent before a moment, once all of it has an outcome.

        Raises:
            CallboardError: it has none after a minute.
        """
        until = time.monotonic() + WRITABLE_S
        while True:
            sends = self.load.sends()
            if all(send.completed_ns for send in sends if send.invoked_ns < until_ns):
                return sends
            if time.monotonic() > until:
                raise CallboardError(f"{self.topic}: a record has had no outcome for {WRITABLE_S:.0f} s")
            time.sleep(0.02)

    # -- the end -----------------------------------------------------------------------------------------

    def judge(self) -> list[Anomaly]:
        """Read everything, and return what must never happen and did."""
        self.make_whole()
        return verdict(
            self.load,
            self.servers,
            self.reader,
            partitions=self.partitions,
            sends=self.more_sends,
            polls=self.more_polls,
        )

    @property
    def errors(self) -> list[str]:
        return [str(error) for error in (*self.load.errors, *self.reader.errors)]

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.load.stop()
        self.reader.stop()
        self.admin.close()


def finish(outcome: Outcome, stage: Stage) -> None:
    """Judge what the runs of a row have left behind, and take its topics away."""
    outcome.anomalies += stage.judge()
    outcome.errors += stage.errors
    outcome.acknowledged += stage.load.acknowledged
    if any(aim.key == TWICE for aim in outcome.aims):
        twice = sum(one.name == "duplicate" for one in outcome.anomalies)
        outcome.runs[-1] = {**outcome.runs[-1], TWICE: float(twice)}
    mine = [topic for topic in stage.admin.list_topics() if topic.startswith(stage.topic)]
    stage.admin.delete_topics(mine, raise_errors=False)


def normal_ms(p99_before_ms: float) -> float:
    """Return up to which wait a record counts as undisturbed."""
    return max(NORMAL_MS_MIN, NORMAL_TIMES * p99_before_ms)
