"""Commit without waiting, and try again in the right order: the pattern of the sequence number.

A commit that failed may be repeated only if no newer one has been sent; otherwise it would turn the group back. So
each commit gets the next number, its callback remembers it, and a callback whose number is no longer the newest
lets it be.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping

from callboard import Consumer, OffsetAndMetadata, TopicPartition
from callboard.examples.starting import arguments, ensure_topic, send_customers

logger = logging.getLogger("example")
Offsets = Mapping[TopicPartition, OffsetAndMetadata]


class OrderedCommits:
    """Asynchronous commits of one consumer, of which only the newest is ever repeated."""

    def __init__(self, consumer: Consumer[bytes, bytes]) -> None:
        self._consumer = consumer
        self._numbers = itertools.count(1)
        self.newest = 0  # of the commits that were asked for
        self.sent = 0
        self.repeated = 0

    def commit(self) -> None:
        """Commit the positions after the last poll."""
        offsets = {
            partition: OffsetAndMetadata(self._consumer.position(partition))
            for partition in self._consumer.assignment()
        }
        self.newest = next(self._numbers)
        self._send(offsets, self.newest)

    def _send(self, offsets: Offsets, number: int) -> None:
        def on_commit(offsets: Offsets, error: Exception | None) -> None:
            if error is None:
                return
            if number == self.newest and getattr(error, "retriable", False):
                self.repeated += 1
                self._send(offsets, number)
            else:
                logger.warning("commit %s failed, and %s is newer: %s", number, self.newest, error)

        self.sent += 1
        self._consumer.commit_async(offsets, callback=on_commit)


def main() -> None:
    logging.basicConfig(format="%(message)s")
    options = arguments(__doc__, topic="commits")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    send_customers(options.bootstrap_servers, options.topic)
    count = 0
    with Consumer(
        options.topic,
        bootstrap_servers=options.bootstrap_servers,
        group_id="commit-in-order",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=100,
    ) as consumer:
        commits = OrderedCommits(consumer)
        while polled := consumer.poll(timeout_ms=1_000):
            count += sum(len(records) for records in polled.values())  # deal with them
            commits.commit()
        left = [partition for partition in consumer.assignment() if consumer.committed(partition) is None]
    print(f"read {count} records with {commits.newest} commits, {commits.repeated} of them repeated")
    print(f"partitions without a committed offset: {len(left)}")


if __name__ == "__main__":
    main()
