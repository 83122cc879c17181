"""Figures a and b: a broker alone, fed ready batches and read back, beside a bare loop.

Both get the same frames from the same feeder, five requests in flight, over a unix socket.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence

from callboard import Consumer
from callboard.transport import codec
from callboard.transport import messages as m

from . import bare
from .clusters import Bench, bench
from .feeder import Feeder, batches
from .measure import Options, Result, compare

KIB, MIB = 1 << 10, 1 << 20
READ_BYTES = 1 * MIB  # what a consumer asks for by default
FLUSHES = ((256 * KIB, "256 KB"), (1_000_000, "1 MB"))


class WrongReply(Exception):
    """A broker answered something else than success: what was measured is worth nothing."""


def figures(options: Options) -> Iterator[Result | None]:
    with (
        tempfile.TemporaryDirectory(prefix="callboard-bare-", dir=options.directory) as path,
        bare.process("benchmarks.bare", path) as bare_endpoint,
        bench(options.directory) as running,
    ):
        feeder, limit = Feeder(running.endpoint()), Feeder(bare_endpoint)
        feeder.hello()
        for size, label in FLUSHES:
            yield from _writes_and_reads(running, feeder, limit, size, label, options)
        yield _durable(running, feeder, path, options)
        feeder.close()
        limit.close()


def _writes_and_reads(
    running: Bench, feeder: Feeder, limit: Feeder, size: int, label: str, options: Options
) -> Iterator[Result | None]:
    made, records = batches(max(2, options.count(48 * MIB // size * 1_000) // 1_000), size)
    total = sum(len(frame) for batch in made for frame in batch)

    def bare_write() -> float:
        limit.ask([b"new"])
        return total / limit.run([[b"write", *batch] for batch in made])[0] / MIB

    def broker_write() -> float:
        with running.topic(flush="os") as topic:
            return total / produce(feeder, topic, made, m.ACKS_LEADER) / MIB

    yield compare(
        "b",
        f"broker, {label} batches in, acks=1, flush=os",
        broker_write,
        bare_write,
        options=options,
        unit="MB/s",
        against="a: bare ROUTER loop, CRC, writev",
        target=0.7,
        written=2 * total,
        bytes=total,
    )

    with running.topic(flush="os") as topic:
        produce(feeder, topic, made, m.ACKS_LEADER)
        limit.ask([b"new"])
        limit.run([[b"write", *batch] for batch in made])
        batch_bytes = total // len(made)
        a_read = max(1, READ_BYTES // batch_bytes)

        def bare_read() -> float:
            size = str(a_read * batch_bytes).encode()
            positions = [b"%d" % (at * batch_bytes) for at in range(0, len(made), a_read)]
            seconds, received, _ = limit.run([[b"read", position, size] for position in positions])
            return _checked(received, total) / seconds / MIB

        def broker_read() -> float:
            seconds, received = _fetch(feeder, topic, range(0, len(made) * records, a_read * records))
            return _checked(received, total) / seconds / MIB

        yield compare(
            "b",
            f"broker, {label} batches out",
            broker_read,
            bare_read,
            options=options,
            unit="MB/s",
            against="a: bare ROUTER loop, pread, send",
            target=0.7,
            bytes=total,
        )

        for name, target, looks in (("batches as they come", 0.6, False), ("and every value looked at", None, True)):
            yield compare(
                "d",
                f"consume by batch, {label}, {name}",
                lambda looks=looks: _consume(running, topic, len(made) * records, total, looks),  # type: ignore[misc]
                bare_read,
                options=options,
                unit="MB/s",
                against="a: bare ROUTER loop, pread, send",
                target=target,
                bytes=total,
            )


def _consume(running: Bench, topic: m.TopicMetadata, count: int, total: int, looks: bool) -> float:
    """Read a topic with ``poll_batches``; return MB/s from the first batch that came on."""
    with Consumer(topic.name, bootstrap_servers=running.servers, auto_offset_reset="earliest") as consumer:
        first = sum(len(batch) for found in consumer.poll_batches(30_000).values() for batch in found)
        done = first
        begun = time.perf_counter()
        while done < count:
            for found in consumer.poll_batches(10_000).values():
                for batch in found:
                    done += len(batch.values) if looks else len(batch)
        return total * (count - first) / count / (time.perf_counter() - begun) / MIB


def _durable(running: Bench, feeder: Feeder, path: str, options: Options) -> Result | None:
    """acks=all and flush=ack, against write and fdatasync of one batch after the other."""
    made, _ = batches(max(2, options.count(24 * MIB // (256 * KIB) * 1_000) // 1_000), 256 * KIB)
    total = sum(len(frame) for batch in made for frame in batch)
    name = os.path.join(path, "synced.log")

    def write_and_sync() -> float:
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        begun = time.perf_counter()
        for batch in made:
            os.writev(file, batch)
            os.fdatasync(file)
        seconds = time.perf_counter() - begun
        os.close(file)
        os.unlink(name)
        return total / seconds / MIB

    def broker() -> float:
        with running.topic(flush="ack") as topic:
            return total / produce(feeder, topic, made, m.ACKS_ALL) / MIB

    return compare(
        "b",
        "broker, 256 KB batches in, acks=all, flush=ack",
        broker,
        write_and_sync,
        options=options,
        unit="MB/s",
        against="write + fdatasync, batch by batch",
        target=0.6,
        written=2 * total,
        bytes=total,
    )


def produce(feeder: Feeder, topic: m.TopicMetadata, made: Sequence[Sequence[bytes]], acks: int) -> float:
    """Feed the batches to the topic's first partition; return seconds."""
    epoch = topic.partitions[0].leader_epoch
    requests = []
    for number, batch in enumerate(made, 1):
        entry = m.ProduceEntry(topic_id=topic.topic_id, partition=0, leader_epoch=epoch, frames=len(batch))
        requests.append([codec.encode(m.ProduceRequest(id=number, acks=acks, entries=[entry])), *batch])
    seconds, _, headers = feeder.run(requests)
    for header in headers:
        reply = codec.decode_reply(header)
        if not isinstance(reply, m.ProduceReply) or reply.error or any(entry.error for entry in reply.entries):
            raise WrongReply(str(reply))
    return seconds


def _fetch(feeder: Feeder, topic: m.TopicMetadata, offsets: Sequence[int]) -> tuple[float, int]:
    """Read the topic's first partition from each of the offsets; return seconds and bytes."""
    epoch = topic.partitions[0].leader_epoch
    requests = []
    for number, offset in enumerate(offsets, 1):
        entry = m.FetchEntry(
            topic_id=topic.topic_id, partition=0, leader_epoch=epoch, fetch_offset=offset, max_bytes=READ_BYTES
        )
        requests.append([codec.encode(m.FetchRequest(id=number, entries=[entry]))])
    seconds, received, _ = feeder.run(requests)
    return seconds, received


def _checked(received: int, total: int) -> int:
    if received != total:
        raise WrongReply(f"{received:,} bytes came back, {total:,} were written")
    return total
