"""Clients that were connected before: each a process of its own, one that produces and one that consumes.

    python -m benchmarks.bystanders produce|consume TOPIC SERVERS [RECORDS_A_SECOND]

The producer sends one record after the other, each when the one before is acknowledged (and none early, where a rate
is given). Both print ``ready``, answer each line on their standard input with a line of JSON (records so far, the
longest wait since the last line in ms, failures), and end with it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from callboard import Consumer, Producer
from callboard.errors import CallboardError

VALUE = b"v" * 100


class Tally:
    """What one client has done; told from a thread of its own."""

    def __init__(self) -> None:
        self.records = 0
        self.longest_s = 0.0
        self.failures = 0

    def answer(self) -> None:
        for _ in sys.stdin:
            longest, self.longest_s = self.longest_s, 0.0
            said: dict[str, Any] = {"records": self.records, "longest_ms": longest * 1_000, "failures": self.failures}
            print(json.dumps(said), flush=True)
        os._exit(0)


def produce(topic: str, servers: list[str], rate: float, tally: Tally) -> None:
    with Producer(bootstrap_servers=servers, acks=1) as producer:
        producer.send(topic, VALUE).get(30)
        _ready(tally)
        due = time.monotonic()
        while True:
            if rate:
                due += 1 / rate
                if (left := due - time.monotonic()) > 0:
                    time.sleep(left)
            begun = time.monotonic()
            try:
                producer.send(topic, VALUE).get(60)
                tally.records += 1
            except CallboardError:  # counted, and told with the figure
                tally.failures += 1
            tally.longest_s = max(tally.longest_s, time.monotonic() - begun)


def consume(topic: str, servers: list[str], tally: Tally) -> None:
    with Consumer(topic, bootstrap_servers=servers, auto_offset_reset="latest") as consumer:
        consumer.poll(200)
        _ready(tally)
        begun = time.monotonic()
        while True:
            try:
                found = consumer.poll(1_000)
            except CallboardError:
                tally.failures += 1
                continue
            if found:
                tally.records += sum(map(len, found.values()))
                now = time.monotonic()
                tally.longest_s, begun = max(tally.longest_s, now - begun), now


def _ready(tally: Tally) -> None:
    print("ready", flush=True)
    threading.Thread(target=tally.answer, daemon=True).start()


def main(arguments: list[str]) -> None:
    what, topic, servers = arguments[:3]
    if what == "produce":
        produce(topic, servers.split(","), float(arguments[3]) if len(arguments) > 3 else 0.0, Tally())
    else:
        consume(topic, servers.split(","), Tally())


if __name__ == "__main__":
    main(sys.argv[1:])
