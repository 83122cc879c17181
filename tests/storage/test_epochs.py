"""The lineage of leaders, and where two logs part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.errors import InvariantViolated
from callboard.storage.epochs import UNKNOWN_END, EpochEnd, EpochHistory

HISTORY = ((1, 0), (3, 10), (7, 25))  # log end 40


def test_an_epoch_ends_where_the_next_one_begins():
    epochs = EpochHistory(HISTORY)

    assert epochs.end_offset_for(1, 40) == EpochEnd(1, 10)
    assert epochs.end_offset_for(3, 40) == EpochEnd(3, 25)
    assert epochs.end_offset_for(7, 40) == EpochEnd(7, 40)


def test_an_epoch_that_is_missing_is_answered_by_the_largest_one_below():
    epochs = EpochHistory(HISTORY)

    assert epochs.end_offset_for(2, 40) == EpochEnd(1, 10)
    assert epochs.end_offset_for(6, 40) == EpochEnd(3, 25)


def test_an_epoch_below_or_above_all():
    assert EpochHistory(HISTORY).end_offset_for(0, 40) == EpochEnd(0, 0)
    assert EpochHistory(HISTORY).end_offset_for(8, 40) == UNKNOWN_END
    assert EpochHistory().end_offset_for(0, 40) == UNKNOWN_END


def test_a_follower_whose_log_is_a_prefix_does_not_diverge():
    epochs = EpochHistory(HISTORY)

    assert epochs.divergence(-1, 0, 40) is None
    assert epochs.divergence(1, 10, 40) is None
    assert epochs.divergence(3, 17, 40) is None
    assert epochs.divergence(7, 40, 40) is None


def test_a_follower_with_records_of_a_lost_leader_is_told_where_to_cut():
    epochs = EpochHistory(HISTORY)

    assert epochs.divergence(1, 12, 40) == EpochEnd(1, 10), "epoch 1 went on there, not here"
    assert epochs.divergence(5, 30, 40) == EpochEnd(3, 25), "epoch 5 is not known here"
    assert epochs.divergence(7, 41, 40) == EpochEnd(7, 40), "the follower is ahead"
    assert epochs.divergence(9, 41, 40) == UNKNOWN_END


def test_fast_double_failover_is_found_by_asking_again():
    """KIP-279: A (epoch 1) wrote 5..9 alone, B (epoch 2) wrote 5..7, C (epoch 3) has neither."""
    follower, leader = EpochHistory(((1, 0),)), EpochHistory(((1, 0), (3, 5)))
    end = 10

    rounds = 0
    while (found := leader.divergence(follower.latest, end, 20)) is not None:
        end = follower.truncation_point(found, end)
        follower.truncate_from_end(end)
        rounds += 1

    assert (end, rounds) == (5, 1)


def test_an_epoch_without_records_leaves_no_entry():
    epochs = EpochHistory(HISTORY)

    epochs.assign(8, 40)
    epochs.assign(8, 41)
    epochs.assign(9, 40)

    assert epochs.entries == (*HISTORY, (9, 40))


@pytest.mark.parametrize(("epoch", "offset"), [(6, 50), (8, 24)])
def test_history_never_goes_back(epoch, offset):
    with pytest.raises(InvariantViolated):
        EpochHistory(HISTORY).assign(epoch, offset)


def test_cut_at_the_end_and_at_the_start():
    epochs = EpochHistory(HISTORY)
    epochs.truncate_from_end(25)
    assert epochs.entries == ((1, 0), (3, 10))

    epochs = EpochHistory(HISTORY)
    epochs.truncate_from_start(12)
    assert epochs.entries == ((3, 12), (7, 25))
    assert (epochs.epoch_at(11), epochs.epoch_at(12), epochs.epoch_at(30)) == (-1, 3, 7)


class Replica:
    """A log of records (epoch, number), and its history."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int]] = []

    @property
    def epochs(self) -> EpochHistory:
        found = EpochHistory()
        for offset, (epoch, _) in enumerate(self.records):
            found.assign(epoch, offset)
        return found

    def follow(self, leader: Replica, epoch: int, count: int) -> None:
        """Cut as the leader of ``epoch`` says, then copy ``count`` records."""
        led = leader.epochs
        led.assign(epoch, len(leader.records))
        while (found := led.divergence(self.epochs.latest, len(self.records), len(leader.records))) is not None:
            end = self.epochs.truncation_point(found, len(self.records))
            assert end < len(self.records), "each round cuts something"
            del self.records[end:]
        assert self.records == leader.records[: len(self.records)]
        self.records = leader.records[: len(self.records) + count]


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 4), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)))),
        max_size=12,
    )
)
def test_a_follower_that_cuts_where_told_holds_a_prefix_of_its_leaders_log(steps):
    """Any replica leads an epoch, appends, and some others copy some of it; unclean elections included."""
    replicas, number = [Replica(), Replica(), Replica()], 0
    for epoch, (leading, appended, followers) in enumerate(steps):
        leader = replicas[leading]
        for _ in range(appended):
            leader.records.append((epoch, number))
            number += 1
        for following, count in followers:
            if following != leading:
                replicas[following].follow(leader, epoch, count)
