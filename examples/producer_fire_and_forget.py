"""Send and do not look back: the simplest way, and the fastest.

``send`` puts the record into a buffer and returns at once; the client's own thread groups, sends and retries. Nobody
looks at the futures, and still nothing is lost silently: ``flush``, ``close`` and the end of the ``with`` block
raise ``DeliveryError`` when a record was not delivered and nobody has looked.
"""

from __future__ import annotations

from callboard import BufferExhaustedError, DeliveryError, Producer, SerializationError, StringSerializer
from callboard.examples.starting import arguments, ensure_topic


def main() -> None:
    options = arguments(__doc__, topic="CustomerCountry")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    producer = Producer(
        bootstrap_servers=options.bootstrap_servers,
        key_serializer=StringSerializer(),
        value_serializer=StringSerializer(),
    )
    try:
        producer.send(options.topic, key="Precision Products", value="France")
    except SerializationError as error:
        print(f"found before anything was sent: {error}")
    except BufferExhaustedError as error:
        print(f"sent faster than the brokers take it, for too long: {error}")
    try:
        producer.close()  # sends what is still in the buffer
    except DeliveryError as error:
        print(f"{len(error.failed)} records were not delivered: {error}")
    else:
        print("sent 1 record, and forgot about it")


if __name__ == "__main__":
    main()
