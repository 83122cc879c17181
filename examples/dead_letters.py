"""Dead letters: a record that cannot be read does not stop its partition, and is not lost.

It goes to a topic of its own, as it is, with headers that say where it was and what is wrong with it; the position
moves when it is safe there. Somebody looks at them later.
"""

from __future__ import annotations

import callboard
from callboard import Consumer, JsonSerializer, Producer
from callboard.examples.starting import arguments, ensure_topic

READINGS = (b'{"celsius": 19}', b"celsius: 20", b'{"celsius": 21}')


def main() -> None:
    options = arguments(__doc__, topic="readings")
    dead = f"{options.topic}.dead"
    for topic in (options.topic, dead):
        ensure_topic(options.bootstrap_servers, topic, partitions=1)
    with Producer(bootstrap_servers=options.bootstrap_servers) as producer:
        for reading in READINGS:
            producer.send(options.topic, reading, key=b"sensor-7")

    with Consumer(
        options.topic,
        bootstrap_servers=options.bootstrap_servers,
        group_id="thermometer",
        auto_offset_reset="earliest",
        value_deserializer=JsonSerializer(),
        on_bad_record=callboard.dlq(dead),
        consumer_timeout_ms=2_000,
    ) as consumer:
        print("read", [record.value["celsius"] for record in consumer])

    with Consumer(dead, bootstrap_servers=options.bootstrap_servers, auto_offset_reset="earliest") as consumer:
        for letters in consumer.poll(timeout_ms=5_000).values():
            for letter in letters:
                told = {name.removeprefix("callboard.dlq."): (value or b"").decode() for name, value in letter.headers}
                where = f"offset {told['offset']} of {told['topic']}"
                print(f"dead letter {letter.value.decode()!r}, {where}: {told['error']}")


if __name__ == "__main__":
    main()
