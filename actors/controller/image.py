"""The cluster as one picture: everything that the metadata store told, decoded, at one version.

A ``ClusterImage`` never changes; ``with_changes`` returns the next one and shares what stayed the same, so
actors hand images around and compare them by version. Cost of a change: the topics that it touches, not the
number of partitions there are.

Who is alive is part of the picture: a broker is live while its session is there, and a partition is led by
``leader`` only while that broker lives under ``leader_incarnation``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from ...config import TopicConfig
from ...errors import InvariantViolated
from ...model import BrokerId, PartitionKey, TopicId
from ...transport import messages as m
from ..metadata.documents import (
    CLUSTER_KEY,
    LEASE_KEY,
    NO_LEADER,
    ClusterDocument,
    DeletedTopicDocument,
    LeaseDocument,
    Offline,
    PartitionDocument,
    RegistrationDocument,
    SessionDocument,
    StoredShape,
    TopicDocument,
    broker_of,
    kind_of,
    partition_of,
    read,
    rest_of,
)
from . import answers


class Change(Protocol):
    """A document as the store tells it: ``messages.Document`` or the store's own."""

    @property
    def key(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def value(self) -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class TopicImage:
    """One topic with its partitions. Between the documents of a topic nothing is half there: one commit each."""

    topic_id: TopicId
    document: TopicDocument
    version: int
    partitions: Mapping[int, PartitionDocument] = field(default_factory=dict)  # 0..document.partitions - 1
    partition_versions: Mapping[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.document.name

    def config(self, defaults: TopicConfig) -> TopicConfig:
        """Return what holds for this topic: the cluster's defaults, and over them what was set for it."""
        known = TopicConfig.__struct_fields__  # a newer Callboard may have set others
        settings = {name: value for name, value in self.document.configs.items() if name in known}
        settings["min_insync_replicas"] = self.document.min_insync_replicas
        return msgspec.structs.replace(defaults, **settings)


@dataclass(frozen=True, slots=True)
class ClusterImage:
    """See the top of the file."""

    version: int = 0  # of the store; grows
    store_incarnation: str = ""  # the life of the metadata process that told it
    cluster: ClusterDocument = field(default_factory=lambda: ClusterDocument(cluster_id=""))
    lease: LeaseDocument = field(default_factory=LeaseDocument)
    topics: Mapping[TopicId, TopicImage] = field(default_factory=dict)
    deleted: Mapping[TopicId, DeletedTopicDocument] = field(default_factory=dict)  # lately
    sessions: Mapping[str, SessionDocument] = field(default_factory=dict)  # by name; brokers' and hosts'
    registrations: Mapping[BrokerId, RegistrationDocument] = field(default_factory=dict)
    brokers: Mapping[BrokerId, SessionDocument] = field(default_factory=dict)  # the live ones, by id
    _topic_ids: Mapping[str, TopicId] = field(default_factory=dict)
    _versions: Mapping[str, int] = field(default_factory=dict)  # of documents that are neither topic nor partition

    @staticmethod
    def empty() -> ClusterImage:
        """Return the picture of somebody who was told nothing yet."""
        return _EMPTY

    @staticmethod
    def of(version: int, documents: Iterable[Change], store_incarnation: str = "") -> ClusterImage:
        """Return the picture that a snapshot shows."""
        return replace(_EMPTY, store_incarnation=store_incarnation).with_changes(version, documents)

    # -- questions -------------------------------------------------------------------------------------

    @property
    def cluster_id(self) -> str:
        return self.cluster.cluster_id

    @property
    def controller_id(self) -> int:
        """The broker that holds the lease; -1: nobody."""
        session = self.sessions.get(self.lease.holder)
        return session.broker_id if session and session.incarnation == self.lease.incarnation else -1

    def topic(self, topic_id: TopicId) -> TopicImage | None:
        return self.topics.get(topic_id)

    def topic_named(self, name: str) -> TopicImage | None:
        topic_id = self._topic_ids.get(name)
        return self.topics[topic_id] if topic_id is not None else None

    def partition(self, key: PartitionKey) -> PartitionDocument | None:
        topic = self.topics.get(key.topic_id)
        return topic.partitions.get(key.partition) if topic else None

    def is_deleted(self, topic_id: TopicId) -> bool:
        """Say whether this topic was deleted; False also of one that was never known (or very long ago)."""
        return topic_id in self.deleted

    def partitions(self) -> Iterator[tuple[PartitionKey, PartitionDocument]]:
        """All there are, topic by topic."""
        for topic_id, topic in self.topics.items():
            for number, partition in topic.partitions.items():
                yield PartitionKey(topic_id, number), partition

    def partitions_of(self, broker_id: int) -> list[PartitionKey]:
        """Return the partitions that this broker is to host a replica of. Looks at all."""
        return [key for key, partition in self.partitions() if broker_id in partition.replicas]

    def partition_count(self) -> int:
        return sum(len(topic.partitions) for topic in self.topics.values())

    def incarnation_of(self, broker_id: int) -> str:
        """Return the present life of a broker; empty: it is not live."""
        session = self.brokers.get(BrokerId(broker_id))
        return session.incarnation if session else ""

    def may_serve(self, partition: PartitionDocument, broker_id: int) -> bool:
        """Say whether this broker is live and has not given this replica up."""
        incarnation = self.incarnation_of(broker_id)
        return bool(incarnation) and Offline(broker_id, incarnation) not in partition.offline

    def leader_of(self, partition: PartitionDocument) -> int:
        """Return who leads *now*: the elected leader while it lives in the life it was elected in; else -1."""
        if partition.leader != NO_LEADER and self.incarnation_of(partition.leader) == partition.leader_incarnation:
            return partition.leader
        return NO_LEADER

    def broker_id_of(self, name: str) -> int:
        """Return the broker of a session name, or of an actor's address that ends with one; -1: not live."""
        session = self.sessions.get(name.rpartition("/")[2])
        return session.broker_id if session else -1

    def version_of(self, key: str) -> int:
        """Return the version of a document; 0: it does not exist."""
        kind = kind_of(key)
        if kind == "topic":
            topic = self.topics.get(TopicId(rest_of(key)))
            return topic.version if topic else 0
        if kind == "partition":
            place = partition_of(key)
            topic = self.topics.get(place.topic_id)
            return topic.partition_versions.get(place.partition, 0) if topic else 0
        return self._versions.get(key, 0)

    # -- answers to clients ----------------------------------------------------------------------------

    def metadata_reply(self, request: m.MetadataRequest) -> m.MetadataReply:
        """Answer who leads what."""
        return answers.metadata_reply(self, request)

    def cluster_reply(self) -> m.DescribeClusterReply:
        """Answer who is here; without what only the broker that answers knows (clients, counters)."""
        return answers.cluster_reply(self)

    # -- the next one ----------------------------------------------------------------------------------

    def with_changes(self, version: int, documents: Iterable[Change]) -> ClusterImage:
        """Return the picture after these changes, at ``version``.

        Raises:
            InvariantViolated: a document has not the shape of its kind, or a partition comes without its topic.
        """
        draft = _Draft(self)
        for document in documents:
            try:
                draft.take(document.key, document.version, document.value)
            except (msgspec.ValidationError, ValueError) as error:
                raise InvariantViolated(f"document {document.key}: {error}") from error
        return draft.finished(version)


_EMPTY = ClusterImage()


@dataclass(slots=True)
class _Topic:
    """A topic while changes are taken in."""

    document: TopicDocument | None
    version: int
    partitions: dict[int, PartitionDocument]
    versions: dict[int, int]


class _Draft:
    """Takes changes in, copying only what they touch."""

    def __init__(self, base: ClusterImage) -> None:
        self._base = base
        self._topics: dict[TopicId, _Topic] = {}  # touched
        self._sessions: dict[str, SessionDocument] | None = None
        self._deleted: dict[TopicId, DeletedTopicDocument] | None = None
        self._registrations: dict[BrokerId, RegistrationDocument] | None = None
        self._versions: dict[str, int] | None = None
        self._single: dict[str, StoredShape] = {}

    def take(self, key: str, version: int, value: dict[str, Any] | None) -> None:
        kind = kind_of(key)
        if kind == "partition":
            place = partition_of(key)
            topic = self._topic(place.topic_id)
            if value is None:
                topic.partitions.pop(place.partition, None)
                topic.versions.pop(place.partition, None)
            else:
                topic.partitions[place.partition] = read(PartitionDocument, value)
                topic.versions[place.partition] = version
            return
        if kind == "topic":
            topic = self._topic(TopicId(rest_of(key)))
            topic.document = None if value is None else read(TopicDocument, value)
            topic.version = version
            return
        if self._versions is None:
            self._versions = dict(self._base._versions)
        if value is None:
            self._versions.pop(key, None)
        else:
            self._versions[key] = version
        self._take_other(kind, key, value)

    def _take_other(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        if kind == "session":
            if self._sessions is None:
                self._sessions = dict(self._base.sessions)
            _set(self._sessions, rest_of(key), None if value is None else read(SessionDocument, value))
        elif kind == "broker":
            if self._registrations is None:
                self._registrations = dict(self._base.registrations)
            _set(self._registrations, broker_of(key), None if value is None else read(RegistrationDocument, value))
        elif kind == "deleted":
            if self._deleted is None:
                self._deleted = dict(self._base.deleted)
            _set(self._deleted, TopicId(rest_of(key)), None if value is None else read(DeletedTopicDocument, value))
        elif key == LEASE_KEY:
            self._single["lease"] = read(LeaseDocument, value or {})
        elif key == CLUSTER_KEY:
            self._single["cluster"] = read(ClusterDocument, value or {"cluster_id": ""})
        # else: of a newer Callboard; not ours to understand

    def finished(self, version: int) -> ClusterImage:
        changed: dict[str, Any] = dict(self._single)
        if self._topics:
            changed["topics"], changed["_topic_ids"] = self._finished_topics()
        if self._sessions is not None:
            changed["sessions"] = self._sessions
            changed["brokers"] = {
                BrokerId(session.broker_id): session
                for session in self._sessions.values()
                if session.kind == "broker" and session.broker_id >= 0
            }
        if self._deleted is not None:
            changed["deleted"] = self._deleted
        if self._registrations is not None:
            changed["registrations"] = self._registrations
        if self._versions is not None:
            changed["_versions"] = self._versions
        return replace(self._base, version=version, **changed)

    def _finished_topics(self) -> tuple[dict[TopicId, TopicImage], dict[str, TopicId]]:
        topics, names = dict(self._base.topics), dict(self._base._topic_ids)
        for topic_id in self._topics:
            before = topics.pop(topic_id, None)
            if before and names.get(before.name) == topic_id:
                del names[before.name]
        for topic_id, topic in self._topics.items():
            if topic.document is None:
                if topic.partitions:
                    raise InvariantViolated(f"partitions without their topic {topic_id}")
                continue
            topics[topic_id] = TopicImage(topic_id, topic.document, topic.version, topic.partitions, topic.versions)
            names[topic.document.name] = topic_id
        return topics, names

    def _topic(self, topic_id: TopicId) -> _Topic:
        topic = self._topics.get(topic_id)
        if topic is None:
            base = self._base.topics.get(topic_id)
            if base:
                topic = _Topic(base.document, base.version, dict(base.partitions), dict(base.partition_versions))
            else:
                topic = _Topic(None, 0, {}, {})
            self._topics[topic_id] = topic
        return topic


def _set(mapping: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value
