"""What tests of a group's members share: partitions, a listener that keeps what it hears, looks at the coordinator."""

from __future__ import annotations

import threading
import time

from callboard import ConsumerRebalanceListener, TopicPartition

T0, T1, T2, T3 = (TopicPartition("t", number) for number in range(4))


class Recorder(ConsumerRebalanceListener):
    def __init__(self):
        self.calls = []
        self.threads = set()

    def on_partitions_revoked(self, revoked):
        self._note("revoked", revoked)

    def on_partitions_assigned(self, assigned):
        self._note("assigned", assigned)

    def on_partitions_lost(self, lost):
        self._note("lost", lost)

    def _note(self, kind, partitions):
        self.calls.append((kind, sorted(partitions)))
        self.threads.add(threading.get_ident())


def poll_until(condition, *consumers, seconds=10):
    """Poll them in turn, dropping what comes, until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        for consumer in consumers:
            consumer.poll(5)


def committed(cluster, key=T0):
    return cluster.call(
        lambda: next(
            (
                value.offset
                for group in cluster.groups.rules._groups.by_id.values()
                for partition, value in group.offsets.committed.items()
                if (partition.topic, partition.partition) == key
            ),
            None,
        )
    )
