"""Committed offsets: who may commit what, and what is read."""

from __future__ import annotations

import pytest

from callboard.actors.groups.events import GroupSettings, TopicPicture
from callboard.errors import ErrorCode
from callboard.transport import group_messages as said

from .desks import Desk, beat, commit_request, entry, numbers


def moved(desk):
    """Let m1 have given 2 and 3 to m2; return the epochs of both."""
    desk.join("m1")
    desk.join("m2")
    one = desk.heartbeat("m1", 1).member_epoch
    desk.heartbeat("m1", one, owned=[0, 1])
    return one, desk.heartbeat("m2", 1).member_epoch


# -- commits that are taken


def test_a_commit_is_answered_and_read_when_it_survives():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    desk.survives = False

    ticket = desk.send(commit_request([entry(0, 42, metadata="half way", leader_epoch=3)], epoch=epoch))

    assert ticket not in desk.replies
    assert desk.committed() == {}
    desk.write()
    assert (desk.replies[ticket].error, desk.replies[ticket].entries) == (0, []), "those that are refused"
    desk.survives = True
    [found] = desk.ask(said.OffsetFetchRequest(group_id="billing")).entries
    assert (found.offset, found.metadata, found.leader_epoch, found.topic_id) == (42, "half way", 3, "o1")
    assert found.committed_ms == desk.wall_ms


def test_commits_survive_in_their_order():
    desk = Desk(survives=False)
    desk.send(commit_request([entry(0, 1)], member_id="", epoch=-1))
    desk.send(commit_request([entry(0, 2)], member_id="", epoch=-1))

    desk.write(1)
    assert desk.committed() == {("orders", 0): 1}
    desk.write()
    assert desk.committed() == {("orders", 0): 2}


def test_of_two_entries_for_one_partition_the_last_counts():
    desk = Desk()
    epoch = desk.join("m1").member_epoch

    desk.ask(commit_request([entry(0, 5), entry(0, 6)], epoch=epoch))

    assert desk.committed() == {("orders", 0): 6}


def test_a_commit_of_nothing_is_a_commit():
    desk = Desk()

    assert desk.ask(commit_request([], member_id="", epoch=-1)).error == 0
    assert desk.log == []


def test_what_was_asked_for_but_is_not_given_back_yet_may_still_be_committed():
    desk = Desk()
    desk.join("m1")
    desk.join("m2")

    assert desk.commit("m1", 1, {3: 9}).error == 0  # it has not heard yet
    assert desk.commit("m1", 2, {3: 10}).error == 0  # it has
    assert desk.committed() == {("orders", 3): 10}


def test_a_commit_under_way_while_the_assignment_grows_does_not_fail():
    desk = Desk()
    one, _ = moved(desk)
    desk.heartbeat("m2", said.LEAVING)
    grown = desk.heartbeat("m1", one)

    assert grown.member_epoch > one
    assert desk.commit("m1", one, {0: 3, 1: 3}).error == 0


def test_without_members_anybody_may_commit():
    desk = Desk()

    assert desk.commit("", -1, {0: 5}).error == 0
    assert desk.committed() == {("orders", 0): 5}
    assert desk.described().state == "empty"


def test_who_committed_is_written_with_the_offset():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    desk.commit("m1", epoch, {0: 5})

    assert b'"member_id":"m1","member_epoch":1' in desk.log[-1][1]


# -- commits that are refused: named, and nothing changes


def refused(desk, reply, code, *words):
    assert ErrorCode(reply.error) == code, reply
    for word in words:
        assert word in reply.detail
    assert desk.committed() == {}


def test_a_commit_of_a_partition_that_is_not_assigned_is_refused_whole():
    desk = Desk()
    one, two = moved(desk)

    reply = desk.commit("m1", one, {0: 5, 2: 5, 3: 5})

    refused(desk, reply, ErrorCode.PARTITION_NOT_ASSIGNED, "orders-2 is not assigned to m1")
    assert f"orders-2 is owned by m2 of app at 10.0.0.1 since generation {two} (and 1 more)" in reply.detail
    assert [(one.partition, one.error) for one in reply.entries] == [(2, 1008), (3, 1008)]


@pytest.mark.parametrize("is_another", [False, True], ids=["the same coordinator", "another one"])
@pytest.mark.parametrize("survives", [True, False])
def test_an_earlier_attempt_to_commit_that_comes_late_takes_nothing_back(is_another, survives):
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    desk.survives = survives
    entries = [said.OffsetCommitEntry(topic="orders", partition=0, offset=9)]
    later = said.OffsetCommitRequest(group_id="billing", member_id="m1", member_epoch=epoch, entries=entries, number=2)
    desk.send(later)
    if is_another:
        desk.write()
        desk = desk.restarted()

    late = desk.send(
        said.OffsetCommitRequest(
            group_id="billing",
            member_id="m1",
            member_epoch=epoch,
            entries=[*_entries(0, 5), *_entries(1, 7)],
            number=1,
        )
    )

    desk.write()
    assert desk.replies[late].error == ErrorCode.INVALID_REQUEST
    assert "came behind a later commit of m1" in desk.replies[late].detail
    assert desk.committed() == {("orders", 0): 9}
    desk.survives = True
    assert desk.commit("m1", epoch, {0: 9}, number=2).error == 0, "the same twice does no harm"
    assert desk.commit("m1", epoch, {0: 3}, number=3).error == 0, "it may go back if it wants to"
    assert desk.commit("m1", epoch, {0: 4}).error == 0, "and so may one that numbers nothing"


@pytest.mark.parametrize("is_another", [False, True], ids=["the same coordinator", "another one"])
def test_a_commit_by_hand_that_comes_late_takes_nothing_back(is_another):
    desk = Desk()
    assert desk.commit("", said.NO_MEMBER, {0: 9}, committer="c", number=2).error == 0
    if is_another:
        desk = desk.restarted()

    late = desk.commit("", said.NO_MEMBER, {0: 5, 1: 7}, committer="c", number=1)

    assert late.error == ErrorCode.INVALID_REQUEST
    assert "came behind a later commit of c" in late.detail
    assert desk.committed() == {("orders", 0): 9}
    assert desk.commit("", said.NO_MEMBER, {0: 9}, committer="c", number=2).error == 0, "the same twice does no harm"
    assert desk.commit("", said.NO_MEMBER, {0: 3}, committer="c", number=3).error == 0, "it may go back if it wants to"
    assert desk.commit("", said.NO_MEMBER, {0: 2}, committer="d", number=1).error == 0, "who has numbers of its own"
    assert desk.commit("", said.NO_MEMBER, {0: 1}, number=0).error == 0, "and who says no name"
    assert desk.commit("", said.NO_MEMBER, {0: 4}, number=0).error == 0, "whose numbers say nothing"


def test_a_name_that_somebody_has_given_itself_says_nothing_of_a_member_that_has_it():
    desk = Desk()
    assert desk.commit("", said.NO_MEMBER, {0: 5}, committer="m1", number=1 << 40).error == 0
    epoch = desk.join("m1").member_epoch

    assert desk.commit("m1", epoch, {0: 6}, number=1).error == 0
    desk.heartbeat("m1", said.LEAVING)
    assert desk.commit("", said.NO_MEMBER, {0: 7}, committer="m1", number=0).error == 0


def test_a_name_that_is_too_long_is_refused():
    desk = Desk()

    reply = desk.commit("", said.NO_MEMBER, {0: 5}, committer="c" * 250, number=1)

    refused(desk, reply, ErrorCode.INVALID_REQUEST, "committer 'ccc")
    assert "more than 249 characters" in reply.detail
    assert desk.committed() == {}


def test_numbers_of_commits_are_one_members_own():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    desk.commit("m1", epoch, {0: 5}, number=70)
    desk.heartbeat("m1", said.LEAVING)
    epoch = desk.join("m2").member_epoch

    assert desk.commit("m2", epoch, {0: 6}, number=1).error == 0


def _entries(partition, offset):
    return [said.OffsetCommitEntry(topic="orders", partition=partition, offset=offset)]


def test_a_commit_from_before_a_partition_moved_on_is_refused():
    desk = Desk()
    one, _ = moved(desk)
    desk.heartbeat("m2", said.LEAVING)
    desk.heartbeat("m1", one)  # it has 2 and 3 again

    reply = desk.commit("m1", 1, {2: 5})

    refused(desk, reply, ErrorCode.ILLEGAL_GENERATION, "commit of generation 1; orders-2 is owned by m1")


def test_a_commit_of_one_that_was_put_out_names_the_new_owner_and_generation():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    desk.pass_time(10_010)
    new = desk.join("m2").member_epoch

    reply = desk.commit("m1", epoch, {0: 5})

    refused(desk, reply, ErrorCode.UNKNOWN_MEMBER_ID, "m1 of app at 10.0.0.1 was silent for 10,000 ms (0.0 s ago)")
    assert f"orders-0 is owned by m2 of app at 10.0.0.1 since generation {new}" in reply.detail


def test_a_fenced_member_is_named_its_new_owners_after_a_restart_too():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    desk.heartbeat("m1", said.LEAVING)
    desk.join("m2")

    after = desk.restarted()

    refused(after, after.commit("m1", epoch, {0: 5}), ErrorCode.UNKNOWN_MEMBER_ID, "orders-0 is owned by m2")


def test_a_commit_of_a_member_that_never_was():
    desk = Desk()

    refused(desk, desk.commit("m1", 1, {0: 5}), ErrorCode.UNKNOWN_MEMBER_ID, "group billing has no member m1")
    desk.join("m2")
    refused(
        desk,
        desk.commit("m1", 1, dict.fromkeys(range(4), 5)),
        ErrorCode.UNKNOWN_MEMBER_ID,
        "orders-0, orders-1, orders-2 are owned by m2",
        ", …",
    )


def test_a_commit_of_a_generation_that_has_not_been():
    desk = Desk()
    desk.join("m1")

    refused(desk, desk.commit("m1", 9, {0: 5}), ErrorCode.FENCED_MEMBER_EPOCH, "generation 9; it is in 1")


def test_nobody_commits_beside_members():
    desk = Desk()
    desk.join("m1")

    refused(desk, desk.commit("", -1, {0: 5}), ErrorCode.NON_EMPTY_GROUP, "only it commits")


@pytest.mark.parametrize(
    ("bad", "code", "words"),
    [
        (entry(0, 5, metadata="é" * 2_049), ErrorCode.OFFSET_METADATA_TOO_LARGE, "4,098 bytes; at most 4,096"),
        (entry(0, -5), ErrorCode.INVALID_REQUEST, "an offset is 0 or more"),
        (entry(4, 5), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "orders has 4 partitions"),
        (entry(-1, 5), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "there is no orders--1"),
        (entry(0, 5, topic="gone"), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "there is no topic gone"),
        (entry(0, 5, topic_id="o0"), ErrorCode.UNKNOWN_TOPIC_ID, "its id is o1 now"),
    ],
)
def test_a_commit_with_one_bad_entry_commits_nothing(bad, code, words):
    desk = Desk()

    reply = desk.ask(commit_request([entry(1, 1), bad], member_id="", epoch=-1))

    refused(desk, reply, code, words)
    assert desk.log == []
    assert desk.ask(said.ListGroupsRequest()).groups == []


def test_metadata_of_just_so_many_bytes_is_kept():
    desk = Desk()

    assert desk.ask(commit_request([entry(0, 5, metadata="é" * 2_048)], member_id="", epoch=-1)).error == 0


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (commit_request([entry()], member_id="", epoch=-1, group=""), ErrorCode.INVALID_GROUP_ID),
        (commit_request([entry()], member_id="", epoch=-1, group="g" * 250), ErrorCode.INVALID_GROUP_ID),
        (commit_request([entry()], member_id="", epoch=3), ErrorCode.INVALID_REQUEST),
    ],
)
def test_a_commit_that_makes_no_sense(request_, code):
    desk = Desk()

    assert desk.ask(request_).error == code
    assert desk.log == []


def test_a_coordinator_takes_only_so_many_groups():
    desk = Desk(settings=GroupSettings(groups_max=1))
    desk.commit("", -1, {0: 1}, group="one")

    assert desk.commit("", -1, {0: 1}, group="two").error == ErrorCode.LIMIT_EXCEEDED
    assert desk.join("m1", group="two").error == ErrorCode.LIMIT_EXCEEDED
    assert desk.commit("", -1, {0: 2}, group="one").error == 0


# -- reading, and the list of groups


def test_what_was_not_committed_is_minus_one():
    desk = Desk()
    desk.commit("", -1, {1: 5})

    wanted = [said.TopicPartitions(topic="orders", partitions=[1, 0]), said.TopicPartitions(topic="no", partitions=[7])]
    reply = desk.ask(said.OffsetFetchRequest(group_id="billing", partitions=wanted))

    assert [(one.topic, one.partition, one.offset) for one in reply.entries] == [
        ("orders", 1, 5), ("orders", 0, -1), ("no", 7, -1)
    ]  # fmt: skip
    assert desk.committed(group="nobody") == {}


def test_a_topic_made_anew_has_no_committed_offsets():
    desk = Desk()
    desk.commit("", -1, {0: 5})
    desk.set_topics({"orders": TopicPicture("o2", 4)})

    wanted = [said.TopicPartitions(topic="orders", partitions=[0])]

    assert desk.committed(partitions=wanted) == {("orders", 0): -1}
    assert desk.committed() == {}
    assert desk.restarted().committed() == {}


def test_a_member_that_is_out_may_not_begin_anywhere():
    desk = Desk()
    epoch = desk.join("m1").member_epoch

    def fetch(member_id, member_epoch):
        request = said.OffsetFetchRequest(group_id="billing", member_id=member_id, member_epoch=member_epoch)
        return desk.ask(request).error

    assert fetch("m1", epoch) == 0
    assert fetch("m1", epoch + 1) == ErrorCode.FENCED_MEMBER_EPOCH
    assert fetch("m2", epoch) == ErrorCode.UNKNOWN_MEMBER_ID
    assert desk.ask(said.OffsetFetchRequest(group_id="")).error == ErrorCode.INVALID_GROUP_ID


def test_the_new_owner_reads_what_the_old_one_committed_last():
    desk = Desk()
    desk.join("m1")
    desk.survives = False
    desk.send(commit_request([entry(3, 8)]))
    joining = desk.send(beat("m2", 0, topics=["orders"]))
    leaving = desk.send(beat("m1", said.LEAVING))

    for _ in range(3):
        assert joining not in desk.replies or desk.committed() == {("orders", 3): 8}
        desk.write(1)

    assert desk.replies[leaving].error == desk.replies[joining].error == 0
    desk.survives = True
    assert numbers(desk.heartbeat("m2", 2).assignment) == [0, 1, 2, 3]
    assert desk.committed() == {("orders", 3): 8}


def test_groups_are_listed_with_their_state():
    desk = Desk()
    moved(desk)
    desk.commit("", -1, {0: 5}, group="audit")
    desk.join("m1", group="new")
    desk.join("m2", group="new")

    reply = desk.ask(said.ListGroupsRequest())

    assert [(one.group_id, one.state, one.members) for one in reply.groups] == [
        ("audit", "empty", 0), ("billing", "stable", 2), ("new", "reconciling", 2)
    ]  # fmt: skip


# -- the last commit of one that leaves


def test_what_a_member_commits_as_it_leaves_is_written_with_its_leaving_and_read_by_the_next_owner():
    desk = Desk()
    epoch = desk.join("m1").member_epoch
    desk.join("m2")
    writes = len(desk.log)
    desk.survives = False

    leaving = desk.send(beat("m1", said.LEAVING, last_offsets=[entry(0, 5)], last_epoch=epoch))
    assert leaving not in desk.replies
    assert len(desk.log) == writes
    desk.write()

    assert desk.replies[leaving].error == 0
    assert desk.committed() == {("orders", 0): 5}
    assert [member.member_id for member in desk.described().members] == ["m2"]


def test_a_member_whose_last_commit_is_refused_has_not_left():
    desk = Desk()
    epoch = desk.join("m1").member_epoch

    wrong = desk.ask(beat("m1", said.LEAVING, last_offsets=[entry(0, 5), entry(77, 1)], last_epoch=epoch))
    late = desk.ask(beat("m1", said.LEAVING, last_offsets=[entry(0, 5)], last_epoch=epoch + 1))

    assert wrong.error != 0
    assert late.error == ErrorCode.FENCED_MEMBER_EPOCH
    assert desk.committed() == {}
    assert [member.member_id for member in desk.described().members] == ["m1"]


# -- where a member begins


def told(reply):
    """Return where partitions of orders begin, of those that an answer says it of."""
    return {n: at for some in reply.committed for n, at in zip(some.partitions, some.offsets, strict=True)}


def test_a_member_is_told_with_what_it_is_given_where_that_begins():
    desk = Desk()
    desk.commit("", said.NO_MEMBER, {1: 7, 3: 0})

    joined = desk.join("m1")

    assert told(joined) == {0: -1, 1: 7, 2: -1, 3: 0}
    assert [some.topic_id for some in joined.committed] == ["o1"]
    assert told(desk.heartbeat("m1", joined.member_epoch)) == {}


def test_who_takes_over_is_told_what_was_committed_last_however_late_that_survives():
    desk = Desk()
    leaving = desk.join("m1").member_epoch
    staying = desk.join("m2").member_epoch
    leaving = desk.heartbeat("m1", leaving).member_epoch
    desk.heartbeat("m1", leaving, owned=[0, 1])
    staying = desk.heartbeat("m2", staying).member_epoch
    parked = desk.park("m2", staying, owned=[2, 3])
    desk.survives = False
    entries = [said.OffsetCommitEntry(topic="orders", partition=0, offset=5)]

    desk.send(beat("m1", said.LEAVING, last_offsets=entries, last_epoch=leaving))
    desk.write(1)
    assert parked not in desk.replies
    desk.write()

    assert told(desk.replies[parked]) == {0: 5, 1: -1}, "of what it had already it knows it"


def test_where_a_partition_begins_is_not_told_when_the_member_may_have_begun_already():
    """The answer was lost, or has gone astray: perhaps the member has committed since."""
    desk = Desk()
    desk.join("m1")

    again = desk.join("m1")

    assert (told(again), len(again.assignment)) == ({}, 1)


def test_a_refusal_says_nothing_of_where_partitions_begin():
    desk = Desk()
    desk.survives = False
    waiting = desk.send(beat("m1", 0, topics=["orders"], assignors=["sticky"]))
    desk.send(said.RemoveMembersRequest(group_id="billing", member_ids=["m1"]))

    desk.write()

    assert desk.replies[waiting].error == ErrorCode.UNKNOWN_MEMBER_ID
    assert isinstance(desk.replies[waiting].committed, list)
    assert told(desk.replies[waiting]) == {}
