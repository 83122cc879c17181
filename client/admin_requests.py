"""What administrators say: topics to create, as objects, names or mappings; turned into requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from ..config import nearest
from ..errors import ConfigurationError, IllegalArgumentError
from ..model import TopicPartition
from ..transport import messages as m


class NewTopic(msgspec.Struct, frozen=True):
    """A topic to create. -1: the cluster's default. ``assignments``: replicas by partition, instead of the counts."""

    name: str
    num_partitions: int = -1
    replication_factor: int = -1
    assignments: dict[int, list[int]] = {}
    configs: dict[str, Any] = {}


Topics = Sequence["NewTopic | str"] | Mapping[str, Mapping[str, Any] | int]
Partitions = Mapping[str, "int | Mapping[str, Any]"]
Changes = Mapping[str, Mapping[str, Any]]
Elections = Iterable[TopicPartition] | Mapping[str, Iterable[int]]

S = TypeVar("S", bound=msgspec.Struct)

_TOPIC_KEYS = ("num_partitions", "replication_factor", "assignments", "configs")


def topics_to_create(topics: Topics) -> list[m.NewTopic]:
    """Return the requests for ``create_topics``.

    Raises:
        TypeError, ConfigurationError: something is neither a topic nor a name, or has a key that does not exist.
    """
    if isinstance(topics, (str, NewTopic)):
        topics = [topics]
    if isinstance(topics, Mapping):
        return [_topic_from_mapping(name, given) for name, given in topics.items()]
    found = []
    for topic in topics:
        if isinstance(topic, str):
            topic = NewTopic(topic)
        if not isinstance(topic, NewTopic):
            raise TypeError(f"create_topics: expected NewTopic or a name, got {type(topic).__name__}")
        found.append(_checked(topic.name, {key: getattr(topic, key) for key in _TOPIC_KEYS}))
    return found


def partitions_to_create(topics: Partitions) -> list[m.NewPartitions]:
    """Return the requests for ``create_partitions``: new totals, with assignments of the added ones if wanted."""
    found = []
    for name, given in topics.items():
        fields = {"count": given} if isinstance(given, int) else dict(given)
        _refuse_unknown(name, fields, ("count", "assignments"))
        found.append(_convert(name, {"name": name, **fields}, m.NewPartitions))
    return found


def changes_to_make(changes: Changes) -> list[m.TopicConfigChange]:
    """Return the requests for ``alter_configs``: a value of None takes a setting back to its default."""
    return [
        m.TopicConfigChange(
            name=name,
            set={key: value for key, value in wanted.items() if value is not None},
            delete=[key for key, value in wanted.items() if value is None],
        )
        for name, wanted in changes.items()
    ]


def names_of(names: Iterable[str] | str, what: str) -> list[str]:
    listed = [names] if isinstance(names, str) else list(names)
    for name in listed:
        if not isinstance(name, str):
            raise TypeError(f"{what}: expected topic names, got {type(name).__name__}")
    return listed


def _topic_from_mapping(name: str, given: Mapping[str, Any] | int) -> m.NewTopic:
    fields = {"num_partitions": given} if isinstance(given, int) else dict(given)
    _refuse_unknown(name, fields, _TOPIC_KEYS)
    return _checked(name, fields)


def _checked(name: str, fields: Mapping[str, Any]) -> m.NewTopic:
    return _convert(name, {"name": name, **fields}, m.NewTopic)


def _refuse_unknown(name: str, fields: Mapping[str, Any], valid: tuple[str, ...]) -> None:
    for key in fields:
        if key not in valid:
            raise ConfigurationError(
                f"topic {name}: there is no {key!r}{nearest(key, valid)}; there are {', '.join(valid)}"
            )


def _convert(name: str, fields: Mapping[str, Any], kind: type[S]) -> S:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise TypeError(f"topic {name}: {str(error).replace('`', '').replace('$.', '')}") from None


def election_named(election: str | int) -> str:
    """Return the kind of election: by its name, or by its number in Kafka (0 preferred, 1 unclean)."""
    kinds = {"preferred": "preferred", "unclean": "unclean", 0: "preferred", 1: "unclean"}
    if isinstance(election, bool) or not isinstance(election, str | int):
        raise TypeError(f"election_type: expected str, got {type(election).__name__}")
    key = election.lower() if isinstance(election, str) else int(election)
    if key not in kinds:
        raise IllegalArgumentError(f"election_type: {election!r}; there are 'preferred' and 'unclean'")
    return kinds[key]


def elections_to_hold(partitions: Elections | None) -> list[m.ElectLeadersEntry] | None:
    """Return the entries for ``elect_leaders``: of partitions, or of ``{topic: [numbers]}``; None: of all."""
    if partitions is None:
        return None
    if isinstance(partitions, Mapping):
        partitions = [TopicPartition(topic, number) for topic, numbers in partitions.items() for number in numbers]
    found = []
    for given in partitions:
        key = TopicPartition(*given)
        found.append(_convert(key.topic, {"topic": key.topic, "partition": key.partition}, m.ElectLeadersEntry))
    return found


def deletions_to_make(records: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Return what ``delete_records`` was given, checked: partitions, and offsets of at least -1."""
    if not isinstance(records, Mapping):
        raise TypeError(f"records_to_delete: expected a mapping of TopicPartition, got {type(records).__name__}")
    found = {}
    for key, offset in records.items():
        partition = TopicPartition(*key)
        if type(offset) is not int:
            raise TypeError(f"offset of {partition}: expected int, got {type(offset).__name__}")
        if offset < -1:
            raise IllegalArgumentError(f"offset of {partition}: {offset}; -1 means the high watermark")
        found[partition] = offset
    return found
