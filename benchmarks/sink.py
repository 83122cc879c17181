"""Figure c: a producer into a sink, which acknowledges and keeps nothing.

The reference is the least that a ``send()`` can do: append to columns, encode batches of the same size; no threads,
no futures, no socket.

    python -m benchmarks.sink        prints its address, serves until its standard input ends
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator

from callboard import Producer
from callboard.storage.batch import encode_batch
from callboard.transport import messages as m
from callboard.transport.addresses import machine_identity
from callboard.transport.endpoint import ZmqTransport
from callboard.transport.loop import SystemClock
from callboard.transport.seam import Inbound, Server, ServerIdentity
from callboard.transport.selector_loop import SelectorLoop

from . import bare
from .measure import Options, Result, compare

RECORDS = 300_000
BATCH_RECORDS = 8_600  # of 100 B: what fits a producer's batch
PARTITIONS = 6
TOPIC, TOPIC_ID = "sink", "5" * 32


def figures(options: Options) -> Iterator[Result | None]:
    count = options.count(RECORDS)
    values = [b"v" * 100] * count
    keys = [b"key-%d" % (number % 1_000) for number in range(count)]
    with bare.process("benchmarks.sink") as address:
        for name, of_keys in (("send() 100 B into a sink", None), ("send() 100 B keyed into a sink", keys)):
            yield compare(
                "c",
                name,
                lambda of_keys=of_keys: _send(address, values, of_keys),  # type: ignore[misc]
                lambda of_keys=of_keys: _columns(values, of_keys),  # type: ignore[misc]
                options=options,
                unit="records/s",
                against="append to columns, encode; no more",
                records=count,
            )
        yield compare(
            "c",
            "send_batch 100 B into a sink",
            lambda: _send_batches(address, values),
            lambda: _encode(values),
            options=options,
            unit="records/s",
            against="encode; no more",
            records=count,
        )


def _send(address: str, values: list[bytes], keys: list[bytes] | None) -> float:
    with Producer(bootstrap_servers=address) as producer:
        send = producer.send
        send(TOPIC, values[0], b"key").get(30)
        gc.collect()
        begun = time.perf_counter()
        if keys is None:
            for value in values:
                send(TOPIC, value)
        else:
            for value, key in zip(values, keys, strict=True):
                send(TOPIC, value, key)
        producer.flush()
        return len(values) / (time.perf_counter() - begun)


def _send_batches(address: str, values: list[bytes]) -> float:
    with Producer(bootstrap_servers=address) as producer:
        producer.send(TOPIC, values[0], b"key").get(30)
        columns = [values[at : at + 10_000] for at in range(0, len(values), 10_000)]
        gc.collect()
        begun = time.perf_counter()
        for some in columns:
            producer.send_batch(TOPIC, some)
        producer.flush()
        return len(values) / (time.perf_counter() - begun)


def _columns(values: list[bytes], keys: list[bytes] | None) -> float:
    some: list[bytes] = []
    some_keys: list[bytes] = []
    timestamps: list[int] = []
    gc.collect()
    begun = time.perf_counter()
    for number, value in enumerate(values):
        some.append(value)
        timestamps.append(time.time_ns() // 1_000_000)
        if keys is not None:
            some_keys.append(keys[number])
        if len(some) == BATCH_RECORDS:
            encode_batch(some_keys or None, some, timestamps)
            some, some_keys, timestamps = [], [], []
    if some:
        encode_batch(some_keys or None, some, timestamps)
    return len(values) / (time.perf_counter() - begun)


def _encode(values: list[bytes]) -> float:
    columns = [values[at : at + BATCH_RECORDS] for at in range(0, len(values), BATCH_RECORDS)]
    begun = time.perf_counter()
    for some in columns:
        encode_batch(None, some, 1_700_000_000_000)
    return len(values) / (time.perf_counter() - begun)


# -- the sink -------------------------------------------------------------------------------------------


class Sink:
    """One broker that says yes."""

    def __init__(self) -> None:
        self.loop, clock = SelectorLoop(), SystemClock()
        self._transport = ZmqTransport(self.loop, clock)
        identity = ServerIdentity(role="broker", name="sink", cluster_id="sink", broker_id=1)
        self.server: Server = self._transport.serve(
            ("tcp://127.0.0.1:0",), m.ClientRequest, self._on_requests, identity=identity
        )
        self._answers: dict[type, Callable[[Inbound], m.Reply]] = {
            m.MetadataRequest: self._metadata,
            m.InitProducerIdRequest: lambda inbound: m.InitProducerIdReply(
                id=inbound.message.id, producer_id=1, producer_epoch=0
            ),
            m.ProduceRequest: self._produced,
        }

    def _on_requests(self, inbounds: list[Inbound]) -> None:
        for inbound in inbounds:
            self.server.reply(inbound.peer, self._answers[type(inbound.message)](inbound))

    def _metadata(self, inbound: Inbound) -> m.Reply:
        partitions = [
            m.PartitionMetadata(partition=number, leader=1, leader_epoch=0, replicas=[1], isr=[1])
            for number in range(PARTITIONS)
        ]
        broker = m.BrokerMetadata(id=1, endpoints=list(self.server.endpoints), machine=machine_identity())
        topic = m.TopicMetadata(name=TOPIC, topic_id=TOPIC_ID, partitions=partitions)
        return m.MetadataReply(
            id=inbound.message.id, cluster_id="sink", version=1, controller_id=1, brokers=[broker], topics=[topic]
        )

    def _produced(self, inbound: Inbound) -> m.Reply:
        request = inbound.message
        entries = request.entries if isinstance(request, m.ProduceRequest) else []
        done = [
            m.ProduceEntryReply(topic_id=entry.topic_id, partition=entry.partition, base_offset=0, leader_epoch=0)
            for entry in entries
        ]
        return m.ProduceReply(id=request.id, entries=done)


def serve() -> None:
    sink = Sink()

    def end() -> None:
        sys.stdin.buffer.read()
        sink.loop.call_soon_threadsafe(sink.loop.stop)

    threading.Thread(target=end, daemon=True).start()
    print(sink.server.endpoints[0].removeprefix("tcp://"), flush=True)
    sink.loop.run()


if __name__ == "__main__":
    serve()
