"""The poll loop of a group, and a consumer without one: count customers by country.

The consumers of one group share the partitions of a topic: start this program twice and each reads a part. What a
group has read is committed by the poll loop, every five seconds and at the end (``enable_auto_commit``), so the
next one goes on from there. Without a group there is nobody to share with and nothing is committed: ``assign``
names what to read.
"""

from __future__ import annotations

import json
from collections import Counter

from callboard import Consumer, StringSerializer, TopicPartition
from callboard.examples.starting import arguments, ensure_topic, send_customers


def main() -> None:
    options = arguments(__doc__, topic="customerCountries")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    send_customers(options.bootstrap_servers, options.topic)

    countries: Counter[str] = Counter()
    with Consumer(
        bootstrap_servers=options.bootstrap_servers,
        group_id="country-counter",
        auto_offset_reset="earliest",  # where nothing is committed yet: from the oldest record on
        key_deserializer=StringSerializer(),
        value_deserializer=StringSerializer(),
    ) as consumer:
        consumer.subscribe([options.topic])
        while polled := consumer.poll(timeout_ms=1_000):  # returns as soon as there is something
            for records in polled.values():
                for record in records:
                    countries[record.value] += 1
            last = record
        print(
            f"topic = {last.topic}, partition = {last.partition}, offset = {last.offset},"
            f" customer = {last.key}, country = {last.value}"
        )
        print(json.dumps(countries, indent=4))
    # closing commits, and gives the partitions to the others of the group at once

    partition = TopicPartition(options.topic, 0)
    with Consumer(bootstrap_servers=options.bootstrap_servers, consumer_timeout_ms=1_000) as consumer:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        count = sum(1 for _ in consumer)  # a consumer can simply be iterated over
        print(f"{partition} holds {count} records; the next one will have offset {consumer.position(partition)}")


if __name__ == "__main__":
    main()
