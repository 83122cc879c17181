"""Bad heartbeats: each is refused by name, and nothing changes."""

from __future__ import annotations

import pytest

from callboard.actors.groups.door import host_of
from callboard.actors.groups.events import GroupSettings
from callboard.errors import ErrorCode
from callboard.transport import group_messages as said

from .desks import Desk, beat


def joining(**more):
    return beat("m1", said.JOINING, **{"topics": ["orders"], **more})


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (joining(group=""), ErrorCode.INVALID_GROUP_ID, "has 0 characters"),
        (joining(group="g" * 250), ErrorCode.INVALID_GROUP_ID, "has 250 characters"),
        (joining(session_timeout_ms=999), ErrorCode.INVALID_SESSION_TIMEOUT, "999 is not within 1,000 and 1,800,000"),
        (joining(session_timeout_ms=1_800_001), ErrorCode.INVALID_SESSION_TIMEOUT, "1,800,001"),
        (joining(rebalance_timeout_ms=0), ErrorCode.INVALID_REQUEST, "rebalance_timeout_ms 0"),
        (joining(rebalance_timeout_ms=1 << 31), ErrorCode.INVALID_REQUEST, "rebalance_timeout_ms"),
        (joining(topics=None), ErrorCode.INVALID_REQUEST, "which topics it is subscribed to"),
        (joining(topics=["or ders"]), ErrorCode.INVALID_TOPIC, "'or ders'"),
        (joining(assignors=["stiky"]), ErrorCode.UNSUPPORTED_ASSIGNOR, "did you mean 'sticky'?"),
        (joining(instance_id="i" * 250), ErrorCode.INVALID_REQUEST, "instance_id"),
        (beat("", said.JOINING, topics=["orders"]), ErrorCode.INVALID_REQUEST, "a member names itself"),
        (beat("m" * 250, said.JOINING, topics=["orders"]), ErrorCode.INVALID_REQUEST, "a member names itself"),
        (beat("m1", -3), ErrorCode.INVALID_REQUEST, "member_epoch -3 means nothing"),
        (beat("m1", said.LEAVING_FOR_A_WHILE), ErrorCode.INVALID_REQUEST, "instance id"),
        (beat("m1", said.LEAVING), ErrorCode.UNKNOWN_MEMBER_ID, "group billing has no member m1"),
        (beat("m1", 1), ErrorCode.UNKNOWN_MEMBER_ID, "group billing has no member m1"),
    ],
)
def test_a_bad_heartbeat_is_refused_and_makes_no_group(request_, code, words):
    desk = Desk()

    reply = desk.ask(request_)

    assert ErrorCode(reply.error) == code
    assert words in reply.detail
    assert desk.log == []
    assert desk.state() == {}


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ({"epoch": 2}, ErrorCode.FENCED_MEMBER_EPOCH, "says generation 2; it is in generation 1"),
        ({"topics": ["or ders"]}, ErrorCode.INVALID_TOPIC, "'or ders'"),
        ({"assignors": ["magic"]}, ErrorCode.UNSUPPORTED_ASSIGNOR, "there is no assignor 'magic'"),
        ({"owned": [7]}, ErrorCode.INVALID_REQUEST, "owns orders-7, it says; orders-7 is owned by nobody now"),
        ({"epoch": -2, "instance_id": "i9"}, ErrorCode.INVALID_REQUEST, "has not joined with instance id i9"),
    ],
)
def test_a_bad_heartbeat_of_a_member_is_refused_and_changes_nothing(more, code, words):
    desk = Desk()
    desk.join("m1", instance_id="i1")
    before, written = desk.state(), list(desk.log)

    reply = desk.heartbeat("m1", **{"epoch": 1, **more})

    assert ErrorCode(reply.error) == code
    assert words in reply.detail
    assert (desk.state(), desk.log) == (before, written)


def test_a_member_that_is_ahead_of_its_coordinator_does_not_live_by_that():
    desk = Desk()
    desk.join("m1")
    for _ in range(3):
        desk.pass_time(4_000)
        desk.heartbeat("m1", 9)

    assert desk.described().members == []


def test_one_without_a_common_assignor_does_not_join():
    desk = Desk()
    desk.join("m1", assignors=["sticky", "range"])

    reply = desk.join("m2", assignors=["round_robin"])

    assert ErrorCode(reply.error) == ErrorCode.UNSUPPORTED_ASSIGNOR
    assert "assigns by sticky; a member that names only round_robin cannot join it" in reply.detail
    assert desk.join("m3", assignors=["range"]).error == 0
    assert ErrorCode(desk.heartbeat("m1", 1, assignors=["sticky"]).error) == ErrorCode.UNSUPPORTED_ASSIGNOR
    assert desk.described().assignor == "range"


def test_a_group_takes_only_so_many_members():
    desk = Desk(settings=GroupSettings(group_members_max=2))
    desk.join("m1", instance_id="i1")
    desk.join("m2")

    assert ErrorCode(desk.join("m3").error) == ErrorCode.LIMIT_EXCEEDED
    assert desk.join("m4", instance_id="i1").error == 0  # in the place of m1


def test_who_looks_after_a_group_that_is_not_there_is_told_so():
    desk = Desk()

    assert desk.described("nobody").error == ErrorCode.GROUP_ID_NOT_FOUND
    removed = desk.ask(said.RemoveMembersRequest(group_id="nobody", member_ids=["m1"]))
    assert [one.error for one in removed.results] == [ErrorCode.GROUP_ID_NOT_FOUND]


@pytest.mark.parametrize("group_id", ["bill\ning", "\x00", "bill\x1b[2Jing", "\u202ebilling"])
def test_a_group_id_that_cannot_be_printed_is_no_group_id(group_id):
    reply = Desk().join("m1", group=group_id)

    assert ErrorCode(reply.error) == ErrorCode.INVALID_GROUP_ID
    assert "cannot be printed" in reply.detail
    assert reply.detail.isprintable()


@pytest.mark.parametrize(
    ("address", "host"),
    [("localhost:0:0:4711", "this host, process 4711"), ("127.0.0.1:9192", "127.0.0.1:9192"), ("::1", "::1"), ("", "")],
)
def test_where_a_member_is_can_be_read_by_a_person(address, host):
    assert host_of(address) == host


def test_an_owner_of_several_partitions_is_named_once():
    desk = Desk()
    desk.join("m1")
    desk.heartbeat("m1", -1)
    epoch = desk.join("m2").member_epoch

    reply = desk.commit("m1", 1, {0: 5, 1: 5})

    assert ErrorCode(reply.error) == ErrorCode.UNKNOWN_MEMBER_ID
    assert reply.detail.endswith(f"orders-0, orders-1 are owned by m2 of app at 10.0.0.1 since generation {epoch}")
