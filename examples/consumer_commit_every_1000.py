"""Commit every 1,000 records, also in the middle of what one poll returned.

The application says which offsets: those of the records that it has dealt with, plus one, since what is committed
is the *next* record to read. A word of its own can go with each.
"""

from __future__ import annotations

from callboard import Consumer, OffsetAndMetadata, TopicPartition
from callboard.examples.starting import arguments, ensure_topic, send_customers

RECORDS, EVERY = 5_000, 1_000


def main() -> None:
    options = arguments(__doc__, topic="commits")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    send_customers(options.bootstrap_servers, options.topic, RECORDS)
    offsets: dict[TopicPartition, OffsetAndMetadata] = {}
    count = commits = 0
    with Consumer(
        options.topic,
        bootstrap_servers=options.bootstrap_servers,
        group_id="commit-every-1000",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=3_000,
    ) as consumer:
        while polled := consumer.poll(timeout_ms=1_000):
            for partition, records in polled.items():
                for record in records:
                    # deal with it here
                    offsets[partition] = OffsetAndMetadata(record.offset + 1, f"after {record.key.decode()}")
                    count += 1
                    if count % EVERY == 0:
                        consumer.commit_async(offsets)
                        commits += 1
        consumer.commit(offsets)
        partition = min(consumer.assignment())
        where = consumer.committed(partition, metadata=True)
    print(f"read {count} records, committed {commits} times on the way")
    if where is not None:
        print(f"{partition}: {where.offset}, {where.metadata!r}")


if __name__ == "__main__":
    main()
