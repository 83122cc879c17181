"""What the metadata store holds: the keys, and the shape of the document under each.

    cluster                    ClusterDocument       written once
    topic/<topic_id>           TopicDocument         by the controller
    partition/<topic_id>/<n>   PartitionDocument     by the controller
    deleted/<topic_id>         DeletedTopicDocument  by the controller: so that brokers know whose logs may go
    session/<name>             SessionDocument       by the metadata process: there while the session is
    broker/<id>                RegistrationDocument  by the metadata process: every broker that was ever here
    host/<name>                HostDocument          by the metadata process: which broker ids a host has
    lease                      LeaseDocument         by the metadata process: who may decide

Unknown fields are ignored and new ones have defaults, so that two versions can share a store for a while.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec

from ...model import BrokerId, PartitionKey, TopicId

CLUSTER_KEY = "cluster"
LEASE_KEY = "lease"
CONTROLLED_KINDS = frozenset({"topic", "partition", "deleted"})  # what a controller may write

NO_LEADER = -1


class StoredShape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every document."""


class ClusterDocument(StoredShape, frozen=True, kw_only=True, omit_defaults=True):
    cluster_id: str
    created_ms: int = 0  # wall clock


class TopicDocument(StoredShape, frozen=True, kw_only=True, omit_defaults=True):
    """One topic. ``configs``: only what was set for it, checked; the cluster's defaults fill the rest."""

    name: str
    partitions: int  # >= 1; only grows
    replication_factor: int = 1
    min_insync_replicas: int = 1  # 1..replication_factor; fixed at creation unless altered by name
    configs: dict[str, Any] = {}
    created_ms: int = 0  # wall clock
    is_internal: bool = False


class Offline(NamedTuple):
    """A replica that its broker gave up, in that life of the broker: the next one tries again."""

    broker_id: int
    incarnation: str


class Life(NamedTuple):
    """A broker in one of its lives."""

    broker_id: int
    incarnation: str


class PartitionDocument(StoredShape, frozen=True, kw_only=True, omit_defaults=True):
    """One partition. Every field is moved only by the controller's commits.

    ``leader`` leads under ``leader_incarnation``, a life of its broker; under another one it does not (it lost
    what was not appended) until it is elected anew.
    """

    replicas: tuple[int, ...]  # >= 1, distinct; the first is the preferred leader
    isr: tuple[int, ...]  # within replicas, never empty (R6: the last member is not dropped)
    leader: int = NO_LEADER  # in the isr, or NO_LEADER
    leader_epoch: int = 0  # grows by one with each change of leader or of its incarnation, to none included
    partition_epoch: int = 0  # grows by one with each change of this document
    leader_incarnation: str = ""
    offline: tuple[Offline, ...] = ()
    elr: tuple[int, ...] = ()  # within replicas, none of the isr: hold all that is committed (R6); see elections.py
    caught_up: tuple[Life, ...] = ()  # of isr and elr: in sync in a life that began after a reboot
    unsure: tuple[
        int, ...
    ] = ()  # of the isr, while there is no leader: may miss what a reboot took; see eligibility.py
    last_leader: int = NO_LEADER  # while there is no leader: who was the last one


class DeletedTopicDocument(StoredShape, frozen=True, kw_only=True, omit_defaults=True):
    """A topic that was deleted; a broker that was away then learns from it. The oldest are forgotten."""

    name: str
    deleted_ms: int = 0  # wall clock


class SessionDocument(StoredShape, frozen=True, kw_only=True, omit_defaults=True):
    """Who is alive: what it said of itself when it opened the session."""

    incarnation: str
    timeout_ms: int = 1_500
    kind: str = "broker"  # "broker" or "host"
    broker_id: int = -1
    endpoints: tuple[str, ...] = ()  # for clients
    peer_endpoints: tuple[str, ...] = ()  # for brokers
    machine: str = ""
    host: str = ""
    is_after_reboot: bool = False  # its machine has booted since its last life: what was not synced may be gone


class RegistrationDocument(StoredShape, frozen=True, kw_only=True, omit_defaults=True):
    """A broker that was here, alive or not. ``incarnation``: its latest life; one that ended never comes back."""

    name: str
    incarnation: str
    machine: str = ""
    host: str = ""
    endpoints: tuple[str, ...] = ()


class HostDocument(StoredShape, frozen=True, kw_only=True, omit_defaults=True):
    """A host that has joined, alive or not. ``broker_ids`` are its for ever (``joining``)."""

    home: str  # of its data directory
    broker_ids: tuple[int, ...] = ()  # in order; only grows


class LeaseDocument(StoredShape, frozen=True, kw_only=True, omit_defaults=True):
    """The controller lease. ``holder`` empty: vacant; ``controller_epoch`` is then the last one there was."""

    holder: str = ""  # a session's name
    incarnation: str = ""  # of that session
    controller_epoch: int = 0  # grows by one with each grant; never goes back (R8)


def topic_key(topic_id: TopicId) -> str:
    return f"topic/{topic_id}"


def deleted_key(topic_id: TopicId) -> str:
    return f"deleted/{topic_id}"


def partition_key(key: PartitionKey) -> str:
    return f"partition/{key.topic_id}/{key.partition}"


def session_key(name: str) -> str:
    return f"session/{name}"


def registration_key(broker_id: int) -> str:
    return f"broker/{broker_id}"


def host_key(name: str) -> str:
    return f"host/{name}"


def kind_of(key: str) -> str:
    """Return the first part of a key: ``"partition"`` of ``"partition/3f…/0"``."""
    return key.partition("/")[0]


def rest_of(key: str) -> str:
    return key.partition("/")[2]


def partition_of(key: str) -> PartitionKey:
    """Return which partition a ``partition/…`` key is of."""
    _, topic_id, number = key.split("/")
    return PartitionKey(TopicId(topic_id), int(number))


def brokers_of(keys: Iterable[str]) -> list[BrokerId]:
    """Return the brokers that the ``broker/…`` keys among these are of."""
    return [broker_of(key) for key in keys if kind_of(key) == "broker"]


def broker_of(key: str) -> BrokerId:
    """Return which broker a ``broker/…`` key is of."""
    return BrokerId(int(rest_of(key)))


D = TypeVar("D", bound=StoredShape)


def read(kind: type[D], value: dict[str, Any]) -> D:
    """Return a document's value as its shape.

    Raises:
        msgspec.ValidationError: it has another shape; the path is told.
    """
    return msgspec.convert(value, kind)


def written(document: StoredShape) -> dict[str, Any]:
    """Return the value to put for a document."""
    value: dict[str, Any] = msgspec.to_builtins(document)
    return value
