"""confluent-kafka into and out of its in-process mock cluster (figure g): a C client beside ours.

The mock is librdkafka's own (``test.mock.num.brokers``): a thread of this process that keeps batches in memory, writes
nothing, replicates nothing, and forgets what is above 5 MB a partition (hence several topics to read from).
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

PARTITIONS = 4  # what the mock gives a topic
KEPT_BYTES = 4_000_000  # of a partition: the mock forgets above 5 MB
_numbers = itertools.count(1)


class Mock:
    """A producer that holds the mock cluster, and consumers of it."""

    def __init__(self, acks: str = "all") -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": "mock",
                "test.mock.num.brokers": 1,
                "log_level": 0,
                "acks": acks,
                "linger.ms": 5,
                "batch.size": 1_000_000,
                "batch.num.messages": 100_000,
                "queue.buffering.max.messages": 5_000_000,
                "queue.buffering.max.kbytes": 2_000_000,
            }
        )

    def produce(self, values: list[bytes], keys: list[bytes] | None) -> float:
        """Return records a second, from the first ``produce()`` until all are acknowledged."""
        topic = f"produced-{next(_numbers)}"
        producer, produce = self._producer, self._producer.produce
        producer.list_topics(topic, timeout=10)
        begun = time.perf_counter()
        if keys is None:
            for value in values:
                produce(topic, value)
        else:
            for value, key in zip(values, keys, strict=True):
                produce(topic, value, key)
        if producer.flush(60):
            raise TimeoutError("the mock cluster did not acknowledge everything")
        return len(values) / (time.perf_counter() - begun)

    def fill(self, count: int, value: bytes) -> list[Any]:
        """Write ``count`` records; return the partitions that hold them."""
        a_partition = KEPT_BYTES // (len(value) + 16)
        found = []
        while count > 0:
            topic = f"filled-{next(_numbers)}"
            self._producer.list_topics(topic, timeout=10)
            for partition in range(PARTITIONS):
                for _ in range(min(a_partition, count)):
                    self._producer.produce(topic, value, partition=partition)
                count -= min(a_partition, count)
                found.append(TopicPartition(topic, partition, 0))
        self._producer.flush(60)
        return found

    def consume(self, partitions: list[Any], count: int, at_once: int) -> float:
        """Return records a second, from the first that came on; ``at_once=1``: by ``poll()``."""
        brokers = self._producer.list_topics(timeout=10).brokers.values()
        consumer = Consumer(
            {
                "bootstrap.servers": ",".join(f"{broker.host}:{broker.port}" for broker in brokers),
                "group.id": "bench",
                "enable.auto.commit": False,
                "log_level": 0,
                "fetch.wait.max.ms": 10,
                "queued.min.messages": 1_000_000,  # else it pauses for a second whenever 100,000 are queued
                "queued.max.messages.kbytes": 1_000_000,
                "fetch.queue.backoff.ms": 1,
            }
        )
        consumer.assign(partitions)
        try:
            got = len(consumer.consume(1, 30)) if at_once > 1 else consumer.poll(30) is not None
            begun = time.perf_counter()
            first = int(got)
            done = first
            if at_once == 1:
                while done < count:
                    done += consumer.poll(10) is not None
            else:
                while done < count:
                    done += len(consumer.consume(min(at_once, count - done), 10))
            return (count - first) / (time.perf_counter() - begun)
        finally:
            consumer.close()
