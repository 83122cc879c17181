"""What the rules of groups are told, and what they answer: plain values.

Effects are a closed union: a reply for whoever waits behind a ticket, records that must survive before more is said, or
an event for the log.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from ...transport import group_messages as said
from ...transport.shapes import Reply as AnyReply

GroupRequest: TypeAlias = (
    said.GroupHeartbeatRequest
    | said.OffsetCommitRequest
    | said.OffsetFetchRequest
    | said.ListGroupsRequest
    | said.DescribeGroupsRequest
    | said.DeleteGroupsRequest
    | said.DeleteOffsetsRequest
    | said.RemoveMembersRequest
)


class GroupPartition(NamedTuple):
    """A partition as groups know it: one made anew under the same name is another one. Ordered by name, then number."""

    topic: str
    topic_id: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


Record: TypeAlias = tuple[bytes, bytes | None]  # key, value; None: a tombstone


class GroupSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds the groups of one coordinator. The names are those of ``BrokerSettings``."""

    broker_id: int = -1  # of the coordinator, for descriptions
    session_timeout_ms: int = 1_500  # of brokers: how old a proof of leadership may be that a heartbeat is answered by
    group_session_timeout_ms_min: int = 1_000
    group_session_timeout_ms_max: int = 1_800_000
    group_fetch_stall_ms: int = 30_000  # of the watchdog (``watchdog.py``); 0: there is none
    group_members_max: int = 1_000
    groups_max: int = 10_000  # of one coordinator
    offset_metadata_bytes_max: int = 4_096  # of one offset, as UTF-8
    offsets_retention_ms: int = 7 * 24 * 3_600_000  # counted while a group has no members


class TopicPicture(NamedTuple):
    """A topic as it is now."""

    topic_id: str
    partitions: int  # >= 1; only grows within one id


class Caller(NamedTuple):
    """Who asks. ``ticket`` comes back with the reply; nobody looks into it."""

    ticket: Hashable
    client_id: str = ""
    host: str = ""


class Reply(NamedTuple):
    """Answer who waits behind the ticket. ``reply.id`` is its request's."""

    ticket: Hashable
    reply: AnyReply


class Write(NamedTuple):
    """Append these records, all or none: one batch, or within one; later numbers never before earlier ones.

    ``number``: 1, 2, 3, … of one ``Coordinating``; to be told to ``on_written`` when the records survive.
    """

    number: int
    records: list[Record]


class Notice(NamedTuple):
    """Log an event: something that whoever looks after the cluster should hear of."""

    name: str
    values: Mapping[str, object]


Effect: TypeAlias = Reply | Write | Notice
