"""Commit what has been dealt with before a partition goes to somebody else.

Two consumers of one group, one after the other: when the second comes, some partitions move to it. The first one's
listener commits before they do, so the second goes on exactly where the first was. The partitions that stay are
read on meanwhile.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Collection

from callboard import Consumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from callboard.examples.starting import arguments, ensure_topic, send_customers

RECORDS = 6_000


class CommitsOnRevocation(ConsumerRebalanceListener):
    """Remembers what has been dealt with, and commits it when partitions go."""

    def __init__(self, name: str, consumer: Consumer[bytes, bytes]) -> None:
        self._name, self._consumer = name, consumer
        self.done: dict[TopicPartition, OffsetAndMetadata] = {}

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        print(f"{self._name} gives back {sorted(partition.partition for partition in revoked)}")
        self._consumer.commit({partition: self.done[partition] for partition in revoked if partition in self.done})

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        print(f"{self._name} reads {sorted(partition.partition for partition in assigned)}")

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        print(f"{self._name} has lost {sorted(partition.partition for partition in lost)}")  # too late to commit


class Reader(threading.Thread):
    """One consumer of the group, in a thread of its own."""

    def __init__(
        self, name: str, options: argparse.Namespace, seen: list[tuple[int, int]], *, pace_s: float = 0.0
    ) -> None:
        super().__init__(name=name)
        self._options, self._seen, self._pace_s = options, seen, pace_s
        self.has_read = threading.Event()
        self.is_done = threading.Event()

    def run(self) -> None:
        options = self._options
        with Consumer(
            bootstrap_servers=options.bootstrap_servers,
            group_id="commit-on-rebalance",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=50,
        ) as consumer:
            listener = CommitsOnRevocation(self.name, consumer)
            consumer.subscribe([options.topic], listener=listener)
            while not self.is_done.is_set():
                for partition, records in consumer.poll(timeout_ms=100).items():
                    for record in records:
                        self._seen.append((record.partition, record.offset))
                        listener.done[partition] = OffsetAndMetadata(record.offset + 1)
                    self.has_read.set()
                self.is_done.wait(self._pace_s)  # dealing with them takes its time


def main() -> None:
    options = arguments(__doc__, topic="rebalanced")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=4)
    send_customers(options.bootstrap_servers, options.topic, RECORDS)
    seen: list[tuple[int, int]] = []
    readers = [Reader("the first", options, seen, pace_s=0.05), Reader("the second", options, seen)]
    for reader in readers:
        reader.start()
        reader.has_read.wait(60)
    while len(set(seen)) < RECORDS and any(reader.is_alive() for reader in readers):
        readers[0].is_done.wait(0.05)
    for reader in readers:
        reader.is_done.set()
        reader.join()
    print(f"read {len(set(seen))} records, {len(seen) - len(set(seen))} of them twice")


if __name__ == "__main__":
    main()
