"""The metadata store in memory, and pictures of clusters made by hand: for tests and for the simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from ..actors.controller.draft import Draft
from ..actors.controller.image import ClusterImage
from ..actors.controller.topics import new_partitions
from ..actors.metadata.documents import (
    CLUSTER_KEY,
    LEASE_KEY,
    ClusterDocument,
    LeaseDocument,
    RegistrationDocument,
    SessionDocument,
    StoredShape,
    TopicDocument,
    registration_key,
    session_key,
    topic_key,
    written,
)
from ..errors import InvariantViolated, StorageError
from ..model import TopicId
from ..storage.metadata_store import DocumentStore, Row, StoredDocument
from ..transport.messages import Document


class MemoryDisk:
    """What a ``MemoryStore`` leaves behind. One store at a time owns it, as with the file."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.version = 0
        self.next_producer_id = 0
        self.owner: MemoryStore | None = None
        self.groups = 0  # written; each would have been one fsync
        self.before_write: Callable[[], None] | None = None  # may raise: nothing of that group is written
        self.after_write: Callable[[], None] | None = None  # may raise: it is written and nobody is told


class MemoryStore(DocumentStore):
    """The rules of the real store over a ``MemoryDisk``."""

    def __init__(self, disk: MemoryDisk) -> None:
        super().__init__()
        if disk.owner is not None:
            raise StorageError("another process has the metadata store open")
        self._disk = disk
        disk.owner = self

    def close(self) -> None:
        super().close()
        if self._disk.owner is self:
            self._disk.owner = None

    def _read(self) -> tuple[list[StoredDocument], int, int]:
        return self.documents_of(self._disk), self._disk.version, self._disk.next_producer_id

    @staticmethod
    def documents_of(disk: MemoryDisk) -> list[StoredDocument]:
        return [StoredDocument(row.key, row.version, orjson.loads(row.value or b"null")) for row in disk.rows.values()]

    def _persist(self, rows: Sequence[Row], was: int, version: int, next_producer_id: int) -> None:
        disk = self._disk
        if disk.before_write is not None:
            disk.before_write()
        if disk.owner is not self or disk.version != was:
            raise InvariantViolated(f"somebody else wrote to the metadata store (it is not at version {was})")
        for row in rows:
            if row.value is None:
                disk.rows.pop(row.key, None)
            else:
                disk.rows[row.key] = row
        disk.version, disk.next_producer_id = version, next_producer_id
        disk.groups += 1
        if disk.after_write is not None:
            disk.after_write()


def image_with(
    brokers: Iterable[int] | Mapping[int, str] = (1, 2, 3),
    *,
    topics: Mapping[str, Sequence[Sequence[int]]] | None = None,
    registered: Iterable[int] = (),
    hosts: Mapping[int, str] | None = None,
    controller: int = 1,
    configs: Mapping[str, Any] | None = None,
) -> ClusterImage:
    """Return a picture: live brokers, and topics with the replicas of each partition, all in sync.

    Args:
        brokers: the live ones, with their incarnations if given (else ``"i1"`` of broker 1 …).
        topics: name -> replicas by partition. A topic's id is 32 hex digits made of its place: ``topic_id_of``.
        registered: more brokers that were here once.
        configs: settings of every topic.
    """
    incarnations = dict(brokers) if isinstance(brokers, Mapping) else {one: f"i{one}" for one in brokers}
    documents: list[tuple[str, StoredShape]] = [(CLUSTER_KEY, ClusterDocument(cluster_id="c" * 32))]
    for broker_id, incarnation in incarnations.items():
        documents.append((session_key(f"broker-{broker_id}"), a_session(broker_id, incarnation, hosts)))
    for broker_id in {*incarnations, *registered}:
        registration = RegistrationDocument(name=f"broker-{broker_id}", incarnation=incarnations.get(broker_id, "old"))
        documents.append((registration_key(broker_id), registration))
    if controller in incarnations:
        lease = LeaseDocument(holder=f"broker-{controller}", incarnation=incarnations[controller], controller_epoch=1)
        documents.append((LEASE_KEY, lease))
    image = ClusterImage.of(1, [Document(key=key, version=1, value=written(shape)) for key, shape in documents], "s")
    for place, (name, replicas) in enumerate((topics or {}).items()):
        image = with_topic(image, name, replicas, topic_id_of(place), configs)
    return image


def a_session(
    broker_id: int, incarnation: str, hosts: Mapping[int, str] | None = None, *, is_after_reboot: bool = False
) -> SessionDocument:
    return SessionDocument(
        incarnation=incarnation,
        broker_id=broker_id,
        endpoints=(f"tcp://127.0.0.1:{9_191 + broker_id}",),
        machine="m",
        host=(hosts or {}).get(broker_id, "h"),
        is_after_reboot=is_after_reboot,
    )


def topic_id_of(place: int) -> TopicId:
    return TopicId(f"{place:032x}")


def with_topic(
    image: ClusterImage,
    name: str,
    replicas: Sequence[Sequence[int]],
    topic_id: TopicId,
    configs: Mapping[str, Any] | None = None,
) -> ClusterImage:
    factor = len(replicas[0])
    topic = TopicDocument(
        name=name,
        partitions=len(replicas),
        replication_factor=factor,
        min_insync_replicas=max(1, factor - 1),
        configs=dict(configs or {}),
    )
    changes: list[tuple[str, StoredShape | None]] = [(topic_key(topic_id), topic)]
    return with_documents(image, changes + new_partitions(image, topic_id, 0, [tuple(one) for one in replicas]))


def with_documents(image: ClusterImage, changes: Iterable[tuple[str, StoredShape | None]]) -> ClusterImage:
    """Return the next picture, after these changes."""
    version = image.version + 1
    values: list[tuple[str, dict[str, Any] | None]] = [
        (key, None if shape is None else written(shape)) for key, shape in changes
    ]
    return image.with_changes(version, [Document(key=key, version=version, value=value) for key, value in values])


def stored(draft: Draft) -> ClusterImage:
    """Return the picture after a draft was committed."""
    version = draft.base.version + 1
    return draft.base.with_changes(
        version, [Document(key=put.key, version=version, value=put.value) for put in draft.puts()]
    )


def without_broker(image: ClusterImage, *broker_ids: int) -> ClusterImage:
    """Return the picture after the sessions of these brokers ended."""
    return with_documents(image, [(session_key(f"broker-{broker_id}"), None) for broker_id in broker_ids])


def with_broker(
    image: ClusterImage, broker_id: int, incarnation: str, *, is_after_reboot: bool = False
) -> ClusterImage:
    """Return the picture after a session of this broker began. ``is_after_reboot``: its machine has booted since."""
    session = a_session(broker_id, incarnation, is_after_reboot=is_after_reboot)
    return with_documents(image, [(session_key(f"broker-{broker_id}"), session)])
