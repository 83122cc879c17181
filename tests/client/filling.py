"""What tests of consumers share: records whose values count up, and how they are read back."""

from __future__ import annotations

from fake_broker import FakeCluster

from callboard import Consumer
from callboard.storage.batch import encode_batch


def fill(cluster: FakeCluster, count: int, partition: int = 0, batch: int = 10, first: int = 0, topic="t", ts=1_000):
    for start in range(first, first + count, batch):
        values = [b"%d" % i for i in range(start, min(start + batch, first + count))]
        frames = encode_batch([b"k"] * len(values), values, [ts + int(v) for v in values])
        cluster.append(topic, partition, frames)


def read(consumer: Consumer, count: int) -> list[int]:
    values: list[int] = []
    while len(values) < count:
        polled = consumer.poll(10_000)
        assert polled, f"only {len(values)} of {count} came"
        values += [int(record.value) for records in polled.values() for record in records]
    return values
