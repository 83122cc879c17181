"""Records of ``__consumer_offsets``: what a coordinator remembers, one JSON value under one JSON key.

    ["coordinator"]                                 CoordinatorValue   a coordinator began to load here
    ["proof"]                                       nothing: it was appended to see whether it is acknowledged
    ["group", group]                                GroupValue
    ["member", group, member]                       MemberValue
    ["offset", group, topic, topic id, partition]   OffsetValue

No value (a tombstone): there is none any more. What belongs together is written together (``Write``): a log that ends
anywhere between two batches is a state that a coordinator was in. Two versions may share a log for a while: kinds, and
longer keys, that are not known are passed over, fields that are not known are ignored, and new fields have defaults.
Bytes are pinned by a test: compaction compares keys byte by byte, so they never change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from ...errors import StorageCorruption
from .events import GroupPartition, Record


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every value."""


class Some(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Some partitions of one topic. ``epoch``: the member's, when it was given them."""

    topic: str
    topic_id: str
    partitions: list[int]
    epoch: int = 0


class CoordinatorValue(Value, frozen=True, kw_only=True, omit_defaults=True):
    leader_epoch: int


class GroupValue(Value, frozen=True, kw_only=True, omit_defaults=True):
    epoch: int  # >= 0; only grows
    assignor: str = ""
    why: str = ""  # of the last change
    empty_since_ms: int = -1  # wall clock; -1: it has members


class MemberValue(Value, frozen=True, kw_only=True, omit_defaults=True):
    """``given``: what it may own; ``asked``: what it has to give back; both are its until it has said so. ``said``: the
    number of the heartbeat with which it said what it is; -1: it numbers none."""

    epoch: int
    instance_id: str = ""
    client_id: str = ""
    host: str = ""
    topics: list[str] = []
    pattern: str = ""
    assignors: list[str] = []
    session_timeout_ms: int
    rebalance_timeout_ms: int
    given: list[Some] = []
    asked: list[Some] = []
    target: list[Some] = []
    is_away: bool = False
    said: int = -1


class OffsetValue(Value, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """``member_id`` and ``member_epoch``: who committed it (B19); -1: who is no member, and calls itself so, or "".
    ``number``: of the commit, among that one's; -1: it has none."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    committed_ms: int = -1  # wall clock
    member_id: str = ""
    member_epoch: int = -1
    number: int = -1


class GroupKey(NamedTuple):
    group_id: str


class MemberKey(NamedTuple):
    group_id: str
    member_id: str


class OffsetKey(NamedTuple):
    group_id: str
    partition: GroupPartition


Decoded: TypeAlias = (
    tuple[GroupKey, GroupValue | None] | tuple[MemberKey, MemberValue | None] | tuple[OffsetKey, OffsetValue | None]
)

_encode = msgspec.json.Encoder().encode
_keys = msgspec.json.Decoder(list[str | int])
_groups = msgspec.json.Decoder(GroupValue)
_members = msgspec.json.Decoder(MemberValue)
_offsets = msgspec.json.Decoder(OffsetValue)

MARKER_KEY = _encode(["coordinator"])
PROOF: Record = (_encode(["proof"]), b"{}")  # says nothing: that it is acknowledged is the proof


def marker(leader_epoch: int) -> Record:
    """Return the record that a coordinator appends before it loads: its acknowledgement settles all before it."""
    return MARKER_KEY, _encode(CoordinatorValue(leader_epoch=leader_epoch))


def group_record(group_id: str, value: GroupValue | None) -> Record:
    return _encode(("group", group_id)), None if value is None else _encode(value)


def member_record(group_id: str, member_id: str, value: MemberValue | None) -> Record:
    return _encode(("member", group_id, member_id)), None if value is None else _encode(value)


def offset_record(group_id: str, partition: GroupPartition, value: OffsetValue | None) -> Record:
    return _encode(("offset", group_id, *partition)), None if value is None else _encode(value)


def decode(key: bytes, value: bytes | None) -> Decoded | None:
    """Return what a record says; None: it is of a kind that is not known here, or a marker.

    Raises:
        StorageCorruption: the kind is known, the value cannot be read: to pass it over could lose an offset.
    """
    try:
        parts = _keys.decode(key)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    try:
        match parts:
            case ["offset", str(group_id), str(topic), str(topic_id), int(partition)]:
                found = GroupPartition(topic, topic_id, partition)
                return OffsetKey(group_id, found), None if value is None else _offsets.decode(value)
            case ["member", str(group_id), str(member_id)]:
                return MemberKey(group_id, member_id), None if value is None else _members.decode(value)
            case ["group", str(group_id)]:
                return GroupKey(group_id), None if value is None else _groups.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageCorruption(f"a record of __consumer_offsets cannot be read: key {key!r}: {error}") from error
    return None


# -- partitions, in a value and in memory


def packed(epochs: Mapping[GroupPartition, int]) -> list[Some]:
    """Return partitions with their epochs as they are written: sorted, those of one topic and epoch together."""
    found: dict[tuple[str, str, int], list[int]] = {}
    for topic, topic_id, partition in sorted(epochs):
        epoch = epochs[GroupPartition(topic, topic_id, partition)]
        found.setdefault((topic, topic_id, epoch), []).append(partition)
    return [
        Some(topic=topic, topic_id=topic_id, partitions=partitions, epoch=epoch)
        for (topic, topic_id, epoch), partitions in found.items()
    ]


def unpacked(some: Iterable[Some]) -> dict[GroupPartition, int]:
    """Return what ``packed`` was given."""
    return {
        GroupPartition(one.topic, one.topic_id, partition): one.epoch for one in some for partition in one.partitions
    }
