"""The leader's end of a follower's fetch session: what is parked where between its requests. Pure.

To the router it is a session like the others (``../sessions.py``), but one that lives on: each partition has one
entry, and so one ticket, for as long as the session lives. A request names the entries that must be asked (again); the
others are still parked with their partitions. The router tells those, gives every answer to ``on_answer``, and replies
whenever ``is_complete``. Rules:

1. Sequences grow by one, a new session begins at 0. Anything else is refused: the follower begins anew, and what was
   parked for the old session is forgotten.
2. A newer request answers the one that still waits, with what is ready, be it nothing.
3. Between a reply and the next request each parked partition may become ready once: what is held is bounded by one
   read a partition, and by ``idle_ms``: a follower that does not come back loses its session.
4. An answer of another leader epoch than was asked for last is one to an earlier fetch, and dropped: that fetch was
   forgotten while its answer was on its way, and the later one gets an answer of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...model import PartitionKey, TopicId
from ...transport.messages import FetchEntry, FetchEntryReply, FetchReply, FetchRequest, Part
from ..sessions import Session

IDLE_WAITS = 10  # of max_wait_ms without a request end a session


class FollowerSession(Session):
    """One follower broker's fetches here. ``keys`` by entry grows; a partition keeps its number."""

    __slots__ = (
        "_asked_epochs",
        "_entries",
        "_max_bytes",
        "_numbered",
        "_ready",
        "expires_ms",
        "incarnation",
        "is_waiting",
        "replica_id",
        "sequence",
    )

    def __init__(self, peer: bytes, request: FetchRequest, now_ms: int) -> None:
        self._numbered: list[PartitionKey] = []
        super().__init__(peer, request.id, self._numbered, now_ms)
        self.replica_id = request.replica_id
        self.incarnation = request.replica_incarnation
        self.sequence = -1  # of the newest request
        self.is_waiting = False  # a request waits for its reply
        self.expires_ms = now_ms
        self._max_bytes = request.max_bytes
        self._entries: dict[PartitionKey, int] = {}
        self._asked_epochs: dict[int, int] = {}  # by number
        self._ready: dict[int, tuple[FetchEntryReply, Sequence[bytes]]] = {}

    def may_follow(self, request: FetchRequest) -> bool:
        """Say whether this request is the next one of this session."""
        return request.sequence == self.sequence + 1

    def on_request(self, request: FetchRequest, now_ms: int, max_wait_ms: int) -> list[tuple[int, FetchEntry]]:
        """Take the next request in; return the entries to ask of their partitions, by number."""
        self.request_id, self.sequence = request.id, request.sequence
        self.incarnation = request.replica_incarnation
        self.is_waiting = True
        self.deadline_ms = now_ms + max_wait_ms
        self.expires_ms = now_ms + IDLE_WAITS * max_wait_ms
        asked = []
        for entry in request.entries:
            number = self._number_of(PartitionKey(TopicId(entry.topic_id), entry.partition))
            self._ready.pop(number, None)  # it was read for an older position
            self.missing.add(number)
            self._asked_epochs[number] = entry.leader_epoch
            asked.append((number, entry))
        return asked

    def forget(self, key: PartitionKey) -> int | None:
        """Fetch this partition no more; return its entry's number, if it has one."""
        number = self._entries.get(key)  # kept: a follower in trouble comes and goes for ever
        if number is not None:
            self._ready.pop(number, None)
            self.missing.discard(number)
        return number

    def on_answer(self, entry: int, reply: Part, frames: Sequence[bytes]) -> None:
        if entry in self.missing and isinstance(reply, FetchEntryReply):
            if not reply.error and reply.leader_epoch != self._asked_epochs[entry]:
                return  # rule 4; a refusal names whatever epoch there is
            self.missing.discard(entry)
            self._ready[entry] = (reply, frames)

    @property
    def is_complete(self) -> bool:
        """A request waits, and there is something to say."""
        return self.is_waiting and bool(self._ready)

    def parked_keys(self) -> list[tuple[int, PartitionKey]]:
        return [(number, key) for key, number in self._entries.items() if number in self.missing]

    def reply(self) -> tuple[FetchReply, list[bytes]]:
        """Return what is ready, up to ``max_bytes`` but at least one entry; the rest goes with the next reply."""
        entries: list[FetchEntryReply] = []
        payload: list[bytes] = []
        size = 0
        for number in list(self._ready):
            reply, frames = self._ready[number]
            entry_bytes = sum(map(len, frames))
            if size and size + entry_bytes > self._max_bytes:
                break
            del self._ready[number]
            size += entry_bytes
            entries.append(reply)
            payload += frames
        self.is_waiting = False
        return FetchReply(id=self.request_id, entries=entries), payload

    def _number_of(self, key: PartitionKey) -> int:
        number = self._entries.get(key)
        if number is None:
            number = self._entries[key] = len(self.keys)
            self._numbered.append(key)
        return number
