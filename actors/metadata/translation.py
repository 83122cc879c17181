"""Requests in the store's words, and its outcomes in the protocol's. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
import orjson

from ...config import TopicConfig, configure
from ...errors import ConfigurationError, ErrorCode, InvariantViolated
from ...model import is_topic_name
from ...storage.metadata_store import (
    ANY_VERSION,
    Conflict,
    Outcome,
    StaleEpoch,
    StoredDocument,
    Transaction,
    Unstorable,
    Write,
)
from ...transport import messages as m
from .documents import (
    CONTROLLED_KINDS,
    NO_LEADER,
    DeletedTopicDocument,
    LeaseDocument,
    PartitionDocument,
    RegistrationDocument,
    SessionDocument,
    TopicDocument,
    kind_of,
    read,
    rest_of,
    written,
)
from .lease import Lease

PUTS_MAX = 200_000  # of one commit
SESSION_BYTES_MAX = 64 * 1024  # of what a session says of itself
INT32_MAX = (1 << 31) - 1  # of ids and epochs: batches on disk hold no greater ones

_is_topic_id = re.compile(r"[0-9A-Za-z_-]{1,64}").fullmatch  # it names directories
_is_number = re.compile(r"0|[1-9][0-9]{0,8}").fullmatch


def own_writes(*changes: tuple[str, dict[str, Any] | None]) -> Transaction:
    """Return a transaction of the metadata process itself: it is the only one who writes these."""
    return Transaction([Write(key, value, ANY_VERSION) for key, value in changes])


def session_document(request: m.OpenSessionRequest) -> tuple[SessionDocument, dict[str, Any]]:
    if not request.name or not request.incarnation or "/" in request.name:
        raise msgspec.ValidationError("a session needs a name without '/' and an incarnation")
    value = {**request.document, "incarnation": request.incarnation, "timeout_ms": request.timeout_ms}
    try:
        size = len(orjson.dumps(value))
    except orjson.JSONEncodeError as error:
        raise msgspec.ValidationError(str(error)) from error
    if size > SESSION_BYTES_MAX:
        raise msgspec.ValidationError(f"{size} bytes; {SESSION_BYTES_MAX} at most")
    document = read(SessionDocument, value)
    if document.kind not in ("broker", "host") or not -1 <= document.broker_id <= INT32_MAX:
        raise msgspec.ValidationError(f"kind {document.kind[:80]!r} with broker id {document.broker_id}")
    return document, value


def registration(name: str, document: SessionDocument) -> RegistrationDocument:
    return RegistrationDocument(
        name=name,
        incarnation=document.incarnation,
        machine=document.machine,
        host=document.host,
        endpoints=document.endpoints,
    )


def lease_value(lease: Lease) -> dict[str, Any]:
    return written(
        LeaseDocument(holder=lease.holder, incarnation=lease.incarnation, controller_epoch=lease.controller_epoch)
    )


def sent(documents: Iterable[StoredDocument]) -> list[m.Document]:
    return [m.Document(key=one.key, version=one.version, value=one.value) for one in documents]


def problem_with_commit(request: m.StoreCommitRequest) -> str:
    if len(request.puts) > PUTS_MAX:
        return f"{len(request.puts)} puts in one commit; {PUTS_MAX} at most"
    for put in request.puts:
        if kind_of(put.key) not in CONTROLLED_KINDS:
            return f"{put.key!r} is not the controller's to write"
        if put.if_version < 0:
            return f"{put.key!r}: a controller says which version it has seen"
        try:
            problem = _problem_with_document(put)
        except msgspec.ValidationError as error:
            problem = str(error)
        if problem:
            return f"{put.key!r}: {problem}"
    return ""


def commit_of(request: m.StoreCommitRequest) -> Transaction:
    """Return the transaction of a sound commit: no partition without its topic, before it or after."""
    puts = request.puts
    needs = {f"topic/{_topic_id_of(put.key)}" for put in puts if kind_of(put.key) == "partition" and put.value}
    frees = [f"partition/{rest_of(put.key)}/" for put in puts if kind_of(put.key) == "topic" and put.value is None]
    writes = [Write(put.key, put.value, put.if_version) for put in puts]
    return Transaction(writes, request.controller_epoch, sorted(needs), frees)


def _topic_id_of(key: str) -> str:
    return key.split("/")[1]


def _problem_with_document(put: m.Put) -> str:
    """Say what every broker that watches would fail of, again after each restart; "": nothing.

    Raises:
        msgspec.ValidationError: the document has not the shape of its kind.
    """
    kind, *steps = put.key.split("/")
    if not steps or not _is_topic_id(steps[0]):
        return "names no topic id"
    if len(steps) != (2 if kind == "partition" else 1) or (steps[1:] and not _is_number(steps[1])):
        return "names no document"
    if put.value is None:
        return ""
    if kind == "topic":
        return _problem_with_topic(read(TopicDocument, put.value))
    if kind == "partition":
        return _problem_with_partition(read(PartitionDocument, put.value))
    read(DeletedTopicDocument, put.value)
    return ""


def _problem_with_topic(topic: TopicDocument) -> str:
    if not is_topic_name(topic.name) and not topic.is_internal:
        return f"{topic.name[:80]!r} is not a topic name"
    if not (1 <= topic.partitions <= PUTS_MAX and topic.replication_factor >= 1 and topic.min_insync_replicas >= 1):
        return "counts from 1 on"
    known = {name: value for name, value in topic.configs.items() if name in TopicConfig.__struct_fields__}
    try:  # those that are not known are of a newer Callboard
        configure(TopicConfig, known, "configs")
    except ConfigurationError as error:
        return str(error)
    return ""


def _problem_with_partition(partition: PartitionDocument) -> str:
    brokers = (*partition.replicas, *partition.isr)
    if not partition.replicas or len(set(partition.replicas)) != len(partition.replicas):
        return "its replicas are none, or the same"
    if not set(partition.isr) <= set(partition.replicas) or partition.leader not in (NO_LEADER, *partition.replicas):
        return "its leader and its in-sync replicas are not among its replicas"
    numbers = (*brokers, partition.leader_epoch, partition.partition_epoch)
    return "" if all(0 <= number <= INT32_MAX for number in numbers) else "an id or epoch is out of range"


def refusal_of_commit(outcome: Outcome) -> m.StoreCommitReply:
    if isinstance(outcome, StaleEpoch):
        detail = f"the controller epoch is {outcome.controller_epoch}" + ("" if outcome.is_held else ", and vacant")
        return m.StoreCommitReply(error=ErrorCode.STALE_CONTROLLER_EPOCH, detail=detail)
    if isinstance(outcome, Conflict):
        detail = f"{outcome.key} is at version {outcome.found}, not {outcome.expected}"
        return m.StoreCommitReply(error=ErrorCode.STORE_CONFLICT, detail=detail)
    if isinstance(outcome, Unstorable):
        return m.StoreCommitReply(error=ErrorCode.INVALID_REQUEST, detail=f"{outcome.key}: {outcome.reason}")
    raise InvariantViolated(f"{outcome} is not a refusal")
