"""The high watermark."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.partition.progress import Position, high_watermark

positions = st.dictionaries(
    st.integers(1, 7),
    st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda ends: Position(max(ends), min(ends))),
    min_size=1,
)


def test_under_flush_ack_the_least_durable_offset_counts_the_leaders_own_included():
    ends = {1: Position(10, 4), 2: Position(9, 9), 3: Position(10, 10)}

    assert high_watermark(ends, {1, 2, 3}, flush="ack") == 4
    assert high_watermark(ends, {1, 2, 3}, flush="os") == 9


def test_a_replica_outside_the_in_sync_set_holds_nothing_back():
    assert high_watermark({1: Position(10, 10), 2: Position(3, 3)}, {1}, flush="ack") == 10


def test_an_empty_in_sync_set_is_refused():
    with pytest.raises(ValueError, match="always in its own"):
        high_watermark({}, set(), flush="ack")


def test_a_member_that_was_never_heard_is_not_guessed():
    with pytest.raises(KeyError):
        high_watermark({1: Position(10, 10)}, {1, 2}, flush="ack")


@given(positions, st.sampled_from(["ack", "os"]))
def test_every_member_holds_what_is_below_and_some_member_ends_there(ends, flush):
    watermark = high_watermark(ends, set(ends), flush=flush)

    held = [end.durable_offset if flush == "ack" else end.log_end_offset for end in ends.values()]
    assert all(end >= watermark for end in held)
    assert watermark in held
