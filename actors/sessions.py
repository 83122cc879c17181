"""Requests on their way through a broker: split into entries, gathered into one reply.

A request names 1..n partitions; each entry goes to that partition's actor with a ticket, and comes back as an
``Answer``. Three kinds of gathering, one class each:

- ``ProduceSession``: one reply when every entry is answered; what is missing at the deadline has timed out.
- ``FetchSession``: one reply as soon as enough bytes, or one error, are there; with whatever is ready then.
- ``GatherSession``: one reply when every entry is answered (offsets, descriptions).

Pure: the router feeds answers and time, and sends what ``reply`` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ErrorCode
from ..model import PartitionKey
from ..transport.messages import (
    FetchEntryReply,
    FetchReply,
    FetchRequest,
    Part,
    ProduceEntryReply,
    ProduceReply,
    ProduceRequest,
    Reply,
)
from .partition.leader import refusal_of_produce


class Session:
    """What all three share: who asked, what is still missing."""

    __slots__ = ("deadline_ms", "keys", "missing", "peer", "request_id")

    def __init__(self, peer: bytes, request_id: int, keys: Sequence[PartitionKey], deadline_ms: int) -> None:
        self.peer = peer
        self.request_id = request_id
        self.keys = keys  # by entry
        self.missing = set(range(len(keys)))  # entries without an answer
        self.deadline_ms = deadline_ms

    def on_answer(self, entry: int, reply: Part, frames: Sequence[bytes]) -> None:
        raise NotImplementedError

    @property
    def is_complete(self) -> bool:
        return not self.missing

    def entries_of(self, key: PartitionKey) -> list[int]:
        """Entries that wait for this partition: to be refused when its actor has failed."""
        return [entry for entry in self.missing if self.keys[entry] == key]


class ProduceSession(Session):
    __slots__ = ("replies",)

    def __init__(self, peer: bytes, request: ProduceRequest, keys: Sequence[PartitionKey], deadline_ms: int) -> None:
        super().__init__(peer, request.id, keys, deadline_ms)
        self.replies: list[ProduceEntryReply | None] = [None] * len(keys)

    def on_answer(self, entry: int, reply: Part, frames: Sequence[bytes]) -> None:
        if entry in self.missing and isinstance(reply, ProduceEntryReply):
            self.missing.discard(entry)
            self.replies[entry] = reply

    def reply(self) -> ProduceReply:
        """Return the whole reply; entries without an answer have timed out, their outcome is unknown."""
        return ProduceReply(
            id=self.request_id, entries=[reply or self._timed_out(i) for i, reply in enumerate(self.replies)]
        )

    def _timed_out(self, entry: int) -> ProduceEntryReply:
        detail = "not below the high watermark within timeout_ms; it may be later"
        return refusal_of_produce(self.keys[entry], ErrorCode.REQUEST_TIMED_OUT, detail)


class FetchSession(Session):
    """``missing`` are the entries without data so far: parked with their partitions, or not yet looked at."""

    __slots__ = ("_bytes", "_has_error", "_max_bytes", "_min_bytes", "_ready")

    def __init__(self, peer: bytes, request: FetchRequest, keys: Sequence[PartitionKey], deadline_ms: int) -> None:
        super().__init__(peer, request.id, keys, deadline_ms)
        self._min_bytes = request.min_bytes
        self._max_bytes = request.max_bytes
        self._ready: dict[int, tuple[FetchEntryReply, Sequence[bytes]]] = {}
        self._bytes = 0
        self._has_error = False

    def on_answer(self, entry: int, reply: Part, frames: Sequence[bytes]) -> None:
        if not isinstance(reply, FetchEntryReply):
            return
        before = self._ready.get(entry)
        self._bytes += sum(map(len, frames)) - (sum(map(len, before[1])) if before else 0)
        self._ready[entry] = (reply, frames)
        self._has_error = self._has_error or bool(reply.error)
        self.missing.discard(entry)

    @property
    def is_complete(self) -> bool:
        return self._has_error or self._bytes >= self._min_bytes

    def parked_keys(self) -> list[tuple[int, PartitionKey]]:
        """Entries that a partition may still hold parked: without data, or with less than ``min_bytes`` of it."""
        return [
            (entry, key)
            for entry, key in enumerate(self.keys)
            if entry in self.missing or sum(map(len, self._ready[entry][1])) < self._min_bytes
        ]

    def reply(self) -> tuple[FetchReply, list[bytes]]:
        """Return reply and payload: ready entries in the request's order, up to ``max_bytes`` but at least one."""
        entries: list[FetchEntryReply] = []
        payload: list[bytes] = []
        size = 0
        for entry in sorted(self._ready):
            reply, frames = self._ready[entry]
            entry_bytes = sum(map(len, frames))
            if size and entry_bytes and size + entry_bytes > self._max_bytes:
                continue  # read again by the next request: reading changes nothing
            size += entry_bytes
            entries.append(reply)
            payload += frames
        return FetchReply(id=self.request_id, entries=entries), payload


class GatherSession(Session):
    __slots__ = ("_make_reply", "_replies", "_when_missing")

    def __init__(
        self,
        peer: bytes,
        request_id: int,
        keys: Sequence[PartitionKey],
        deadline_ms: int,
        make_reply: Callable[[list[Any]], Reply],
        when_missing: Callable[[PartitionKey], Part],
    ) -> None:
        super().__init__(peer, request_id, keys, deadline_ms)
        self._replies: list[Part | None] = [None] * len(keys)
        self._make_reply = make_reply
        self._when_missing = when_missing

    def on_answer(self, entry: int, reply: Part, frames: Sequence[bytes]) -> None:
        self.missing.discard(entry)
        self._replies[entry] = reply

    def missing_reply(self, entry: int) -> Part:
        """Return what stands for the answer of a partition that will give none."""
        return self._when_missing(self.keys[entry])

    def reply(self) -> Reply:
        return self._make_reply(
            [reply or self._when_missing(key) for reply, key in zip(self._replies, self.keys, strict=True)]
        )
