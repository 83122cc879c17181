"""Send at full speed and hear of each record when its fate is known: callbacks.

They run on the client's own thread, so they should be short: count, log, put into a queue. A future can also be awaited
in asyncio; see ``AsyncProducer`` for a client that is asynchronous altogether.
"""

from __future__ import annotations

import logging

from callboard import Producer, RecordMetadata, StringSerializer
from callboard.examples.starting import arguments, ensure_topic

logger = logging.getLogger("example")
COUNTRIES = ("France", "USA", "Brazil", "India", "Japan")


def main() -> None:
    logging.basicConfig(format="%(message)s")
    options = arguments(__doc__, topic="CustomerCountry")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    last_offsets: dict[int, int] = {}

    def on_acknowledged(there: RecordMetadata) -> None:
        last_offsets[there.partition] = there.offset

    def on_failed(customer: str, error: BaseException) -> None:
        logger.error("%s was not delivered: %s", customer, error)

    with Producer(
        bootstrap_servers=options.bootstrap_servers,
        key_serializer=StringSerializer(),
        value_serializer=StringSerializer(),
        linger_ms=5,  # wait a little for more records: larger batches
        compression_type="lz4",
    ) as producer:
        for number in range(1_000):
            customer = f"customer-{number}"
            future = producer.send(options.topic, key=customer, value=COUNTRIES[number % len(COUNTRIES)])
            future.add_callback(on_acknowledged)
            future.add_errback(on_failed, customer)
        producer.flush()  # every callback has its answer soon after this
    print(f"sent 1000 records to {len(last_offsets)} partitions")


if __name__ == "__main__":
    main()
