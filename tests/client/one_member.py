"""What tests of one member's rules share: a member, what it sends, what its coordinator answers."""

from __future__ import annotations

import itertools

from callboard.client.membership import Member, MemberSettings, SendHeartbeat
from callboard.errors import ConnectionLostError, ErrorCode
from callboard.model import TopicPartition
from callboard.transport.group_messages import CommittedOffsets, GroupHeartbeatReply, TopicPartitions

A, B, C = (TopicPartition("t", number) for number in range(3))
LOST = ConnectionLostError("cut")
SETTINGS = MemberSettings("g", "", ("sticky",), 10_000, 1_000, 300_000)


def a_member(now=0, **settings) -> Member:
    numbers = itertools.count(1)
    member = Member(SETTINGS._replace(**settings), lambda: f"member-{next(numbers)}")
    member.on_subscribe(["t"], now)
    return member


def sent(member, now=0) -> SendHeartbeat:
    (effect,) = member.drain(now, has_coordinator=True)
    assert isinstance(effect, SendHeartbeat)
    return effect


def granting(*keys, epoch=1, topic_id="id", complete=True, why="", committed=()) -> GroupHeartbeatReply:
    of = TopicPartitions(topic="t", topic_id=topic_id, partitions=[key.partition for key in keys])
    return GroupHeartbeatReply(
        member_epoch=epoch,
        group_epoch=epoch,
        assignment=[of] if keys else [],
        is_complete=complete,
        why=why,
        committed=list(committed),
    )


def at(*offsets, topic_id="id") -> CommittedOffsets:
    """What is committed of partitions 0, 1, … of t."""
    return CommittedOffsets(topic="t", topic_id=topic_id, partitions=list(range(len(offsets))), offsets=list(offsets))


def refusing(error: ErrorCode, detail="") -> GroupHeartbeatReply:
    return GroupHeartbeatReply(error=error, detail=detail)


NOTHING_NEW = GroupHeartbeatReply(member_epoch=1, group_epoch=1, is_complete=True)


def joined(*keys, now=0, **settings) -> tuple[Member, SendHeartbeat]:
    """A member that owns these, and the heartbeat that is at its coordinator."""
    member = a_member(now, **settings)
    member.on_answer(sent(member, now).number, granting(*keys), now)
    return member, sent(member, now)
