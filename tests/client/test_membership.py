"""The rules of one member of a group: joining, giving back, silence, an application that is stuck."""

from __future__ import annotations

from one_member import LOST, NOTHING_NEW, A, B, C, a_member, at, granting, joined, refusing, sent

from callboard.client.membership import Assign, FindCoordinator, Lose, Phase, Revoke, SendHeartbeat
from callboard.errors import ErrorCode
from callboard.transport.group_messages import GroupHeartbeatReply, OffsetCommitEntry

# -- joining ---------------------------------------------------------------------------------------


def test_the_first_heartbeat_joins_and_says_everything():
    request = sent(a_member(assignors=("range", "sticky"))).request

    assert (request.member_id, request.member_epoch, request.topics) == ("member-1", 0, ["t"])
    assert (request.assignors, request.owned, request.max_wait_ms) == (["range", "sticky"], [], 0)
    assert (request.session_timeout_ms, request.rebalance_timeout_ms) == (10_000, 300_000)


def test_nothing_is_sent_while_no_coordinator_is_known():
    assert a_member().drain(0, has_coordinator=False) == []


def test_what_the_answer_grants_is_owned_at_once():
    member = a_member()

    effects = member.on_answer(sent(member).number, granting(A, B, why="it joined"), 5)

    assert effects == [Assign("member-1", 1, {A: "id", B: "id"}, "it joined")]
    assert set(member.owned) == {A, B}
    assert (member.phase, member.is_complete) == (Phase.JOINED, True)


def test_what_is_new_begins_where_the_answer_says_and_what_is_owned_already_goes_on():
    member = a_member()
    [assign] = member.on_answer(sent(member).number, granting(A, committed=[at(7)]), 5)
    assert assign.committed == {A: 7}

    [assign] = member.on_answer(sent(member, 5).number, granting(A, B, C, epoch=2, committed=[at(3, -1)]), 9)

    assert (set(assign.partitions), assign.committed) == ({B, C}, {B: -1})


def test_what_was_committed_of_a_topic_of_before_says_nothing():
    member = a_member()

    [assign] = member.on_answer(sent(member).number, granting(A, committed=[at(7, topic_id="old")]), 5)

    assert assign.committed == {}


def test_a_join_that_is_not_answered_is_sent_again_under_the_same_name():
    member = a_member()

    effects = member.on_silence(sent(member).number, LOST, 100)
    assert [type(effect) for effect in effects] == [FindCoordinator]
    assert member.drain(100, has_coordinator=True) == []  # after a pause

    again = sent(member, 105)
    assert (again.request.member_id, again.request.member_epoch, again.request.topics) == ("member-1", 0, ["t"])


def test_an_error_that_will_not_pass_bars_the_member_until_it_subscribes_again():
    member = a_member()

    member.on_answer(sent(member).number, refusing(ErrorCode.INVALID_SESSION_TIMEOUT, "1 to 2 s"), 0)

    assert member.phase is Phase.BARRED
    assert "1 to 2 s" in str(member.error)
    assert member.drain(60_000, has_coordinator=True) == []

    member.on_subscribe(["t"], 60_000)
    assert sent(member, 60_000).request.member_id == "member-2"


# -- living ----------------------------------------------------------------------------------------


def test_a_quiet_member_has_one_heartbeat_at_the_coordinator_which_says_nothing_twice():
    member, heartbeat = joined(A)
    member.on_answer(heartbeat.number, NOTHING_NEW, 1_000)  # it said what is owned
    parked = sent(member, 1_000)

    assert (parked.request.topics, parked.request.assignors, parked.request.owned) == (None, None, None)
    assert parked.request.max_wait_ms == 1_000
    assert member.drain(1_500, has_coordinator=True) == []


def test_a_coordinator_that_answers_at_once_without_news_is_not_asked_without_end():
    member, heartbeat = joined(A)

    member.on_answer(heartbeat.number, NOTHING_NEW, 1)

    assert member.drain(1, has_coordinator=True) == []
    assert member.next_event_ms(has_coordinator=True) == 1_000
    sent(member, 1_000)


def test_an_answer_to_what_is_older_changes_nothing():
    member, first = joined(A)
    member.on_subscribe(["t", "u"], 10)
    second = sent(member, 10)
    member.on_answer(second.number, granting(A, B, epoch=3), 20)

    assert member.on_answer(first.number, granting(C, epoch=2), 30) == []
    assert set(member.owned) == {A, B}


def test_other_topics_are_told_at_once_beside_the_heartbeat_that_is_parked():
    member, _ = joined(A)

    member.on_subscribe(["t", "u"], 200)

    assert sent(member, 200).request.topics == ["t", "u"]
    assert member.drain(201, has_coordinator=True) == []


def test_a_subscription_that_is_taken_back_while_it_is_under_way_is_said_again():
    member, _ = joined(A)
    member.on_topics(["u"])
    first = sent(member, 5)
    assert first.request.topics == ["u"]

    member.on_topics(["t"])  # as the coordinator knows it, and will not in a moment
    again = sent(member, 6)

    assert again.request.topics == ["t"]
    assert again.request.number > first.request.number
    member.on_answer(again.number, NOTHING_NEW, 10)
    assert member.drain(11, has_coordinator=True) == []


# -- giving back -----------------------------------------------------------------------------------


def test_what_is_granted_no_longer_is_revoked_and_owned_until_it_is_given_back():
    member, heartbeat = joined(A, B)

    effects = member.on_answer(heartbeat.number, granting(A, epoch=2, why="member-9 joined"), 50)

    assert effects == [Revoke("member-1", 2, {B: "id"}, "member-9 joined")]
    assert set(member.owned) == {A, B}
    assert sent(member, 50).request.owned[0].partitions == [0, 1]  # also under the new epoch


def test_what_is_owned_is_said_anew_under_each_epoch():
    """It may have been given B, and asked for it, and have heard of neither: the coordinator waited for it till the end
    of max_poll_interval_ms, put the member out, and gave what else it owned to another, too soon."""
    member, heartbeat = joined(A)
    member.on_answer(heartbeat.number, NOTHING_NEW, 1_000)
    parked = sent(member, 1_000)
    assert parked.request.owned is None

    member.on_answer(parked.number, granting(A, epoch=3, complete=False), 1_500)

    request = sent(member, 1_500).request
    assert (request.member_epoch, [of.partitions for of in request.owned]) == (3, [[0]])


def test_what_was_said_under_an_earlier_epoch_is_not_known():
    member, parked = joined(A)
    member.on_subscribe(["t", "u"], 10)
    beside = sent(member, 10)  # under epoch 1, as the one that is parked

    member.on_answer(parked.number, granting(A, epoch=3, complete=False), 20)

    assert sent(member, 20).request.owned[0].partitions == [0]
    assert member.on_answer(beside.number, granting(A, epoch=3, complete=False), 21) == []
    assert member.give_back_by_ms >= 0, "the coordinator has not heard yet what is owned under epoch 3"


def test_giving_back_is_told_at_once():
    member, heartbeat = joined(A, B)
    member.on_answer(heartbeat.number, granting(A, epoch=2), 50)
    sent(member, 50)

    assert member.on_revoked([B]) == []

    assert [(of.topic, of.topic_id, of.partitions) for of in sent(member, 60).request.owned] == [("t", "id", [0])]


def test_owned_is_said_until_an_answer_shows_that_it_has_arrived():
    member, heartbeat = joined(A, B)
    member.on_answer(heartbeat.number, granting(A, epoch=2), 50)
    sent(member, 50)
    member.on_revoked([B])
    lost = sent(member, 60)
    member.on_silence(lost.number, LOST, 61)

    assert sent(member, 100).request.owned[0].partitions == [0]


def test_an_answer_to_who_still_owns_it_does_not_end_the_time_to_give_it_back():
    member, heartbeat = joined(A, B)
    member.on_answer(heartbeat.number, granting(A, epoch=2), 10)  # B is asked for
    still = sent(member, 10)
    by_ms = member.give_back_by_ms
    assert by_ms > 0

    member.on_answer(still.number, granting(A, epoch=2), 20)  # the coordinator has heard that B is owned

    assert member.give_back_by_ms == by_ms
    assert not member.may_work(by_ms)


def test_one_that_joins_anew_says_what_it_is_given_and_not_what_it_had():
    member, heartbeat = joined(A, B)
    member.on_answer(heartbeat.number, refusing(ErrorCode.UNKNOWN_MEMBER_ID), 10)
    member.on_answer(sent(member, 10).number, granting(), 20)

    member.on_answer(sent(member, 20).number, granting(C, epoch=2), 30)

    assert [list(one.partitions) for one in sent(member, 30).request.owned] == [[2]]


def test_what_was_revoked_comes_before_what_is_granted_instead():
    member, heartbeat = joined(A)

    effects = member.on_answer(heartbeat.number, granting(B, epoch=2), 50)

    assert [type(effect) for effect in effects] == [Revoke, Assign]
    assert [list(effect.partitions) for effect in effects] == [[A], [B]]


def test_a_partition_is_revoked_once_however_often_the_answer_says_it():
    member, heartbeat = joined(A, B)
    member.on_answer(heartbeat.number, granting(A, epoch=2), 50)

    assert member.on_answer(sent(member, 50).number, granting(A, epoch=2), 60) == []


def test_a_partition_granted_again_while_it_is_given_back_is_assigned_after_that():
    member, heartbeat = joined(A, B)
    member.on_answer(heartbeat.number, granting(A, epoch=2), 50)
    assert member.on_answer(sent(member, 50).number, granting(A, B, epoch=3, committed=[at(1, 1)]), 60) == []

    assert member.on_revoked([B]) == [Assign("member-1", 3, {B: "id"}, "")], "it has committed since: where is asked"
    assert set(member.owned) == {A, B}


def test_a_topic_that_was_made_anew_is_given_back_and_taken_again():
    member, heartbeat = joined(A)

    effects = member.on_answer(heartbeat.number, granting(A, epoch=2, topic_id="new"), 50)
    assert effects == [Revoke("member-1", 2, {A: "id"}, "")]

    assert member.on_revoked([A]) == [Assign("member-1", 2, {A: "new"}, "")]


# -- silence ---------------------------------------------------------------------------------------


def test_a_silent_coordinator_is_looked_up_again_and_the_member_keeps_what_it_owns():
    member, heartbeat = joined(A)

    effects = member.on_silence(heartbeat.number, LOST, 3_000)

    assert [type(effect) for effect in effects] == [FindCoordinator]
    assert set(member.owned) == {A}
    assert (sent(member, 3_010).request.member_id, member.epoch) == ("member-1", 1)


def test_after_a_failure_the_heartbeat_says_everything_that_may_not_have_arrived():
    member, heartbeat = joined(A)
    member.on_answer(heartbeat.number, NOTHING_NEW, 1_000)
    member.on_silence(sent(member, 1_000).number, LOST, 2_000)

    request = sent(member, 2_010).request

    assert (request.topics, request.owned[0].partitions, request.member_epoch) == (["t"], [0], 1)


def test_a_coordinator_that_loads_is_asked_again_and_not_looked_up():
    member, heartbeat = joined(A)

    assert member.on_answer(heartbeat.number, refusing(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS), 100) == []

    assert set(member.owned) == {A}
    assert sent(member, 105).request.member_id == "member-1"


def test_a_broker_that_coordinates_no_more_is_looked_up_again():
    member, heartbeat = joined(A)

    effects = member.on_answer(heartbeat.number, refusing(ErrorCode.NOT_COORDINATOR), 100)

    assert [type(effect) for effect in effects] == [FindCoordinator]
    assert set(member.owned) == {A}


def test_pauses_between_failures_grow_and_are_bounded():
    member, heartbeat = joined(A)
    pauses, now = [], 0
    for _ in range(10):
        member.on_silence(heartbeat.number, LOST, now)
        due = member.next_event_ms(has_coordinator=True)
        pauses.append(due - now)
        now = due
        heartbeat = sent(member, now)

    assert pauses == [5, 10, 20, 40, 80, 160, 250, 250, 250, 250]


def test_a_session_without_an_answer_is_over_a_timeout_after_the_last_answered_heartbeat_was_sent():
    member, heartbeat = joined(A, B)
    member.on_answer(heartbeat.number, NOTHING_NEW, 1_000)
    parked = sent(member, 1_000)
    member.on_answer(parked.number, NOTHING_NEW, 2_000)  # sent at 1,000
    member.on_silence(sent(member, 2_000).number, LOST, 5_000)

    assert member.next_event_ms(has_coordinator=False) == 11_000
    assert member.may_work(10_999)
    assert member.drain(10_999, has_coordinator=False) == []
    assert not member.may_work(11_000)
    (lost,) = member.drain(11_000, has_coordinator=False)

    assert (lost.member_id, set(lost.partitions)) == ("member-1", {A, B})
    assert "has not answered for 10.0 s" in lost.why
    assert (member.owned, member.member_id, member.phase) == ({}, "member-2", Phase.JOINING)


def test_a_lost_connection_has_the_coordinator_looked_up_without_waiting_for_the_answer():
    member, _ = joined(A)

    assert [type(effect) for effect in member.on_coordinator_lost(LOST, 500)] == [FindCoordinator]
    assert set(member.owned) == {A}
    sent(member, 505)


def test_another_coordinator_is_told_everything_at_once():
    member, heartbeat = joined(A)
    member.on_silence(heartbeat.number, LOST, 3_000)

    member.on_coordinator_moved(3_001)

    request = sent(member, 3_001).request
    assert (request.member_epoch, request.owned[0].partitions, request.topics) == (1, [0], ["t"])


# -- a stuck application ---------------------------------------------------------------------------


def test_an_application_that_does_not_come_makes_the_member_leave():
    member, _ = joined(A, max_poll_interval_ms=5_000)

    assert member.next_event_ms(has_coordinator=True) == 5_000
    lost, farewell = member.drain(5_000, has_coordinator=True)

    assert (farewell.request.member_epoch, farewell.request.is_stuck) == (-1, True)
    assert set(lost.partitions) == {A}
    assert "has not polled for 5.0 s" in lost.why
    assert member.phase is Phase.STUCK
    assert member.drain(90_000, has_coordinator=True) == []


def test_a_stuck_member_joins_again_when_the_application_comes():
    member, _ = joined(A, max_poll_interval_ms=5_000)
    member.drain(5_000, has_coordinator=True)

    member.on_poll(8_000)

    assert sent(member, 8_000).request.member_id == "member-2"


def test_an_application_that_waits_in_a_poll_is_not_stuck():
    member, heartbeat = joined(A, max_poll_interval_ms=5_000)
    member.is_application_here = True
    member.on_answer(heartbeat.number, NOTHING_NEW, 1_000)

    assert member.next_event_ms(has_coordinator=False) == 10_000  # only its session's end
    assert not any(isinstance(effect, Lose) for effect in member.drain(9_000, has_coordinator=True))


# -- leaving ---------------------------------------------------------------------------------------


def test_leaving_is_said_and_nothing_comes_after_it():
    member, _ = joined(A)

    (farewell,) = member.on_leave(100)

    assert (farewell.request.member_epoch, farewell.request.is_stuck) == (-1, False)
    assert member.phase is Phase.LEAVING
    assert member.drain(100, has_coordinator=True) == []
    assert member.on_answer(farewell.number, NOTHING_NEW, 110) == []
    assert member.phase is Phase.OUT


def test_a_member_with_an_instance_id_leaves_for_a_while():
    member, _ = joined(A, instance_id="one")

    (farewell,) = member.on_leave(100)

    assert (farewell.request.member_epoch, farewell.request.instance_id) == (-2, "one")


def test_one_that_never_joined_has_nobody_to_leave():
    member = a_member()

    assert member.on_leave(0) == []
    assert member.phase is Phase.OUT


def test_one_that_is_about_to_join_says_that_it_leaves():
    member = a_member()
    sent(member)

    assert [type(effect) for effect in member.on_leave(1)] == [SendHeartbeat]


def test_a_farewell_that_is_not_answered_is_not_repeated():
    member, _ = joined(A)
    (farewell,) = member.on_leave(100)

    assert member.on_silence(farewell.number, LOST, 2_100) == []
    assert member.phase is Phase.OUT


def test_the_answer_to_a_farewell_is_not_taken_for_one_to_joining_again():
    member, _ = joined(A)
    (farewell,) = member.on_leave(100)
    member.on_subscribe(["t"], 101)

    assert member.on_answer(farewell.number, granting(A, epoch=9), 110) == []
    assert member.phase is Phase.JOINING


def test_one_whose_last_commit_was_refused_says_once_more_that_it_leaves_and_without_it():
    member, _ = joined(A)
    last = OffsetCommitEntry(topic="t", partition=0, offset=5)
    (farewell,) = member.on_leave(100, [last])
    assert (farewell.request.last_offsets, farewell.request.last_epoch) == ([last], 1)
    member.on_silence(farewell.number, LOST, 110)

    (again,) = member.on_leave_again(111)

    assert (again.request.member_epoch, again.request.last_offsets) == (-1, [])
    assert again.request.member_id == farewell.request.member_id


# -- what it says of its fetching --------------------------------------------------------------------


def test_each_heartbeat_names_what_is_owned_and_not_fetched():
    member, first = joined(A, B, C)
    stalled = [B]
    member._stalled = lambda owned, _: [key for key in owned if key in stalled]

    member.on_answer(first.number, NOTHING_NEW, 1_000)
    (named,) = sent(member, 2_000).request.stalled

    assert (named.topic, named.topic_id, named.partitions) == ("t", "id", [1])
    stalled.clear()
    member.on_answer(member._last_number, NOTHING_NEW, 3_000)
    again = sent(member, 4_000).request
    assert (again.is_fetching, again.stalled) == (True, [])


def test_a_member_that_nobody_vouches_for_says_nothing():
    _, heartbeat = joined(A)

    assert (heartbeat.request.is_fetching, heartbeat.request.stalled) == (False, [])


def test_one_that_was_reset_loses_everything_leaves_joins_anew_and_remembers_why():
    member, heartbeat = joined(A)
    why = "member-1 was reset: it owned t-0 and did not fetch it for 30,000 ms, though it was led"
    told = GroupHeartbeatReply(member_epoch=1, group_epoch=1, is_reset=True, why=why)

    lost, farewell = member.on_answer(heartbeat.number, told, 500)
    joining = sent(member, 500)
    member.on_answer(farewell.number, GroupHeartbeatReply(member_epoch=-1, group_epoch=2), 505)
    member.on_answer(joining.number, granting(A, epoch=3, why="member-2 joined"), 510)

    assert lost == Lose("member-1", 1, {A: "id"}, why)
    assert (farewell.request.member_id, farewell.request.member_epoch) == ("member-1", -1)
    assert (joining.request.member_id, joining.request.member_epoch) == ("member-2", 0)
    assert (member.phase, list(member.owned)) == (Phase.JOINED, [A])
    assert (member.why, member.lost_ms, member.lost_why) == ("member-2 joined", 500, why)


def test_a_static_one_that_was_reset_leaves_for_a_while():
    member, heartbeat = joined(A, instance_id="rack-7")

    _, farewell = member.on_answer(heartbeat.number, GroupHeartbeatReply(member_epoch=1, is_reset=True), 500)

    assert farewell.request.member_epoch == -2
