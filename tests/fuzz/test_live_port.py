"""Mutated traffic, other protocols, floods and slow readers against a real broker, a healthy client beside them."""

import os
import random
import resource
import socket
import time

import pytest

from callboard import AdminClient
from callboard.testing.clusters import cluster
from callboard.transport import codec, messages

from .live import (
    HEALTHY,
    SETTINGS,
    VICTIM,
    Attacker,
    HealthyClient,
    handmade,
    mutated_message,
    p99,
    real_traffic,
    restarts_of,
    rss,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

GROWTH_MAX = 64 << 20
MESSAGES_LONG = int(os.environ.get("MESSAGES", "50000"))
SLOWER_MAX = 20  # times the p99 before; and never counted below the floor: the machine is shared
FLOOR_MS = 5_000  # a stall; below it the machine, which others share, may be slow by itself
NOT_ZMTP = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a TLS hello
    b"\x01\x00",  # ZMTP 1.0
    b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x01\x05" + bytes(20),  # the greeting of ZMTP 2.0
    b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48) + b"\x04\xff" + b"\xff" * 60,  # 3.0, then a false READY
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """One broker with bounds on what mutations may create, and a topic that nobody but the healthy client knows."""
    directory = tmp_path_factory.mktemp("fuzz")
    settings = directory / "cluster.toml"
    settings.write_text(SETTINGS)
    with cluster(brokers=1, directory=directory, options=("--config", str(settings))) as running:
        with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
            admin.create_topics({HEALTHY: {"num_partitions": 1}})
        yield running


@pytest.fixture
def healthy(broker):
    """A healthy client; afterwards every record that it sent has been acknowledged, and nothing was restarted."""
    restarts, pids = restarts_of(broker), sorted(broker.pids())
    client = HealthyClient(broker.bootstrap_servers)
    try:
        yield client
    finally:
        client.stop()
    assert client.failures == []
    now = restarts_of(broker)
    assert {address: now.get(address) for address in restarts if now.get(address, 0) != restarts[address]} == {}
    assert max(now.values()) == max(restarts.values())
    assert sorted(broker.pids()) == pids


def endpoint_of(broker):
    return f"tcp://{broker.bootstrap_servers[0]}"


def stream_to(broker):
    host, _, port = broker.bootstrap_servers[0].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def undisturbed(before, during):
    return p99(during) <= max(FLOOR_MS, SLOWER_MAX * p99(before))


def fire(broker, healthy, count, seed):
    """Send mutated messages; return how much the broker has grown."""
    corpus = real_traffic(broker.bootstrap_servers) + handmade()
    chance = random.Random(seed)
    attacker = Attacker(endpoint_of(broker))
    pid = broker.broker_pid(1)
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


def test_mutated_messages_disturb_nobody(broker, healthy):
    before = healthy.wait_for(100)
    first = len(healthy.times_ms)

    assert fire(broker, healthy, 2_000, seed=1) < GROWTH_MAX

    assert undisturbed(before, healthy.times_ms[first:] + healthy.wait_for(20))


@pytest.mark.long
def test_fifty_thousand_mutated_messages_disturb_nobody(broker, healthy):
    before = healthy.wait_for(200)
    first = len(healthy.times_ms)

    assert fire(broker, healthy, MESSAGES_LONG, seed=int(os.environ.get("SEED", "7"))) < GROWTH_MAX

    assert undisturbed(before, healthy.times_ms[first:])


@pytest.mark.parametrize("data", NOT_ZMTP, ids=["http", "tls", "zmtp 1", "zmtp 2", "false ready"])
def test_another_protocol_is_shown_out(broker, healthy, data):
    streams = [stream_to(broker) for _ in range(20)]
    try:
        for stream in streams:
            stream.sendall(data)
        healthy.wait_for(20)
        until = time.monotonic() + 30
        for stream in streams:
            stream.settimeout(max(0.1, until - time.monotonic()))
            try:
                while stream.recv(4_096):
                    pass
            except ConnectionError:
                pass
    finally:
        for stream in streams:
            stream.close()


def test_random_bytes_are_shown_out(broker, healthy):
    chance = random.Random(3)
    for _ in range(200):
        with stream_to(broker) as stream:
            stream.sendall(chance.randbytes(chance.randrange(1, 300)))
    assert len(healthy.wait_for(20)) >= 20


def test_many_tiny_frames_are_refused_and_cost_nothing_that_stays(broker, healthy):
    attacker, pid = Attacker(endpoint_of(broker)), broker.broker_pid(1)
    try:
        attacker.send([codec.encode(messages.MetadataRequest(id=2))] + [b""] * 50_000)
        attacker.settle()
        before = rss(pid)
        for _ in range(10):
            attacker.send([codec.encode(messages.MetadataRequest(id=2))] + [b""] * 50_000)
            attacker.settle()
        assert rss(pid) - before < GROWTH_MAX
        healthy.wait_for(20)
    finally:
        attacker.close()


def test_a_reader_that_does_not_read_costs_no_more_than_its_bound(broker, healthy):
    """4 MiB wait for it in our queue, as set, and what its pipe and the kernel's buffers take."""
    ask = codec.encode(messages.DescribeTreeRequest(id=3))
    attacker, pid = Attacker(endpoint_of(broker), inbox=10), broker.broker_pid(1)
    before, times = rss(pid), healthy.wait_for(50)
    first = len(healthy.times_ms)
    try:
        with AdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
            for _ in range(600):  # until its pipe, the kernel's buffers and its queue are full
                for _ in range(100):
                    attacker.send([ask])
                healthy.wait_for(2)
                if admin.describe_cluster().counters["dropped_replies"]:
                    break
            assert admin.describe_cluster().counters["dropped_replies"] > 0
        assert rss(pid) - before < GROWTH_MAX
        assert undisturbed(times, healthy.times_ms[first:])
    finally:
        attacker.close()


def half_open(broker, healthy, count):
    """Open connections that never say anything; return how long a new client needs afterwards, in s."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 1_000)), hard))
    streams = []
    try:
        before, first = healthy.wait_for(50), len(healthy.times_ms)
        for _ in range(count):
            streams.append(stream_to(broker))
        assert undisturbed(before, healthy.times_ms[first:] + healthy.wait_for(50))
        begin = time.monotonic()
        with AdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
            assert VICTIM in admin.list_topics() or HEALTHY in admin.list_topics()
        return time.monotonic() - begin
    finally:
        for stream in streams:
            stream.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_half_open_connections_keep_nobody_out(broker, healthy):
    assert half_open(broker, healthy, 300) < 5


@pytest.mark.long
def test_five_thousand_half_open_connections_keep_nobody_out(broker, healthy):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 12_000:
        pytest.skip("this machine does not allow 5,000 connections in two processes")
    assert half_open(broker, healthy, 5_000) < 5
