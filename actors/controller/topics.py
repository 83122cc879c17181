"""Topics: created, deleted, altered, given more partitions. Pure: a wish and a draft in, a result out.

A wish is granted whole or refused whole, with the error a person can act on. Granted: the draft holds its
documents, the topic's and its partitions' together, so that no picture ever shows half a topic.

Names are Kafka's: 1 to 249 of ``a-z A-Z 0-9 . _ -``, not ``.`` or ``..``. Names that begin with ``__`` are the
cluster's own. Settings are checked by ``config.configure``; Kafka's spelling (``segment.bytes``, numbers as
strings) is understood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from ...config import BrokerSettings, ClusterConfig, Limits, TopicConfig, configure, nearest, shown
from ...errors import ConfigurationError, ErrorCode
from ...model import PartitionKey, TopicId, is_topic_name
from ...transport.messages import NewPartitions, NewTopic, TopicConfigChange, TopicResult
from ..metadata.documents import (
    NO_LEADER,
    DeletedTopicDocument,
    PartitionDocument,
    StoredShape,
    TopicDocument,
    deleted_key,
    partition_key,
    topic_key,
)
from .assignment import assign, loads
from .draft import Draft
from .eligibility import caught_up_with
from .image import ClusterImage, TopicImage

INTERNAL_PREFIX = "__"
NAME_LENGTH_MAX = 249
DELETED_MAX = 10_000  # marks of deleted topics
INT64_MAX = (1 << 63) - 1

Problem = tuple[ErrorCode, str]


@dataclass(frozen=True, slots=True)
class TopicRules:
    """What holds for all topics of a cluster."""

    defaults: TopicConfig = field(default_factory=TopicConfig)
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    limits: Limits = field(default_factory=Limits)
    brokers: int = 0  # that this host is to have, registered or not

    @staticmethod
    def of(config: ClusterConfig) -> TopicRules:
        return TopicRules(config.topic, config.broker, config.limits, config.brokers)

    # -- create ----------------------------------------------------------------------------------------

    def create(
        self, draft: Draft, wish: NewTopic, topic_id: TopicId, now_ms: int, *, is_internal: bool = False
    ) -> TopicResult:
        """Create a topic. ``now_ms``: wall clock, for people. ``is_internal``: the cluster itself asks."""
        image = draft.image
        if problem := self._problem_with_name(image, wish.name, is_internal):
            return refused(wish.name, problem)
        assignments = self._assignments(image, wish)
        if isinstance(assignments, TopicResult):
            return assignments
        replication_factor = len(assignments[0])
        overrides = self._overrides(wish.name, wish.configs)
        if isinstance(overrides, TopicResult):
            return overrides
        document = TopicDocument(
            name=wish.name,
            partitions=len(assignments),
            replication_factor=replication_factor,
            created_ms=now_ms,
            is_internal=is_internal,
        )
        settled = self._with_configs(document, overrides, settle=True)
        if isinstance(settled, TopicResult):
            return settled
        changes: list[tuple[str, StoredShape | None]] = [(topic_key(topic_id), settled)]
        draft.put(changes + new_partitions(image, topic_id, 0, assignments))
        return TopicResult(
            name=wish.name,
            topic_id=topic_id,
            num_partitions=len(assignments),
            replication_factor=replication_factor,
        )

    def _problem_with_name(self, image: ClusterImage, name: str, is_internal: bool) -> Problem | None:
        if not is_topic_name(name):
            return ErrorCode.INVALID_TOPIC, f"{_shown(name)} is not a topic name"
        if name.startswith(INTERNAL_PREFIX) and not is_internal:
            return ErrorCode.INVALID_TOPIC, f"{name!r}: names that begin with {INTERNAL_PREFIX!r} are the cluster's own"
        if image.topic_named(name):
            return ErrorCode.TOPIC_ALREADY_EXISTS, f"there is a topic {name!r} already"
        if len(image.topics) >= self.limits.topics:
            return ErrorCode.LIMIT_EXCEEDED, f"{name}: the cluster has its limit of {self.limits.topics} topics"
        return None

    def _assignments(self, image: ClusterImage, wish: NewTopic) -> list[tuple[int, ...]] | TopicResult:
        """Return the replicas of each partition: as asked for, or spread."""
        if wish.assignments:
            return self._given_assignments(image, wish)
        partitions = self.broker.default_partitions if wish.num_partitions == -1 else wish.num_partitions
        if problem := self._problem_with_count(image, wish.name, partitions, partitions):
            return refused(wish.name, problem)
        brokers = loads(image)
        factor = wish.replication_factor
        if factor == -1:  # as many as the default says, or as there are
            factor = min(self.broker.default_replication_factor, max(1, len(image.registrations)))
        if not 1 <= factor <= len(brokers):
            return refused(wish.name, _too_few_brokers(image, wish.name, factor))
        return assign(brokers, partitions, factor)

    def _given_assignments(self, image: ClusterImage, wish: NewTopic) -> list[tuple[int, ...]] | TopicResult:
        name, count = wish.name, len(wish.assignments)
        if wish.num_partitions not in (-1, count):
            return refused(name, (ErrorCode.INVALID_PARTITIONS, f"{name}: {count} assignments given, and a count"))
        if sorted(wish.assignments) != list(range(count)):
            detail = f"{name}: assignments must be of the partitions 0 to {count - 1}"
            return refused(name, (ErrorCode.INVALID_REPLICA_ASSIGNMENT, detail))
        assignments = [wish.assignments[number] for number in range(count)]
        if wish.replication_factor not in (-1, len(assignments[0])):
            detail = f"{name}: assignments of {len(assignments[0])} replicas given, and another replication factor"
            return refused(name, (ErrorCode.INVALID_REPLICATION_FACTOR, detail))
        problem = self._problem_with_count(image, name, count, count)
        problem = problem or _problem_with_assignments(image, name, assignments, len(assignments[0]))
        return refused(name, problem) if problem else [tuple(replicas) for replicas in assignments]

    def _problem_with_count(self, image: ClusterImage, name: str, count: int, added: int) -> Problem | None:
        if count < 1:
            return ErrorCode.INVALID_PARTITIONS, f"{name}: {count} partitions"
        if count > self.limits.partitions_per_topic:
            limit = self.limits.partitions_per_topic
            return ErrorCode.LIMIT_EXCEEDED, f"{name}: {count} partitions; a topic has {limit} at most"
        if image.partition_count() + added > self.limits.partitions:
            limit = self.limits.partitions
            return ErrorCode.LIMIT_EXCEEDED, f"{name}: the cluster would have more than its {limit} partitions"
        return None

    # -- settings --------------------------------------------------------------------------------------

    def alter(self, draft: Draft, wish: TopicConfigChange) -> TopicResult:
        """Set settings of a topic, or give them their defaults back."""
        topic = draft.image.topic_named(wish.name)
        if problem := _problem_with_target(topic, wish.name):
            return refused(wish.name, problem)
        if topic is None:  # said above
            return _unknown(wish.name)
        overrides = self._overrides(wish.name, wish.set)
        if isinstance(overrides, TopicResult):
            return overrides
        deleted = [_spelled(name) for name in wish.delete]
        for name in deleted:
            if name not in _TYPES:
                detail = f"topic {wish.name}: there is no setting {shown(name)}{nearest(name, _TYPES)}"
                return refused(wish.name, (ErrorCode.INVALID_CONFIGURATION, detail))
        kept = {name: value for name, value in topic.document.configs.items() if name not in deleted}
        settle = "min_insync_replicas" in (*overrides, *deleted)
        document = self._with_configs(topic.document, {**kept, **overrides}, settle=settle)
        if isinstance(document, TopicResult):
            return document
        if document != topic.document:
            draft.put([(topic_key(topic.topic_id), document), *_with_minimum(topic, document.min_insync_replicas)])
        return _result(topic)

    def _overrides(self, name: str, given: Mapping[str, Any]) -> dict[str, Any] | TopicResult:
        """Return the settings given, checked and in their own types."""
        where = f"topic {name}"
        try:
            values = {_spelled(key): _typed(_spelled(key), value, where) for key, value in given.items()}
            configure(TopicConfig, values, where)
        except ConfigurationError as error:
            return refused(name, (ErrorCode.INVALID_CONFIGURATION, str(error)))
        if values.get("min_insync_replicas") == 0:  # the cluster's own may be: what it means there is settled here
            detail = f"{where}: min_insync_replicas must be at least 1; leave it out to have the cluster's"
            return refused(name, (ErrorCode.INVALID_CONFIGURATION, detail))
        return values

    def _with_configs(
        self, document: TopicDocument, overrides: dict[str, Any], *, settle: bool
    ) -> TopicDocument | TopicResult:
        """Return the document with these settings.

        Args:
            settle: settle ``min_insync_replicas`` too: what the topic says, else what the cluster says (as far
                as there are replicas), else max(1, replication factor - 1). Otherwise it stays as it was.
        """
        factor, minimum = document.replication_factor, document.min_insync_replicas
        if settle:
            minimum = overrides.get("min_insync_replicas") or min(self.defaults.min_insync_replicas, factor)
            minimum = minimum or max(1, factor - 1)
        if minimum > factor:
            detail = f"topic {document.name}: min_insync_replicas {minimum} is above the replication factor {factor}"
            return refused(document.name, (ErrorCode.INVALID_CONFIGURATION, detail))
        return replace(document, configs=overrides, min_insync_replicas=minimum)

    # -- more partitions -------------------------------------------------------------------------------

    def add_partitions(self, draft: Draft, wish: NewPartitions) -> TopicResult:
        """Give a topic more partitions. The records that are there stay where they are."""
        image, name = draft.image, wish.name
        topic = image.topic_named(name)
        if problem := _problem_with_target(topic, name):
            return refused(name, problem)
        if topic is None:  # said above
            return _unknown(name)
        present, factor = topic.document.partitions, topic.document.replication_factor
        added = wish.count - present
        if added < 1:
            return refused(name, (ErrorCode.INVALID_PARTITIONS, f"{name} has {present} partitions already"))
        if problem := self._problem_with_count(image, name, wish.count, added):
            return refused(name, problem)
        if wish.assignments:
            if len(wish.assignments) != added:
                detail = f"{name}: {len(wish.assignments)} assignments for {added} new partitions"
                return refused(name, (ErrorCode.INVALID_REPLICA_ASSIGNMENT, detail))
            if problem := _problem_with_assignments(image, name, wish.assignments, factor):
                return refused(name, problem)
            assignments = [tuple(replicas) for replicas in wish.assignments]
        else:
            brokers = loads(image)
            if factor > len(brokers):
                return refused(name, _too_few_brokers(image, name, factor))
            assignments = assign(brokers, added, factor, topic)
        document = replace(topic.document, partitions=wish.count)
        changes: list[tuple[str, StoredShape | None]] = [(topic_key(topic.topic_id), document)]
        draft.put(changes + new_partitions(image, topic.topic_id, present, assignments))
        return replace(_result(topic), num_partitions=wish.count)


def delete(draft: Draft, name: str, now_ms: int) -> TopicResult:
    """Delete a topic, its partitions with it: brokers remove their logs when the documents are gone.

    A broker that is away now learns it from the mark that stays behind.
    """
    topic = draft.image.topic_named(name)
    if problem := _problem_with_target(topic, name):
        return refused(name, problem)
    if topic is None:  # said above
        return _unknown(name)
    keys = [partition_key(PartitionKey(topic.topic_id, number)) for number in topic.partitions]
    marks = sorted(draft.image.deleted.items(), key=lambda item: item[1].deleted_ms)
    changes: list[tuple[str, StoredShape | None]] = [(key, None) for key in (*keys, topic_key(topic.topic_id))]
    changes += [(deleted_key(topic_id), None) for topic_id, _ in marks[: max(0, len(marks) + 1 - DELETED_MAX)]]
    changes.append((deleted_key(topic.topic_id), DeletedTopicDocument(name=name, deleted_ms=now_ms)))
    draft.put(changes)
    return _result(topic)


def new_partitions(
    image: ClusterImage, topic_id: TopicId, first: int, assignments: Sequence[tuple[int, ...]]
) -> list[tuple[str, StoredShape | None]]:
    """Return the documents of partitions that begin to exist: empty, so every live replica is in sync."""
    return [
        (partition_key(PartitionKey(topic_id, number)), _new_partition(image, replicas))
        for number, replicas in enumerate(assignments, start=first)
    ]


def _new_partition(image: ClusterImage, replicas: tuple[int, ...]) -> PartitionDocument:
    live = tuple(broker_id for broker_id in replicas if image.incarnation_of(broker_id))
    leader = live[0] if live else NO_LEADER
    partition = PartitionDocument(
        replicas=replicas,
        isr=live or replicas[:1],
        leader=leader,
        leader_incarnation=image.incarnation_of(leader) if live else "",
    )
    return replace(partition, caught_up=caught_up_with(image, partition, partition.isr, live))


def _with_minimum(topic: TopicImage, minimum: int) -> list[tuple[str, StoredShape | None]]:
    """Return the topic's partitions under another ``min_insync_replicas``: all of them change, or none.

    Who is eligible outside the ISR is so while the ISR is below the minimum: with a lower minimum records are
    committed without them. And a leader that still knows the old one must not change its ISR by it: the new
    partition epoch fences that.
    """
    if minimum == topic.document.min_insync_replicas:
        return []
    return [
        (
            partition_key(PartitionKey(topic.topic_id, number)),
            replace(
                partition,
                elr=partition.elr if len(partition.isr) < minimum or partition.leader == NO_LEADER else (),
                partition_epoch=partition.partition_epoch + 1,
            ),
        )
        for number, partition in topic.partitions.items()
    ]


def refused(name: str, problem: Problem) -> TopicResult:
    error, detail = problem
    return TopicResult(name=name, error=error, detail=detail)


def _result(topic: TopicImage) -> TopicResult:
    return TopicResult(
        name=topic.name,
        topic_id=topic.topic_id,
        num_partitions=topic.document.partitions,
        replication_factor=topic.document.replication_factor,
    )


def _unknown(name: str) -> TopicResult:
    return refused(name, (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {_shown(name)}"))


def _problem_with_target(topic: TopicImage | None, name: str) -> Problem | None:
    """Say why this topic cannot be deleted or changed by a user."""
    if topic is None:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {_shown(name)}"
    if topic.document.is_internal:
        return ErrorCode.INVALID_TOPIC, f"{name!r} is the cluster's own"
    return None


def _problem_with_assignments(
    image: ClusterImage, name: str, assignments: Sequence[Sequence[int]], factor: int
) -> Problem | None:
    for replicas in assignments:
        if not replicas or len(set(replicas)) != len(replicas):
            return ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{name}: {list(replicas)} is not a list of distinct brokers"
        if len(replicas) != factor:
            return ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{name}: {list(replicas)} is not of {factor} brokers"
        if unknown := [one for one in replicas if one not in image.registrations and one not in image.brokers]:
            return ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{name}: there is no broker {unknown[0]}"
    return None


def _too_few_brokers(image: ClusterImage, name: str, factor: int) -> Problem:
    return ErrorCode.INVALID_REPLICATION_FACTOR, (
        f"{name}: replication factor {factor} with {len(image.brokers)} live brokers of {len(image.registrations)}: "
        "each replica needs a broker of its own"
    )


def _spelled(name: str) -> str:
    """Return a setting's name as Callboard spells it: Kafka's ``segment.bytes`` is ``segment_bytes``."""
    return name.replace(".", "_").replace("-", "_")


def _typed(name: str, value: Any, where: str) -> Any:
    """Return a setting's value, a number given as a string as a number. What is wrong is left for configure."""
    kind = _TYPES.get(name)
    if name == "cleanup_policy" and isinstance(value, str):  # Kafka's is a list, in any order
        value = ",".join(sorted({one.strip() for one in value.split(",")}, reverse=True))
    if isinstance(value, str) and kind is not None:
        try:
            value = msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError:
            return value
    if isinstance(value, int) and abs(value) > INT64_MAX:
        raise ConfigurationError(f"{where}: {name}: {value} does not fit into 64 bits")
    return value


_TYPES = {field.name: field.type for field in msgspec.structs.fields(TopicConfig)}


def _shown(name: str) -> str:
    return repr(name if len(name) <= NAME_LENGTH_MAX else name[:NAME_LENGTH_MAX] + "…")
