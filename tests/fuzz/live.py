"""A real broker under fire: recorded traffic, a raw client that sends what it likes, and a healthy one beside it."""

from __future__ import annotations

import random
import resource
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import zmq

from callboard import AdminClient, Consumer, Producer, TopicPartition
from callboard.errors import CallboardError
from callboard.storage.batch import encode_batch
from callboard.testing.clusters import RunningCluster, cluster
from callboard.transport import codec, messages
from callboard.transport.dealer import DealerWire
from callboard.transport.messages import API_VERSION

from .mutation import mutated

SETTINGS = """
log_level = "warning"
metadata_listen = "tcp://127.0.0.1:0"
[limits]
request_bytes = 4_194_304
topics = 24
partitions = 48
partitions_per_topic = 8
reply_bytes_waiting_per_peer = 4_194_304
"""
HEALTHY, VICTIM = "healthy", "victim"
GROWTH_MAX = 64 << 20
SLOWER_MAX = 20  # times the p99 before; and never counted below the floor: the machine is shared
FLOOR_MS = 5_000  # a stall; below it the machine, which others share, may be slow by itself
NOT_ZMTP = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a hello
    "zmtp 1": b"\x01\x00",
    "zmtp 2": b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x01\x05" + bytes(20),  # a greeting
    "false ready": b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48) + b"\x04\xff" + b"\xff" * 60,  # in 3.0
}


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


@contextmanager
def fuzzed_cluster(directory: Path, settings: str = SETTINGS) -> Iterator[RunningCluster]:
    """Run one broker with bounds on what mutations may create, and a topic that nobody but the healthy client knows."""
    file = directory / "cluster.toml"
    file.write_text(settings)
    with cluster(brokers=1, directory=directory, options=("--config", str(file))) as running:
        with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
            admin.create_topics({HEALTHY: {"num_partitions": 1}})
        yield running


@contextmanager
def healthy_beside(running: RunningCluster) -> Iterator[HealthyClient]:
    """A healthy client; afterwards every record that it sent has been acknowledged, and nothing was restarted."""
    restarts, pids = restarts_of(running), sorted(running.pids())
    client = HealthyClient(running.bootstrap_servers)
    try:
        yield client
    finally:
        client.stop()
    assert client.failures == []
    now = restarts_of(running)
    assert {address: now.get(address) for address in restarts if now.get(address, 0) != restarts[address]} == {}
    assert max(now.values()) == max(restarts.values())
    assert sorted(running.pids()) == pids


def fire(endpoint: str, pid: int, corpus: list[list[bytes]], count: int, seed: int) -> int:
    """Send mutated messages; return by how many bytes the process has grown."""
    chance = random.Random(seed)
    attacker = Attacker(endpoint)
    try:
        for number in range(200):  # what is made once: topics up to their limit, caches, arenas
            attacker.send(mutated_message(random.Random(number), corpus))
        attacker.settle()
        before = rss(pid)
        for number in range(count):
            attacker.send(mutated_message(chance, corpus))
            if number % 100 == 99:
                attacker.settle()
            if number % 5_000 == 4_999:
                attacker.reconnect()
        attacker.settle()
        return rss(pid) - before
    finally:
        attacker.close()


def stream_to(endpoint: str) -> socket.socket:
    """Return a bare connection to ``tcp://host:port`` or ``ipc://path``."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "ipc":
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(10)
        stream.connect(rest)
        return stream
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def zmtp_stream_to(endpoint: str) -> socket.socket:
    """Return a bare connection that has shaken hands: what is sent from now on are messages."""
    stream = stream_to(endpoint)
    stream.sendall(GREETING + READY)
    said = b""
    while b"READY" not in said:  # what comes before the handshake's end is no message
        received = stream.recv(4_096)
        assert received, "the connection ended during the handshake"
        said += received
    return stream


def is_ended(stream: socket.socket, within_s: float = 30) -> bool:
    """Say whether the other side ends a connection in time."""
    until = time.monotonic() + within_s
    try:
        while (left := until - time.monotonic()) > 0:
            stream.settimeout(left)
            if not stream.recv(4_096):
                return True
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return False


def shown_out(endpoint: str, data: bytes, count: int = 20) -> None:
    """Say ``data`` on some connections and wait until each is ended by the other side."""
    streams = [stream_to(endpoint) for _ in range(count)]
    try:
        for stream in streams:
            stream.sendall(data)
        for stream in streams:
            assert is_ended(stream)
    finally:
        for stream in streams:
            stream.close()


@contextmanager
def many_streams(endpoint: str, count: int) -> Iterator[list[socket.socket]]:
    """Open connections that never say anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 1_000)), hard))
    streams: list[socket.socket] = []
    try:
        for _ in range(count):
            streams.append(stream_to(endpoint))
        yield streams
    finally:
        for stream in streams:
            stream.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def undisturbed(before: list[float], during: list[float]) -> bool:
    return p99(during) <= max(FLOOR_MS, SLOWER_MAX * p99(before))


# -- traffic ---------------------------------------------------------------------------------------------


@contextmanager
def recording() -> Iterator[list[list[bytes]]]:
    """Record every message that clients of this process send."""
    recorded: list[list[bytes]] = []
    send = DealerWire.send

    def recorder(wire: DealerWire, frames: list[bytes]) -> None:
        recorded.append([bytes(frame) for frame in frames])
        send(wire, frames)

    DealerWire.send = recorder  # type: ignore[method-assign]
    try:
        yield recorded
    finally:
        DealerWire.send = send  # type: ignore[method-assign]


def real_traffic(bootstrap_servers: list[str]) -> list[list[bytes]]:
    """Return the messages of a short life of each kind of client, as they went over the wire; deadlines taken out."""
    with recording() as recorded:
        with AdminClient(bootstrap_servers=bootstrap_servers) as admin:
            admin.create_topics({VICTIM: {"num_partitions": 2}, "other": {"num_partitions": 1}})
            admin.describe_cluster()
        for name in ("none", "zstd"):
            kind = None if name == "none" else name
            with Producer(bootstrap_servers=bootstrap_servers, compression_type=kind) as producer:
                for number in range(40):
                    producer.send(VICTIM, b"value %d" % number, key=b"%d" % (number % 3))
                producer.flush(60)
        with Consumer(bootstrap_servers=bootstrap_servers) as consumer:
            place = TopicPartition(VICTIM, 0)
            consumer.assign([place])
            consumer.seek_to_beginning(place)
            consumer.poll(timeout_ms=500)
            consumer.offsets_for_times({place: 1})
        with AdminClient(bootstrap_servers=bootstrap_servers) as admin:
            admin.alter_configs({"other": {"flush": "os"}})
            admin.delete_topics(["other"])
    return [[_without_deadline(frames[0]), *frames[1:]] for frames in recorded]


def _without_deadline(header: bytes) -> bytes:
    fields = msgspec.json.decode(header)
    fields.pop("deadline_ms", None)
    return msgspec.json.encode(fields)


def handmade() -> list[list[bytes]]:
    """Return messages that the clients do not send, or not every day."""
    hollow = encode_batch(None, [b"x"] * 3, [1, 2, 3], compression="zstd")
    entry = messages.ProduceEntry(topic_id="00", partition=0)
    return [
        [codec.encode(messages.DescribeTreeRequest(id=9))],
        [codec.encode(messages.DescribeReplicasRequest(id=9))],
        [codec.encode(messages.DescribeProcessesRequest(id=9))],
        [codec.encode(messages.KillRequest(id=9, address="nowhere"))],
        [codec.encode(messages.InitProducerIdRequest(id=9))],
        [codec.encode(messages.ProduceRequest(id=9, entries=[entry])), *hollow[:2]],
        [codec.encode(messages.AlterTopicsRequest(id=9, topics=[messages.TopicConfigChange(name=VICTIM)]))],
        [codec.encode(messages.CreatePartitionsRequest(id=9, topics=[messages.NewPartitions(name=VICTIM, count=3)]))],
        [codec.encode(messages.Hello(id=9, client_id="x"))],
    ]


def mutated_message(chance: random.Random, corpus: list[list[bytes]]) -> list[bytes]:
    """Return a damaged message: in a frame, in their order, or in their number."""
    frames = list(chance.choice(corpus))
    for _ in range(chance.choice((1, 1, 2))):
        what = chance.random()
        place = 0 if chance.random() < 0.6 else chance.randrange(len(frames))
        if what < 0.8:
            frames[place] = mutated(chance, frames[place], chance.choice(chance.choice(corpus)))
        elif what < 0.87:
            frames.insert(chance.randrange(len(frames) + 1), chance.randbytes(chance.randrange(30)))
        elif what < 0.94 and len(frames) > 1:
            del frames[place]
        else:
            chance.shuffle(frames)
    return frames


class Attacker:
    """A raw DEALER that greets and then sends what it likes; reads answers so that it is not the slow one."""

    def __init__(self, endpoint: str, inbox: int = 1_000) -> None:
        self._inbox = inbox  # messages that it takes without reading them
        self._context = zmq.Context()
        self._endpoint = endpoint
        self.answers = 0
        self.sent = 0
        self._open()

    def _open(self) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, self._inbox)
        self._socket.connect(self._endpoint)
        self._socket.send(codec.encode(messages.Hello(id=1, client_id="attacker", version_min=API_VERSION)))

    def send(self, frames: list[bytes]) -> None:
        self._socket.send_multipart(frames)
        self.sent += 1

    def read(self, timeout_ms: int = 0) -> None:
        while self._socket.poll(timeout_ms):
            self._socket.recv_multipart()
            self.answers += 1

    def settle(self) -> None:
        """Wait until the broker has answered something sent now: it has then read all that was sent before."""
        self._socket.send(codec.encode(messages.Hello(id=(1 << 60) + 7)))
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self._socket.poll(1_000) and b"1152921504606846983" in self._socket.recv_multipart()[0]:
                return
        raise AssertionError("the broker does not answer any more")

    def reconnect(self) -> None:
        self._socket.close(linger=0)
        self._open()

    def close(self) -> None:
        self._context.destroy(linger=0)


# -- beside it -----------------------------------------------------------------------------------------------


class HealthyClient:
    """Produces one record at a time from a thread of its own and times each acknowledgement."""

    def __init__(self, bootstrap_servers: list[str]) -> None:
        self._producer = Producer(bootstrap_servers=bootstrap_servers, acks="all")
        self._stop = threading.Event()
        self.times_ms: list[float] = []
        self.failures: list[CallboardError] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            begin = time.monotonic()
            try:
                self._producer.send(HEALTHY, b"healthy").get(60)
            except CallboardError as error:  # told to the test, which judges it
                self.failures.append(error)
            self.times_ms.append((time.monotonic() - begin) * 1_000)

    def wait_for(self, count: int) -> list[float]:
        """Return the times of ``count`` more records."""
        first = len(self.times_ms)
        until = time.monotonic() + 120
        while len(self.times_ms) < first + count and time.monotonic() < until:
            time.sleep(0.02)
        return self.times_ms[first:]

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.close()


def p99(times_ms: list[float]) -> float:
    return statistics.quantiles(times_ms, n=100)[98]


# -- what must not happen ------------------------------------------------------------------------------------


def restarts_of(running: RunningCluster) -> dict[str, int]:
    """Return the restarts of every actor and process, by address; partitions of deleted topics come and go."""
    with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
        tree = admin.describe_tree()
    found: dict[str, int] = {}

    def visit(line: object) -> None:
        found[line.address] = line.restarts  # type: ignore[attr-defined]
        for child in line.children:  # type: ignore[attr-defined]
            visit(child)

    visit(tree)
    return found


def rss(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)
