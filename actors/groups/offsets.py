"""The committed offsets of one group: who may commit what, what is read, what expires.

1. What is read has survived: a commit is on its way (``begin``) until its record has (``apply``), in the log's order.
2. A commit is whole: one entry that is refused refuses all, and the reply names each that is.
3. A member commits what it holds, with an epoch at which it held it already (B19): so one that is under way while its
   assignment grows or shrinks elsewhere does not fail, and one from before a partition moved on does.
4. Who commits numbers its commits: one that comes behind a later one was on its way for too long, and commits nothing.
5. Offsets expire only while the group has no members, and only so long after the last change (B23). A topic that was
   deleted takes its offsets along.
6. A member is told where a partition begins with the answer that gives it, if that waits for the record that says so:
   then whatever was committed before has survived, too, and from then on nobody but the member can commit there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ...errors import ErrorCode
from ...transport.group_messages import CommittedOffsets, OffsetCommitEntry, OffsetFetchEntryReply, TopicPartitions
from .events import GroupPartition, TopicPicture
from .members import Refused
from .records import OffsetValue

Changes: TypeAlias = Mapping[GroupPartition, OffsetValue | None]

NONE_COMMITTED = OffsetValue(offset=-1)


class GroupOffsets:
    """What has been committed and survives, by partition; and what is on its way."""

    __slots__ = ("committed", "newest", "under_way")

    def __init__(self) -> None:
        self.committed: dict[GroupPartition, OffsetValue] = {}  # offset >= 0; moved by apply alone
        self.under_way: deque[Changes] = deque()  # written, not yet known to survive; the oldest first
        self.newest: dict[GroupPartition, OffsetValue] = {}  # as it will be when all that survives

    def begin(self, changes: Changes) -> None:
        """These are on their way. None: to be forgotten."""
        self.under_way.append(changes)
        for partition, value in changes.items():
            if value is None:
                self.newest.pop(partition, None)
            else:
                self.newest[partition] = value

    def apply(self) -> None:
        """The oldest that were on their way survive."""
        for partition, value in self.under_way.popleft().items():
            if value is None:
                self.committed.pop(partition, None)
            else:
                self.committed[partition] = value

    def partitions(self) -> list[GroupPartition]:
        """Return all that there may be a record of, sorted."""
        if not self.under_way:
            return sorted(self.committed)
        return sorted({*self.committed, *(partition for changes in self.under_way for partition in changes)})

    def fetched(
        self, wanted: Iterable[TopicPartitions] | None, topics: Mapping[str, TopicPicture]
    ) -> list[OffsetFetchEntryReply]:
        """Return what is committed, in the order asked for; -1 where nothing is. None: all, sorted."""
        if wanted is None:
            return [fetched_entry(partition, self.committed[partition]) for partition in sorted(self.committed)]
        return [
            fetched_entry(partition, self.committed.get(partition, NONE_COMMITTED))
            for partition in named(wanted, topics)
        ]

    def beginnings(self, partitions: Iterable[GroupPartition]) -> list[CommittedOffsets]:
        """Return what is committed of these, which are sorted: together by topic."""
        found: dict[tuple[str, str], dict[int, int]] = {}
        for partition in partitions:
            value = self.committed.get(partition, NONE_COMMITTED)
            found.setdefault((partition.topic, partition.topic_id), {})[partition.partition] = value.offset
        return [
            CommittedOffsets(topic=topic, topic_id=topic_id, partitions=list(some), offsets=list(some.values()))
            for (topic, topic_id), some in found.items()
        ]

    def expired(self, wall_ms: int, retention_ms: int, empty_since_ms: int) -> list[GroupPartition]:
        """Return what may be forgotten of a group without members: it and the last member are that long ago."""
        if self.under_way:
            return []  # somebody commits just now
        return [
            partition
            for partition, value in self.committed.items()
            if wall_ms - max(value.committed_ms, empty_since_ms) >= retention_ms
        ]

    def of_topics(self, topic_ids: Collection[str]) -> list[GroupPartition]:
        return [partition for partition in self.partitions() if partition.topic_id in topic_ids]


def fetched_entry(partition: GroupPartition, value: OffsetValue) -> OffsetFetchEntryReply:
    return OffsetFetchEntryReply(
        topic=partition.topic,
        topic_id=partition.topic_id,
        partition=partition.partition,
        offset=value.offset,
        leader_epoch=value.leader_epoch,
        metadata=value.metadata,
        committed_ms=value.committed_ms,
    )


def named(wanted: Iterable[TopicPartitions], topics: Mapping[str, TopicPicture]) -> list[GroupPartition]:
    """Return the partitions that a request names; a topic without an id is the one that there is now."""
    found = []
    for some in wanted:
        topic_id = some.topic_id
        if not topic_id and (picture := topics.get(some.topic)) is not None:
            topic_id = picture.topic_id
        found += [GroupPartition(some.topic, topic_id, partition) for partition in some.partitions]
    return found


# -- commits


class Committer(NamedTuple):
    """Who commits. ``holds``: what the member owns, since which of its epochs; None: no member.

    ``member_id``: also what one calls itself that is none. ``number``: of this commit, among that one's; ``newest``:
    what was committed last.
    """

    holds: Mapping[GroupPartition, int] | None = None
    member_id: str = ""
    member_epoch: int = -1
    number: int = -1
    newest: Mapping[GroupPartition, OffsetValue] = {}


def judged(
    entries: Sequence[OffsetCommitEntry],
    committer: Committer,
    topics: Mapping[str, TopicPicture],
    metadata_bytes_max: int,
    wall_ms: int,
) -> tuple[dict[GroupPartition, OffsetValue], list[tuple[GroupPartition, Refused]]]:
    """Return what would change (of two entries for one partition the last), and what is refused, with why.

    The detail of PARTITION_NOT_ASSIGNED and ILLEGAL_GENERATION is empty: who knows the group says who owns it.
    """
    changes: dict[GroupPartition, OffsetValue] = {}
    refused: list[tuple[GroupPartition, Refused]] = []
    _, member_id, member_epoch, number, _ = committer
    for entry in entries:
        picture = topics.get(entry.topic)
        partition = GroupPartition(entry.topic, picture.topic_id if picture else entry.topic_id, entry.partition)
        if why := _refusal(entry, partition, picture, committer, metadata_bytes_max):
            refused.append((partition, why))
            continue
        changes[partition] = OffsetValue(
            offset=entry.offset,
            leader_epoch=entry.leader_epoch,
            metadata=entry.metadata,
            committed_ms=wall_ms,
            member_id=member_id,
            member_epoch=member_epoch,
            number=number,
        )
    return changes, refused


def _is_late(committer: Committer, partition: GroupPartition) -> bool:
    if committer.number < 0 or (newest := committer.newest.get(partition)) is None:
        return False
    was_member = newest.member_epoch >= 0
    is_same = newest.member_id == committer.member_id and was_member == (committer.holds is not None)
    return is_same and newest.number > committer.number


def _refusal(
    entry: OffsetCommitEntry,
    partition: GroupPartition,
    picture: TopicPicture | None,
    committer: Committer,
    metadata_bytes_max: int,
) -> Refused | None:
    if picture is None:
        return Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {entry.topic}")
    if entry.topic_id and entry.topic_id != picture.topic_id:
        return Refused(ErrorCode.UNKNOWN_TOPIC_ID, f"{entry.topic} was made anew: its id is {picture.topic_id} now")
    if committer.holds is None:
        if not 0 <= entry.partition < picture.partitions:
            detail = f"there is no {partition}: {entry.topic} has {picture.partitions} partitions"
            return Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, detail)
    elif (since := committer.holds.get(partition)) is None:
        return Refused(ErrorCode.PARTITION_NOT_ASSIGNED, "")
    elif committer.member_epoch < since:
        return Refused(ErrorCode.ILLEGAL_GENERATION, "")
    if _is_late(committer, partition):
        detail = f"commit {committer.number} of {partition} came behind a later commit of {committer.member_id}"
        return Refused(ErrorCode.INVALID_REQUEST, detail)
    if entry.offset < 0:
        return Refused(ErrorCode.INVALID_REQUEST, f"offset {entry.offset} of {partition}: an offset is 0 or more")
    metadata = entry.metadata
    if 4 * len(metadata) > metadata_bytes_max and (size := len(metadata.encode())) > metadata_bytes_max:
        detail = f"metadata of {partition} has {size:,} bytes; at most {metadata_bytes_max:,} are kept"
        return Refused(ErrorCode.OFFSET_METADATA_TOO_LARGE, detail)
    return None
