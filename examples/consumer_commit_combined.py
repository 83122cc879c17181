"""Commit without waiting while it runs, and once for sure before it ends.

In the loop a commit that fails does no harm, the next one follows soon. After the last one no other follows: so
that one waits.
"""

from __future__ import annotations

import logging

from callboard import CallboardError, Consumer
from callboard.examples.starting import arguments, ensure_topic, send_customers

logger = logging.getLogger("example")


def main() -> None:
    logging.basicConfig(format="%(message)s")
    options = arguments(__doc__, topic="commits")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    send_customers(options.bootstrap_servers, options.topic)
    count = 0
    consumer = Consumer(
        options.topic,
        bootstrap_servers=options.bootstrap_servers,
        group_id="commit-both-ways",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        while polled := consumer.poll(timeout_ms=1_000):
            count += sum(len(records) for records in polled.values())  # deal with them
            consumer.commit_async()
    except CallboardError:
        logger.exception("unexpected error")
    finally:
        try:
            consumer.commit()
            committed = sum(consumer.committed(partition) or 0 for partition in consumer.assignment())
        finally:
            consumer.close()
    print(f"read {count} records; committed before the end: {committed}")


if __name__ == "__main__":
    main()
