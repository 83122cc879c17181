"""Callboard: a Kafka-like commit log whose every part is an actor.

The client's names live here; each is imported when it is first used, so ``import callboard`` costs next to nothing.

    >>> from callboard import Producer, Consumer, AdminClient, TopicPartition
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.admin import AdminClient as AdminClient
    from .client.admin_groups import MemberToRemove as MemberToRemove
    from .client.admin_requests import NewTopic as NewTopic
    from .client.aio import AsyncAdminClient as AsyncAdminClient
    from .client.aio import AsyncConsumer as AsyncConsumer
    from .client.aio import AsyncProducer as AsyncProducer
    from .client.application import AsyncConsumerRebalanceListener as AsyncConsumerRebalanceListener
    from .client.application import ConsumerRebalanceListener as ConsumerRebalanceListener
    from .client.consumer import Consumer as Consumer
    from .client.dead_letters import dlq as dlq
    from .client.futures import FutureBatchMetadata as FutureBatchMetadata
    from .client.futures import FutureRecordMetadata as FutureRecordMetadata
    from .client.group_offsets import OffsetReset as OffsetReset
    from .client.group_offsets import OffsetShift as OffsetShift
    from .client.group_offsets import OffsetSpec as OffsetSpec
    from .client.group_offsets import OffsetTimestamp as OffsetTimestamp
    from .client.group_offsets import PartitionLag as PartitionLag
    from .client.partitioners import Crc32Partitioner as Crc32Partitioner
    from .client.partitioners import Murmur2Partitioner as Murmur2Partitioner
    from .client.partitioners import Partitioner as Partitioner
    from .client.partitioners import RoundRobinPartitioner as RoundRobinPartitioner
    from .client.producer import Producer as Producer
    from .client.reading import RecordColumns as RecordColumns
    from .client.serializers import Deserializer as Deserializer
    from .client.serializers import JsonSerializer as JsonSerializer
    from .client.serializers import Serializer as Serializer
    from .client.serializers import StringSerializer as StringSerializer
    from .errors import BrokerResponseError as BrokerResponseError
    from .errors import BufferExhaustedError as BufferExhaustedError
    from .errors import CallboardError as CallboardError
    from .errors import CallboardTimeoutError as CallboardTimeoutError
    from .errors import ClientError as ClientError
    from .errors import CommitFailedError as CommitFailedError
    from .errors import ConfigurationError as ConfigurationError
    from .errors import ConnectionFailedError as ConnectionFailedError
    from .errors import ConnectionLostError as ConnectionLostError
    from .errors import DeliveryError as DeliveryError
    from .errors import ErrorCode as ErrorCode
    from .errors import ForkedClientError as ForkedClientError
    from .errors import IllegalArgumentError as IllegalArgumentError
    from .errors import IllegalStateError as IllegalStateError
    from .errors import LogTruncationError as LogTruncationError
    from .errors import MembershipLostError as MembershipLostError
    from .errors import NoOffsetForPartitionError as NoOffsetForPartitionError
    from .errors import SerializationError as SerializationError
    from .errors import error_for_code as error_for_code
    from .model import ConsumerGroupMetadata as ConsumerGroupMetadata
    from .model import ConsumerRecord as ConsumerRecord
    from .model import OffsetAndMetadata as OffsetAndMetadata
    from .model import OffsetAndTimestamp as OffsetAndTimestamp
    from .model import RecordMetadata as RecordMetadata
    from .model import TopicPartition as TopicPartition

__version__ = "0.1.0"

_HOMES = {
    "AdminClient": "client.admin",
    "MemberToRemove": "client.admin_groups",
    "NewTopic": "client.admin_requests",
    "AsyncAdminClient": "client.aio",
    "AsyncConsumer": "client.aio",
    "AsyncProducer": "client.aio",
    "AsyncConsumerRebalanceListener": "client.application",
    "ConsumerRebalanceListener": "client.application",
    "Consumer": "client.consumer",
    "dlq": "client.dead_letters",
    "RecordColumns": "client.reading",
    "FutureBatchMetadata": "client.futures",
    "FutureRecordMetadata": "client.futures",
    "OffsetReset": "client.group_offsets",
    "OffsetShift": "client.group_offsets",
    "OffsetSpec": "client.group_offsets",
    "OffsetTimestamp": "client.group_offsets",
    "PartitionLag": "client.group_offsets",
    "Crc32Partitioner": "client.partitioners",
    "Murmur2Partitioner": "client.partitioners",
    "Partitioner": "client.partitioners",
    "RoundRobinPartitioner": "client.partitioners",
    "Producer": "client.producer",
    "Deserializer": "client.serializers",
    "JsonSerializer": "client.serializers",
    "Serializer": "client.serializers",
    "StringSerializer": "client.serializers",
    "BrokerResponseError": "errors",
    "BufferExhaustedError": "errors",
    "CallboardError": "errors",
    "CallboardTimeoutError": "errors",
    "ClientError": "errors",
    "CommitFailedError": "errors",
    "ConfigurationError": "errors",
    "ConnectionFailedError": "errors",
    "ConnectionLostError": "errors",
    "DeliveryError": "errors",
    "ErrorCode": "errors",
    "ForkedClientError": "errors",
    "IllegalArgumentError": "errors",
    "IllegalStateError": "errors",
    "LogTruncationError": "errors",
    "MembershipLostError": "errors",
    "NoOffsetForPartitionError": "errors",
    "SerializationError": "errors",
    "error_for_code": "errors",
    "ConsumerGroupMetadata": "model",
    "ConsumerRecord": "model",
    "OffsetAndMetadata": "model",
    "OffsetAndTimestamp": "model",
    "RecordMetadata": "model",
    "TopicPartition": "model",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None and name != "errors":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if home is None:  # the module of all errors, for whoever writes callboard.errors.… after `import callboard`
        return import_module(f".{name}", __name__)
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
