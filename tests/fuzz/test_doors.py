"""Mutated traffic, other protocols, floods and slow readers at every door of a real cluster, a healthy client beside.

The doors: the clients' and the other brokers' of a broker, the metadata process's, the host's.
"""

import os
import random
import resource
import time

import pytest

from callboard import AdminClient
from callboard.transport import codec, messages

from .inner import Conversation, doors_of, traffic_at
from .live import (
    GROWTH_MAX,
    HEALTHY,
    NOT_ZMTP,
    Attacker,
    fire,
    fuzzed_cluster,
    healthy_beside,
    is_ended,
    many_streams,
    rss,
    shown_out,
    stream_to,
    undisturbed,
    zmtp_stream_to,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

DOORS = ("clients", "peers", "metadata", "host")
MESSAGES_LONG = int(os.environ.get("MESSAGES", "50000"))
at_every_door = pytest.mark.parametrize("door", DOORS)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with fuzzed_cluster(tmp_path_factory.mktemp("doors")) as cluster:
        yield cluster


@pytest.fixture
def healthy(running):
    """A healthy client beside it; afterwards the controller still decides and the store still writes."""
    with healthy_beside(running) as client:
        yield client
    with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
        admin.alter_configs({HEALTHY: {"retention_bytes": 1 << 40}})


def fire_at(door, running, healthy, count, seed):
    before = healthy.wait_for(100)
    first, doors = len(healthy.times_ms), doors_of(running)

    grown = fire(getattr(doors, door), doors.pids[door], traffic_at(door, doors, running), count, seed)

    assert grown < GROWTH_MAX
    assert undisturbed(before, healthy.times_ms[first:] + healthy.wait_for(20))


@at_every_door
def test_mutated_messages_disturb_nobody(running, healthy, door):
    fire_at(door, running, healthy, 1_000, seed=1)


@pytest.mark.long
@at_every_door
def test_fifty_thousand_mutated_messages_disturb_nobody(running, healthy, door):
    fire_at(door, running, healthy, MESSAGES_LONG, seed=int(os.environ.get("SEED", "7")))


@pytest.mark.parametrize("name", NOT_ZMTP)
@at_every_door
def test_another_protocol_is_shown_out(running, healthy, door, name):
    healthy.wait_for(1)

    shown_out(getattr(doors_of(running), door), NOT_ZMTP[name], count=20 if door == "clients" else 4)

    healthy.wait_for(20)


@at_every_door
def test_random_bytes_are_shown_out(running, healthy, door):
    endpoint, chance = getattr(doors_of(running), door), random.Random(3)
    for _ in range(200):
        with stream_to(endpoint) as stream:
            stream.sendall(chance.randbytes(chance.randrange(1, 300)))
    assert len(healthy.wait_for(20)) >= 20


@at_every_door
def test_a_frame_above_the_limit_ends_its_connection_before_it_is_kept(running, healthy, door):
    doors = doors_of(running)
    endpoint, pid = getattr(doors, door), doors.pids[door]
    healthy.wait_for(1)
    before = rss(pid)

    for _ in range(8):
        for size in ((4 << 20) + 1, 1 << 30, (1 << 63) - 1):
            with zmtp_stream_to(endpoint) as stream:
                stream.sendall(b"\x02" + size.to_bytes(8, "big") + bytes(1_000))
                assert is_ended(stream, within_s=3)  # by a heartbeat that is not answered it would take 4

    assert rss(pid) - before < GROWTH_MAX
    with Conversation(endpoint) as talk:  # it still answers
        talk.ask(messages.DescribeTreeRequest(), messages.DescribeTreeReply)
    healthy.wait_for(20)


@at_every_door
def test_many_tiny_frames_are_refused_and_cost_nothing_that_stays(running, healthy, door):
    doors = doors_of(running)
    attacker, pid = Attacker(getattr(doors, door)), doors.pids[door]
    try:
        attacker.send([codec.encode(messages.DescribeTreeRequest(id=2))] + [b""] * 50_000)
        attacker.settle()
        before = rss(pid)
        for _ in range(10):
            attacker.send([codec.encode(messages.DescribeTreeRequest(id=2))] + [b""] * 50_000)
            attacker.settle()
        assert rss(pid) - before < GROWTH_MAX
        healthy.wait_for(20)
    finally:
        attacker.close()


def test_a_reader_that_does_not_read_costs_no_more_than_its_bound(running, healthy):
    """4 MiB wait for it in our queue, as set, and what its pipe and the kernel's buffers take."""
    ask, doors = codec.encode(messages.DescribeTreeRequest(id=3)), doors_of(running)
    attacker, pid = Attacker(doors.clients, inbox=10), doors.pids["clients"]
    before, times = rss(pid), healthy.wait_for(50)
    first = len(healthy.times_ms)
    try:
        with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
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


def half_open(door, running, healthy, count):
    """Open connections that never say anything; meanwhile a newcomer is answered at the same door within 5 s."""
    endpoint = getattr(doors_of(running), door)
    before, first = healthy.wait_for(50), len(healthy.times_ms)
    with many_streams(endpoint, count):
        assert undisturbed(before, healthy.times_ms[first:] + healthy.wait_for(50))
        begin = time.monotonic()
        with Conversation(endpoint) as talk:
            talk.ask(messages.DescribeTreeRequest(), messages.DescribeTreeReply)
        assert time.monotonic() - begin < 5


@at_every_door
def test_half_open_connections_keep_nobody_out(running, healthy, door):
    half_open(door, running, healthy, 300)


@pytest.mark.long
@at_every_door
def test_five_thousand_half_open_connections_keep_nobody_out(running, healthy, door):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 12_000:
        pytest.skip("this machine does not allow 5,000 connections in two processes")
    half_open(door, running, healthy, 5_000)
