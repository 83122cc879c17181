"""Requests in the store's words, and its outcomes in the protocol's. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from ...errors import ErrorCode, InvariantViolated
from ...storage.metadata_store import ANY_VERSION, Conflict, Outcome, StaleEpoch, Transaction, Unstorable, Write
from ...transport import messages as m
from .documents import CONTROLLED_KINDS, RegistrationDocument, SessionDocument, kind_of, read

PUTS_MAX = 200_000  # of one commit
SESSION_BYTES_MAX = 64 * 1024  # of what a session says of itself


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
    return read(SessionDocument, value), value


def registration(name: str, document: SessionDocument) -> RegistrationDocument:
    return RegistrationDocument(
        name=name,
        incarnation=document.incarnation,
        machine=document.machine,
        host=document.host,
        endpoints=document.endpoints,
    )


def problem_with_commit(request: m.StoreCommitRequest) -> str:
    if len(request.puts) > PUTS_MAX:
        return f"{len(request.puts)} puts in one commit; {PUTS_MAX} at most"
    for put in request.puts:
        if kind_of(put.key) not in CONTROLLED_KINDS:
            return f"{put.key!r} is not the controller's to write"
        if put.if_version < 0:
            return f"{put.key!r}: a controller says which version it has seen"
    return ""


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
