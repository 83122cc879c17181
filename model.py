"""The nouns that every part shares: identifiers, partitions, records. Plain frozen values, no behaviour."""

from __future__ import annotations

import collections.abc
import re
from functools import lru_cache
from typing import Any, Generic, NamedTuple, NewType, TypeVar

import msgspec

BrokerId = NewType("BrokerId", int)  # >= 1; chosen by the operator, never reused for another log directory
TopicId = NewType("TopicId", str)  # 32 hex digits of a UUID; a re-created topic has another one
Offset = NewType("Offset", int)  # >= 0; which offset it is (fetch, log end, …) is said by the name it bears
LeaderEpoch = NewType("LeaderEpoch", int)  # >= 0, grows with each election; -1: not known
PartitionEpoch = NewType("PartitionEpoch", int)  # grows with each change of a partition's metadata
ControllerEpoch = NewType("ControllerEpoch", int)  # grows with each controller; durable in the metadata store
ProducerId = NewType("ProducerId", int)  # >= 0; -1: not idempotent
ProducerEpoch = NewType("ProducerEpoch", int)  # 0..32767
Sequence = NewType("Sequence", int)  # per producer and partition, of a batch's first record; wraps at 2**31

K = TypeVar("K")
V = TypeVar("V")

Header = tuple[str, bytes | None]

TIMESTAMP_CREATE_TIME = 0  # given by the producer; the only kind so far


OFFSETS_TOPIC = "__consumer_offsets"  # the cluster's own: where groups and their committed offsets are kept
TOPIC_NAME_MAX = 249  # characters
_TOPIC_NAME = re.compile(rf"[a-zA-Z0-9._-]{{1,{TOPIC_NAME_MAX}}}\Z")


@lru_cache(maxsize=1_024)  # asked for each record that is sent
def is_topic_name(name: str) -> bool:
    """Say whether a topic may be called so: 1 to 249 of ``a-z A-Z 0-9 . _ -``, not ``.`` or ``..``. Source: Kafka's."""
    return _TOPIC_NAME.match(name) is not None and name not in (".", "..")


class TopicPartition(NamedTuple):
    """One partition of one topic, by name. Hashable, ordered, prints as ``topic-partition``."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class PartitionKey(NamedTuple):
    """One partition of one *incarnation* of a topic: what logs, actors and metadata are keyed by."""

    topic_id: TopicId
    partition: int

    def __str__(self) -> str:
        return f"{self.topic_id}-{self.partition}"


class OffsetAndMetadata(NamedTuple):
    """A committed offset: the next record to read, with a free string of the application."""

    offset: int
    metadata: str = ""
    leader_epoch: int = -1


class ConsumerGroupMetadata(NamedTuple):
    """A member of a group as it stands: for sinks that refuse what comes from an older generation than they have seen.

    ``generation_id``: the member epoch, -1 while there is none. ``state``: "UNJOINED", "REBALANCING" or "STABLE".
    """

    group_id: str
    generation_id: int = -1
    member_id: str = ""
    group_instance_id: str | None = None
    state: str = "UNJOINED"


class OffsetAndTimestamp(NamedTuple):
    """The first record at or after a timestamp (ms since 1970)."""

    offset: int
    timestamp: int
    leader_epoch: int = -1


class RecordMetadata(NamedTuple):
    """Where an acknowledged record is. Sizes are in bytes after serialization; -1 means there was none.

    With ``acks=0`` the offset is -1: nobody said.
    """

    topic: str
    partition: int
    topic_partition: TopicPartition
    offset: int
    timestamp: int
    checksum: None = None
    serialized_key_size: int = -1
    serialized_value_size: int = -1
    serialized_header_size: int = -1


class ConsumerRecord(msgspec.Struct, Generic[K, V], frozen=True, gc=False):
    """One record as a consumer sees it. ``timestamp`` in ms since 1970; sizes in bytes, -1 for None."""

    topic: str
    partition: int
    leader_epoch: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: K
    value: V
    headers: collections.abc.Sequence[Header]  # empty, perhaps a tuple, when it has none
    checksum: None = None
    serialized_key_size: int = -1
    serialized_value_size: int = -1
    serialized_header_size: int = -1

    @property
    def topic_partition(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


AnyRecord = ConsumerRecord[Any, Any]
