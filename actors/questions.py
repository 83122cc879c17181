"""What a router asks partitions for a client, beside records: offsets, deletions, descriptions. Pure.

Each request names partitions; each partition is told a question and gives one answer; all answers together are the
reply. What stands for a partition that is not here comes from ``Whereabouts``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import ErrorCode
from ..model import PartitionKey, TopicId
from ..transport import messages as m
from .logdirs import LogDirectories
from .partition.events import DeleteRecords, DescribeReplica, ListOffset, Ticket

Whereabouts = Callable[[PartitionKey], tuple[ErrorCode, int, int]]  # why not here, who leads, in which epoch


@dataclass(frozen=True, slots=True)
class Questions:
    """One request as it goes to partitions. ``ask`` makes the question of the entry that its ticket names."""

    keys: list[PartitionKey]
    ask: Callable[[Ticket], Any]
    make_reply: Callable[[list[Any]], m.Reply]
    when_missing: Callable[[PartitionKey], m.Part]


def list_offsets(request: m.ListOffsetsRequest, whereabouts: Whereabouts) -> Questions:
    entries = request.entries

    def missing(key: PartitionKey) -> m.ListOffsetsEntryReply:
        error, _, epoch = whereabouts(key)
        return m.ListOffsetsEntryReply(topic_id=key.topic_id, partition=key.partition, error=error, leader_epoch=epoch)

    return Questions(
        [PartitionKey(TopicId(entry.topic_id), entry.partition) for entry in entries],
        lambda ticket: ListOffset(ticket, entries[ticket.entry].leader_epoch, entries[ticket.entry].timestamp_ms),
        lambda replies: m.ListOffsetsReply(id=request.id, entries=replies),
        missing,
    )


def delete_records(request: m.DeleteRecordsRequest, whereabouts: Whereabouts) -> Questions:
    entries = request.entries

    def missing(key: PartitionKey) -> m.DeleteRecordsEntryReply:
        error, _, epoch = whereabouts(key)
        return m.DeleteRecordsEntryReply(
            topic_id=key.topic_id, partition=key.partition, error=error, leader_epoch=epoch
        )

    return Questions(
        [PartitionKey(TopicId(entry.topic_id), entry.partition) for entry in entries],
        lambda ticket: DeleteRecords(ticket, entries[ticket.entry].leader_epoch, entries[ticket.entry].before_offset),
        lambda replies: m.DeleteRecordsReply(id=request.id, entries=replies),
        missing,
    )


def describe_replicas(
    request: m.DescribeReplicasRequest, hosted: Iterable[PartitionKey], directories: LogDirectories
) -> Questions:
    wanted = set(request.topic_ids)

    def missing(key: PartitionKey) -> m.ReplicaDescription:
        home = directories.home_of(key)
        return m.ReplicaDescription(
            topic_id=key.topic_id,
            partition=key.partition,
            role="offline",
            directory=home.path if home is not None else "",
        )

    return Questions(
        [key for key in hosted if not wanted or key.topic_id in wanted],
        DescribeReplica,
        lambda replies: m.DescribeReplicasReply(id=request.id, replicas=replies, directories=directories.describe()),
        missing,
    )
