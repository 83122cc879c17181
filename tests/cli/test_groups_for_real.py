"""``callboard groups`` and ``consume --group`` against a real cluster, as a person gives them."""

from __future__ import annotations

import uuid

import orjson
import pytest

from callboard import Consumer

pytestmark = [pytest.mark.processes]


@pytest.fixture
def cli(callboard, bootstrap_servers):
    """Run ``callboard …`` against the shared cluster; status 0 is expected unless told otherwise."""

    def command(*arguments, status=0, **options):
        ended = callboard(*arguments, "-b", bootstrap_servers, **options)
        assert ended.status == status, ended.err
        assert "Traceback" not in ended.err
        return ended

    return command


@pytest.fixture
def group():
    return f"group-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic(cli, topic_name):
    """Thirty records in two partitions."""
    cli("topics", "create", topic_name, "--partitions", "2")
    for partition in ("0", "1"):
        lines = "".join(f"{partition}-{number}\n" for number in range(15))
        cli("produce", topic_name, "--partition", partition, stdin=lines)
    return topic_name


def read_by(cli, group, topic, count):
    """Have a member of the group print so many records, from the beginning or where the group has committed."""
    lines = cli("consume", topic, "--group", group, "--from-beginning", "-n", str(count)).out.splitlines()
    assert len(lines) == count
    return lines


def lag_of(cli, group):
    (document,) = orjson.loads(cli("groups", "lag", group, "--json").out)
    return document


def test_a_group_goes_on_where_it_has_stopped_and_its_lag_tells(cli, topic, group):
    first = read_by(cli, group, topic, 10)
    behind = lag_of(cli, group)["partitions"]  # where it has not begun yet nothing is committed
    assert sum(one["committed"] or 0 for one in behind) == 10
    assert [one["lag"] for one in behind] == [
        None if one["committed"] is None else 15 - one["committed"] for one in behind
    ]

    rest = read_by(cli, group, topic, 20)

    assert len({*first, *rest}) == 30
    assert lag_of(cli, group)["lag"] == 0
    assert {one["group_id"]: one["state"] for one in orjson.loads(cli("groups", "list", "--json").out)}[
        group
    ] == "empty"


@pytest.mark.parametrize(
    ("place", "committed"),
    [
        (["--to-earliest"], [0, 0]),
        (["--to-offset", "4"], [4, 4]),
        (["--shift-by", "-5"], [10, 10]),
        (["--to-datetime", "2000-01-01"], [0, 0]),
        (["--to-datetime", "2100-01-01T00:00:00+02:00"], [15, 15]),
    ],
)
def test_a_reset_group_reads_from_there(cli, topic, group, place, committed):
    read_by(cli, group, topic, 30)

    dry = cli("groups", "reset-offsets", group, "--all-topics", *place, "--dry-run").out
    assert lag_of(cli, group)["lag"] == 0
    assert cli("groups", "reset-offsets", group, "--all-topics", *place).out == dry

    assert [one["committed"] for one in lag_of(cli, group)["partitions"]] == committed
    left = sum(15 - offset for offset in committed)
    if left:
        expected = {f"{partition}-{number}" for partition in (0, 1) for number in range(committed[partition], 15)}
        assert set(read_by(cli, group, topic, left)) == expected


def test_a_live_group_is_shown_left_alone_and_put_out(cli, topic, group, bootstrap_servers):
    with Consumer(
        topic, group_id=group, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest", client_id="reader"
    ) as consumer:
        assert consumer.poll(30_000)
        (described,) = orjson.loads(cli("groups", "describe", group, "--json").out)
        (member,) = described["members"]
        assert (described["state"], member["client_id"]) == ("stable", "reader")
        assert f"{topic}:0-1" in cli("groups", "describe", group).out

        for change in (["reset-offsets", group, "--topic", topic, "--to-latest"], ["delete", group]):
            refused = cli("groups", *change, status=4).err
            assert "NON_EMPTY_GROUP" in refused
            assert member["member_id"] in refused
        told = cli("groups", "delete", group, "--topic", topic).out
        assert told == f"{group} has committed nothing of {topic}\n"

        told = cli("groups", "remove-member", group, member["member_id"]).out
        assert told == f"put {member['member_id']} out of {group}\n"
        refused = cli("groups", "remove-member", group, member["member_id"], status=4).err
        assert "UNKNOWN_MEMBER_ID" in refused


def test_a_group_is_deleted_with_its_offsets_or_only_those_of_a_topic(cli, topic, group):
    read_by(cli, group, topic, 30)

    told = cli("groups", "delete", group, "--topic", f"{topic}:1").out
    assert told == f"deleted what {group} had committed of {topic}-1\n"
    assert [one["committed"] is None for one in lag_of(cli, group)["partitions"]] == [False, True]

    assert cli("groups", "delete", group).out == f"deleted {group}\n"
    assert "GROUP_ID_NOT_FOUND" in cli("groups", "lag", group, status=4).err
    assert cli("groups", "delete", group, "--if-exists").out == f"{group} is not there\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["groups", "describe", "no-such-group"], "GROUP_ID_NOT_FOUND"),
        (["groups", "lag", "x" * 250], "INVALID_GROUP_ID"),
        (["groups", "delete", ""], "INVALID_GROUP_ID"),
        (["groups", "remove-member", "no-such-group", "m"], "GROUP_ID_NOT_FOUND"),
        (["groups", "reset-offsets", "g", "--topic", "no-such-topic", "--to-earliest"], "no-such-topic"),
        (["groups", "reset-offsets", "g", "--all-topics", "--to-earliest"], "has committed nothing"),
    ],
)
def test_a_refusal_is_one_line_with_status_4(cli, arguments, said):
    ended = cli(*arguments, status=4)

    assert said in ended.err
    assert ended.err.splitlines()[-1].startswith("callboard: ")
    assert ended.out == ""
