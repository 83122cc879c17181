"""Many groups: each reads the whole topic, on its own and at its own pace.

What one group has committed is nothing to another. Within a group every record goes to one consumer; between
groups, to each.
"""

from __future__ import annotations

from callboard import AdminClient, Consumer, PartitionLag
from callboard.examples.starting import arguments, ensure_topic, send_customers

GROUPS = ("billing", "search", "statistics")


def main() -> None:
    options = arguments(__doc__, topic="orders")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    send_customers(options.bootstrap_servers, options.topic)
    for number, group in enumerate(GROUPS, start=1):
        count = 0
        with Consumer(
            options.topic,
            bootstrap_servers=options.bootstrap_servers,
            group_id=f"{group}-of-{options.topic}",
            auto_offset_reset="earliest",
            max_poll_records=number * 100,
        ) as consumer:
            while number < len(GROUPS) or count < 500:  # the last group stops half-way
                polled = consumer.poll(timeout_ms=1_000)
                if not polled:
                    break
                count += sum(len(records) for records in polled.values())
        print(f"{group} has read {count} records")

    with AdminClient(bootstrap_servers=options.bootstrap_servers) as admin:
        for group in GROUPS:
            partitions = admin.group_lag(f"{group}-of-{options.topic}").values()
            print(f"{group} has {sum(map(records_left, partitions))} records left")


def records_left(partition: PartitionLag) -> int:
    if partition.lag is not None:
        return partition.lag
    return (partition.end_offset or 0) - (partition.log_start_offset or 0)  # nothing is committed: all that there is


if __name__ == "__main__":
    main()
