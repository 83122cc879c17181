"""The rules of one member that is out: fenced, replaced under its instance id, too late in giving back."""

from __future__ import annotations

from one_member import LOST, NOTHING_NEW, A, B, a_member, granting, joined, refusing, sent

from callboard.client.membership import Lose, Phase, SendHeartbeat
from callboard.errors import ErrorCode
from callboard.transport.group_messages import GroupHeartbeatReply


def test_a_fenced_member_loses_everything_and_joins_under_another_name():
    member, heartbeat = joined(A)

    effects = member.on_answer(heartbeat.number, refusing(ErrorCode.FENCED_MEMBER_EPOCH, "t-0 is member-9's"), 50)

    (lost,) = effects
    assert (lost.member_id, lost.member_epoch, set(lost.partitions)) == ("member-1", 1, {A})
    assert "t-0 is member-9's" in lost.why
    request = sent(member, 50).request
    assert (request.member_id, request.member_epoch, request.owned) == ("member-2", 0, [])


def test_a_member_that_is_refused_again_and_again_waits_in_between():
    member, heartbeat = joined(A)
    member.on_answer(heartbeat.number, refusing(ErrorCode.UNKNOWN_MEMBER_ID), 50)

    member.on_answer(sent(member, 50).number, refusing(ErrorCode.UNKNOWN_MEMBER_ID), 51)

    assert member.drain(51, has_coordinator=True) == []
    assert member.next_event_ms(has_coordinator=True) > 51


def test_an_answer_to_a_name_of_before_is_dropped():
    member, first = joined(A)
    member.on_subscribe(["t", "u"], 10)
    second = sent(member, 10)
    member.on_answer(second.number, refusing(ErrorCode.UNKNOWN_MEMBER_ID), 20)

    assert member.on_answer(first.number, granting(A, B, epoch=9), 30) == []
    assert member.owned == {}


def test_one_whose_instance_id_was_taken_never_comes_back_by_itself():
    member, heartbeat = joined(A, instance_id="one")

    (lost,) = member.on_answer(heartbeat.number, refusing(ErrorCode.FENCED_INSTANCE_ID, "by member-2"), 50)

    assert set(lost.partitions) == {A}
    assert member.phase is Phase.BARRED
    assert "by member-2" in str(member.error)
    assert member.drain(100_000, has_coordinator=True) == []


def taken(by) -> GroupHeartbeatReply:
    return GroupHeartbeatReply(taken_by=by, why=f"{by} has this instance id")


def test_one_that_is_started_with_an_instance_id_takes_the_place_once_it_knows_whose_it_is():
    member = a_member(instance_id="one")
    first = sent(member)
    assert first.request.replaces == ""

    assert member.on_answer(first.number, taken("before"), 5) == []

    again = sent(member, 5)
    assert (again.request.member_id, again.request.member_epoch) == (first.request.member_id, 0)
    assert again.request.replaces == "before"
    member.on_answer(again.number, granting(A), 10)
    assert member.phase is Phase.JOINED
    assert sent(member, 10).request.replaces is None


def test_one_that_joins_anew_takes_its_own_place_and_nobody_elses():
    member, heartbeat = joined(A, instance_id="one")
    member.on_answer(heartbeat.number, refusing(ErrorCode.UNKNOWN_MEMBER_ID), 50)
    again = sent(member, 50)
    assert (again.request.member_id, again.request.replaces) == ("member-2", "member-1")

    member.on_answer(again.number, taken("member-2"), 60)  # that answer was lost, and it was put out: say
    assert sent(member, 60).request.replaces == "member-2"


def test_one_whose_place_was_taken_while_it_was_out_of_reach_does_not_fence_that_one():
    member, _ = joined(A, instance_id="one")
    member.drain(10_000, has_coordinator=False)  # its session is over
    again = sent(member, 10_000)

    (lost,) = member.on_answer(again.number, taken("another"), 10_010)

    assert not lost.partitions
    assert member.phase is Phase.BARRED
    assert "another has this instance id" in str(member.error)


def test_one_that_was_never_a_member_takes_the_place_also_under_its_second_name():
    """Started while nobody coordinated; its application did not poll for long: a dead one barred it."""
    member = a_member(instance_id="one", max_poll_interval_ms=5_000)
    first = sent(member)
    member.on_silence(first.number, LOST, 100)
    member.drain(5_000, has_coordinator=False)
    assert member.phase is Phase.STUCK
    member.on_poll(6_000)
    again = sent(member, 6_000)

    assert member.on_answer(again.number, taken("before"), 6_010) == []

    assert sent(member, 6_010).request.replaces == "before"


def test_one_that_has_left_and_is_wanted_again_is_as_one_that_is_started():
    member, _ = joined(A, instance_id="one")
    (farewell,) = member.on_leave(100)
    member.on_answer(farewell.number, NOTHING_NEW, 110)
    member.on_subscribe(["t"], 120)
    again = sent(member, 120)

    member.on_answer(again.number, taken("another"), 130)

    assert (again.request.replaces, sent(member, 130).request.replaces) == ("", "another")


def test_a_member_without_an_instance_id_replaces_nobody():
    assert sent(a_member()).request.replaces is None


def test_what_is_not_given_back_in_time_is_lost_before_the_coordinator_gives_it_to_another():
    member, first = joined(A, B, max_poll_interval_ms=5_000)
    member.is_application_here = True  # inside its listener, say
    member.on_answer(first.number, NOTHING_NEW, 1_000)
    member.on_answer(sent(member, 1_000).number, granting(A, epoch=2), 2_000)  # asked for at some time since 0
    sent(member, 2_000)
    assert member.next_event_ms(has_coordinator=True) == 5_000
    assert member.may_work(4_999)

    assert not member.may_work(5_000)
    lost, farewell, _joining = member.drain(5_000, has_coordinator=True)

    assert (farewell.request.member_id, farewell.request.member_epoch, farewell.request.is_stuck) == (
        "member-1",
        -1,
        True,
    )
    assert isinstance(lost, Lose)
    assert set(lost.partitions) == {A, B}
    assert lost.why == "t-1 was to be given back within 5000 ms (max_poll_interval_ms)"
    assert member.member_id == "member-2"


def test_giving_back_that_was_not_heard_of_in_time_is_none():
    member, first = joined(A, B, max_poll_interval_ms=5_000)
    member.is_application_here = True
    member.on_answer(first.number, granting(A, epoch=2), 1_000)  # asked for at some time since 0
    sent(member, 1_000)
    member.on_revoked([B])
    said = sent(member, 1_001)  # and never answered

    member.on_silence(said.number, LOST, 4_000)
    assert member.may_work(4_999)
    assert not member.may_work(5_000)
    lost, _farewell, _joining = member.drain(5_000, has_coordinator=True)

    assert set(lost.partitions) == {A}
    assert lost.why == "the coordinator has not answered what was given back within 5000 ms (max_poll_interval_ms)"


def test_what_it_may_have_been_given_and_asked_for_unheard_is_not_there_until_that_is_answered():
    member, first = joined(A, max_poll_interval_ms=5_000)
    member.is_application_here = True
    member.on_answer(first.number, granting(A, epoch=3, complete=False), 1_000)
    said = sent(member, 1_000)
    assert member.next_event_ms(has_coordinator=True) == 5_000

    told = GroupHeartbeatReply(member_epoch=3, group_epoch=3)
    member.on_answer(said.number, told, 2_000)

    assert member.give_back_by_ms == -1


def test_a_partition_that_is_granted_again_need_not_be_given_back_in_time():
    member, first = joined(A, B, max_poll_interval_ms=5_000)
    member.is_application_here = True
    member.on_answer(first.number, granting(A, epoch=2), 50)
    member.on_answer(sent(member, 50).number, granting(A, B, epoch=3), 60)

    member.on_revoked([B])

    assert member.give_back_by_ms == -1


def test_what_is_given_back_in_time_costs_nothing():
    member, first = joined(A, B, max_poll_interval_ms=5_000)
    member.is_application_here = True
    member.on_answer(first.number, granting(A, epoch=2), 1_000)

    member.on_revoked([B])
    member.on_answer(sent(member, 1_001).number, GroupHeartbeatReply(member_epoch=2, group_epoch=2), 1_010)

    assert [type(effect) for effect in member.drain(6_000, has_coordinator=True)] == [SendHeartbeat]
    assert member.may_work(6_000)
