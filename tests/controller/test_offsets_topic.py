"""``__consumer_offsets`` is made ahead of the first group: the controller at work, in virtual time."""

from callboard.config import BrokerSettings
from callboard.model import OFFSETS_TOPIC
from callboard.testing.metadata_cluster import MetadataCluster
from callboard.transport import messages as m


def die(cluster, broker):
    """A broker dies, and its host has seen it."""
    broker.die()
    cluster.ask_store(m.EndSessionRequest(name=f"broker-{broker.broker_id}"))


def test_the_offsets_topic_is_made_once_there_is_a_topic_and_before_any_group_asks():
    cluster = MetadataCluster(settings=BrokerSettings(offsets_topic_ahead_ms=500)).start(brokers=3)
    cluster.advance(2_000)
    assert cluster.image.topic_named(OFFSETS_TOPIC) is None  # nobody uses this cluster yet

    cluster.create_topic("orders", 3, 3)
    cluster.advance(600)

    document = cluster.image.topic_named(OFFSETS_TOPIC).document
    assert (document.partitions, document.replication_factor, document.is_internal) == (50, 3, True)
    version = cluster.disk.version
    cluster.advance(5_000)
    assert cluster.disk.version == version  # and that is all


def test_the_offsets_topic_waits_for_as_many_brokers_as_it_is_to_have_replicas():
    cluster = MetadataCluster(settings=BrokerSettings(offsets_topic_ahead_ms=500)).start(brokers=3)
    cluster.create_topic("orders", 3, 1)
    victim = next(one for one in cluster.brokers.values() if one is not cluster.active)
    die(cluster, victim)

    cluster.advance(3_000)
    assert cluster.image.topic_named(OFFSETS_TOPIC) is None

    cluster.start_broker(victim.broker_id)
    cluster.advance(1_000)
    assert cluster.image.topic_named(OFFSETS_TOPIC).document.replication_factor == 3


def test_the_next_controller_makes_the_offsets_topic_when_the_first_one_did_not_come_to_it():
    cluster = MetadataCluster(settings=BrokerSettings(offsets_topic_ahead_ms=500, offsets_topic_replication_factor=2))
    cluster.start(brokers=3)
    cluster.create_topic("orders", 3, 3)
    victim = cluster.active
    die(cluster, victim)

    cluster.advance(3_000)

    assert cluster.image.topic_named(OFFSETS_TOPIC).document.replication_factor == 2


def test_without_a_time_the_offsets_topic_waits_for_a_group_to_ask():
    cluster = MetadataCluster(settings=BrokerSettings(offsets_topic_ahead_ms=0)).start(brokers=3)
    cluster.create_topic("orders", 3, 3)

    cluster.advance(30_000)

    assert cluster.image.topic_named(OFFSETS_TOPIC) is None
