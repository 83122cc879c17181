"""Keys decide the partition; a partitioner of your own decides it as you like.

With the default partitioner all records of one key go to one partition (CRC-32 of the key modulo the number of
partitions), for as long as that number stays the same. Here one customer is so large that it gets a partition of
its own, and all others share the rest.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from callboard import Producer
from callboard.examples.starting import arguments, ensure_topic

LARGE_CUSTOMER = b"Banana Corp"


class LargeCustomerApart:
    """The large customer goes to the last partition, everybody else to one of the others."""

    def partition(  # a partitioner is asked with all of these, and may ignore most
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partitions: int,
        available: Sequence[int],
    ) -> int | None:
        if key is None:
            return None  # the producer chooses
        if key == LARGE_CUSTOMER or partitions == 1:
            return partitions - 1
        return zlib.crc32(key) % (partitions - 1)


def main() -> None:
    options = arguments(__doc__, topic="CustomerOrders")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=4)

    with Producer(bootstrap_servers=options.bootstrap_servers) as producer:
        first = producer.send(options.topic, key=b"Precision Products", value=b"1 lathe").get()
        second = producer.send(options.topic, key=b"Precision Products", value=b"2 drills").get()
        anywhere = producer.send(options.topic, value=b"no key, any partition").get()
        chosen = producer.send(options.topic, value=b"I say where", partition=3).get()
    print(
        f"one key, one partition: {first.partition} == {second.partition}, in order: {first.offset} < {second.offset}"
    )
    print(f"no key: partition {anywhere.partition}; chosen by hand: partition {chosen.partition}")

    with Producer(bootstrap_servers=options.bootstrap_servers, partitioner=LargeCustomerApart()) as producer:
        large = producer.send(options.topic, key=LARGE_CUSTOMER, value=b"1000 bananas").get()
        others = {producer.send(options.topic, key=b"customer-%d" % n, value=b"1").get().partition for n in range(20)}
    print(f"the large customer alone in partition {large.partition}, 20 others in {sorted(others)}")


if __name__ == "__main__":
    main()
