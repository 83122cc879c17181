"""Committed offsets that go: they expire, their topic or their group is deleted, or somebody deletes them."""

from __future__ import annotations

from callboard.actors.groups.events import GroupSettings, TopicPicture
from callboard.errors import ErrorCode
from callboard.transport import group_messages as said

from .desks import ORDERS, Desk, commit_request, entry

DAY_MS = 24 * 3_600_000


# -- expiry (B23)


def test_offsets_of_a_group_with_members_never_expire():
    desk = Desk()
    epoch = desk.join("m1", session_timeout_ms=1_800_000).member_epoch
    desk.commit("m1", epoch, {0: 5})

    for _ in range(700):
        desk.pass_time(1_700_000)
        desk.heartbeat("m1", epoch)

    assert desk.committed() == {("orders", 0): 5}


def test_offsets_expire_so_long_after_the_last_member_has_left_and_then_the_group_is_gone():
    desk = Desk()
    epoch = desk.join("m1", session_timeout_ms=1_800_000).member_epoch
    desk.commit("m1", epoch, {0: 5})
    for _ in range(400):
        desk.pass_time(1_700_000)
        desk.heartbeat("m1", epoch)
    desk.heartbeat("m1", said.LEAVING)

    desk.pass_time(7 * DAY_MS - 61_000)
    assert desk.committed() == {("orders", 0): 5}
    desk.pass_time(121_001)

    assert desk.committed() == {}
    desk.pass_time(60_000)
    assert desk.ask(said.ListGroupsRequest()).groups == []
    assert desk.restarted().state() == {}


def test_offsets_that_no_member_committed_expire_each_after_its_own_commit():
    desk = Desk()
    desk.commit("", -1, {0: 5})
    desk.pass_time(4 * DAY_MS)
    desk.commit("", -1, {1: 6})

    desk.pass_time(4 * DAY_MS)
    assert desk.committed() == {("orders", 1): 6}
    desk.pass_time(4 * DAY_MS)
    assert desk.ask(said.ListGroupsRequest()).groups == []


def test_a_group_is_not_forgotten_while_a_commit_is_under_way():
    desk = Desk()
    desk.survives = False
    ticket = desk.send(commit_request([entry(0, 5)], member_id="", epoch=-1))

    desk.pass_time(8 * DAY_MS)
    desk.write()

    assert desk.replies[ticket].error == 0
    assert desk.committed() == {("orders", 0): 5}


def test_deleted_topics_take_their_offsets_along():
    desk = Desk({**ORDERS, "clicks": TopicPicture("c1", 1)})
    desk.commit("", -1, {0: 5, 1: 6})
    desk.ask(commit_request([entry(0, 9, topic="clicks")], member_id="", epoch=-1))

    desk.set_topics({"clicks": TopicPicture("c1", 1)})

    assert desk.committed() == {("clicks", 0): 9}
    assert desk.restarted().committed() == {("clicks", 0): 9}


def test_a_topic_that_was_never_seen_is_not_taken_for_deleted():
    desk = Desk()
    desk.commit("", -1, {0: 5})
    desk.topics = {}  # another broker, whose picture is not complete yet

    after = desk.restarted()
    assert after.committed() == {("orders", 0): 5}

    after.set_topics({}, deleted=["o1"])  # now it is known
    assert after.committed() == {}


def test_topics_known_to_be_deleted_before_the_coordinator_serves_go_when_it_does():
    from callboard.actors.groups.coordinating import Coordinating

    desk = Desk()
    desk.commit("", -1, {0: 5})
    rules = Coordinating(GroupSettings())
    for record in desk.log:
        rules.replay(*record)
    assert rules.on_topics({}, 0, 0, ["o1"]) == []

    [write] = rules.loaded(0, 0)

    assert write.records == [(b'["offset","billing","orders","o1",0]', None)]


# -- who looks after offsets


def test_offsets_of_a_topic_nobody_reads_any_more_may_be_deleted():
    desk = Desk({**ORDERS, "clicks": TopicPicture("c1", 1)})
    desk.commit("", -1, {0: 5, 1: 6})
    desk.join("m1", ["clicks"])

    partitions = [
        said.TopicPartitions(topic="orders", partitions=[0, 3]),
        said.TopicPartitions(topic="clicks", partitions=[0]),
    ]
    reply = desk.ask(said.DeleteOffsetsRequest(group_id="billing", partitions=partitions))

    assert [(one.name, ErrorCode(one.error)) for one in reply.results] == [
        ("orders-0", ErrorCode.NONE),
        ("orders-3", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("clicks-0", ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC),
    ]
    assert desk.committed() == {("orders", 1): 6}
    missing = desk.ask(said.DeleteOffsetsRequest(group_id="nobody", partitions=partitions[1:]))
    assert [one.error for one in missing.results] == [ErrorCode.GROUP_ID_NOT_FOUND]


def test_a_group_without_members_may_be_deleted_with_its_offsets():
    desk = Desk()
    desk.join("m1")
    desk.commit("m1", 1, {0: 5, 1: 5})
    delete = said.DeleteGroupsRequest(group_ids=["billing", "nobody", ""])

    assert [one.error for one in desk.ask(delete).results] == [
        ErrorCode.NON_EMPTY_GROUP, ErrorCode.GROUP_ID_NOT_FOUND, ErrorCode.INVALID_GROUP_ID
    ]  # fmt: skip
    desk.heartbeat("m1", said.LEAVING)
    assert desk.ask(delete).results[0].error == 0

    assert desk.committed() == {}
    assert desk.described().error == ErrorCode.GROUP_ID_NOT_FOUND
    assert desk.restarted().state() == {}


def test_a_deletion_is_not_seen_before_it_survives_and_takes_commits_under_way_along():
    desk = Desk()
    desk.commit("", -1, {0: 5})
    desk.survives = False
    commit = desk.send(commit_request([entry(1, 6)], member_id="", epoch=-1))
    deletion = desk.send(said.DeleteGroupsRequest(group_ids=["billing"]))
    asked = [
        desk.send(said.OffsetFetchRequest(group_id="billing")),
        desk.send(said.DescribeGroupsRequest(group_ids=["billing"])),
        desk.send(said.ListGroupsRequest()),
    ]

    desk.write(1)
    assert desk.replies.keys() & {commit, deletion, *asked} == {commit}
    desk.write()

    assert desk.replies.keys() >= {deletion, *asked}
    desk.survives = True
    assert desk.restarted().state() == {}


def test_a_group_with_thousands_of_offsets_is_deleted_in_several_writes():
    desk = Desk({"orders": TopicPicture("o1", 2_500)})
    desk.commit("", -1, dict.fromkeys(range(2_500), 1))
    before = len(desk.log)

    desk.ask(said.DeleteGroupsRequest(group_ids=["billing"]))

    assert len(desk.log) - before == 2_500
    assert desk.restarted().state() == {}
