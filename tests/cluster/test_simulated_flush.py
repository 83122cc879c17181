"""When the disk is asked to keep what it was given: ``flush=ack`` at once, ``flush=os`` with the next checkpoint."""

import pytest

from callboard.config import BrokerSettings
from callboard.storage.batch import encode_batch
from callboard.testing.simulated import SimulatedCluster
from callboard.transport import messages as m


@pytest.fixture
def cluster():
    return SimulatedCluster(brokers=1).start()


def produce(cluster, topic):
    frames = encode_batch(None, [b"a"], 1_000)
    partition = topic.partitions[0]
    entry = m.ProduceEntry(
        topic_id=topic.topic_id, partition=0, leader_epoch=partition.leader_epoch, frames=len(frames)
    )
    (reply,) = cluster.ask(
        cluster.client_endpoint(partition.leader), m.ProduceRequest(acks=-1, entries=[entry]), frames
    ).entries
    return reply


def actor_of(cluster, topic):
    broker = f"broker-{topic.partitions[0].leader}"
    return cluster.processes[broker].context.directory.find(f"{broker}/partitions/{topic.name}-0").actor


def log_of(cluster, topic):
    return actor_of(cluster, topic)._log


def test_flush_ack_syncs_before_it_acknowledges(cluster):
    topic = cluster.create_topic("orders", flush="ack")

    assert produce(cluster, topic).error == 0

    assert log_of(cluster, topic).durable_offset == 1


def test_flush_os_leaves_the_sync_to_the_next_checkpoint(cluster):
    topic = cluster.create_topic("orders", flush="os")

    assert produce(cluster, topic).error == 0
    cluster.loop.advance(100)
    assert log_of(cluster, topic).durable_offset == 0, "nobody asked for it"

    cluster.loop.advance(3 * BrokerSettings().checkpoint_ms)  # the second tick knows that the first one synced
    assert log_of(cluster, topic).durable_offset == 1


def test_a_topic_that_is_changed_to_flush_ack_syncs_what_it_has(cluster):
    topic = cluster.create_topic("orders", flush="os")
    produce(cluster, topic)

    cluster.ask(
        cluster.client_endpoint(1),
        m.AlterTopicsRequest(topics=[m.TopicConfigChange(name="orders", set={"flush": "ack"})]),
    )
    cluster.loop.advance(200)

    assert log_of(cluster, topic).durable_offset == 1


def test_an_idle_partition_wakes_up_ever_more_rarely_until_it_is_used_again(cluster):
    topic = cluster.create_topic("orders", flush="os")
    produce(cluster, topic)
    checkpoint_ms = BrokerSettings().checkpoint_ms
    actor = actor_of(cluster, topic)
    ticks = []
    on_tick = actor._log.roll_if_due
    actor._log.roll_if_due = lambda now_ms: (ticks.append(now_ms), on_tick(now_ms))

    cluster.loop.advance(100 * checkpoint_ms)
    assert 5 < len(ticks) < 20, "and not 100"

    produce(cluster, topic)
    cluster.loop.advance(3 * checkpoint_ms)
    assert actor._log.durable_offset == 2, "soon, not when the idle partition would have woken up"
