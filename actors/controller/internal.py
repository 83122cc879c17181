"""The cluster's own topic: ``__consumer_offsets``, made ahead of the first group, or when that asks. Pure.

Ahead: its 150 replicas take some tenths of a second, which would be the first member's to wait for. Not before there
is a topic that could be consumed: a cluster that nobody uses writes nothing.

How many partitions and replicas it has is the controller's to say, whatever a broker asks for. It waits until as many
brokers live as it is to have replicas: made with the first broker's session, it would have a single one for ever.
"""

from __future__ import annotations

from ...config import MIB, BrokerSettings
from ...model import OFFSETS_TOPIC
from ...transport.messages import CreateTopicsRequest, NewTopic, Request
from .image import ClusterImage

CONFIGS = {
    "flush": "ack",
    "cleanup_policy": "compact",  # what is committed does not age: it is replaced, or its group forgotten
    # What is closed can be compacted; what is not is read whenever a coordinator begins. Kafka's 100 MiB are some
    # 500,000 commits, which would hardly ever be compacted here; 4 MiB are 20,000, read in a fraction of a second.
    "segment_bytes": 4 * MIB,
    "max_message_bytes": 64 * MIB,  # all that one decision changes is one batch
}

OFFSETS_TOPIC_WANTED = CreateTopicsRequest(topics=[NewTopic(name=OFFSETS_TOPIC)])  # all else is the controller's to say


def is_for_cluster(request: Request) -> bool:
    """Say whether a broker asks for the cluster's own topic, and for nothing else."""
    return isinstance(request, CreateTopicsRequest) and [wish.name for wish in request.topics] == [OFFSETS_TOPIC]


def offsets_replication_factor(settings: BrokerSettings, brokers: int, image: ClusterImage) -> int:
    """Return how many replicas it is to have: as the settings say, or as many as there are brokers.

    Args:
        brokers: how many this host is to have; some of them may not have registered yet.
    """
    return min(settings.offsets_topic_replication_factor, max(1, brokers, len(image.registrations)))


def is_offsets_topic_due(settings: BrokerSettings, brokers: int, image: ClusterImage) -> bool:
    """Say whether it should be made now, though nobody has asked: it is missing, and can be made as it should be."""
    if image.topic_named(OFFSETS_TOPIC) is not None or not image.topics:
        return False
    return len(image.brokers) >= offsets_replication_factor(settings, brokers, image)


def offsets_topic(settings: BrokerSettings, brokers: int, image: ClusterImage) -> NewTopic:
    return NewTopic(
        name=OFFSETS_TOPIC,
        num_partitions=settings.offsets_topic_partitions,
        replication_factor=offsets_replication_factor(settings, brokers, image),
        configs=dict(CONFIGS),
    )
