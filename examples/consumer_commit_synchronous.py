"""Commit when the records of a poll are dealt with, and wait until it is done.

``commit()`` commits the positions after the last ``poll`` and tries again until it succeeds or cannot. It cannot
when the group has given the partitions to somebody else meanwhile: their records will be read again there.
"""

from __future__ import annotations

import logging

from callboard import CommitFailedError, Consumer
from callboard.examples.starting import arguments, ensure_topic, send_customers

logger = logging.getLogger("example")


def read(bootstrap_servers: str, topic: str) -> int:
    """Read what the group has not read yet; return how many records that were."""
    count = 0
    with Consumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        group_id="commit-synchronously",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    ) as consumer:
        while polled := consumer.poll(timeout_ms=1_000):
            for records in polled.values():
                count += len(records)  # deal with them
            try:
                consumer.commit()
            except CommitFailedError as error:
                logger.error("commit failed: %s", error)
    return count


def main() -> None:
    logging.basicConfig(format="%(message)s")
    options = arguments(__doc__, topic="commits")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    send_customers(options.bootstrap_servers, options.topic)
    print(f"read and committed {read(options.bootstrap_servers, options.topic)} records")
    print(f"the next consumer of the group found {read(options.bootstrap_servers, options.topic)} left")


if __name__ == "__main__":
    main()
