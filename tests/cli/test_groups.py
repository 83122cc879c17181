"""``callboard groups``: what it prints of scripted coordinators, what it asks of them, and how it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

from callboard.cli.groups_show import partitions_text
from callboard.transport.group_messages import MemberDescription, OffsetFetchEntryReply, TopicPartitions

sys.path.insert(0, str(Path(__file__).parents[1] / "client"))

from scripted_groups import group_cluster


@pytest.fixture
def cluster():
    with group_cluster(2) as running:
        yield running


@pytest.fixture
def groups(callboard, cluster):
    """Run ``callboard groups …`` against the scripted cluster."""

    def run(*arguments):
        return callboard("groups", *arguments, "-b", ",".join(cluster.bootstrap_servers))

    return run


@pytest.fixture
def billing(cluster):
    """A group without members, behind in the topic t: 0 to 10, 5 to 8, and nothing."""
    topic = cluster.create("t", 3)
    for log, (start, end) in zip(topic.logs, ((0, 10), (5, 8), (0, 0)), strict=True):
        log.start, log.end = start, end
    return cluster.group("billing", 2, t_0=4, t_1=2)


def table(out):
    """The rows of a table, in words."""
    return [line.split() for line in out.splitlines()]


# -- list, describe, lag -----------------------------------------------------------------------------


def test_groups_are_listed(cluster, groups):
    cluster.group("billing", 1, "m1", "m2")
    cluster.group("audit", 2)

    ended = groups("list")

    assert ended.status == 0
    assert table(ended.out)[2:] == [["audit", "empty", "0"], ["billing", "stable", "2"]]
    assert orjson.loads(groups("list", "--state", "stable", "--json").out) == [
        {"group_id": "billing", "state": "stable", "members": 2}
    ]


def test_a_group_whose_name_is_an_order_to_the_terminal_is_only_shown(cluster, groups):
    cluster.group("a\x1b[2Jb\nc", 1)

    assert table(groups("list").out)[2:] == [["a\\x1b[2Jb\\nc", "empty", "0"]]
    assert groups("describe", "a\x1b[2Jb\nc").out.startswith("a\\x1b[2Jb\\nc  empty")


def test_a_group_is_described_with_its_members(cluster, groups):
    group = cluster.group("billing", 2)
    group.members = [
        MemberDescription(
            member_id="m1",
            instance_id="i1",
            client_id="app",
            host="10.0.0.7",
            state="revoking",
            member_epoch=3,
            assigned=[TopicPartitions(topic="t", partitions=[0, 1, 2, 5])],
            target=[TopicPartitions(topic="t", partitions=[0, 1])],
            heartbeat_ms_ago=400,
        )
    ]

    ended = groups("describe", "billing")

    assert ended.out.splitlines()[:2] == [
        "billing  stable  1 member  generation 3  assignor range  coordinator broker 2",
        "last rebalance: a member joined",
    ]
    assert " ".join(table(ended.out)[-1]) == "m1 i1 app 10.0.0.7 revoking 3 400 ms ago t:0-2,5 t:0-1"
    (document,) = orjson.loads(groups("describe", "billing", "--json").out)
    assert document["members"][0]["target"] == [{"topic": "t", "topic_id": "", "partitions": [0, 1]}]


def test_what_a_member_does_not_fetch_stands_beside_its_state(cluster, groups):
    cluster.group("billing", 1).members = [
        MemberDescription(
            member_id="m1",
            state="stable",
            stalled=[TopicPartitions(topic="t", partitions=[0, 2])],
            stalled_ms=12_000,
        )
    ]

    assert "stable, t:0,2 not fetched for 12" in groups("describe", "billing").out


def test_lag_is_shown_by_partition_with_what_was_missed_and_a_total(groups, billing):
    ended = groups("lag", "billing")

    assert ended.out.splitlines()[0] == "billing  9 records behind in 2 partitions; nothing committed in 1"
    assert table(ended.out)[3:] == [
        ["t", "0", "4", "10", "6"],
        ["t", "1", "2", "8", "3", "3", "missed"],
        ["t", "2", "–", "0", "–"],
    ]
    (document,) = orjson.loads(groups("lag", "billing", "--json").out)
    assert (document["group_id"], document["lag"]) == ("billing", 9)
    assert (document["without_commit"], document["unknown"]) == (1, 0)
    assert document["partitions"][1] == {
        "topic": "t",
        "partition": 1,
        "committed": 2,
        "log_start_offset": 5,
        "end_offset": 8,
        "lag": 3,
        "member_id": "",
        "metadata": "",
        "committed_ms": -1,
        "error": "",
        "missed": 3,
    }


def test_partitions_that_are_owned_but_not_committed_have_no_lag(cluster, groups, billing):
    cluster.call(
        lambda: billing.members.append(
            MemberDescription(member_id="m", assigned=[TopicPartitions(topic="t", partitions=[2])])
        )
    )

    ended = groups("lag", "billing")

    assert ended.out.splitlines()[0].endswith("behind in 2 partitions; nothing committed in 1")
    assert table(ended.out)[-1] == ["t", "2", "–", "0", "–", "m"]


def test_a_partition_without_a_leader_is_named_and_the_others_have_their_lag(cluster, groups, billing):
    cluster.call(lambda: cluster.topics["t"].leaders.__setitem__(1, -1))

    ended = groups("lag", "billing")

    assert ended.status == 0
    assert (
        ended.out.splitlines()[0] == "billing  6 records behind in 1 partition; nothing committed in 1; not known in 1"
    )
    assert "t-1 has no leader" in ended.out


# -- reset-offsets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "after"),
    [
        (["--to-earliest"], [0, 5]),
        (["--to-latest"], [10, 8]),
        (["--to-offset", "7"], [7, 7]),
        (["--shift-by", "-3"], [1, 5]),
        (["--shift-by", "2"], [6, 5]),
        (["--to-datetime", "2026-11-24T18:30:00"], [10, 8]),
    ],
)
def test_offsets_are_reset_and_old_and_new_are_shown(cluster, groups, billing, options, after):
    ended = groups("reset-offsets", "billing", "--all-topics", *options)

    assert ended.status == 0
    moves = [f"{new - old:+}" if new != old else "0" for old, new in zip((4, 2), after, strict=True)]
    assert table(ended.out)[2:] == [
        ["t", "0", "4", "→", str(after[0]), moves[0]],
        ["t", "1", "2", "→", str(after[1]), moves[1]],
    ]
    assert cluster.committed("billing") == {("t", 0): after[0], ("t", 1): after[1]}


def test_a_dry_run_shows_the_same_and_changes_nothing(cluster, groups, billing):
    dry = groups("reset-offsets", "billing", "--all-topics", "--to-latest", "--dry-run")

    assert cluster.committed("billing") == {("t", 0): 4, ("t", 1): 2}
    assert dry.err == "dry run: nothing was changed\n"
    assert dry.out == groups("reset-offsets", "billing", "--all-topics", "--to-latest").out


def test_a_dry_run_of_a_live_group_says_what_would_stand_in_the_way(cluster, groups, billing):
    cluster.call(lambda: billing.members.append(MemberDescription(member_id="m")))

    dry = groups("reset-offsets", "billing", "--all-topics", "--to-latest", "--dry-run")

    assert dry.status == 0
    assert "the group has 1 member just now" in dry.err


def test_a_live_groups_offsets_stay_and_its_members_are_named(cluster, groups, billing):
    cluster.call(lambda: billing.members.append(MemberDescription(member_id="m-17", client_id="app", host="10.0.0.7")))

    ended = groups("reset-offsets", "billing", "--all-topics", "--to-latest")

    assert (ended.status, ended.out) == (4, "")
    assert "NON_EMPTY_GROUP" in ended.err
    assert "group 'billing' has 1 member: m-17 (app at 10.0.0.7)" in ended.err
    assert cluster.committed("billing") == {("t", 0): 4, ("t", 1): 2}


def test_partitions_are_chosen_by_topic_and_number(cluster, groups, billing):
    ended = groups("reset-offsets", "billing", "--topic", "t:2,0", "--to-earliest", "--json")

    assert orjson.loads(ended.out) == [
        {"topic": "t", "partition": 2, "before": None, "offset": 0, "log_start_offset": 0, "end_offset": 0}
        | {"moves_by": None},
        {"topic": "t", "partition": 0, "before": 4, "offset": 0, "log_start_offset": 0, "end_offset": 10}
        | {"moves_by": -4},
    ]
    groups("reset-offsets", "billing", "--topic", "t", "--to-latest")
    assert cluster.committed("billing") == {("t", 0): 10, ("t", 1): 8, ("t", 2): 0}
    groups("reset-offsets", "billing", "--topic", "t:0-1", "--to-offset", "6")  # as `describe` writes it
    assert cluster.committed("billing") == {("t", 0): 6, ("t", 1): 6, ("t", 2): 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--all-topics"], "say where to, once"),
        (["--all-topics", "--to-earliest", "--to-latest"], "say where to, once"),
        (["--all-topics", "--to-earliest", "--shift-by", "0"], "say where to, once"),
        (["--to-earliest"], "say of what"),
        (["--to-earliest", "--all-topics", "--topic", "t"], "say of what"),
        (["--to-earliest", "--topic", "t:x"], "'t:x' is no topic"),
        (["--to-earliest", "--topic", "t:"], "'t:' is no topic"),
        (["--to-earliest", "--topic", "t:3-1"], "'t:3-1' is no topic: write TOPIC, or TOPIC:0-2,5"),
        (["--to-earliest", "--topic", "no spaces"], "is no topic"),
        (["--to-offset", "-1", "--all-topics"], "--to-offset"),
        (["--to-offset", "x", "--all-topics"], "'x' is no whole number"),
        (["--to-offset", "9" * 30, "--all-topics"], "is not in the range"),
        (["--shift-by", "1.5", "--all-topics"], "'1.5' is no whole number"),
        (["--shift-by", "9" * 30, "--all-topics"], "is not in the range"),
        (["--to-datetime", "yesterday", "--all-topics"], "'yesterday' is no time"),
        (["--to-datetime", "1969-01-01", "--all-topics"], "before 1970"),
    ],
)
def test_a_reset_that_is_not_clear_is_refused_before_anybody_is_asked(cluster, groups, arguments, said):
    ended = groups("reset-offsets", "billing", *arguments)

    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert cluster.requests == []


def test_to_offset_0_and_shift_by_0_are_places_too(cluster, groups, billing):
    assert groups("reset-offsets", "billing", "--topic", "t:0", "--to-offset", "0").status == 0
    assert groups("reset-offsets", "billing", "--topic", "t:0", "--shift-by", "0").status == 0
    assert cluster.committed("billing")["t", 0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--topic", "nope", "--to-earliest"], "'nope'"),
        (["--topic", "t:7", "--to-earliest"], "partitions 0 to 2, not 7"),
        (["--topic", "t:2", "--shift-by", "1"], "nothing is committed"),
    ],
)
def test_what_cannot_be_reset_is_told_and_nothing_changes(cluster, groups, billing, arguments, said):
    ended = groups("reset-offsets", "billing", *arguments)

    assert ended.status in (1, 4)
    assert said in ended.err
    assert cluster.committed("billing") == {("t", 0): 4, ("t", 1): 2}


def test_a_group_that_has_committed_nothing_has_nothing_to_reset(groups):
    ended = groups("reset-offsets", "nope", "--all-topics", "--to-earliest")

    assert ended.status == 4
    assert "group 'nope' has committed nothing" in ended.err


# -- delete, remove-member ---------------------------------------------------------------------------


def test_groups_are_deleted(cluster, groups, billing):
    cluster.group("audit", 1)

    ended = groups("delete", "billing", "audit")

    assert ended.out == "deleted billing\ndeleted audit\n"
    assert cluster.scripted == {}
    assert groups("delete", "billing", "--if-exists").out == "billing is not there\n"
    missing = groups("delete", "billing")
    assert missing.status == 4
    assert "GROUP_ID_NOT_FOUND" in missing.err


def test_only_offsets_of_a_topic_are_deleted(cluster, groups, billing):
    cluster.call(lambda: billing.offsets.update({("u", 0): OffsetFetchEntryReply(topic="u", partition=0, offset=1)}))

    assert groups("delete", "billing", "--topic", "t:1").out == "deleted what billing had committed of t-1\n"
    assert cluster.committed("billing") == {("t", 0): 4, ("u", 0): 1}
    assert orjson.loads(groups("delete", "billing", "--topic", "t", "--json").out) == [
        {"group_id": "billing", "is_there": True, "partitions": [{"topic": "t", "partition": 0}]}
    ]
    assert groups("delete", "billing", "--topic", "t").out == "billing has committed nothing of t\n"
    assert cluster.committed("billing") == {("u", 0): 1}


def test_members_are_put_out(cluster, groups):
    group = cluster.group("billing", 1, "m1", "m2")
    cluster.call(lambda: group.members.append(MemberDescription(member_id="m3", instance_id="i3")))

    assert groups("remove-member", "billing", "m1").out == "put m1 out of billing\n"
    assert groups("remove-member", "billing", "i3", "--instance").status == 0
    assert [member.member_id for member in group.members] == ["m2"]
    refused = groups("remove-member", "billing", "m1")
    assert refused.status == 4
    assert "group billing has no member m1" in refused.err
    assert refused.err.count("m1") == 1
    assert "UNKNOWN_MEMBER_ID" in refused.err
    assert "rejoin" not in refused.err


def test_a_live_group_is_not_deleted(cluster, groups):
    cluster.group("billing", 1, "m1")

    ended = groups("delete", "billing")

    assert ended.status == 4
    assert "group 'billing' has 1 member: m1" in ended.err
    assert list(cluster.scripted) == ["billing"]


@pytest.mark.parametrize("command", ["describe", "lag"])
def test_a_group_that_is_not_there_is_a_refusal(groups, command):
    ended = groups(command, "nope")

    assert (ended.status, ended.out) == (4, "")
    assert "there is no group 'nope'" in ended.err


def test_partitions_are_written_in_ranges():
    assert partitions_text([]) == ""
    assert (
        partitions_text(
            [TopicPartitions(topic="a", partitions=[3, 0, 1, 2, 7, 9, 10]), TopicPartitions(topic="b", partitions=[1])]
        )
        == "a:0-3,7,9-10 b:1"
    )
