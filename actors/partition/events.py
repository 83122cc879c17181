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
from ...transport.messages import (
    CONSUMER_REPLICA_ID,
    AlterPartitionEntry,
    AlterPartitionEntryReply,
    FetchEntry,
    FetchEntryReply,
    IsrMember,
    Part,
    Request,
)


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
    """Read from ``fetch_offset``; when there are less than ``min_bytes``, park until there are more.

    A follower names itself: it may read to the log end, and what it says of its own log moves the high watermark.
    """

    ticket: Ticket
    leader_epoch: int
    fetch_offset: int  # a follower's log end offset
    max_bytes: int
    min_bytes: int = 1
    replica_id: int = CONSUMER_REPLICA_ID
    replica_incarnation: str = ""  # the life of the follower's broker
    last_fetched_epoch: int = -1  # of the follower's last record; -1: it has none
    durable_offset: int = -1  # below it the follower's copy survives power loss
    high_watermark: int = -1  # the highest that the follower has heard of
    log_start_offset: int = 0  # a follower's: where its log begins after any crash


class Unpark(msgspec.Struct, frozen=True, gc=False):
    """The router has answered, or given up: forget the parked fetch."""

    ticket: Ticket


class Progress(msgspec.Struct, frozen=True, gc=False):
    """A follower has more of its copy on disk, and sends no fetch just now: one is parked here."""

    replica_id: int
    replica_incarnation: str
    leader_epoch: int
    durable_offset: int
    log_start_offset: int = 0  # after any crash


class LookAtFollowers(msgspec.Struct, frozen=True, gc=False):
    """Time for the leader to see who has not kept up, and to ask again for what nobody answered."""


class IsrAnswered(msgspec.Struct, frozen=True, gc=False):
    """What the controller said to a proposed in-sync set; ``reply`` None: nothing, it may have been committed."""

    leader_epoch: int  # of the proposal
    partition_epoch: int
    asked: frozenset[int]  # the members that were proposed
    reply: AlterPartitionEntryReply | None


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
    replicas: tuple[int, ...] = ()
    partition_epoch: int = 0
    is_lost: bool = False  # this replica should have a log, and had none when it was hosted


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


class ProposeIsr(msgspec.Struct, frozen=True, gc=False):
    """Ask the controller to commit another in-sync set. The answer comes as ``IsrAnswered``, or in an ``Assign``."""

    leader_epoch: int
    partition_epoch: int
    isr: tuple[IsrMember, ...]


Effect = Append | Answer | Read | ProposeIsr


# -- effects of a follower's rules ---------------------------------------------------------------------


class Copy(msgspec.Struct, frozen=True, gc=False):
    """Append these batches as the leader stored them: their offsets and epochs stay."""

    batches: Sequence[bytes | memoryview]
    headers: Sequence[BatchHeader]


class Truncate(msgspec.Struct, frozen=True, gc=False):
    """Cut the log to end at ``to_offset``: what lies above is no leader's any more (R1)."""

    to_offset: Offset


class BeginAnew(msgspec.Struct, frozen=True, gc=False):
    """Drop the whole log and let it begin at ``log_start_offset``: the leader has nothing older (B36)."""

    log_start_offset: Offset


class DeleteBefore(msgspec.Struct, frozen=True, gc=False):
    """Let the log begin where the leader's does."""

    log_start_offset: Offset


class FetchNext(msgspec.Struct, frozen=True, gc=False):
    """Ask the leader for what follows; ``after_ms`` > 0: not before that; ``after_sync``: behind the next sync."""

    fetch_offset: Offset
    last_fetched_epoch: int
    after_ms: int = 0
    after_sync: bool = False


FollowerEffect = Copy | Truncate | BeginAnew | DeleteBefore | FetchNext


# -- between a follower and its broker's fetcher ------------------------------------------------------------


class Follow(msgspec.Struct, frozen=True, gc=False):
    """To the fetcher: fetch this for me, once; whatever was asked for this partition before is void."""

    key: PartitionKey
    leader: int  # broker id
    entry: FetchEntry
    follower: Any  # ref of the replica's actor


class Unfollow(msgspec.Struct, frozen=True, gc=False):
    """To the fetcher: fetch nothing more of this partition."""

    key: PartitionKey


class Durable(msgspec.Struct, frozen=True, gc=False):
    """To the fetcher: tell the leader, if a fetch is parked there."""

    key: PartitionKey
    leader_epoch: int
    durable_offset: int
    log_start_offset: int = 0


class Fetched(msgspec.Struct, frozen=True, gc=False):
    """To the follower: what its leader answered to its ``Follow``. The next one is its own to ask for."""

    reply: FetchEntryReply
    frames: Sequence[bytes]


class FetcherBegan(msgspec.Struct, frozen=True, gc=False):
    """To the followers: the fetcher was restarted and knows of nobody; ask again."""


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


class IsrProposed(msgspec.Struct, frozen=True, gc=False):
    """To the broker: ask the active controller; the answer goes to this partition's replica."""

    key: PartitionKey
    entry: AlterPartitionEntry


class Discarded(msgspec.Struct, frozen=True, gc=False):
    """To the broker: a deleted topic's log is gone (or could not be removed: ``error``)."""

    key: PartitionKey
    error: BaseException | None = None


class DirectoryFailed(msgspec.Struct, frozen=True):
    """To the broker: the disk failed under a replica; ``path`` is its directory's."""

    path: str
    why: str


class NewEpochNeeded(msgspec.Struct, frozen=True):
    """To the broker: this replica must not go on leading in this epoch; ask the controller for another one."""

    key: PartitionKey
    leader_epoch: int
    why: str = "its actor was restarted"


class LogLost(msgspec.Struct, frozen=True):
    """To the broker: this replica has no log that could be trusted; another one must lead, or nobody."""

    key: PartitionKey
    leader_epoch: int
    why: str = "its log is gone"


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
