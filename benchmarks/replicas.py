"""Figure h: three replicas on three brokers, fed ready batches; what replication costs.

python -m benchmarks.replicas DIRECTORY SIZE COUNT     writes and syncs as often as it is told on its standard input
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psutil

from callboard.storage.batch import encode_batch
from callboard.transport import codec
from callboard.transport import messages as m

from .clusters import Bench, bench
from .feeder import Feeder, batches
from .limits import WrongReply, produce
from .measure import ROOT, Options, Result, compare

KIB, MIB, GB = 1 << 10, 1 << 20, 1_000_000_000
REPLICAS = 3
BATCH_BYTES = 256 * KIB
FEW, MANY = 10, 1_000  # partitions
SERVED_S_MAX = 60.0
REQUESTS = 2_000  # small ones, spread over the partitions


def figures(options: Options) -> Iterator[Result | None]:
    with bench(options.directory, REPLICAS) as running:
        yield from _throughput(running, options)
        yield _cost_a_partition(running, options)
    for brokers in (1, 2):
        yield from _cpu_a_gigabyte(brokers, options)


# -- throughput ------------------------------------------------------------------------------------


def _throughput(running: Bench, options: Options) -> Iterator[Result | None]:
    made, _ = batches(max(2, options.count(20 * MIB // BATCH_BYTES * 1_000) // 1_000), BATCH_BYTES)
    total = sum(len(frame) for batch in made for frame in batch)
    with ExitStack() as stack:
        writers = [stack.enter_context(_writer(options.directory, len(made))) for _ in range(REPLICAS)]

        def bare() -> float:
            begun = time.perf_counter()
            for writer in writers:
                _say(writer, "go")
            for writer in writers:
                _hear(writer)
            return total / (time.perf_counter() - begun) / MIB

        for acks, flush, target in ((m.ACKS_ALL, "ack", 0.6), (m.ACKS_LEADER, "os", None)):

            def replicated(acks: int = acks, flush: str = flush) -> float:
                with _led(running, flush) as (topic, feeder):
                    return total / produce(feeder, topic, made, acks) / MIB

            yield compare(
                "h",
                f"3 replicas, 256 KB batches in, acks={'all' if acks == m.ACKS_ALL else 1}, flush={flush}",
                replicated,
                bare,
                options=options,
                unit="MB/s",
                against="three processes, write + fdatasync of the same, at once",
                target=target,
                written=2 * REPLICAS * total,
                bytes=total,
            )


@contextmanager
def _led(running: Bench, flush: str) -> Iterator[tuple[m.TopicMetadata, Feeder]]:
    """A topic with three replicas, and a feeder at its leader."""
    with running.topic(replication_factor=REPLICAS, flush=flush) as topic:
        feeder = Feeder(running.endpoint(topic.partitions[0].leader))
        feeder.hello()
        yield topic, feeder
        feeder.close()


@contextmanager
def _writer(directory: str | None, count: int) -> Iterator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory(prefix="callboard-bare-", dir=directory) as path:
        command = [sys.executable, "-m", "benchmarks.replicas", path, str(BATCH_BYTES), str(count)]
        child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            _hear(child)
            yield child
        finally:
            if child.stdin is not None and child.stdout is not None:
                child.stdin.close()
                child.wait(10)
                child.stdout.close()


def _say(child: subprocess.Popen[str], word: str) -> None:
    if child.stdin is None:
        raise OSError("no pipe")
    child.stdin.write(word + "\n")
    child.stdin.flush()


def _hear(child: subprocess.Popen[str]) -> None:
    if child.stdout is None or not child.stdout.readline():
        raise WrongReply("a bare writer has ended")


def _write_and_sync(directory: str, batch_bytes: int, count: int) -> None:
    made, _ = batches(count, batch_bytes)
    path = os.path.join(directory, "synced.log")
    print("ready", flush=True)
    for _ in sys.stdin:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        for batch in made:
            os.writev(file, batch)
            os.fdatasync(file)
        os.close(file)
        os.unlink(path)
        print("done", flush=True)


# -- what it costs ---------------------------------------------------------------------------------


def _cost_a_partition(running: Bench, options: Options) -> Result | None:
    """CPU of all brokers for the same small requests, spread over few partitions and over many."""
    name = f"3 replicas: CPU a request, {MANY:,} partitions to {FEW}"
    if options.only not in name:
        return None
    with (
        running.topic(FEW, replication_factor=REPLICAS) as few,
        running.topic(MANY, replication_factor=REPLICAS) as many,
    ):
        for topic in (few, many):
            _until_served(running, topic)
        return compare(
            "h",
            name,
            lambda: _cpu_a_request(running, many),
            lambda: _cpu_a_request(running, few),
            options=options,
            unit="µs",
            against=f"the same with {FEW} partitions",
            target=1.5,
            is_less_better=True,
            requests=REQUESTS,
        )


def _until_served(running: Bench, topic: m.TopicMetadata) -> None:
    """Wait until every partition that is asked takes records: three thousand logs are made after the topic is."""
    until = time.monotonic() + SERVED_S_MAX
    while True:
        try:
            _cpu_a_request(running, topic)
            return
        except WrongReply:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _cpu_a_request(running: Bench, topic: m.TopicMetadata) -> float:
    frames = encode_batch([None], [b"v" * 100], 1_700_000_000_000)
    feeders = {broker: Feeder(running.endpoint(broker)) for broker in range(1, REPLICAS + 1)}
    for feeder in feeders.values():
        feeder.hello()
    before = _cpu_s(running)
    for broker, feeder in feeders.items():
        led = [partition for partition in topic.partitions if partition.leader == broker]
        requests = []
        for number in range(REQUESTS // REPLICAS):
            place = led[number % len(led)]
            entry = m.ProduceEntry(topic_id=topic.topic_id, partition=place.partition, frames=len(frames))
            requests.append([codec.encode(m.ProduceRequest(id=number + 1, entries=[entry])), *frames])
        _, _, headers = feeder.run(requests)
        for header in headers:
            reply = codec.decode_reply(header)
            if not isinstance(reply, m.ProduceReply) or any(entry.error for entry in reply.entries):
                raise WrongReply(str(reply))
        feeder.close()
    return (_cpu_s(running) - before) / REQUESTS * 1e6


def _cpu_a_gigabyte(brokers: int, options: Options) -> Iterator[Result | None]:
    """CPU seconds of the brokers a GB: with one broker and one replica, with two and two."""
    made, _ = batches(max(2, options.count(20 * MIB // BATCH_BYTES * 1_000) // 1_000), BATCH_BYTES)
    total = sum(len(frame) for batch in made for frame in batch)
    name = f"CPU seconds a GB in, {brokers} broker{'s' if brokers > 1 else ''}, as many replicas, acks=all, flush=ack"
    if options.only not in name:
        return
    with bench(options.directory, brokers) as running:

        def used() -> float:
            with running.topic(replication_factor=brokers, flush="ack") as topic:
                feeder = Feeder(running.endpoint(topic.partitions[0].leader))
                feeder.hello()
                before = _cpu_s(running)
                produce(feeder, topic, made, m.ACKS_ALL)
                seconds = _cpu_s(running) - before
                feeder.close()
                return seconds / total * GB

        def bare() -> float:
            before = time.process_time()
            with tempfile.TemporaryFile(dir=options.directory) as file:
                for batch in made:
                    os.writev(file.fileno(), batch)
                    os.fdatasync(file.fileno())
            return (time.process_time() - before) / total * GB

        yield compare(
            "h",
            name,
            used,
            bare,
            options=options,
            unit="s",
            against="one process, write + fdatasync of the same, once",
            is_less_better=True,
            written=(brokers + 1) * total,
            bytes=total,
        )


def _cpu_s(running: Bench) -> float:
    """CPU seconds that the brokers have used so far."""
    brokers: Sequence[int] = [broker["pid"] for broker in running.running.ready()["brokers"]]
    return sum(_scheduled_s(pid) for pid in brokers)


def _scheduled_s(pid: int) -> float:
    """By the scheduler's own count where there is one: psutil's comes in steps of 10 ms."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        total = 0
        for task in tasks:
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
        return total / 1e9
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


if __name__ == "__main__":
    _write_and_sync(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
