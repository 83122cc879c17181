"""How a coordinator writes and loads, without its actor: one batch at a time, and a walk up to the marker."""

from __future__ import annotations

import zlib

import pytest

from callboard.actors.groups.events import Write
from callboard.actors.groups.gathering import ListGathering, deleting, describing
from callboard.actors.groups.journal import BATCH_BYTES, Journal
from callboard.actors.groups.loading import Loading
from callboard.actors.groups.naming import partition_of
from callboard.errors import CorruptRecordError, ErrorCode
from callboard.storage.batch import encode_batch, restamp
from callboard.transport import group_messages as said
from callboard.transport import messages as m


def write(number, *records):
    return Write(number, [(key, b"") for key in records])


# -- the journal -------------------------------------------------------------------------------------


def test_what_is_decided_while_a_batch_is_under_way_goes_into_the_next_one_together():
    journal = Journal()
    journal.add(write(1, b"a"))
    assert journal.next_batch() == [(b"a", b"")]
    journal.add(write(2, b"b", b"c"))
    journal.add(write(3, b"d"))

    assert journal.next_batch() == [], "one is under way"
    assert journal.on_survived() == 1
    assert [key for key, _ in journal.next_batch()] == [b"b", b"c", b"d"]
    assert journal.on_survived() == 3
    assert journal.next_batch() == []
    assert journal.is_idle


def test_a_write_is_never_torn_and_a_batch_is_bounded():
    journal, half = Journal(), BATCH_BYTES // 2 + 1
    for number in (1, 2):
        journal.add(Write(number, [(b"k", bytes(half))]))
    journal.add(Write(3, [(b"a", bytes(BATCH_BYTES)), (b"b", bytes(BATCH_BYTES))]))

    sizes = []
    while records := journal.next_batch():
        sizes.append([len(value) for _, value in records])
        journal.on_survived()

    assert sizes == [[half], [half], [BATCH_BYTES, BATCH_BYTES]]


# -- loading -----------------------------------------------------------------------------------------


def stored(base_offset, *records):
    prefix, *rest = encode_batch([key for key, _ in records], [value for _, value in records], 1_000)
    return b"".join([restamp(prefix, base_offset, 1), *rest])


def test_everything_below_the_marker_is_read_and_nothing_of_it_or_above():
    loading = Loading(log_start_offset=0, marker_offset=3)

    found = loading.on_read([stored(0, (b"a", b"1"), (b"b", None)) + stored(2, (b"a", b"2")), stored(3, (b"m", b""))])

    assert found == [(b"a", b"1"), (b"b", None), (b"a", b"2")]
    assert loading.is_complete
    assert loading.records == 3


def test_it_reads_on_until_it_has_come_to_the_marker():
    loading = Loading(log_start_offset=5, marker_offset=7)

    assert loading.on_read([stored(5, (b"a", b"1"))]) == [(b"a", b"1")]
    assert (loading.is_complete, loading.next_offset) == (False, 6)
    loading.on_read([stored(6, (b"a", b"2"))])
    assert loading.is_complete


def test_an_empty_log_is_loaded_without_reading():
    assert Loading(log_start_offset=4, marker_offset=4).is_complete


def test_damage_is_no_record():
    data = bytearray(stored(0, (b"a", b"1")))
    data[-4] ^= 1

    with pytest.raises(CorruptRecordError):
        Loading(0, 1).on_read([bytes(data)])


# -- names -------------------------------------------------------------------------------------------


def test_the_partition_of_a_group_never_changes():
    assert [partition_of(name, 50) for name in ("billing", "", "grüße")] == [
        zlib.crc32(name.encode()) % 50 for name in ("billing", "", "grüße")
    ]
    assert partition_of("billing", 50) == 26


# -- requests about several groups -------------------------------------------------------------------


def by_length(name):
    return len(name)


def test_groups_come_back_in_the_order_they_were_named_whoever_answers_first():
    gathering = describing(said.DescribeGroupsRequest(group_ids=["aa", "b", "cc", "aa"]), by_length)
    assert {partition: part.group_ids for partition, part in gathering.parts.items()} == {
        2: ["aa", "cc", "aa"],
        1: ["b"],
    }

    gathering.on_reply(1, m.ErrorReply(error=ErrorCode.NOT_COORDINATOR, detail="elsewhere"))
    assert not gathering.is_complete
    groups = [said.GroupDescription(group_id=name, state="stable") for name in ("aa", "cc", "aa")]
    gathering.on_reply(2, said.DescribeGroupsReply(groups=groups))

    assert gathering.is_complete
    assert [(one.group_id, one.error, one.state) for one in gathering.reply().groups] == [
        ("aa", 0, "stable"),
        ("b", ErrorCode.NOT_COORDINATOR, ""),
        ("cc", 0, "stable"),
        ("aa", 0, "stable"),
    ]


def test_a_reply_that_does_not_fit_is_an_error_of_those_groups_and_a_second_one_is_none():
    gathering = deleting(said.DeleteGroupsRequest(group_ids=["aa", "b"]), by_length)

    gathering.on_reply(2, said.AlterGroupReply(results=[]))
    gathering.on_reply(2, said.AlterGroupReply(results=[said.AlterGroupResult(name="aa")]))
    gathering.on_reply(1, said.AlterGroupReply(results=[said.AlterGroupResult(name="b")]))

    assert [(one.name, one.error) for one in gathering.reply().results] == [("aa", ErrorCode.INTERNAL), ("b", 0)]


def test_a_coordinator_that_loads_does_not_keep_the_others_groups_back():
    gathering = ListGathering(said.ListGroupsRequest(), [3, 1, 2])

    gathering.on_reply(3, said.ListGroupsReply(error=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS))
    gathering.on_reply(
        2, said.ListGroupsReply(groups=[said.GroupListing(group_id="z"), said.GroupListing(group_id="a")])
    )
    gathering.on_reply(1, said.ListGroupsReply(groups=[said.GroupListing(group_id="m")]))

    assert [one.group_id for one in gathering.reply().groups] == ["a", "m", "z"]
    assert gathering.reply().loading == [3]


def test_a_coordinator_that_ends_while_groups_are_listed_has_not_told_them():
    gathering = ListGathering(said.ListGroupsRequest(), [0, 1, 2])
    gathering.on_reply(0, said.ListGroupsReply(groups=[said.GroupListing(group_id="a")]))
    gathering.on_reply(1, m.ErrorReply(error=ErrorCode.NOT_COORDINATOR, detail="it was deposed"))
    gathering.on_reply(2, m.ErrorReply(error=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS))

    reply = gathering.reply()

    assert ([group.group_id for group in reply.groups], reply.told, reply.loading) == (["a"], [0], [1, 2])
