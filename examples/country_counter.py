"""Country counter: the state of the loop as JSON whenever it has changed.

One record at a time. Iteration commits, in the background, only records whose step of the loop is finished: a
program that dies in the middle of a record sees that record again.
"""

from __future__ import annotations

import json

from callboard import Consumer, JsonSerializer, Producer
from callboard.examples.starting import arguments, ensure_topic

CUSTOMERS = {"Precision Products": "France", "Biomedical Materials": "USA", "Atelier Dupont": "France"}


def main() -> None:
    options = arguments(__doc__, topic="customers")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=1)
    with Producer(bootstrap_servers=options.bootstrap_servers, value_serializer=JsonSerializer()) as producer:
        for customer, country in CUSTOMERS.items():
            producer.send(options.topic, key=customer.encode(), value={"name": customer, "country": country})

    customers_by_country: dict[str, int] = {}
    with Consumer(
        options.topic,
        bootstrap_servers=options.bootstrap_servers,
        group_id="country-counter-json",
        auto_offset_reset="earliest",
        value_deserializer=JsonSerializer(),
        consumer_timeout_ms=2_000,  # the loop ends when nothing has come for so long
    ) as consumer:
        for record in consumer:
            country = record.value["country"]
            customers_by_country[country] = customers_by_country.get(country, 0) + 1
            print(json.dumps(customers_by_country, indent=4))


if __name__ == "__main__":
    main()
