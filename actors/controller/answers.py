"""What clients are told of the cluster: the image in the words of the protocol. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ErrorCode
from ...transport import messages as m
from ..metadata.documents import PartitionDocument, SessionDocument

if TYPE_CHECKING:
    from .image import ClusterImage, TopicImage


def metadata_reply(image: ClusterImage, request: m.MetadataRequest) -> m.MetadataReply:
    """Answer who leads what. A topic that is not there has its own error; the others are told all the same."""
    if request.topics is None:
        found = [topic for topic in image.topics.values() if request.include_internal or not topic.document.is_internal]
        topics = [topic_metadata(image, topic) for topic in sorted(found, key=lambda topic: topic.name)]
    else:
        topics = [_named(image, name) for name in dict.fromkeys(request.topics)]
    return m.MetadataReply(
        cluster_id=image.cluster_id,
        version=image.version,
        controller_id=image.controller_id,
        brokers=_brokers(image),
        topics=topics,
    )


def cluster_reply(image: ClusterImage) -> m.DescribeClusterReply:
    """Answer who is here; the broker that answers adds its clients and counters."""
    return m.DescribeClusterReply(
        cluster_id=image.cluster_id,
        version=image.version,
        controller_id=image.controller_id,
        controller_epoch=image.lease.controller_epoch,
        brokers=_brokers(image),
        hosts=[
            m.HostMetadata(name=name, endpoints=list(session.endpoints), machine=session.machine)
            for name, session in sorted(image.sessions.items())
            if session.kind == "host"
        ],
    )


def topic_metadata(image: ClusterImage, topic: TopicImage) -> m.TopicMetadata:
    return m.TopicMetadata(
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.document.is_internal,
        partitions=[_partition(image, number, topic.partitions[number]) for number in sorted(topic.partitions)],
        configs=dict(topic.document.configs),
    )


def _named(image: ClusterImage, name: str) -> m.TopicMetadata:
    topic = image.topic_named(name)
    if topic:
        return topic_metadata(image, topic)
    return m.TopicMetadata(
        name=name, error=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, detail=f"there is no topic {name[:249]!r}"
    )


def _partition(image: ClusterImage, number: int, partition: PartitionDocument) -> m.PartitionMetadata:
    replicas = partition.replicas
    return m.PartitionMetadata(
        partition=number,
        leader=image.leader_of(partition),
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        replicas=list(replicas),
        isr=list(partition.isr),
        elr=list(partition.elr),
        offline_replicas=[broker_id for broker_id in replicas if not image.may_serve(partition, broker_id)],
    )


def _brokers(image: ClusterImage) -> list[m.BrokerMetadata]:
    return [_broker(broker_id, session) for broker_id, session in sorted(image.brokers.items())]


def _broker(broker_id: int, session: SessionDocument) -> m.BrokerMetadata:
    return m.BrokerMetadata(
        id=broker_id,
        endpoints=list(session.endpoints),
        machine=session.machine,
        host=session.host,
        incarnation=session.incarnation,
    )
