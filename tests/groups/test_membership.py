"""Members come, live, move partitions one by one, and go."""

from __future__ import annotations

import msgspec
import pytest

from callboard.actors.groups.events import GroupSettings, TopicPicture
from callboard.errors import ErrorCode
from callboard.transport import group_messages as said

from .desks import ORDERS, Desk, beat, numbers, orders


def two_members(desk):
    """Let m1 have 0 and 1, m2 the others; return their epochs."""
    one = desk.join("m1")
    desk.join("m2")
    one = desk.heartbeat("m1", one.member_epoch)
    one = desk.heartbeat("m1", one.member_epoch, owned=numbers(one.assignment))
    two = desk.heartbeat("m2", 1)
    assert (numbers(desk.described().members[0].assigned), numbers(two.assignment)) == ([0, 1], [2, 3])
    return one.member_epoch, two.member_epoch


# -- coming


def test_the_first_member_gets_everything_with_its_first_answer():
    joined = Desk().join("m1")

    assert joined.assignment == [said.TopicPartitions(topic="orders", topic_id="o1", partitions=[0, 1, 2, 3])]
    assert joined.is_complete
    assert (joined.member_epoch, joined.group_epoch) == (1, 1)
    assert joined.why == "m1 of app at 10.0.0.1 joined"


def test_a_join_is_answered_when_it_survives():
    desk = Desk(survives=False)

    ticket = desk.send(beat("m1", 0, topics=["orders"]))

    assert ticket not in desk.replies
    desk.write()
    assert numbers(desk.replies[ticket].assignment) == [0, 1, 2, 3]


def test_one_that_joins_gets_what_others_give_back_and_nothing_before():
    desk = Desk()
    desk.join("m1")
    parked = desk.park("m1", 1)

    joined = desk.join("m2")
    waiting = desk.park("m2", joined.member_epoch)

    assert joined.assignment == []
    assert not joined.is_complete
    assert numbers(desk.replies[parked].assignment) == [0, 1]  # at once
    assert not desk.replies[parked].is_complete
    assert waiting not in desk.replies
    given_back = desk.park("m1", desk.replies[parked].member_epoch, owned=[0, 1])
    assert numbers(desk.replies[waiting].assignment) == [2, 3]  # at once
    assert desk.replies[waiting].is_complete
    assert desk.replies[given_back].assignment is None  # as it was
    assert desk.replies[given_back].is_complete


def test_partitions_move_one_by_one():
    desk = Desk()
    desk.join("m1")
    desk.join("m2")
    epoch = desk.heartbeat("m1", 1).member_epoch

    desk.heartbeat("m1", epoch, owned=[0, 1, 3])

    assert numbers(desk.heartbeat("m2", 1).assignment) == [2]
    assert desk.described().state == "reconciling"
    desk.heartbeat("m1", epoch, owned=[0, 1])
    assert numbers(desk.heartbeat("m2", 1).assignment) == [2, 3]
    assert desk.described().state == "stable"


def test_members_that_keep_theirs_hear_nothing_of_what_others_do():
    desk = Desk({"orders": TopicPicture("o1", 4), "clicks": TopicPicture("c1", 2)})
    keeper = desk.join("m1", ["orders"])
    parked = desk.park("m1", keeper.member_epoch, max_wait_ms=2_000)

    desk.join("m2", ["clicks"])
    desk.join("m3", ["clicks"])
    desk.heartbeat("m3", said.LEAVING)
    desk.set_topics({"orders": TopicPicture("o1", 4), "clicks": TopicPicture("c1", 9)})

    assert parked not in desk.replies
    assert desk.described().members[0].member_epoch == keeper.member_epoch
    assert desk.described().group_epoch > keeper.group_epoch


def test_what_a_member_says_it_owns_counts_only_if_it_knows_its_epoch():
    desk = Desk()
    desk.join("m1")
    desk.join("m2")

    told = desk.heartbeat("m1", 1, owned=[])  # of before it was asked for anything

    assert numbers(told.assignment) == [0, 1]
    assert numbers(desk.heartbeat("m2", 1).assignment) == []


def test_a_partition_that_is_asked_for_and_then_wanted_again_is_not_given_away_by_a_late_word():
    desk = Desk()
    desk.join("m1")
    desk.join("m2")
    late = beat("m1", desk.heartbeat("m1", 1).member_epoch, owned=[0, 1])
    desk.heartbeat("m2", said.LEAVING)
    desk.join("m3")

    desk.send(late)

    assert numbers(desk.heartbeat("m3", 1).assignment) == []


def test_a_join_that_comes_twice_is_one_join():
    desk = Desk()
    first = desk.join("m1")

    again = desk.join("m1")

    assert again == msgspec.structs.replace(first, committed=[]), "where it begins is told with the record alone"
    assert len(desk.described().members) == 1


def test_a_join_again_before_the_member_has_heard_says_what_it_is_subscribed_to_now():
    desk = Desk({"orders": TopicPicture("o1", 1), "clicks": TopicPicture("c1", 1)})
    desk.join("m1", ["orders"])

    again = desk.join("m1", ["clicks"])

    assert [some.topic for some in again.assignment] == ["clicks"]
    assert desk.heartbeat("m1", again.member_epoch, owned=again.assignment).is_complete


def test_a_late_duplicate_of_a_join_neither_changes_the_subscription_nor_brings_anybody_back():
    desk = Desk({"orders": TopicPicture("o1", 1), "clicks": TopicPicture("c1", 1)})
    epoch = desk.join("m1", ["orders"]).member_epoch
    desk.heartbeat("m1", epoch, topics=["orders", "clicks"])

    desk.join("m1", ["orders"])

    assert desk.described().members[0].topics == ["clicks", "orders"]
    desk.heartbeat("m1", said.LEAVING)
    assert desk.join("m1").error == ErrorCode.UNKNOWN_MEMBER_ID
    assert desk.described().members == []


# -- living


def test_a_heartbeat_with_nothing_new_is_parked_and_answered_in_time():
    desk = Desk()
    epoch = desk.join("m1").member_epoch

    ticket = desk.park("m1", epoch, max_wait_ms=1_000)

    desk.pass_time(999)
    assert ticket not in desk.replies
    desk.pass_time(11)
    reply = desk.replies[ticket]
    assert (reply.error, reply.assignment, reply.member_epoch, reply.is_complete) == (0, None, epoch, True)


def test_a_quiet_member_writes_nothing_and_leaves_no_deadlines_behind():
    desk = Desk()
    epoch = desk.join("m1", session_timeout_ms=1_800_000).member_epoch
    before = len(desk.log)

    for _ in range(500):
        desk.park("m1", epoch)
        desk.pass_time(1_010)

    assert len(desk.log) == before
    assert sum(len(there) for there in desk.rules._groups.deadlines._at.values()) <= 4
    assert desk.described().members[0].state == "stable"


def test_a_heartbeat_is_not_parked_for_longer_than_a_third_of_the_session():
    desk = Desk()
    epoch = desk.join("m1", session_timeout_ms=3_000).member_epoch

    ticket = desk.park("m1", epoch, max_wait_ms=60_000)

    desk.pass_time(1_010)
    assert ticket in desk.replies


def test_a_second_heartbeat_has_the_first_one_answered():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    first = desk.park("m1", epoch)

    second = desk.park("m1", epoch)

    assert desk.replies[first].assignment is None
    assert second not in desk.replies


def test_a_lost_answer_is_said_again():
    desk = Desk()
    desk.join("m1")
    desk.join("m2")
    desk.heartbeat("m1", 1)

    again = desk.heartbeat("m1", 1)

    assert numbers(again.assignment) == [0, 1]


def test_a_member_may_subscribe_to_something_else():
    desk = Desk({"orders": TopicPicture("o1", 2), "clicks": TopicPicture("c1", 2)})
    epoch = desk.join("m1", ["orders"]).member_epoch

    told = desk.heartbeat("m1", epoch, topics=["clicks"])

    assert [some.topic for some in told.assignment] == ["clicks"]
    done = desk.heartbeat("m1", told.member_epoch, owned=told.assignment)
    assert done.is_complete
    assert "is subscribed to clicks" in done.why


def test_members_follow_topics_that_grow_come_and_go():
    desk = Desk({})
    joined = desk.join("m1")
    assert (joined.assignment, joined.is_complete) == ([], True)

    desk.set_topics({"orders": TopicPicture("o1", 1)})
    one = desk.heartbeat("m1", joined.member_epoch)
    desk.set_topics({"orders": TopicPicture("o1", 3)})
    three = desk.heartbeat("m1", one.member_epoch)
    desk.set_topics({"orders": TopicPicture("o2", 1)})
    anew = desk.heartbeat("m1", three.member_epoch)

    assert (numbers(one.assignment), numbers(three.assignment)) == ([0], [0, 1, 2])
    assert anew.assignment == [said.TopicPartitions(topic="orders", topic_id="o2", partitions=[0])]
    assert desk.heartbeat("m1", anew.member_epoch, owned=[0]).is_complete


def test_a_topic_nobody_reads_makes_no_new_epoch_and_writes_nothing():
    desk = Desk()
    desk.join("m1")
    before = len(desk.log)

    desk.set_topics({**ORDERS, "other": TopicPicture("x", 9)})

    assert desk.described().group_epoch == 1
    assert len(desk.log) == before


def test_the_assignor_is_the_one_that_most_want_of_those_that_all_name():
    desk = Desk()
    desk.join("m1", assignors=["range", "sticky"])
    assert desk.described().assignor == "range"

    desk.join("m2", assignors=["round_robin", "sticky"])
    assert desk.described().assignor == "sticky"

    desk.heartbeat("m1", said.LEAVING)
    assert desk.described().assignor == "round_robin"


@pytest.mark.parametrize("is_another", [False, True], ids=["the same coordinator", "another one"])
def test_what_a_member_said_before_it_said_something_else_counts_nothing(is_another):
    desk = Desk({**ORDERS, "clicks": TopicPicture("c1", 2)})
    epoch = desk.join("m1", ["orders"], number=1).member_epoch
    epoch = desk.heartbeat("m1", epoch, topics=["orders", "clicks"], number=3).member_epoch
    if is_another:
        desk = desk.restarted()

    desk.heartbeat("m1", 1, topics=["orders"], number=2)
    desk.join("m1", ["orders"], number=1)

    assert desk.described().members[0].topics == ["clicks", "orders"]


def test_one_that_has_not_heard_that_it_joined_may_want_something_else_by_now():
    desk = Desk({**ORDERS, "clicks": TopicPicture("c1", 2)})
    desk.join("m1", ["orders"], number=1)
    desk = desk.restarted()

    joined = desk.join("m1", ["clicks"], number=2)

    assert [some.topic for some in joined.assignment] == ["clicks"]


# -- going


def test_one_that_leaves_frees_its_partitions_at_once():
    desk = Desk()
    one, _ = two_members(desk)
    parked = desk.park("m1", one)

    desk.heartbeat("m2", said.LEAVING)

    assert numbers(desk.replies[parked].assignment) == [0, 1, 2, 3]
    assert desk.replies[parked].why == "m2 of app at 10.0.0.1 left"


def test_one_that_leaves_has_its_parked_heartbeat_answered():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    parked = desk.park("m1", epoch)

    desk.heartbeat("m1", said.LEAVING)

    assert desk.replies[parked].error == ErrorCode.UNKNOWN_MEMBER_ID


def test_a_silent_member_is_put_out_when_its_session_ends_and_not_before():
    desk = Desk()
    one, two = two_members(desk)
    desk.pass_time(5_000)
    parked = desk.park("m1", desk.heartbeat("m1", one).member_epoch, max_wait_ms=0)
    assert desk.replies[parked].assignment is None

    desk.pass_time(4_999)
    assert len(desk.described().members) == 2
    desk.pass_time(11)

    assert desk.described().why == "m2 of app at 10.0.0.1 was silent for 10,000 ms"
    assert numbers(desk.heartbeat("m1", one).assignment) == [0, 1, 2, 3]
    late = desk.heartbeat("m2", two)
    assert late.error == ErrorCode.UNKNOWN_MEMBER_ID
    assert "was silent for 10,000 ms (0.0 s ago)" in late.detail


def test_a_member_that_waits_for_the_disk_is_not_silent():
    desk = Desk()
    desk.join("m1")
    desk.survives = False
    waiting = desk.send(beat("m2", 0, topics=["orders"], session_timeout_ms=1_000))

    for _ in range(5):
        desk.pass_time(900)
        desk.send(beat("m1", 1))
    desk.write()

    assert desk.replies[waiting].error == 0
    desk.survives = True
    desk.pass_time(900)
    assert desk.heartbeat("m2", desk.replies[waiting].member_epoch).error == 0
    desk.pass_time(1_020)
    assert [member.member_id for member in desk.described().members] == ["m1"]


def test_a_coordinator_that_slept_puts_nobody_out_for_it():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    desk.park("m1", epoch)

    desk.sleep(60_000)

    assert desk.heartbeat("m1", epoch).error == 0
    desk.pass_time(10_020)
    assert desk.described().members == []


def test_a_coordinator_that_slept_listens_before_it_takes_anybody_for_silent():
    desk = Desk()
    epoch = desk.join("m1").member_epoch  # its next heartbeat is at the door when the coordinator wakes up

    desk.sleep(30_000)

    assert desk.heartbeat("m1", epoch).error == 0


def test_one_that_does_not_give_back_in_time_is_put_out():
    desk = Desk()
    desk.join("m1", rebalance_timeout_ms=3_000)
    desk.join("m2")

    for _ in range(4):
        desk.pass_time(800)
        desk.heartbeat("m1", 1)
        desk.heartbeat("m2", 1)

    told = desk.heartbeat("m1", 2)
    assert told.error == ErrorCode.UNKNOWN_MEMBER_ID
    assert "did not give orders-2 back within 3,000 ms" in told.detail
    assert numbers(desk.heartbeat("m2", 1).assignment) == [0, 1, 2, 3]


def test_one_that_is_stuck_says_so_and_the_group_knows_why():
    desk = Desk()
    two_members(desk)

    desk.heartbeat("m2", said.LEAVING, is_stuck=True)

    assert "did not poll within max_poll_interval_ms" in desk.described().why


def test_a_member_put_out_by_hand_hears_it_and_others_have_its_partitions():
    desk = Desk()
    one, two = two_members(desk)
    parked_one, parked_two = desk.park("m1", one), desk.park("m2", two)

    reply = desk.ask(said.RemoveMembersRequest(group_id="billing", member_ids=["m2", "nobody"], instance_ids=["i"]))

    assert [result.error for result in reply.results] == [0, 25, 25]
    assert desk.replies[parked_two].error == ErrorCode.UNKNOWN_MEMBER_ID
    assert "was put out" in desk.replies[parked_two].detail
    assert numbers(desk.replies[parked_one].assignment) == [0, 1, 2, 3]


def test_what_was_to_be_told_to_one_that_is_put_out_meanwhile_is_not_told():
    desk = Desk()
    desk.join("m1")
    desk.survives = False
    joining = desk.send(beat("m2", 0, topics=["orders"]))
    desk.send(said.RemoveMembersRequest(group_id="billing", member_ids=["m2"]))

    desk.write(1)

    assert desk.replies[joining].error == ErrorCode.UNKNOWN_MEMBER_ID


# -- epochs


def test_who_is_given_a_partition_has_a_higher_epoch_than_anybody_who_was_given_it_before():
    desk = Desk({"orders": TopicPicture("o1", 1)})
    epochs = [desk.join("m0").member_epoch]
    for number in range(1, 4):
        desk.heartbeat(f"m{number - 1}", said.LEAVING)
        epochs.append(desk.join(f"m{number}").member_epoch)

    assert epochs == sorted(set(epochs))


def test_a_group_that_was_empty_goes_on_with_its_epochs_after_a_restart():
    desk = Desk()
    desk.join("m1")
    desk.heartbeat("m1", said.LEAVING)

    joined = desk.restarted().join("m2")

    assert joined.member_epoch == 3


# -- loading


def test_while_it_loads_nothing_is_answered_but_that():
    from callboard.actors.groups.coordinating import Coordinating
    from callboard.actors.groups.events import Caller

    rules = Coordinating(GroupSettings())
    request = beat("m1", 0, topics=["orders"])

    [refused] = rules.on_request(request, Caller("t"), 0, 0)
    assert refused.reply.error == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    assert rules.loaded(0, 0) == []
    [refused] = rules.on_request(said.ListGroupsRequest(id=7), Caller("t"), 0, 0)
    assert (refused.reply.error, refused.reply.id) == (ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, 7)
    assert rules.next_due_ms is None
    assert rules.on_topics(ORDERS, 0, 0) == []
    assert len(rules.on_request(request, Caller("t"), 0, 0)) == 1  # a Write; the reply when it survives


def test_another_coordinator_goes_on_where_the_log_ends():
    desk = Desk()
    one, two = two_members(desk)
    desk.commit("m1", one, {0: 7})

    after = desk.restarted()

    assert after.state() == desk.state()
    assert after.heartbeat("m1", one).assignment is None
    assert after.commit("m2", two, {2: 9}).error == 0
    assert after.committed() == {("orders", 0): 7, ("orders", 2): 9}


def test_sessions_begin_anew_with_another_coordinator_and_last_longer_by_the_age_of_a_proof():
    desk = Desk()
    two_members(desk)
    desk.pass_time(9_000)

    after = desk.restarted()
    after.pass_time(9_900 + 1_500)

    assert len(after.described().members) == 2
    after.pass_time(200)
    assert after.described().members == []


def test_topics_that_changed_while_nobody_coordinated_change_the_target():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    desk.topics["orders"] = TopicPicture("o1", 5)

    after = desk.restarted()

    assert numbers(after.heartbeat("m1", epoch).assignment) == [0, 1, 2, 3, 4]


def test_who_waits_is_answered_when_the_coordinator_gives_up():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    parked = desk.park("m1", epoch)
    desk.survives = False
    commit = desk.send(
        said.OffsetCommitRequest(
            group_id="billing", member_id="m1", member_epoch=epoch,
            entries=[said.OffsetCommitEntry(topic="orders", partition=0, offset=1)],
        )
    )  # fmt: skip

    desk.take(desk.rules.give_up(ErrorCode.NOT_COORDINATOR, "another broker leads"))

    assert desk.replies[parked].error == desk.replies[commit].error == ErrorCode.NOT_COORDINATOR
    assert isinstance(desk.replies[commit], said.OffsetCommitReply)


def test_everything_else_of_a_member_is_told():
    desk = Desk()
    desk.join("m1", instance_id="i1", rebalance_timeout_ms=5)
    desk.pass_time(70)

    member = desk.described().members[0]

    assert (member.instance_id, member.client_id, member.host) == ("i1", "app", "10.0.0.1")
    assert (member.state, member.heartbeat_ms_ago, member.session_timeout_ms) == ("stable", 70, 10_000)
    assert numbers(member.target) == numbers(member.assigned) == [0, 1, 2, 3]
    assert desk.described().coordinator == 1
    assert orders(0) in desk.rules._groups.by_id["billing"].owners


# -- patterns


def test_members_with_one_pattern_learn_of_a_new_topic_one_after_the_other_and_no_partition_moves():
    """To the first who tells of it, it looked like a topic of its own: the other got all of the old one."""
    desk = Desk()
    pattern = {"pattern": "o.*"}
    one = desk.join("m1", **pattern)
    desk.join("m2", **pattern)
    one = desk.heartbeat("m1", one.member_epoch)
    one = desk.heartbeat("m1", one.member_epoch, owned=numbers(one.assignment))
    two = desk.heartbeat("m2", 1)

    desk.set_topics({**ORDERS, "others": TopicPicture("o2", 4)})
    one = desk.heartbeat("m1", one.member_epoch, topics=["orders", "others"], **pattern)
    two = desk.heartbeat("m2", two.member_epoch)
    both = [{(each.topic, *each.partitions) for each in reply.assignment} for reply in (one, two)]
    assert sorted(map(len, both)) == [2, 2]
    assert [{name: rest for name, *rest in had}["orders"] for had in both] == [[0, 1], [2, 3]]

    again = desk.heartbeat("m2", two.member_epoch, topics=["orders", "others"], **pattern)
    assert (again.member_epoch, again.group_epoch) == (two.member_epoch, two.group_epoch), "that was known"


def test_what_members_with_one_pattern_know_outlives_the_coordinator():
    desk = Desk({**ORDERS, "others": TopicPicture("o2", 4)})
    desk.join("m1", ["orders"], pattern="o.*")
    desk.join("m2", ["orders", "others"], pattern="o.*")

    members = desk.restarted().described().members

    assert [member.topics for member in members] == [["orders", "others"], ["orders", "others"]]


def test_a_member_with_a_pattern_hears_at_once_that_topics_came_or_went():
    desk = Desk()
    matching, naming = desk.join("m1", pattern="o.*"), desk.join("m2")
    waiting = desk.park("m1", desk.heartbeat("m1", matching.member_epoch).member_epoch)
    other = desk.park("m2", naming.member_epoch)

    desk.set_topics({**ORDERS, "others": TopicPicture("o2", 2)}, version=8)

    assert desk.replies[waiting].topics_version == 8
    assert other not in desk.replies
    again = desk.park("m1", desk.replies[waiting].member_epoch)
    desk.set_topics({**ORDERS, "others": TopicPicture("o2", 3)}, version=9)  # a partition more is no other topic
    assert again not in desk.replies
    desk.set_topics(ORDERS, version=10)
    assert desk.replies[again].topics_version == 10


def test_a_topic_that_is_gone_is_forgotten_by_members_with_one_pattern():
    desk = Desk({**ORDERS, "others": TopicPicture("o2", 4)})
    one = desk.join("m1", ["orders", "others"], pattern="o.*")
    desk.join("m2", ["orders", "others"], pattern="o.*")

    desk.set_topics(ORDERS)
    desk.heartbeat("m1", one.member_epoch, topics=["orders"], pattern="o.*")

    assert [member.topics for member in desk.described().members] == [["orders"], ["orders"]]
