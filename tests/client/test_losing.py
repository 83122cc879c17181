"""From the moment a member loses what it owned until its application is told, nothing of that is handed out."""

from __future__ import annotations

import threading

import pytest
from group_members import poll_until

from callboard import TopicPartition
from callboard.client.group import GroupSide
from callboard.client.membership import Member, MemberSettings
from callboard.errors import ConnectionLostError, ErrorCode
from callboard.transport.group_messages import GroupHeartbeatReply, TopicPartitions
from callboard.transport.messages import ErrorReply

A = TopicPartition("t", 0)
GRANTED = [TopicPartitions(topic="t", topic_id="id", partitions=[0])]


def joined():
    """A member that owns A, and the heartbeat that is at its coordinator."""
    names = iter(("first", "second"))
    member = Member(MemberSettings("g", "", ("sticky",), 10_000, 1_000, 300_000), lambda: next(names))
    member.on_subscribe(["t"], 0)
    join(member, 0)
    (heartbeat,) = member.drain(0, has_coordinator=True)
    return member, heartbeat


def join(member, now):
    (joining,) = member.drain(now, has_coordinator=True)
    granting = GroupHeartbeatReply(member_epoch=1, group_epoch=1, assignment=GRANTED, is_complete=True)
    member.on_answer(joining.number, granting, now)


def is_silent(member, heartbeat):
    member.on_silence(heartbeat.number, ConnectionLostError("cut"), 1_000)
    return 11_000, member.drain(11_000, has_coordinator=False)


def is_refused(member, heartbeat):
    return 100, member.on_answer(heartbeat.number, ErrorReply(error=ErrorCode.UNKNOWN_MEMBER_ID), 100)


def is_stuck(member, _):
    now = member.settings.max_poll_interval_ms
    member.session_from_ms = now
    return now, member.drain(now, has_coordinator=True)


def is_barred(member, heartbeat):
    return 100, member.on_answer(heartbeat.number, ErrorReply(error=ErrorCode.FENCED_INSTANCE_ID), 100)


@pytest.mark.parametrize("ends", [is_silent, is_refused, is_stuck, is_barred])
def test_a_member_that_has_lost_everything_works_on_nothing_until_that_is_told(ends):
    member, heartbeat = joined()
    assert member.may_work(0)

    now, effects = ends(member, heartbeat)

    assert set(effects[0].partitions) == {A}
    assert not member.may_work(now)
    member.is_losing = False  # it was told
    assert member.may_work(now)


def test_when_the_application_may_read_again_it_has_been_told(cluster, member, monkeypatch):
    cluster.create("t")
    consumer = member("t", max_poll_interval_ms=200)
    poll_until(lambda: consumer.assignment() == {A}, consumer)
    seen, is_lost, lose = [], threading.Event(), GroupSide._lose

    def looking(side, effect):
        application = side._applicant
        seen.append((application.may_read(), bool(application.changes)))
        lose(side, effect)
        seen.append((application.may_read(), bool(application.changes)))
        is_lost.set()

    monkeypatch.setattr(GroupSide, "_lose", looking)
    assert is_lost.wait(20)

    assert seen == [(False, False), (True, True)]


def test_it_joins_again_as_before():
    member, heartbeat = joined()
    is_refused(member, heartbeat)
    member.is_losing = False

    join(member, 100)

    assert member.may_work(100)
    assert set(member.owned) == {A}
