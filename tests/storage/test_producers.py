"""Which batch is new, which is a retry, which is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.errors import ErrorCode
from callboard.storage import producers as module
from callboard.storage.batch import BatchHeader
from callboard.storage.producers import FRESH, Duplicate, ProducerStates, Refused

TOP = 2**31


def header(sequence: int, count: int = 1, *, at: int = 0, pid: int = 5, epoch: int = 0) -> BatchHeader:
    return BatchHeader(at, 100, 0, 0x43, 0, 0, count - 1, 1_000, 1_000 + at, pid, epoch, sequence, count)


def written(*batches: tuple[int, int], epoch: int = 0, states: ProducerStates | None = None) -> ProducerStates:
    """Return states that know batches given as (sequence, count); offsets are dense from 0."""
    states = states or ProducerStates(expiry_ms=1_000)
    at = 0
    for sequence, count in batches:
        states.record(header(sequence, count, at=at, epoch=epoch), now_ms=0)
        at += count
    return states


def code(verdict: Any) -> ErrorCode | None:
    return verdict.code if isinstance(verdict, Refused) else None


def test_a_producer_that_is_not_idempotent_is_never_questioned():
    states = ProducerStates()
    states.record(header(-1, pid=-1), 0)

    assert (states.check(header(-1, pid=-1)), len(states)) == (FRESH, 0)


def test_an_unknown_producer_begins_at_zero():  # B16
    assert ProducerStates().check(header(0)) is FRESH
    assert code(ProducerStates().check(header(3))) is ErrorCode.UNKNOWN_PRODUCER_ID
    assert code(ProducerStates().check(header(-1))) is ErrorCode.INVALID_RECORD
    assert code(ProducerStates().check(header(0, epoch=-1))) is ErrorCode.INVALID_RECORD


def test_the_next_sequence_is_fresh_and_a_gap_is_refused():
    states = written((0, 3), (3, 2))

    assert states.check(header(5)) is FRESH
    assert code(states.check(header(6))) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_any_of_the_last_five_batches_is_a_duplicate_with_its_first_offset():
    states = written((0, 1), (1, 2), (3, 1), (4, 1), (5, 3), (8, 1))

    assert states.check(header(1, 2)) == Duplicate(1, 2, 1_001)
    assert states.check(header(5, 3)) == Duplicate(5, 7, 1_005)
    assert states.check(header(8, 1)) == Duplicate(8, 8, 1_008)
    assert code(states.check(header(0, 1))) is ErrorCode.DUPLICATE_SEQUENCE_NUMBER, "the sixth is forgotten"


def test_a_batch_of_other_bounds_is_no_duplicate():
    states = written((0, 3), (3, 3))

    assert code(states.check(header(3, 2))) is ErrorCode.DUPLICATE_SEQUENCE_NUMBER
    assert code(states.check(header(4, 2))) is ErrorCode.DUPLICATE_SEQUENCE_NUMBER


def test_a_newer_epoch_begins_at_zero_and_fences_the_older():
    states = written((0, 3))

    assert code(states.check(header(3, epoch=1))) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert states.check(header(0, epoch=1)) is FRESH
    written((0, 1), epoch=1, states=states)
    assert code(states.check(header(3, epoch=0))) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert code(states.check(header(0, 3, epoch=0))) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert states.check(header(1, epoch=1)) is FRESH


def test_sequences_wrap():
    states = written((TOP - 3, 2))

    assert states.check(header(TOP - 1, 4)) is FRESH, "TOP-1, 0, 1, 2"
    states.record(header(TOP - 1, 4, at=2), 0)
    assert states.check(header(3)) is FRESH
    assert states.check(header(TOP - 1, 4)) == Duplicate(2, 5, 1_002)
    assert code(states.check(header(4))) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert code(states.check(header(1))) is ErrorCode.DUPLICATE_SEQUENCE_NUMBER


def test_an_idle_producer_is_forgotten_when_nothing_of_it_is_left():  # B16
    states = written((0, 3), (3, 2))

    states.expire(now_ms=999, log_start_offset=5)
    assert len(states) == 1, "not idle long enough"
    states.expire(now_ms=1_000, log_start_offset=4)
    assert len(states) == 1, "record 4 is still there"
    states.expire(now_ms=1_000, log_start_offset=5)
    assert len(states) == 0
    assert code(states.check(header(3, 2))) is ErrorCode.UNKNOWN_PRODUCER_ID, "a late retry is not taken for new"


def test_of_many_idle_producers_the_youngest_are_kept(monkeypatch):
    monkeypatch.setattr(module, "IDLE_KEPT_MAX", 2)
    states = ProducerStates(expiry_ms=10)
    for pid in range(5):
        states.record(header(0, pid=pid), now_ms=pid)
    states.record(header(0, pid=9), now_ms=1_000)

    states.expire(now_ms=1_000, log_start_offset=0)

    assert sorted(states.copy()) == [3, 4, 9]


def test_a_snapshot_restores_everything():
    states = written((0, 3), (3, 2))
    states.record(header(0, pid=6, epoch=4, at=9), now_ms=77)
    again = ProducerStates(expiry_ms=1_000)

    assert again.restore(states.snapshot(10)) == 10
    assert again.copy() == states.copy()
    assert again.check(header(3, 2)) == Duplicate(3, 4, 1_003)


@given(at=st.integers(0, 200), mask=st.integers(1, 255))
def test_a_damaged_snapshot_is_not_believed(at, mask):
    data = bytearray(written((0, 3), (3, 2)).snapshot(5))
    data[at % len(data)] ^= mask
    states = ProducerStates()

    assert states.restore(bytes(data)) is None
    assert len(states) == 0


@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=20),
    start=st.sampled_from([0, TOP - 7]),
    data=st.data(),
)
def test_a_retry_is_never_fresh_and_the_next_batch_always_is(counts, start, data):
    """A producer that sends in order, and repeats any batch it has sent."""
    states, sequence, sent, at = ProducerStates(), start, [], 0
    if start:
        states.record(header(start - 1, 1), 0)
    for count in counts:
        fresh = header(sequence, count, at=at)
        assert states.check(fresh) is FRESH
        states.record(fresh, 0)
        sent.append(fresh)
        at += count
        sequence = (sequence + count) % TOP

        again = data.draw(st.sampled_from(sent))
        verdict = states.check(again)
        if again in sent[-5:]:
            assert verdict == Duplicate(again.base_offset, again.last_offset, again.max_timestamp)
        else:
            assert code(verdict) is ErrorCode.DUPLICATE_SEQUENCE_NUMBER


@pytest.mark.parametrize("count", [1, 5, 6, 50])
def test_no_more_than_five_batches_are_kept(count):
    states = written(*((n, 1) for n in range(count)))

    assert len(states.copy()[5].batches) == min(count, 5)
