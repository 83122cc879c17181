"""One consumer a thread, all of one group: the partitions are shared among them.

A consumer is not made for several threads that poll it in turn; each thread has its own. The coordinator gives
every partition to one of them, and moves as little as it can when one comes or goes.
"""

from __future__ import annotations

import argparse
import threading

from callboard import Consumer
from callboard.examples.starting import arguments, ensure_topic, send_customers

THREADS, PARTITIONS, RECORDS = 3, 6, 6_000


def read(options: argparse.Namespace, found: dict[str, set[tuple[int, int]]], is_enough: threading.Event) -> None:
    seen = found.setdefault(threading.current_thread().name, set())
    with Consumer(
        options.topic,
        bootstrap_servers=options.bootstrap_servers,
        group_id="threads",
        auto_offset_reset="earliest",
        max_poll_records=100,
    ) as consumer:
        while not is_enough.is_set():
            for records in consumer.poll(timeout_ms=100).values():
                seen.update((record.partition, record.offset) for record in records)
            if sum(map(len, found.values())) >= RECORDS:
                is_enough.set()


def main() -> None:
    options = arguments(__doc__, topic="shared")
    ensure_topic(options.bootstrap_servers, options.topic, partitions=PARTITIONS)
    found: dict[str, set[tuple[int, int]]] = {}
    is_enough = threading.Event()
    threads = [
        threading.Thread(target=read, args=(options, found, is_enough), name=f"consumer {number}")
        for number in range(1, THREADS + 1)
    ]
    for thread in threads:
        thread.start()
    send_customers(options.bootstrap_servers, options.topic, RECORDS)
    for thread in threads:
        thread.join()
    for name, seen in sorted(found.items()):
        print(f"{name}: {len(seen)} records of the partitions {sorted({partition for partition, _ in seen})}")
    print(f"together: {len(set().union(*found.values()))} records")


if __name__ == "__main__":
    main()
