"""Send whole columns: the fastest way in, for those who have many records at once.

``send_batch`` takes lists of keys and values instead of one record after the other; ``poll_batches`` gives them
back in the same form. No object is made for a record on either side.
"""

from __future__ import annotations

import time

from callboard import Consumer, Producer
from callboard.examples.starting import arguments, ensure_topic

ROUNDS, ROWS = 20, 5_000


def main() -> None:
    options = arguments(__doc__, topic="measurements")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)

    keys = [b"sensor-%d" % (row % 100) for row in range(ROWS)]
    begin = time.perf_counter()
    with Producer(bootstrap_servers=options.bootstrap_servers, compression_type="lz4") as producer:
        for number in range(ROUNDS):
            values = [b"%d" % (number * ROWS + row) for row in range(ROWS)]
            producer.send_batch(options.topic, values=values, keys=keys)
    seconds = time.perf_counter() - begin
    print(f"sent {ROUNDS * ROWS:,} records, all acknowledged, in {seconds:.2f} s: {ROUNDS * ROWS / seconds:,.0f}/s")

    total = count = 0
    begin = time.perf_counter()
    with Consumer(options.topic, bootstrap_servers=options.bootstrap_servers, auto_offset_reset="earliest") as consumer:
        while count < ROUNDS * ROWS:
            for batches in consumer.poll_batches(timeout_ms=5_000).values():
                for columns in batches:
                    count += columns.count
                    total += sum(int(value) for value in columns.values if value is not None)
    seconds = time.perf_counter() - begin
    print(f"read {count:,} records in {seconds:.2f} s: {count / seconds:,.0f}/s; their sum is {total:,}")


if __name__ == "__main__":
    main()
