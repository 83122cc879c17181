"""Mutated traffic, other protocols, floods and slow readers against a real broker, a healthy client beside them."""

import os
import random
import resource
import time

import pytest

from callboard import AdminClient
from callboard.transport import codec, messages

from .live import (
    GROWTH_MAX,
    HEALTHY,
    NOT_ZMTP,
    VICTIM,
    Attacker,
    fire,
    fuzzed_cluster,
    handmade,
    healthy_beside,
    real_traffic,
    rss,
    shown_out,
    stream_to,
    undisturbed,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

MESSAGES_LONG = int(os.environ.get("MESSAGES", "50000"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with fuzzed_cluster(tmp_path_factory.mktemp("fuzz")) as running:
        yield running


@pytest.fixture
def healthy(broker):
    with healthy_beside(broker) as client:
        yield client


def endpoint_of(broker):
    return f"tcp://{broker.bootstrap_servers[0]}"


def fire_at(broker, count, seed):
    corpus = real_traffic(broker.bootstrap_servers) + handmade()
    return fire(endpoint_of(broker), broker.broker_pid(1), corpus, count, seed)


def test_mutated_messages_disturb_nobody(broker, healthy):
    before = healthy.wait_for(100)
    first = len(healthy.times_ms)

    assert fire_at(broker, 2_000, seed=1) < GROWTH_MAX

    assert undisturbed(before, healthy.times_ms[first:] + healthy.wait_for(20))


@pytest.mark.long
def test_fifty_thousand_mutated_messages_disturb_nobody(broker, healthy):
    before = healthy.wait_for(200)
    first = len(healthy.times_ms)

    assert fire_at(broker, MESSAGES_LONG, seed=int(os.environ.get("SEED", "7"))) < GROWTH_MAX

    assert undisturbed(before, healthy.times_ms[first:])


@pytest.mark.parametrize("name", NOT_ZMTP)
def test_another_protocol_is_shown_out(broker, healthy, name):
    healthy.wait_for(1)

    shown_out(endpoint_of(broker), NOT_ZMTP[name])

    healthy.wait_for(20)


def test_random_bytes_are_shown_out(broker, healthy):
    chance = random.Random(3)
    for _ in range(200):
        with stream_to(endpoint_of(broker)) as stream:
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
            streams.append(stream_to(endpoint_of(broker)))
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
