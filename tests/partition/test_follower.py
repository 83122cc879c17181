"""What a follower copies, when it cuts, when it begins anew."""

import pytest

from callboard.actors.partition.events import BeginAnew, Copy, DeleteBefore, FetchNext, Truncate
from callboard.actors.partition.follower import (
    AFTER_SYNC,
    AFTER_THAT,
    LITTLE_BYTES,
    RETRY_MS,
    TROUBLE_RETRY_MS,
    Follower,
    next_fetch,
)
from callboard.errors import ErrorCode
from callboard.storage.epochs import EpochHistory
from callboard.storage.sparse import empty_batch
from callboard.testing.logs import a_batch
from callboard.transport.messages import FetchEntryReply

from .replicas import KEY


def a_follower(*, epochs=((4, 0),), high_watermark=6, epoch=5):
    return Follower(epoch, EpochHistory(epochs), high_watermark)


def a_reply(**changes):
    settings = {"leader_epoch": 5, "high_watermark": 10, "log_start_offset": 0, "leader": 1}
    return FetchEntryReply(topic_id=KEY.topic_id, partition=KEY.partition, **{**settings, **changes})


def stored(at, count=1, epoch=5, size=1):
    frames, _ = a_batch([b"v" * size] * count, at=at, epoch=epoch)
    return b"".join(frames)


# -- copying -----------------------------------------------------------------------------------------


def test_whole_batches_are_copied_as_they_are_and_asked_on_from_behind_them():
    follower = a_follower()
    data = stored(10, 3) + stored(13, 2)

    copy, after = follower.on_fetched(a_reply(high_watermark=12), [data], 0, 10)

    assert b"".join(bytes(batch) for batch in copy.batches) == data
    assert [header.base_offset for header in copy.headers] == [10, 13]
    assert after == AFTER_SYNC
    assert follower.high_watermark == 12


def test_behind_much_the_next_fetch_does_not_wait_for_the_disk():
    follower = a_follower()

    _, after = follower.on_fetched(a_reply(), [stored(10, 1, size=LITTLE_BYTES)], 0, 10)

    assert after == AFTER_THAT


def test_the_high_watermark_is_never_above_what_is_held_and_never_goes_back():
    follower = a_follower()

    follower.on_fetched(a_reply(high_watermark=50), [stored(10, 2)], 0, 10)
    assert follower.high_watermark == 12
    follower.on_fetched(a_reply(high_watermark=3), [], 0, 12)
    assert follower.high_watermark == 12


@pytest.mark.parametrize("damage", ["flip", "cut", "hole", "elsewhere"])
def test_what_is_not_whole_or_does_not_follow_is_not_copied(damage):
    follower = a_follower()
    data = bytearray(stored(10, 2) + stored(12, 2))
    if damage == "flip":
        data[-1] ^= 1
    elif damage == "cut":
        del data[-1]
    elif damage == "hole":
        data = bytearray(stored(10, 2) + stored(13))
    else:
        data = bytearray(stored(11, 2))

    (again,) = follower.on_fetched(a_reply(), [bytes(data)], 0, 10)

    assert isinstance(again, FetchNext)
    assert (again.fetch_offset, again.last_fetched_epoch) == (10, 4)
    assert again.after_ms > 0
    assert follower.problem


def test_the_next_fetch_names_the_epoch_of_the_last_record():
    epochs = EpochHistory([(2, 0), (4, 7)])

    assert next_fetch(epochs, 0, 7) == FetchNext(7, 2)
    assert next_fetch(epochs, 0, 8) == FetchNext(8, 4)
    assert next_fetch(epochs, 8, 8) == FetchNext(8, -1), "it has no record"


# -- cutting -----------------------------------------------------------------------------------------


def test_b1_a_restarted_follower_keeps_what_lies_above_the_high_watermark_it_knows():
    """m2 is on it and acknowledged; it had not heard so. It is cut by lineage alone, and lineage agrees."""
    follower = a_follower(high_watermark=1)

    assert follower.begin(0, 2) == [FetchNext(2, 4)]
    effects = follower.on_fetched(a_reply(high_watermark=2), [], 0, 2)

    assert not any(isinstance(effect, Truncate) for effect in effects)
    assert follower.high_watermark == 2


def test_b2_two_records_at_one_offset_are_told_apart_by_their_epochs():
    """B led epoch 5 from 1 on, and wrote m3 there; A has m2 of epoch 4 at 1."""
    follower = a_follower(high_watermark=1)

    effects = follower.on_fetched(a_reply(diverging_epoch=4, diverging_end_offset=1), [], 0, 2)

    assert effects == [Truncate(1), AFTER_THAT]


def test_b3_after_two_fast_failovers_it_cuts_twice():
    """Own log: epoch 1 to 10, epoch 2 to 14. Leader of epoch 5: epoch 1 to 8, epoch 3 from there on."""
    follower = a_follower(epochs=[(1, 0), (2, 10)])

    first = follower.on_fetched(a_reply(diverging_epoch=1, diverging_end_offset=8), [], 0, 14)
    assert first == [Truncate(8), AFTER_THAT]

    follower = a_follower(epochs=[(1, 0), (2, 10)])  # the leader knows more of epoch 1 than this one
    assert follower.on_fetched(a_reply(diverging_epoch=1, diverging_end_offset=12), [], 0, 14) == [
        Truncate(10),
        AFTER_THAT,
    ]


@pytest.mark.parametrize("epoch", [4, 6])
def test_b4_the_word_of_another_epochs_leader_changes_nothing(epoch):
    follower = a_follower()
    diverging = a_reply(leader_epoch=epoch, diverging_epoch=3, diverging_end_offset=2)
    out_of_range = a_reply(leader_epoch=epoch, error=ErrorCode.OFFSET_OUT_OF_RANGE, log_start_offset=500)

    for reply, frames in ((diverging, []), (out_of_range, []), (a_reply(leader_epoch=epoch), [stored(10)])):
        (again,) = follower.on_fetched(reply, frames, 0, 10)
        assert isinstance(again, FetchNext)
        assert again.after_ms > 0
    assert follower.high_watermark == 6


def test_a_cut_takes_the_high_watermark_along():
    """After an unclean election only: what was committed is gone, and must not be said to be held."""
    follower = a_follower(high_watermark=9)

    follower.on_fetched(a_reply(diverging_epoch=4, diverging_end_offset=7), [], 0, 10)

    assert follower.high_watermark == 7


def test_a_divergence_that_cuts_nothing_is_a_problem_and_not_a_busy_loop():
    follower = a_follower()

    (again,) = follower.on_fetched(a_reply(diverging_epoch=4, diverging_end_offset=10), [], 0, 10)

    assert (again.fetch_offset, again.after_ms) == (10, TROUBLE_RETRY_MS)
    assert follower.problem


# -- beginning anew ------------------------------------------------------------------------------------


def test_a_gap_in_the_leaders_log_is_not_stepped_over_and_asked_about_seldom():
    """An operator's repair with --skip has left it: what is missing there was acknowledged once."""
    follower = a_follower()

    first = follower.on_fetched(a_reply(), [stored(20)], 0, 10)
    again = follower.on_fetched(a_reply(), [stored(20)], 0, 10)

    assert first == [FetchNext(10, 4, RETRY_MS)], "it may be an answer that came late"
    assert again == [FetchNext(10, 4, TROUBLE_RETRY_MS)]
    assert "sent offset 20, this log ends at 10" in follower.problem
    assert "repair" in follower.problem


def test_b36_a_follower_below_the_leaders_log_start_begins_anew_there():
    follower = a_follower()
    refused = a_reply(error=ErrorCode.OFFSET_OUT_OF_RANGE, log_start_offset=50)

    assert follower.on_fetched(refused, [], 0, 10) == [BeginAnew(50), AFTER_THAT]
    assert follower.high_watermark == 50


def test_a_log_that_began_in_the_middle_of_a_batch_takes_it_whole_and_begins_where_the_leaders_does():
    """Else it would begin earlier than the leader's: records that were deleted would be back, should it lead."""
    follower = a_follower(epochs=(), high_watermark=50)

    effects = follower.on_fetched(a_reply(log_start_offset=50, high_watermark=54), [stored(48, 6)], 50, 50)

    begin, copy, delete, after = effects
    assert begin == BeginAnew(48)
    assert isinstance(copy, Copy)
    assert delete == DeleteBefore(50)
    assert after == AFTER_SYNC


def test_a_log_of_which_the_leader_has_nothing_begins_anew_where_the_leaders_does():
    """After an unclean election: this log began at 100 when the leader's still ends at 50. Cut to 100 it would be
    empty, ask for 100 for ever, and one day lack what lies between."""
    follower = a_follower(epochs=[(4, 100)], high_watermark=110)

    effects = follower.on_fetched(
        a_reply(diverging_epoch=3, diverging_end_offset=50, log_start_offset=20), [], 100, 120
    )

    assert effects == [BeginAnew(20), AFTER_THAT]
    assert follower.high_watermark == 20


def test_an_empty_log_beyond_the_leaders_end_begins_anew_where_the_leaders_does():
    follower = a_follower(epochs=(), high_watermark=100)
    refused = a_reply(error=ErrorCode.OFFSET_OUT_OF_RANGE, log_start_offset=20)

    assert follower.on_fetched(refused, [], 100, 100) == [BeginAnew(20), AFTER_THAT]


def test_out_of_range_for_a_log_within_the_leaders_changes_nothing():
    follower = a_follower()
    refused = a_reply(error=ErrorCode.OFFSET_OUT_OF_RANGE, log_start_offset=3)

    (again,) = follower.on_fetched(refused, [], 0, 10)

    assert (again.fetch_offset, again.after_ms) == (10, TROUBLE_RETRY_MS)


def test_the_log_begins_where_the_leaders_does_but_not_above_what_is_committed():
    follower = a_follower(high_watermark=6)

    assert DeleteBefore(4) in follower.on_fetched(a_reply(log_start_offset=4, high_watermark=6), [], 0, 10)
    assert DeleteBefore(6) in follower.on_fetched(a_reply(log_start_offset=8, high_watermark=6), [], 0, 10)
    effects = follower.on_fetched(a_reply(log_start_offset=4, high_watermark=6), [], 6, 10)
    assert not any(isinstance(effect, DeleteBefore) for effect in effects)


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ErrorCode.NOT_LEADER_FOR_PARTITION,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
    ],
)
def test_a_leader_that_has_not_heard_yet_is_asked_again_soon(error):
    follower = a_follower()

    assert follower.on_fetched(a_reply(error=error, leader_epoch=-1), [], 0, 10) == [FetchNext(10, 4, RETRY_MS)]
    assert not follower.problem


@pytest.mark.parametrize("error", [ErrorCode.INTERNAL, ErrorCode.CORRUPT_RECORD, ErrorCode.STORAGE_ERROR])
def test_trouble_is_told_and_asked_again_later(error):
    follower = a_follower()

    (again,) = follower.on_fetched(a_reply(error=error, detail="why"), [], 0, 10)

    assert again.after_ms == TROUBLE_RETRY_MS
    assert "why" in follower.problem
    follower.on_fetched(a_reply(), [], 0, 10)
    assert not follower.problem


def test_a_batch_of_no_records_that_reaches_back_behind_the_end_is_taken_from_there_on():
    follower = a_follower()
    data = empty_batch(4, 15, 4) + stored(15, 2)

    copy, after = follower.on_fetched(a_reply(), [data], 0, 10)

    assert [(header.base_offset, header.next_offset, header.count) for header in copy.headers] == [
        (10, 15, 0),
        (15, 17, 2),
    ]
    assert bytes(copy.batches[0]) == empty_batch(10, 15, 4)
    assert after == AFTER_SYNC


def test_a_batch_with_records_that_reaches_back_behind_the_end_is_not_copied():
    follower = a_follower()

    effects = follower.on_fetched(a_reply(), [stored(8, 4)], 0, 10)

    assert effects == [FetchNext(10, 4, RETRY_MS)]
