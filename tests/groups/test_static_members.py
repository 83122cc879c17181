"""Static members (B21): who comes back under an instance id has its place again, whoever had it is fenced."""

from __future__ import annotations

import pytest

from callboard.actors.groups.events import TopicPicture
from callboard.errors import ErrorCode
from callboard.transport import group_messages as said

from .desks import Desk, beat, numbers


def test_a_static_member_takes_the_place_of_the_one_before_it_and_that_one_is_fenced():
    desk = Desk()
    old = desk.join("m1", instance_id="i1")
    other = desk.join("m2")
    parked = desk.park("m1", desk.heartbeat("m1", old.member_epoch).member_epoch)
    waiting = desk.park("m2", other.member_epoch)

    new = desk.join("m3", instance_id="i1")

    assert numbers(new.assignment) == [0, 1]
    assert new.is_complete
    assert desk.replies[parked].error == ErrorCode.FENCED_INSTANCE_ID
    assert numbers(desk.replies[waiting].assignment) == [2, 3]  # the fenced one gives nothing back any more
    assert new.member_epoch > old.member_epoch
    fenced = desk.commit("m1", old.member_epoch, {0: 5}, instance_id="i1")
    assert fenced.error == ErrorCode.FENCED_INSTANCE_ID
    owner = f"m3 (instance i1) of app at 10.0.0.1 since generation {new.member_epoch}"
    assert f"orders-0 is owned by {owner}" in fenced.detail
    assert desk.heartbeat("m1", old.member_epoch, instance_id="i1").error == ErrorCode.FENCED_INSTANCE_ID
    assert desk.join("m1", instance_id="i1").error == ErrorCode.FENCED_INSTANCE_ID


def test_a_join_that_comes_late_of_one_that_is_dead_fences_nobody_at_whichever_coordinator():
    desk = Desk()
    late = beat("m1", 0, topics=["orders"], instance_id="i1", replaces="")
    desk.ask(late)
    told = desk.join("m2", instance_id="i1", replaces="")
    assert (told.member_epoch, told.taken_by) == (0, "m1")
    assert [member.member_id for member in desk.described().members] == ["m1"]
    joined = desk.join("m2", instance_id="i1", replaces="m1")
    assert numbers(joined.assignment) == [0, 1, 2, 3]

    moved = desk.restarted()  # it does not know that m1 was there once
    told = moved.ask(late)

    assert (told.member_epoch, told.taken_by) == (0, "m2")
    assert told.why == "m2 (instance i1) of app at 10.0.0.1 has this instance id"
    assert moved.heartbeat("m2", joined.member_epoch, instance_id="i1").error == 0
    assert desk.ask(late).error == ErrorCode.FENCED_INSTANCE_ID


def test_a_late_join_that_knew_another_one_fences_nobody():
    desk = Desk()
    desk.join("m1", instance_id="i1", replaces="")
    desk.join("m3", instance_id="i1", replaces="m1")

    told = desk.join("m2", instance_id="i1", replaces="m1")  # of a process that died before m3 was started

    assert told.taken_by == "m3"


def test_whoever_takes_a_place_is_told_only_what_survives():
    desk = Desk()
    desk.join("m1", instance_id="i1", replaces="")
    desk.survives = False
    desk.send(beat("m2", 0, topics=["orders"], instance_id="i1", replaces="m1"))

    ticket = desk.send(beat("m3", 0, topics=["orders"], instance_id="i1", replaces=""))

    assert ticket not in desk.replies
    desk.write()
    assert desk.replies[ticket].taken_by == "m2"


def test_the_place_of_one_that_is_away_or_gone_is_taken_without_a_question():
    desk = Desk()
    desk.join("m1", instance_id="i1", replaces="")
    desk.heartbeat("m1", said.LEAVING_FOR_A_WHILE, instance_id="i1")

    joined = desk.join("m2", instance_id="i1", replaces="")
    assert joined.member_epoch > 0
    desk.pass_time(11_000)
    assert desk.join("m3", instance_id="i1", replaces="m1").member_epoch > joined.member_epoch


@pytest.mark.parametrize("assignor", said.ASSIGNORS)
def test_a_static_member_that_comes_back_gets_the_same_and_nobody_else_notices(assignor):
    desk = Desk()
    one = desk.join("m1", instance_id="i1", assignors=[assignor])
    two = desk.join("m2", instance_id="i2", assignors=[assignor])
    told = desk.heartbeat("m1", one.member_epoch)
    desk.heartbeat("m1", told.member_epoch, owned=numbers(told.assignment))
    two = desk.heartbeat("m2", two.member_epoch)
    had = numbers(desk.described().members[0].assigned)
    parked = desk.park("m2", two.member_epoch)
    group_epoch = desk.described().group_epoch

    left = desk.heartbeat("m1", said.LEAVING_FOR_A_WHILE, instance_id="i1")
    desk.pass_time(800)
    assert desk.described().members[0].state == "away"
    back = desk.join("a-new-name", instance_id="i1", assignors=[assignor])

    assert (left.error, left.member_epoch) == (0, said.LEAVING_FOR_A_WHILE)
    assert numbers(back.assignment) == had
    assert desk.described().group_epoch == group_epoch
    assert parked not in desk.replies


def test_a_static_member_that_stays_away_is_put_out_after_its_session():
    desk = Desk()
    desk.join("m1", instance_id="i1")
    desk.join("m2", session_timeout_ms=60_000)
    desk.heartbeat("m1", said.LEAVING_FOR_A_WHILE, instance_id="i1")
    assert numbers(desk.heartbeat("m2", 1).assignment) == [2, 3]  # what m1 was asked for is free: it has closed

    desk.pass_time(10_010)

    assert numbers(desk.heartbeat("m2", 1).assignment) == [0, 1, 2, 3]


def test_one_that_is_away_is_no_member_to_talk_to():
    desk = Desk()
    epoch = desk.join("m1", instance_id="i1").member_epoch
    parked = desk.park("m1", epoch)
    desk.heartbeat("m1", said.LEAVING_FOR_A_WHILE, instance_id="i1")

    assert desk.replies[parked].error == ErrorCode.UNKNOWN_MEMBER_ID
    for reply in (
        desk.heartbeat("m1", epoch),
        desk.heartbeat("m1", said.LEAVING),
        desk.join("m1", instance_id="i1"),
        desk.commit("m1", epoch, {0: 1}),
    ):
        assert reply.error == ErrorCode.UNKNOWN_MEMBER_ID
        assert "has left for a while" in reply.detail


def test_a_static_member_that_comes_back_with_another_subscription_gets_what_it_wants():
    desk = Desk({"orders": TopicPicture("o1", 2), "clicks": TopicPicture("c1", 2)})
    desk.join("m1", ["orders"], instance_id="i1")

    back = desk.join("m2", ["clicks"], instance_id="i1")

    assert [some.topic for some in back.assignment] == ["clicks"]
    assert desk.described().why.endswith("came back with another subscription")
