"""Lag and resets, without a cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.client.group_offsets import (
    LogRange,
    OffsetReset,
    OffsetShift,
    OffsetSpec,
    OffsetTimestamp,
    PartitionLag,
    group_lags,
    lag_of,
    new_offset,
    offsets_given,
    partition_given,
    resets_to_make,
    times_to_ask,
    who_is_in,
)
from callboard.errors import IllegalArgumentError, NoOffsetForPartitionError
from callboard.model import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition
from callboard.transport.group_messages import (
    GroupDescription,
    MemberDescription,
    OffsetFetchEntryReply,
)

T0, T1, T2, T3 = (TopicPartition("t", number) for number in range(4))
LOG = LogRange(10, 100)


@pytest.mark.parametrize(
    ("committed", "log", "lag"),
    [
        (40, LOG, 60),
        (100, LOG, 0),
        (10, LOG, 90),
        (3, LOG, 90),  # what was deleted is no lag: nobody will read it
        (200, LOG, 0),  # an unclean election may have taken records away
        (0, LogRange(0, 0), 0),
        (5, LogRange(7, 7), 0),
        (5, LogRange(7, 6), 0),  # the two were not asked in one instant
        (None, LOG, None),
        (40, None, None),
    ],
)
def test_lag_is_what_can_be_read_and_is_not_committed(committed, log, lag):
    assert lag_of(committed, log) == lag


@pytest.mark.parametrize(
    ("to", "before", "found", "offset"),
    [
        (OffsetSpec.EARLIEST, 40, None, 10),
        (OffsetSpec.LATEST, 40, None, 100),
        (OffsetSpec.MAX_TIMESTAMP, 40, OffsetAndTimestamp(77, 1), 77),
        (OffsetSpec.MAX_TIMESTAMP, 40, None, 100),
        (OffsetTimestamp(5), 40, OffsetAndTimestamp(50, 6), 50),
        (OffsetTimestamp(5), None, None, 100),  # nothing so late: what comes next
        (OffsetShift(-5), 40, None, 35),
        (OffsetShift(+5), 40, None, 45),
        (OffsetShift(-500), 40, None, 10),
        (OffsetShift(+500), 40, None, 100),
        (OffsetShift(0), 3, None, 10),
        (0, 40, None, 10),
        (55, None, None, 55),
        (1_000, None, None, 100),
    ],
)
def test_a_reset_goes_where_it_was_told_but_never_outside_of_the_log(to, before, found, offset):
    assert new_offset(T0, to, before, LOG, found) == offset


@given(
    to=st.one_of(
        st.sampled_from(OffsetSpec),
        st.integers(0, 1 << 62),
        st.integers(0, 1 << 62).map(OffsetTimestamp),
        st.integers(-(1 << 62), 1 << 62).map(OffsetShift),
    ),
    before=st.integers(0, 1 << 62),
    start=st.integers(0, 1 << 61),
    length=st.integers(0, 1 << 61),
    found=st.none() | st.integers(0, 1 << 62).map(lambda offset: OffsetAndTimestamp(offset, 0)),
)
def test_what_a_reset_commits_can_always_be_read_from(to, before, start, length, found):
    log = LogRange(start, start + length)

    offset = new_offset(T0, to, before, log, found)

    assert log.start <= offset <= log.end
    assert 0 <= lag_of(offset, log) <= length


def test_nothing_can_be_shifted_where_nothing_is_committed():
    with pytest.raises(NoOffsetForPartitionError, match="t-0: nothing is committed"):
        new_offset(T0, OffsetShift(-1), None, LOG, None)


def test_leaders_are_asked_only_for_what_they_alone_know():
    resets = {T0: OffsetTimestamp(5), T1: 5, T2: OffsetSpec.MAX_TIMESTAMP, TopicPartition("u", 0): OffsetSpec.EARLIEST}

    assert times_to_ask(resets) == {T0: 5, T2: -3}


@pytest.mark.parametrize(
    ("specs", "kind"),
    [
        ({T0: -1}, IllegalArgumentError),
        ({T0: 1 << 63}, IllegalArgumentError),
        ({T0: OffsetTimestamp(-1)}, IllegalArgumentError),
        ({T0: True}, TypeError),
        ({T0: "earliest"}, TypeError),
        ({T0: None}, TypeError),
        ({"t-0": 5}, TypeError),
        ({("t", "0"): 5}, TypeError),
        ({("t", -1): 5}, IllegalArgumentError),
        ([T0], TypeError),
    ],
)
def test_a_reset_that_makes_no_sense_is_refused(specs, kind):
    with pytest.raises(kind):
        resets_to_make(specs)


@pytest.mark.parametrize(
    ("offsets", "kind"),
    [
        ({T0: OffsetAndMetadata(-1)}, IllegalArgumentError),
        ({T0: OffsetAndMetadata(1, b"x")}, TypeError),
        ({T0: OffsetAndMetadata("1")}, TypeError),
        ({T0: True}, TypeError),
        ({T0: None}, TypeError),
        ([T0], TypeError),
    ],
)
def test_offsets_that_make_no_sense_are_refused(offsets, kind):
    with pytest.raises(kind):
        offsets_given(offsets)


def test_an_offset_alone_has_no_metadata():
    assert offsets_given({("t", 0): 7}) == {T0: OffsetAndMetadata(7)}
    assert partition_given(("t", 1), "x") == T1


def test_the_lag_of_a_group_has_what_is_committed_what_is_owned_and_where_it_has_not_begun():
    committed = {
        T1: OffsetFetchEntryReply(topic="t", partition=1, offset=5, metadata="m", committed_ms=9),
        T2: OffsetFetchEntryReply(topic="t", partition=2, offset=7),
    }

    logs = {T0: LogRange(0, 4), T1: LogRange(6, 8), T3: LogRange(0, 2)}

    lags = group_lags([T3, T2, T1, T0], committed, {T0: "a", T1: "b"}, logs, {T2: "no leader"})

    assert list(lags.items()) == [
        (T0, PartitionLag(None, 0, 4, None, "a")),
        (T1, PartitionLag(5, 6, 8, 2, "b", "m", 9)),
        (T2, PartitionLag(7, None, None, None, error="no leader")),
        (T3, PartitionLag(None, 0, 2, None)),
    ]
    assert [lag.is_aged_out for lag in lags.values()] == [False, True, False, False]


def test_a_reset_tells_by_how_much_it_moves():
    assert OffsetReset(5, 8, 0, 10).moves_by == 3
    assert OffsetReset(None, 8, 0, 10).moves_by is None


def test_a_full_group_is_named_in_one_line():
    members = [
        MemberDescription(member_id=f"m{i}", client_id="app", host="h", instance_id="i0" if not i else "")
        for i in range(7)
    ]

    assert who_is_in(GroupDescription(group_id="g", members=members[:1])) == "1 member: i0 (app at h)"
    assert who_is_in(GroupDescription(group_id="g", members=members)).endswith("m4 (app at h) and 2 more")
