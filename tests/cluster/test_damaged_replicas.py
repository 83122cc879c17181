"""A damaged log where others are in sync (F14, B30, B31): never served, never leading; set aside, and copied anew."""

import pytest

from callboard.actors.partition.housekeeping import CHECKPOINT_LOOKS
from callboard.config import BrokerSettings
from callboard.testing.simulated import SimulatedCluster

from .sim import describe, fetch, produce_at_leader, values_at_leader
from .test_lost_logs import partition

CHECKPOINTED_MS = 2 * CHECKPOINT_LOOKS * BrokerSettings().checkpoint_ms  # then all of a log is below its recovery point


@pytest.fixture
def cluster():
    return SimulatedCluster(brokers=3).start()


def flip_a_bit(cluster, broker, *, position=70):
    """Damage a record of the first segment, as it is on disk and in the cache."""
    disk = cluster.disks[f"broker-{broker}"]
    (name,) = [name for name in disk.list_dir(f"/data/broker-{broker}") if name.endswith("-0")]
    path = f"/data/broker-{broker}/{name}/{0:020d}.log"
    disk.corrupt(path, position)


def logs_of(cluster, broker):
    return [name for name in cluster.disks[f"broker-{broker}"].list_dir(f"/data/broker-{broker}") if "-0" in name]


def test_a_leader_that_finds_its_log_damaged_hands_over_and_copies_a_sound_one(cluster):
    topic = cluster.create_topic("orders", replication_factor=3)
    for value in (b"one", b"two", b"three"):
        assert produce_at_leader(cluster, topic, [value]).error == 0
    damaged = partition(cluster).replicas[0]
    cluster.loop.advance(CHECKPOINTED_MS)
    cluster.crash(f"broker-{damaged}")
    flip_a_bit(cluster, damaged)
    cluster.restart(f"broker-{damaged}")
    cluster.run_until(lambda: sorted(partition(cluster).isr) == [1, 2, 3])
    cluster.run_until(lambda: partition(cluster).leader == damaged, timeout_ms=30_000)  # preferred, and unsuspecting

    reply, values = fetch(cluster, topic, 0, broker=damaged)
    assert values == []
    assert reply.error
    cluster.run_until(lambda: partition(cluster).leader not in (damaged, -1))
    cluster.run_until(lambda: sorted(partition(cluster).isr) == [1, 2, 3])

    assert values_at_leader(cluster, topic) == [b"one", b"two", b"three"]
    assert sorted(name[32:] for name in logs_of(cluster, damaged)) == ["-0", "-0.damaged"]
    (replica,) = describe(cluster, damaged).replicas
    assert (replica.role, replica.log_end_offset) in [("follower", 3), ("leader", 3)]


def test_a_log_that_cannot_be_opened_for_damage_is_copied_anew(cluster):
    topic = cluster.create_topic("orders", replication_factor=3)
    for value in (b"one", b"two", b"three"):
        assert produce_at_leader(cluster, topic, [value]).error == 0
    damaged = partition(cluster).replicas[0]
    cluster.loop.advance(CHECKPOINTED_MS)
    cluster.crash(f"broker-{damaged}")
    disk = cluster.disks[f"broker-{damaged}"]
    (name,) = logs_of(cluster, damaged)
    disk.erase(f"/data/broker-{damaged}/{name}/{0:020d}.log")

    cluster.restart(f"broker-{damaged}")
    cluster.run_until(lambda: sorted(partition(cluster).isr) == [1, 2, 3])

    (replica,) = describe(cluster, damaged).replicas
    assert replica.log_end_offset == 3
    assert values_at_leader(cluster, topic) == [b"one", b"two", b"three"]
    assert f"{name}.damaged" in logs_of(cluster, damaged)


def test_the_last_in_sync_replica_keeps_its_damaged_log_and_serves_what_is_sound(cluster):
    topic = cluster.create_topic("orders", replication_factor=1)
    for value in (b"one", b"two"):
        assert produce_at_leader(cluster, topic, [value]).error == 0
    only = partition(cluster).leader
    cluster.loop.advance(CHECKPOINTED_MS)
    cluster.crash(f"broker-{only}")
    flip_a_bit(cluster, only)
    cluster.restart(f"broker-{only}")
    cluster.run_until(lambda: partition(cluster).leader == only)

    reply, values = fetch(cluster, topic, 0, broker=only)
    assert (bool(reply.error), values) == (True, [])
    assert fetch(cluster, topic, 1, broker=only)[1] == [b"two"]
    assert partition(cluster).leader == only
