"""Count customers by country: the first consumer loop.

Without a group there are two ways to say what to read: ``subscribe`` reads all partitions of a topic, ``assign``
reads the partitions that you name. Positions are the consumer's own: the next run begins where
``auto_offset_reset`` says. Consumer groups, which share the partitions among several consumers and keep their offsets,
come with a later version.
"""

from __future__ import annotations

import json
from collections import Counter

from callboard import Consumer, Producer, StringSerializer, TopicPartition
from callboard.examples.starting import arguments, ensure_topic

CUSTOMERS = {"Precision Products": "France", "Biomedical Materials": "USA", "Atelier Dupont": "France"}


def main() -> None:
    options = arguments(__doc__, topic="customerCountries")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    with Producer(
        bootstrap_servers=options.bootstrap_servers,
        key_serializer=StringSerializer(),
        value_serializer=StringSerializer(),
    ) as producer:
        for customer, country in CUSTOMERS.items():
            producer.send(options.topic, key=customer, value=country)

    # 1. subscribe: every partition of the topic; the loop ends when nothing has come for two seconds.
    countries: Counter[str] = Counter()
    with Consumer(
        bootstrap_servers=options.bootstrap_servers,
        auto_offset_reset="earliest",  # without a position: from the oldest record on
        key_deserializer=StringSerializer(),
        value_deserializer=StringSerializer(),
    ) as consumer:
        consumer.subscribe([options.topic])
        while polled := consumer.poll(timeout_ms=2_000):  # returns as soon as there is something
            for records in polled.values():
                for record in records:
                    print(
                        f"topic = {record.topic}, partition = {record.partition}, offset = {record.offset},"
                        f" customer = {record.key}, country = {record.value}"
                    )
                    countries[record.value] += 1
            print(json.dumps(countries, indent=4))

    # 2. assign: the partitions that you name, from where you say; a consumer can also simply be iterated over.
    partition = TopicPartition(options.topic, 0)
    with Consumer(bootstrap_servers=options.bootstrap_servers, consumer_timeout_ms=2_000) as consumer:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        count = sum(1 for _ in consumer)
        print(f"{partition} holds {count} records; the next one will have offset {consumer.position(partition)}")


if __name__ == "__main__":
    main()
