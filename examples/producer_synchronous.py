"""Send one record and wait until it is acknowledged: simple, safe, and no faster than one disk sync a record.

What can be retried (a broker that restarts, a lost connection) has been retried when ``get`` raises. What cannot,
such as a record that is too large, is raised at once.
"""

from __future__ import annotations

from callboard import CallboardError, Producer, StringSerializer
from callboard.examples.starting import arguments, ensure_topic


def main() -> None:
    options = arguments(__doc__, topic="CustomerCountry")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    with Producer(
        bootstrap_servers=options.bootstrap_servers,
        key_serializer=StringSerializer(),
        value_serializer=StringSerializer(),
    ) as producer:
        for customer, country in (("Precision Products", "France"), ("Biomedical Materials", "USA")):
            try:
                there = producer.send(options.topic, key=customer, value=country).get(timeout=30)
            except CallboardError as error:
                maybe = "may be in the log all the same" if error.outcome_unknown else "is not in the log"
                print(f"{customer} {maybe}: {error}")
            else:
                print(f"{customer} is in {there.topic}, partition {there.partition}, offset {there.offset}")

        try:
            producer.send(options.topic, key="Too Large", value="x" * 2_000_000).get(timeout=30)
        except CallboardError as error:
            print(f"refused, and no retry would help (retriable={error.retriable}): {type(error).__name__}")


if __name__ == "__main__":
    main()
