"""Figures d and g: end to end through a real broker process, each beside confluent-kafka and its mock cluster.

A rate is records a second from the first ``send()`` until ``flush()`` has returned: acknowledged, not queued.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

from callboard import Consumer, Producer
from callboard.transport import messages as m

from .clusters import Bench, bench
from .measure import Options, Result, compare

RECORDS = 300_000
PARTITIONS = 6
KEYS = 1_000
MOCK = "g: confluent-kafka into its mock"
OS_1: dict[str, Any] = {"acks": 1, "flush": "os"}
OS_0: dict[str, Any] = {"acks": 0, "flush": "os"}
ACK_ALL: dict[str, Any] = {"acks": "all", "flush": "ack"}

Rate = Callable[[], float]


def figures(options: Options) -> Iterator[Result | None]:
    from .mock import Mock

    count = options.count(RECORDS)
    small, large = [b"v" * 100] * count, [b"v" * 1_000] * (count // 4)
    keys = [b"key-%d" % (number % KEYS) for number in range(count)]
    mock = Mock()
    with bench(options.directory) as running:

        def line(
            name: str, ours: Rate, values: list[bytes], of_keys: list[bytes] | None, target: float | None, **how: Any
        ) -> Result | None:
            return compare(
                "d",
                name,
                ours,
                lambda: mock.produce(values, of_keys),
                options=options,
                unit="records/s",
                against=MOCK,
                target=target,
                written=len(values) * (len(values[0]) + 20),
                records=len(values),
                **how,
            )

        for how, label, target in (
            (OS_1, "acks=1, flush=os", 0.6),
            (ACK_ALL, "acks=all, flush=ack", 0.6),
            (OS_0, "acks=0, flush=os", None),
        ):
            yield line(f"send() 100 B, {label}", _sends(running, small, None, how), small, None, target, **how)
        for how, label in ((OS_1, "acks=1, flush=os"), (ACK_ALL, "acks=all, flush=ack")):
            yield line(f"send() 100 B keyed, {label}", _sends(running, small, keys, how), small, keys, 0.4, **how)
        few = keys[: len(large)]
        yield line("send() 1 KB, acks=1, flush=os", _sends(running, large, None, OS_1), large, None, None, **OS_1)
        yield line("send() 1 KB keyed, acks=1, flush=os", _sends(running, large, few, OS_1), large, few, None, **OS_1)
        for how, label in ((OS_1, "acks=1, flush=os"), (ACK_ALL, "acks=all, flush=ack")):
            yield line(f"send_batch 100 B, {label}", _batches(running, small, None, how), small, None, 5.0, **how)
        ours = _batches(running, small, keys, OS_1)
        yield line("send_batch 100 B keyed, acks=1, flush=os", ours, small, keys, None, **OS_1)
        yield from _reading(running, mock, small, options)


def _reading(running: Bench, mock: Any, values: list[bytes], options: Options) -> Iterator[Result | None]:
    count = len(values)
    there = mock.fill(count, values[0])
    with running.topic(PARTITIONS, flush="os") as topic:
        with _producer(running, OS_1) as producer:
            for at in range(0, count, 10_000):
                producer.send_batch(topic.name, values[at : at + 10_000])
        for name, read, at_once, target in (
            ("poll(500), against consume(500)", _by_poll, 500, 0.7),
            ("poll(500), against poll()", _by_poll, 1, 2.0),
            ("iteration, against poll()", _by_iteration, 1, None),
            ("poll_batches, values only, against consume(500)", _by_batches, 500, None),
        ):
            yield compare(
                "d",
                f"consume: {name}",
                lambda read=read: read(running, topic, count),  # type: ignore[misc]
                lambda at_once=at_once: mock.consume(there, count, at_once),  # type: ignore[misc]
                options=options,
                unit="records/s",
                against="g: confluent-kafka from its mock",
                target=target,
                records=count,
            )


def _producer(running: Bench, how: dict[str, Any]) -> Producer[bytes, bytes]:
    return Producer(bootstrap_servers=running.servers, acks=how["acks"])


def _sends(running: Bench, values: list[bytes], keys: list[bytes] | None, how: dict[str, Any]) -> Rate:
    def run() -> float:
        with running.topic(PARTITIONS, flush=how["flush"]) as topic, _producer(running, how) as producer:
            name, send = topic.name, producer.send
            send(name, values[0], b"key").get(30)  # metadata, connection and producer id are there
            gc.collect()
            begun = time.perf_counter()
            if keys is None:
                for value in values:
                    send(name, value)
            else:
                for value, key in zip(values, keys, strict=True):
                    send(name, value, key)
            producer.flush()
            return len(values) / (time.perf_counter() - begun)

    return run


def _batches(running: Bench, values: list[bytes], keys: list[bytes] | None, how: dict[str, Any]) -> Rate:
    def run() -> float:
        with running.topic(PARTITIONS, flush=how["flush"]) as topic, _producer(running, how) as producer:
            producer.send(topic.name, values[0], b"key").get(30)
            columns = [
                (values[at : at + 10_000], keys[at : at + 10_000] if keys else None)
                for at in range(0, len(values), 10_000)
            ]
            gc.collect()
            begun = time.perf_counter()
            for some, some_keys in columns:
                producer.send_batch(topic.name, some, some_keys)
            producer.flush()
            return len(values) / (time.perf_counter() - begun)

    return run


def _consumer(running: Bench, topic: m.TopicMetadata) -> Consumer[bytes, bytes]:
    return Consumer(topic.name, bootstrap_servers=running.servers, auto_offset_reset="earliest")


def _by_poll(running: Bench, topic: m.TopicMetadata, count: int) -> float:
    with _consumer(running, topic) as consumer:
        done = first = sum(map(len, consumer.poll(30_000, 1).values()))
        begun = time.perf_counter()
        while done < count:
            for records in consumer.poll(10_000, 500).values():
                done += len(records)
        return (count - first) / (time.perf_counter() - begun)


def _by_iteration(running: Bench, topic: m.TopicMetadata, count: int) -> float:
    with _consumer(running, topic) as consumer:
        records = iter(consumer)
        next(records)
        begun = time.perf_counter()
        for _, _record in zip(range(count - 1), records, strict=False):
            pass
        return (count - 1) / (time.perf_counter() - begun)


def _by_batches(running: Bench, topic: m.TopicMetadata, count: int) -> float:
    with _consumer(running, topic) as consumer:
        done = first = sum(map(len, consumer.poll(30_000, 1).values()))
        begun = time.perf_counter()
        while done < count:
            for found in consumer.poll_batches(10_000).values():
                for batch in found:
                    done += len(batch.values)
        return (count - first) / (time.perf_counter() - begun)
