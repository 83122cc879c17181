"""What can happen to a partition, and what its rules can answer. Plain frozen values.

Events come from the router (``Produce``, ``Fetch``, …), from the broker (``Assign``) and from the log's own
work (``Opened``, ``Flushed``, …). Effects are the closed union that the rules return and the actor performs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...config import TopicConfig
from ...errors import ErrorCode
from ...model import LeaderEpoch, Offset, PartitionKey
from ...storage.batch import BatchHeader
from ...transport.messages import Part, Request


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """Whom to answer: one entry of one request, by the number that its router gave it."""

    session: int
    entry: int
    door: str = "router"  # the broker's router that took the request: "router" (clients) or "peers"


# -- events ----------------------------------------------------------------------------------------


class Produce(msgspec.Struct, frozen=True, gc=False):
    """Append one batch. ``frames[0]`` is the 21 bytes outside the checksum, the others are the rest."""

    ticket: Ticket
    leader_epoch: int  # that the sender believes in; -1: it does not say
    acks: int  # 0, 1, -1 (all)
    frames: Sequence[bytes]


class Fetch(msgspec.Struct, frozen=True, gc=False):
    """Read from ``fetch_offset``; when there are less than ``min_bytes``, park until there are more."""

    ticket: Ticket
    leader_epoch: int
    fetch_offset: int
    max_bytes: int
    min_bytes: int = 1


class Unpark(msgspec.Struct, frozen=True, gc=False):
    """The router has answered, or given up: forget the parked fetch."""

    ticket: Ticket


class ListOffset(msgspec.Struct, frozen=True, gc=False):
    ticket: Ticket
    leader_epoch: int
    timestamp_ms: int  # or EARLIEST/LATEST/MAX_TIMESTAMP of transport.messages


class DeleteRecords(msgspec.Struct, frozen=True, gc=False):
    """Let the log begin at ``before_offset``; -1: at the high watermark."""

    ticket: Ticket
    leader_epoch: int
    before_offset: int


class DescribeReplica(msgspec.Struct, frozen=True, gc=False):
    ticket: Ticket


class Assign(msgspec.Struct, frozen=True):
    """What the controller decided about this replica, as the broker's image has it."""

    leader: int  # broker id; -1: none
    leader_epoch: LeaderEpoch
    is_leader: bool  # this broker, under its present incarnation
    isr: tuple[int, ...]
    config: TopicConfig
    min_insync_replicas: int


class Opened(msgspec.Struct, frozen=True):
    log: Any  # storage.log.Log | None
    error: BaseException | None


class Flushed(msgspec.Struct, frozen=True, gc=False):
    job: Any  # storage.log.FlushJob
    error: BaseException | None


class Checkpointed(msgspec.Struct, frozen=True, gc=False):
    error: BaseException | None


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Time for housekeeping: checkpoint, roll by age, expiry of producers."""


class Discard(msgspec.Struct, frozen=True, gc=False):
    """The topic was deleted: delete the log, then end."""


class RetentionDue(msgspec.Struct, frozen=True, gc=False):
    """Time to look for records that are past their retention."""


class GoOffline(msgspec.Struct, frozen=True, gc=False):
    """The directory of this replica has failed: nothing of it is read, written or synced by this process any more."""


# -- effects ---------------------------------------------------------------------------------------


class Append(msgspec.Struct, frozen=True, gc=False):
    """Write this batch at ``base_offset``, stamped with the leader's epoch. Nothing else comes between."""

    frames: Sequence[bytes]
    header: BatchHeader
    base_offset: Offset


class Answer(msgspec.Struct, frozen=True, gc=False):
    """Give the router the reply to one entry."""

    ticket: Ticket
    reply: Part
    frames: Sequence[bytes] = ()


class Read(msgspec.Struct, frozen=True, gc=False):
    """Read whole batches from ``fetch.fetch_offset`` up to ``up_to_offset`` (exclusive) and answer."""

    fetch: Fetch
    up_to_offset: Offset


Effect = Append | Answer | Read


# -- between partition, broker and router ------------------------------------------------------------------


class Answers(msgspec.Struct, frozen=True, gc=False):
    """All that one turn of a partition had to say, in one message."""

    answers: list[Answer]


class Hosted(msgspec.Struct, frozen=True, gc=False):
    """A replica of this broker has (again) an actor."""

    key: PartitionKey
    ref: Any


class ForController(msgspec.Struct, frozen=True):
    """To the broker: ask the active controller this, wherever it is; nobody waits for the answer."""

    request: Request


class Discarded(msgspec.Struct, frozen=True, gc=False):
    """To the broker: a deleted topic's log is gone (or could not be removed: ``error``)."""

    key: PartitionKey
    error: BaseException | None = None


class DirectoryFailed(msgspec.Struct, frozen=True):
    """To the broker: the disk failed under a replica; ``path`` is its directory's."""

    path: str
    why: str


class ReplicaGone(msgspec.Struct, frozen=True, gc=False):
    """A replica's actor has failed: nobody will answer what was told to it."""

    key: PartitionKey


class AnnounceReplicas(msgspec.Struct, frozen=True, gc=False):
    """The router has (re)started and knows no replica yet: tell it ``Hosted`` for each."""


def epoch_error(requested: int, current: int) -> ErrorCode:
    """Judge the leader epoch of a request; -1 in the request means that the sender does not say.

    Source: Kafka's fencing of clients (KIP-320): older is fenced, newer means that *we* are behind.
    """
    if requested in (-1, current):
        return ErrorCode.NONE
    return ErrorCode.FENCED_LEADER_EPOCH if requested < current else ErrorCode.UNKNOWN_LEADER_EPOCH
