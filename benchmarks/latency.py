"""Figure e: latency, at 1,000 records a second and one at a time, beside a bare ROUTER-DEALER round trip.

Producer and consumer are processes of their own, as they would be; both read CLOCK_MONOTONIC, which they share.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from callboard import Consumer, Producer

from . import bare
from .clusters import Bench, bench
from .feeder import Feeder
from .measure import Options, Result, absolute, compare

EXCHANGES = 400  # a measurement
RATE = 1_000  # records a second
SECONDS = 2.0


def figures(options: Options) -> Iterator[Result | None]:
    with (
        tempfile.TemporaryDirectory(prefix="callboard-bare-", dir=options.directory) as path,
        bare.process("benchmarks.bare", path) as bare_endpoint,
        bench(options.directory) as running,
    ):
        limit = Feeder(bare_endpoint)
        for name, share, target in (("p50", 0.5, 2.0), ("p99", 0.99, None)):
            with (
                running.topic(flush="os") as topic,
                Producer(bootstrap_servers=running.servers, acks=1) as producer,
            ):
                yield compare(
                    "e",
                    f"produce → ack, acks=1, ipc, {name}",
                    lambda producer=producer, topic=topic, share=share: _acknowledged(  # type: ignore[misc]
                        producer, topic.name, share
                    ),
                    lambda share=share: _round_trip(limit, share),  # type: ignore[misc]
                    options=options,
                    unit="µs",
                    against="bare ROUTER–DEALER round trip, ipc",
                    target=target,
                    is_less_better=True,
                )
        limit.close()
        for how, label, bounds in (
            ({"acks": 1, "flush": "os"}, "flush=os, acks=1", (0.3, 1.0)),
            ({"acks": "all", "flush": "ack"}, "defaults", (1.0, 4.0)),
        ):
            yield from _through(running, how, label, bounds, options)


def _acknowledged(producer: Producer[bytes, bytes], topic: str, share: float) -> float:
    took = []
    for _ in range(EXCHANGES):
        begun = time.perf_counter_ns()
        producer.send(topic, b"v" * 100).get(30)
        took.append(time.perf_counter_ns() - begun)
    return quantile(took, share) / 1_000


def _round_trip(limit: Feeder, share: float) -> float:
    request, took = [b"ping", b"v" * 200], []
    for _ in range(EXCHANGES):
        begun = time.perf_counter_ns()
        limit.ask(request)
        took.append(time.perf_counter_ns() - begun)
    return quantile(took, share) / 1_000


def _through(
    running: Bench, how: dict[str, Any], label: str, bounds: tuple[float, float], options: Options
) -> Iterator[Result | None]:
    name = f"producer → consumer at 1,000/s, {label}"
    if options.only not in name:
        return
    shares = ((0.5, bounds[0], "p50"), (0.99, bounds[1], "p99"), (0.999, 4 * bounds[1], "p99.9"))
    found: dict[str, list[float]] = {each: [] for _, _, each in shares}
    for number in range(options.pairs + 1):
        with running.topic(flush=how["flush"]) as topic:
            took = _paced(running, topic.name, how)
        if number:
            for share, _, each in shares:
                found[each].append(quantile(took, share) / 1e6)
    for _, bound, each in shares:
        yield absolute(
            "e",
            f"{name}, {each}",
            found[each],
            unit="ms",
            against=f"the bound of {bound:g} ms" + (" (told only)" if each == "p99.9" else ""),
            target=bound,
            **how,
        )


def _paced(running: Bench, topic: str, how: dict[str, Any]) -> list[int]:
    """Produce at the rate in a process of its own, consume here; return the latencies in ns."""
    count = int(RATE * SECONDS)
    took: list[int] = []
    with Consumer(topic, bootstrap_servers=running.servers, auto_offset_reset="earliest") as consumer:
        consumer.poll(200)  # it has asked, and is parked
        arguments = (topic, str(how["acks"]), str(count), ",".join(running.servers))
        with bare.process("benchmarks.latency", *arguments):
            until = time.monotonic() + SECONDS + 30
            while len(took) < count and time.monotonic() < until:
                for records in consumer.poll(1_000).values():
                    now = time.monotonic_ns()
                    took += [now - int(record.value) for record in records]
    return took[count // 10 :]  # the first are the connection's


def produce(topic: str, acks: str, count: int, servers: str) -> None:
    with Producer(bootstrap_servers=servers, acks=acks if acks == "all" else int(acks)) as producer:
        print("ready", flush=True)
        due = time.monotonic_ns()
        for _ in range(count):
            due += 1_000_000_000 // RATE
            while (left := due - time.monotonic_ns()) > 0:
                time.sleep(left / 1e9)
            producer.send(topic, b"%d" % time.monotonic_ns())


def quantile(values: list[int], share: float) -> float:
    if not values:
        raise TimeoutError("nothing came")
    ordered = sorted(values)
    return statistics.fmean([ordered[min(len(ordered) - 1, int(len(ordered) * share))]])


if __name__ == "__main__":
    produce(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
