"""Commit without waiting; a callback hears how it went.

``commit_async()`` is sent once and never again: a later commit may have overtaken it. Callbacks come in the order
of the commits, in the application's thread, from within ``poll``, ``commit`` or ``close``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from callboard import Consumer, OffsetAndMetadata, TopicPartition
from callboard.examples.starting import arguments, ensure_topic, send_customers

logger = logging.getLogger("example")


def main() -> None:
    logging.basicConfig(format="%(message)s")
    options = arguments(__doc__, topic="commits")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    send_customers(options.bootstrap_servers, options.topic)
    committed: dict[TopicPartition, int] = {}

    def on_commit(offsets: Mapping[TopicPartition, OffsetAndMetadata], error: Exception | None) -> None:
        if error is not None:
            logger.error("commit failed for offsets %s: %s", offsets, error)
        else:
            committed.update({partition: where.offset for partition, where in offsets.items()})

    count = 0
    with Consumer(
        options.topic,
        bootstrap_servers=options.bootstrap_servers,
        group_id="commit-asynchronously",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=100,
    ) as consumer:
        while polled := consumer.poll(timeout_ms=1_000):
            count += sum(len(records) for records in polled.values())  # deal with them
            consumer.commit_async(callback=on_commit)
    print(f"read {count} records, committed up to {sum(committed.values())} in {len(committed)} partitions")


if __name__ == "__main__":
    main()
