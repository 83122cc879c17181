"""What coordinators write: bytes that stay, and what a later version writes is no harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.groups import records
from callboard.actors.groups.events import GroupPartition
from callboard.errors import StorageCorruption

ORDERS_0 = GroupPartition("orders", "0f", 0)

GOLDEN = [
    (records.marker(7), b'["coordinator"]', b'{"leader_epoch":7}'),
    (
        records.group_record("billing", records.GroupValue(epoch=3, assignor="sticky", why="m1 joined")),
        b'["group","billing"]',
        b'{"epoch":3,"assignor":"sticky","why":"m1 joined"}',
    ),
    (
        records.member_record(
            "billing",
            "m1",
            records.MemberValue(
                epoch=4,
                client_id="app",
                host="10.0.0.1",
                topics=["orders"],
                assignors=["sticky", "range"],
                session_timeout_ms=10_000,
                rebalance_timeout_ms=300_000,
                given=records.packed({ORDERS_0: 4, ORDERS_0._replace(partition=2): 3}),
                asked=records.packed({ORDERS_0._replace(partition=1): 3}),
                target=records.packed({ORDERS_0: 0, ORDERS_0._replace(partition=2): 0}),
            ),
        ),
        b'["member","billing","m1"]',
        b'{"epoch":4,"client_id":"app","host":"10.0.0.1","topics":["orders"],"assignors":["sticky","range"],'
        b'"session_timeout_ms":10000,"rebalance_timeout_ms":300000,'
        b'"given":[{"topic":"orders","topic_id":"0f","partitions":[0],"epoch":4},'
        b'{"topic":"orders","topic_id":"0f","partitions":[2],"epoch":3}],'
        b'"asked":[{"topic":"orders","topic_id":"0f","partitions":[1],"epoch":3}],'
        b'"target":[{"topic":"orders","topic_id":"0f","partitions":[0,2]}]}',
    ),
    (
        records.offset_record(
            "billing",
            ORDERS_0,
            records.OffsetValue(offset=42, metadata="ä", committed_ms=1_700, member_id="m1", member_epoch=4),
        ),
        b'["offset","billing","orders","0f",0]',
        '{"offset":42,"metadata":"ä","committed_ms":1700,"member_id":"m1","member_epoch":4}'.encode(),
    ),
    (records.group_record("billing", None), b'["group","billing"]', None),
    (records.member_record("billing", "m1", None), b'["member","billing","m1"]', None),
    (records.offset_record("billing", ORDERS_0, None), b'["offset","billing","orders","0f",0]', None),
]


@pytest.mark.parametrize(("record", "key", "value"), GOLDEN)
def test_the_bytes_of_records_stay_as_they_are(record, key, value):
    assert record == (key, value)


def test_what_is_written_is_read():
    assert records.decode(*GOLDEN[1][0]) == (
        records.GroupKey("billing"),
        records.GroupValue(epoch=3, assignor="sticky", why="m1 joined"),
    )
    key, member = records.decode(*GOLDEN[2][0])
    assert key == records.MemberKey("billing", "m1")
    assert records.unpacked(member.given) == {ORDERS_0: 4, ORDERS_0._replace(partition=2): 3}
    key, offset = records.decode(*GOLDEN[3][0])
    assert key == records.OffsetKey("billing", ORDERS_0)
    assert (offset.offset, offset.metadata, offset.leader_epoch) == (42, "ä", -1)
    assert [records.decode(*record)[1] for record, _, value in GOLDEN if value is None] == [None] * 3


@pytest.mark.parametrize(
    "key",
    [
        b'["transaction","t1"]',
        b'["group","billing","more"]',
        b'["offset","billing","orders","0f","zero"]',
        b'["coordinator"]',
        b'{"kind":"group"}',
        b"[]",
        b"no json",
        b'["\xff"]',
        b"",
    ],
)
def test_a_kind_that_is_not_known_is_passed_over(key):
    assert records.decode(key, b'{"epoch":1}') is None
    assert records.decode(key, None) is None


def test_fields_that_are_not_known_are_ignored():
    decoded = records.decode(b'["group","billing"]', b'{"epoch":3,"colour":"red"}')

    assert decoded == (records.GroupKey("billing"), records.GroupValue(epoch=3))


@pytest.mark.parametrize("value", [b"", b"{}", b"no json", b'{"epoch":"three"}', b'{"epoch":3,"why":"\xff"}'])
def test_a_known_kind_that_cannot_be_read_is_an_error_that_names_it(value):
    with pytest.raises(StorageCorruption, match="billing"):
        records.decode(b'["group","billing"]', value)


partitions = st.builds(GroupPartition, st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 99))


@given(st.dictionaries(partitions, st.integers(0, 5)))
def test_packing_loses_nothing(epochs):
    assert records.unpacked(records.packed(epochs)) == epochs
