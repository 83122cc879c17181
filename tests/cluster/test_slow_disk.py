"""A disk that has become slow, but not failed (F18): leadership moves to whoever is in sync, nothing is lost."""

import pytest

from callboard.config import BrokerSettings, ClusterConfig
from callboard.testing.simulated import SimulatedCluster

from .sim import partition_of, produce_at_leader, values_at_leader

SLOW_MS = 60_000


@pytest.fixture
def cluster():
    return SimulatedCluster(brokers=3).start()


def slow_down(cluster, broker_id):
    cluster.processes[f"broker-{broker_id}"].context.pool.delay_ms = SLOW_MS


def test_a_leader_whose_syncs_take_too_long_hands_over_to_an_in_sync_replica(cluster):
    topic = cluster.create_topic("orders", replication_factor=3)
    first = partition_of(cluster, topic).leader
    assert produce_at_leader(cluster, topic, [b"before"]).error == 0

    slow_down(cluster, first)
    produce_at_leader(cluster, topic, [b"stuck"], acks=1)
    cluster.run_until(lambda: partition_of(cluster, topic).leader not in (first, -1), timeout_ms=10_000)

    assert produce_at_leader(cluster, topic, [b"after"]).error == 0
    assert values_at_leader(cluster, topic)[0] == b"before"
    assert values_at_leader(cluster, topic)[-1] == b"after"


def test_a_follower_whose_syncs_take_too_long_leaves_the_in_sync_set(cluster):
    topic = cluster.create_topic("orders", replication_factor=3)
    leader = partition_of(cluster, topic).leader
    follower = next(one for one in partition_of(cluster, topic).isr if one != leader)

    slow_down(cluster, follower)
    produce_at_leader(cluster, topic, [b"one"], acks=1)
    cluster.run_until(lambda: follower not in partition_of(cluster, topic).isr, timeout_ms=20_000)

    left = partition_of(cluster, topic)
    assert left.leader == leader
    assert produce_at_leader(cluster, topic, [b"two"]).error == 0
    cluster.loop.advance(5_000)
    assert partition_of(cluster, topic) == left, "who is out does not come and go"


def test_a_single_replica_goes_on_waiting_for_its_disk(cluster):
    topic = cluster.create_topic("orders", replication_factor=1)
    before = partition_of(cluster, topic)

    slow_down(cluster, before.leader)
    produce_at_leader(cluster, topic, [b"one"], acks=1)
    cluster.loop.advance(5_000)

    after = partition_of(cluster, topic)
    assert (after.leader, after.leader_epoch) == (before.leader, before.leader_epoch)


def test_a_process_that_was_stopped_during_a_sync_does_not_blame_its_disk(caplog):
    cluster = SimulatedCluster(
        config=ClusterConfig(brokers=3, data_dir="/data", broker=BrokerSettings(storage_slow_ms=3_000))
    ).start()
    topic = cluster.create_topic("orders", replication_factor=3)
    leader = cluster.processes[f"broker-{partition_of(cluster, topic).leader}"]

    leader.context.pool.delay_ms = 2_000  # long, and not too long
    produce_at_leader(cluster, topic, [b"one"], acks=1)
    leader.loop.pause()
    cluster.loop.advance(10_000)
    leader.loop.resume()
    cluster.loop.advance(5_000)

    assert "disk.slow" not in caplog.text
