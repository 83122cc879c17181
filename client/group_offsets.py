"""Committed offsets as those see them who look after groups: how far behind a group is, where it shall go on. Pure.

Rules of this file:

1. A group can read from the log start offset up to the high watermark. What is committed outside of that counts as the
   nearer of the two: what retention has deleted is no lag, for nobody will ever read it.
2. Whatever a reset aims at, what is committed lies within them too.
3. A time stands for the first record at or after it; if there is none, for the high watermark: what comes next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

from ..errors import IllegalArgumentError, NoOffsetForPartitionError
from ..model import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition
from ..transport.group_messages import GroupDescription, MemberDescription, OffsetFetchEntryReply, TopicPartitions
from ..transport.messages import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, MAX_TIMESTAMP

OFFSET_MAX = (1 << 63) - 1
MEMBERS_SHOWN = 5  # in an error's text


class OffsetSpec(IntEnum):
    """A place in a partition that its leader knows."""

    EARLIEST = EARLIEST_TIMESTAMP  # the log start offset
    LATEST = LATEST_TIMESTAMP  # the high watermark: the next record to be written
    MAX_TIMESTAMP = MAX_TIMESTAMP  # the record with the greatest timestamp


class OffsetTimestamp(int):
    """The first record at or after a time, in ms since 1970."""

    __slots__ = ()


class OffsetShift(int):
    """So many records after (below 0: before) what is committed now."""

    __slots__ = ()


ResetTo = OffsetSpec | OffsetTimestamp | OffsetShift | int  # int: that offset


class LogRange(NamedTuple):
    """What of a partition can be read: ``start <= offset < end``."""

    start: int  # log start offset
    end: int  # high watermark

    def clipped(self, offset: int) -> int:
        """Return the nearest offset at which reading can begin."""
        return min(max(offset, self.start), max(self.start, self.end))


class OffsetReset(NamedTuple):
    """What a reset does, or would do, to one partition."""

    before: int | None  # committed until now; None: nothing
    offset: int  # committed from now on
    log_start_offset: int
    end_offset: int  # high watermark

    @property
    def moves_by(self) -> int | None:
        return None if self.before is None else self.offset - self.before


class PartitionLag(NamedTuple):
    """How far a group is in one partition.

    ``lag``: records that can be read and are not committed; None where nothing is committed, or the partition's leader
    did not answer (``error`` says so). ``end_offset`` is the high watermark.
    """

    committed: int | None
    log_start_offset: int | None
    end_offset: int | None
    lag: int | None
    member_id: str = ""  # whose it is just now
    metadata: str = ""  # of the application, with what is committed
    committed_ms: int = -1  # when, by the coordinator's wall clock; ms since 1970
    error: str = ""

    @property
    def is_aged_out(self) -> bool:
        """Say whether the next record to read was deleted before it was read: some were missed."""
        return self.committed is not None and self.committed < (self.log_start_offset or 0)


def lag_of(committed: int | None, log: LogRange | None) -> int | None:
    """Return how many records can be read and are not committed; None: not known."""
    if committed is None or log is None:
        return None
    return log.end - log.clipped(committed) if log.end > log.start else 0


def resets_to_make(specs: Mapping[TopicPartition, ResetTo]) -> dict[TopicPartition, ResetTo]:
    """Return what ``reset_group_offsets`` was given, checked.

    Raises:
        TypeError, IllegalArgumentError: something is no partition, no place, or below 0.
    """
    if not isinstance(specs, Mapping):
        raise TypeError(f"offset_specs: expected a mapping of TopicPartition, got {type(specs).__name__}")
    found = {}
    for key, to in specs.items():
        partition = partition_given(key, "offset_specs")
        if isinstance(to, bool) or not isinstance(to, int):
            kinds = "OffsetSpec, OffsetTimestamp, OffsetShift or int"
            raise TypeError(f"reset of {partition}: expected {kinds}, got {type(to).__name__}")
        if not isinstance(to, OffsetSpec | OffsetShift) and not 0 <= to <= OFFSET_MAX:
            raise IllegalArgumentError(f"reset of {partition}: {int(to)} is out of bounds, 0 to {OFFSET_MAX}")
        found[partition] = to
    return found


def times_to_ask(resets: Mapping[TopicPartition, ResetTo]) -> dict[TopicPartition, int]:
    """Return what leaders must look up for resets, beside where their logs begin and end."""
    return {
        key: int(to) for key, to in resets.items() if isinstance(to, OffsetTimestamp) or to is OffsetSpec.MAX_TIMESTAMP
    }


def new_offset(
    partition: TopicPartition, to: ResetTo, before: int | None, log: LogRange, found: OffsetAndTimestamp | None
) -> int:
    """Return the offset that a reset commits. ``found``: the leader's answer to ``times_to_ask``; None: no such record.

    Raises:
        NoOffsetForPartitionError: a shift, and nothing is committed.
    """
    if to is OffsetSpec.EARLIEST:
        return log.start
    if to is OffsetSpec.LATEST:
        return log.clipped(log.end)
    if isinstance(to, OffsetTimestamp | OffsetSpec):
        return log.clipped(log.end if found is None else found.offset)
    if isinstance(to, OffsetShift):
        if before is None:
            raise NoOffsetForPartitionError(f"{partition}: nothing is committed that could be shifted; name a place")
        return log.clipped(before + to)
    return log.clipped(to)


def partition_given(key: object, what: str) -> TopicPartition:
    """Return a partition that a caller gave as ``TopicPartition`` or ``(topic, number)``."""
    if isinstance(key, tuple) and len(key) == 2:
        topic, partition = key
        if isinstance(topic, str) and type(partition) is int:
            if partition < 0:
                raise IllegalArgumentError(f"{what}: there is no partition {partition}")
            return TopicPartition(topic, partition)
    raise TypeError(f"{what}: expected TopicPartition, got {key!r:.100}")


def offsets_given(
    offsets: Mapping[TopicPartition, OffsetAndMetadata | int],
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return what ``alter_group_offsets`` was given, checked; a plain int is an offset without metadata."""
    if not isinstance(offsets, Mapping):
        raise TypeError(f"offsets: expected a mapping of TopicPartition, got {type(offsets).__name__}")
    found = {}
    for key, given in offsets.items():
        partition = partition_given(key, "offsets")
        offset, metadata, epoch = given if isinstance(given, OffsetAndMetadata) else (given, "", -1)
        if type(offset) is not int or type(epoch) is not int or not isinstance(metadata, str):
            raise TypeError(f"offset of {partition}: expected OffsetAndMetadata(int, str, int), got {given!r:.100}")
        if not 0 <= offset <= OFFSET_MAX:
            raise IllegalArgumentError(f"offset of {partition}: {offset} is out of bounds, 0 to {OFFSET_MAX}")
        check_metadata(partition, metadata)
        found[partition] = OffsetAndMetadata(offset, metadata, epoch)
    return found


def check_metadata(partition: object, metadata: str) -> None:
    """Raise if a string cannot be sent: half of a surrogate pair, as undecodable file names have, is no character."""
    try:
        metadata.encode()
    except UnicodeEncodeError as error:
        raise IllegalArgumentError(f"metadata of {partition}: {metadata!r:.100} is no text: {error}") from None


def by_topic(partitions: Iterable[TopicPartition]) -> list[TopicPartitions]:
    """Return partitions as requests name them: topics in the order of their first partition."""
    found: dict[str, list[int]] = {}
    for key in partitions:
        found.setdefault(key.topic, []).append(key.partition)
    return [TopicPartitions(topic=topic, partitions=numbers) for topic, numbers in found.items()]


def committed_of(entries: Iterable[OffsetFetchEntryReply]) -> dict[TopicPartition, OffsetFetchEntryReply]:
    """Return what is committed, by partition, in their order; partitions without are left out."""
    found = {TopicPartition(entry.topic, entry.partition): entry for entry in entries if entry.offset >= 0}
    return dict(sorted(found.items()))


def owners_of(group: GroupDescription) -> dict[TopicPartition, str]:
    """Return which member owns which partition."""
    return {
        TopicPartition(some.topic, partition): member.member_id
        for member in group.members
        for some in member.assigned
        for partition in some.partitions
    }


def group_lags(
    wanted: Iterable[TopicPartition],
    committed: Mapping[TopicPartition, OffsetFetchEntryReply],
    owners: Mapping[TopicPartition, str],
    logs: Mapping[TopicPartition, LogRange],
    errors: Mapping[TopicPartition, str],
) -> dict[TopicPartition, PartitionLag]:
    """Return the lag of partitions, in their order."""
    found = {}
    for key in sorted(wanted):
        entry, log = committed.get(key), logs.get(key)
        offset = None if entry is None else entry.offset
        found[key] = PartitionLag(
            committed=offset,
            log_start_offset=None if log is None else log.start,
            end_offset=None if log is None else log.end,
            lag=lag_of(offset, log),
            member_id=owners.get(key, ""),
            metadata="" if entry is None else entry.metadata,
            committed_ms=-1 if entry is None else entry.committed_ms,
            error=errors.get(key, ""),
        )
    return found


def who_is_in(group: GroupDescription) -> str:
    """Return one line that names a group's members, for an error."""
    shown = [_named(member) for member in group.members[:MEMBERS_SHOWN]]
    more = len(group.members) - len(shown)
    noun = "member" if len(group.members) == 1 else "members"
    return f"{len(group.members)} {noun}: {', '.join(shown)}{f' and {more} more' if more else ''}"


def _named(member: MemberDescription) -> str:
    name = member.instance_id or member.member_id
    about = " at ".join(filter(None, (member.client_id, member.host)))
    return f"{name} ({about})" if about else name
