"""Mutated traffic, other protocols and noise at the doors between processes: brokers', metadata's and the host's."""

import os
import random

import pytest

from callboard import AdminClient

from .inner import doors_of, traffic_at
from .live import (
    GROWTH_MAX,
    HEALTHY,
    NOT_ZMTP,
    fire,
    fuzzed_cluster,
    healthy_beside,
    shown_out,
    stream_to,
    undisturbed,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

DOORS = ("peers", "metadata", "host")
MESSAGES_LONG = int(os.environ.get("MESSAGES", "50000"))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with fuzzed_cluster(tmp_path_factory.mktemp("inner")) as cluster:
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


@pytest.mark.parametrize("door", DOORS)
def test_mutated_messages_between_processes_disturb_nobody(running, healthy, door):
    fire_at(door, running, healthy, 1_000, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("door", DOORS)
def test_many_mutated_messages_between_processes_disturb_nobody(running, healthy, door):
    fire_at(door, running, healthy, MESSAGES_LONG, seed=int(os.environ.get("SEED", "7")))


@pytest.mark.parametrize("door", DOORS)
def test_what_is_not_our_protocol_is_shown_out(running, healthy, door):
    endpoint, chance = getattr(doors_of(running), door), random.Random(3)
    healthy.wait_for(1)

    for data in NOT_ZMTP.values():
        shown_out(endpoint, data, count=4)
    for _ in range(100):
        with stream_to(endpoint) as stream:
            stream.sendall(chance.randbytes(chance.randrange(1, 300)))

    assert len(healthy.wait_for(20)) >= 20
