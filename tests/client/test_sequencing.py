"""The sequences of one partition: in order, once, and never renumbered while an outcome is unknown."""

from __future__ import annotations

import pytest

from callboard.client.producer_batch import ProducerBatch
from callboard.client.sequencing import PRODUCER_EPOCH_MAX, SEQUENCE_MASK, PartitionSequence, Verdict
from callboard.errors import (
    CallboardTimeoutError,
    ConnectionLostError,
    DuplicateSequenceNumberError,
    InvalidRecordError,
    InvariantViolated,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    OutOfOrderSequenceNumberError,
    UnknownProducerIdError,
)

NEVER = 1 << 40


def a_batch(count: int = 10) -> ProducerBatch:
    batch = ProducerBatch("t", 0, 1_000, created_ms=0)
    for i in range(count):
        batch.append(b"%d" % i, None, None, 0, 20)
    batch.seal()
    return batch


def a_sequence(acks: int = -1, *, is_idempotent: bool = True) -> PartitionSequence:
    sequence = PartitionSequence(is_idempotent=is_idempotent, acks=acks, retries_max=float("inf"))
    if is_idempotent:
        sequence.adopt(7, 0)
    return sequence


def send(sequence: PartitionSequence, batch: ProducerBatch, attempt_id: int) -> ProducerBatch:
    if batch not in sequence.unresolved:
        assert sequence.may_take_new(0)
        sequence.admit(batch)
    sequence.on_sent(batch, attempt_id)
    return batch


def test_sequences_count_records_and_start_at_zero():
    sequence = a_sequence()

    first, second = send(sequence, a_batch(10), 1), send(sequence, a_batch(3), 2)

    assert (first.producer_id, first.producer_epoch, first.base_sequence) == (7, 0, 0)
    assert second.base_sequence == 10
    assert sequence.next_sequence == 13


def test_sequences_wrap_at_two_to_the_thirty_first():
    sequence = a_sequence()
    sequence.next_sequence = SEQUENCE_MASK - 4

    send(sequence, a_batch(10), 1)

    assert sequence.next_sequence == 5


def test_at_most_five_batches_are_unresolved():
    sequence = a_sequence()
    for attempt in range(1, 6):
        send(sequence, a_batch(), attempt)

    assert not sequence.may_take_new(0)


def test_without_idempotence_one_batch_is_under_way():
    sequence = a_sequence(is_idempotent=False)
    batch = send(sequence, a_batch(), 1)

    assert batch.base_sequence == -1
    assert not sequence.may_take_new(0)


def test_nothing_new_is_sent_while_a_retry_waits():
    sequence = a_sequence()
    first = send(sequence, a_batch(), 1)

    assert sequence.on_refused(first, 1, NotLeaderForPartitionError(), NEVER) is Verdict.RETRY

    assert sequence.next_retry(0) is first
    assert not sequence.may_take_new(0)


def test_a_retry_keeps_its_sequence():
    sequence = a_sequence()
    first = send(sequence, a_batch(), 1)
    sequence.on_refused(first, 1, ConnectionLostError(), NEVER)

    send(sequence, first, 2)

    assert (first.producer_epoch, first.base_sequence) == (0, 0)


def test_retries_go_out_in_order_of_their_sequences():
    sequence = a_sequence()
    batches = [send(sequence, a_batch(), attempt) for attempt in (1, 2, 3)]
    for attempt in (3, 1, 2):
        sequence.on_refused(batches[attempt - 1], attempt, ConnectionLostError(), NEVER)

    order = []
    while (batch := sequence.next_retry(0)) is not None:
        sequence.on_sent(batch, 10 + len(order))
        order.append(batch)

    assert order == batches


def test_out_of_order_of_a_batch_that_was_not_next_is_retried():
    sequence = a_sequence()
    first, second = send(sequence, a_batch(), 1), send(sequence, a_batch(), 2)
    sequence.on_refused(first, 1, NotLeaderForPartitionError(), NEVER)

    assert sequence.on_refused(second, 2, OutOfOrderSequenceNumberError(), NEVER) is Verdict.RETRY

    assert not sequence.must_bump


def test_out_of_order_answered_late_is_judged_by_what_was_known_when_it_was_sent():
    sequence = a_sequence()
    first, second = send(sequence, a_batch(), 1), send(sequence, a_batch(), 2)
    sequence.on_refused(first, 1, NotLeaderForPartitionError(), NEVER)
    send(sequence, first, 3)
    sequence.on_acked(first, 3)  # the retry overtook the answer about the second

    assert sequence.on_refused(second, 2, OutOfOrderSequenceNumberError(), NEVER) is Verdict.RETRY


def test_out_of_order_of_the_next_batch_fails_it_with_acks_all():
    sequence = a_sequence(acks=-1)
    first = send(sequence, a_batch(), 1)

    assert sequence.on_refused(first, 1, OutOfOrderSequenceNumberError(), NEVER) is Verdict.FAIL

    assert sequence.bump_if_known(0)
    assert sequence.producer_epoch == 1


def test_out_of_order_of_the_next_batch_goes_again_in_a_new_epoch_with_acks_one():
    sequence = a_sequence(acks=1)
    send(sequence, a_batch(), 1)
    sequence.on_acked(sequence.unresolved[0], 1)
    second = send(sequence, a_batch(), 2)

    assert sequence.on_refused(second, 2, OutOfOrderSequenceNumberError(), NEVER) is Verdict.RETRY
    assert sequence.bump_if_known(0)

    assert (second.producer_epoch, second.base_sequence) == (1, 0)


def test_a_refused_batch_makes_the_ones_behind_it_begin_a_new_epoch():
    sequence = a_sequence()
    first, second = send(sequence, a_batch(), 1), send(sequence, a_batch(), 2)

    assert sequence.on_refused(first, 1, InvalidRecordError(), NEVER) is Verdict.FAIL
    assert not sequence.bump_if_known(0)  # the second is under way: its outcome is not known
    sequence.on_refused(second, 2, OutOfOrderSequenceNumberError(), NEVER)
    assert sequence.bump_if_known(0)

    assert (second.producer_epoch, second.base_sequence) == (1, 0)
    assert sequence.next_sequence == 10


def test_sequences_are_never_reset_while_an_outcome_is_unknown():
    sequence = a_sequence()
    first, second = send(sequence, a_batch(), 1), send(sequence, a_batch(), 2)
    sequence.on_refused(second, 2, ConnectionLostError(), deadline_ms=500)
    sequence.on_expired(first)

    assert not sequence.bump_if_known(10_000)
    assert sequence.next_retry(10_000) is second  # asked again, under the old epoch
    assert (second.producer_epoch, second.base_sequence) == (0, 10)


def test_b15_what_a_deposed_leader_has_appended_is_not_numbered_anew_before_its_outcome_is_known():
    """It answers "not leader" and where the batch stands: the next leader may have it, too, under the old epoch."""
    sequence = a_sequence()
    first, second = send(sequence, a_batch(), 1), send(sequence, a_batch(), 2)
    for batch, attempt_id in ((first, 1), (second, 2)):
        verdict = sequence.on_refused(batch, attempt_id, NotLeaderForPartitionError("t").as_unknown(), 0)
        assert verdict is Verdict.RETRY

    sequence.on_expired(first)

    assert not sequence.bump_if_known(1_000)
    assert sequence.next_retry(1_000) is second
    assert (second.producer_epoch, second.base_sequence) == (0, 10)


def test_a_batch_that_turns_out_to_be_appended_is_acked_under_its_old_epoch():
    sequence = a_sequence()
    first, second = send(sequence, a_batch(), 1), send(sequence, a_batch(), 2)
    sequence.on_refused(second, 2, ConnectionLostError(), deadline_ms=500)
    sequence.on_expired(first)
    send(sequence, second, 3)

    assert sequence.on_acked(second, 3) is Verdict.ACKED
    assert sequence.bump_if_known(0)
    assert sequence.is_idle


def test_the_epoch_waits_until_no_lost_request_can_arrive_any_more():
    sequence = a_sequence()
    first, second = send(sequence, a_batch(), 1), send(sequence, a_batch(), 2)
    sequence.on_refused(second, 2, ConnectionLostError(), deadline_ms=500)
    sequence.on_expired(first)
    send(sequence, second, 3)
    sequence.on_refused(second, 3, OutOfOrderSequenceNumberError(), NEVER)

    assert not sequence.bump_if_known(499)
    assert sequence.bump_if_known(500)
    assert (second.producer_epoch, second.base_sequence) == (1, 0)


def test_an_answer_that_comes_after_the_batch_was_given_up_changes_nothing():
    sequence = a_sequence()
    first = send(sequence, a_batch(), 1)
    sequence.on_expired(first)

    assert sequence.on_acked(first, 1) is Verdict.STALE
    assert sequence.on_refused(first, 1, CallboardTimeoutError("late"), NEVER) is Verdict.STALE


def test_a_duplicate_is_a_success():
    sequence = a_sequence()
    first = send(sequence, a_batch(), 1)

    assert sequence.on_refused(first, 1, DuplicateSequenceNumberError(), NEVER) is Verdict.ACKED


def test_a_forgotten_producer_goes_on_in_a_new_epoch_when_nothing_can_be_appended_twice():
    sequence = a_sequence()
    first = send(sequence, a_batch(), 1)

    assert sequence.on_refused(first, 1, UnknownProducerIdError(), NEVER) is Verdict.RETRY
    assert sequence.bump_if_known(0)


def test_a_forgotten_producer_fails_a_batch_that_may_be_in_the_log():
    sequence = a_sequence()
    first = send(sequence, a_batch(), 1)
    sequence.on_refused(first, 1, ConnectionLostError(), deadline_ms=0)
    send(sequence, first, 2)

    assert sequence.on_refused(first, 2, UnknownProducerIdError(), NEVER) is Verdict.FAIL


def test_a_leader_that_knows_nothing_of_the_producer_yet_says_nothing_about_a_batch_that_was_not_next():
    """A new leader gets the second batch while the first one, of unknown outcome, is still on its way to it."""
    sequence = a_sequence()
    first, second = send(sequence, a_batch(), 1), send(sequence, a_batch(), 2)
    sequence.on_refused(first, 1, ConnectionLostError(), deadline_ms=NEVER)
    sequence.on_refused(second, 2, ConnectionLostError(), deadline_ms=NEVER)
    send(sequence, first, 3)
    send(sequence, second, 4)

    assert sequence.on_refused(second, 4, UnknownProducerIdError(), NEVER) is Verdict.RETRY
    assert sequence.on_acked(first, 3) is Verdict.ACKED
    assert not sequence.must_bump
    assert sequence.next_retry(0) is second


def test_a_batch_that_is_too_large_is_split_only_when_it_holds_several_records():
    sequence = a_sequence()
    many, one = send(sequence, a_batch(2), 1), send(sequence, a_batch(1), 2)

    assert sequence.on_refused(many, 1, MessageSizeTooLargeError(), NEVER) is Verdict.SPLIT
    assert sequence.on_refused(one, 2, MessageSizeTooLargeError(), NEVER) is Verdict.FAIL


def test_what_was_sent_to_a_deleted_topic_is_handed_back_and_numbers_begin_again():
    sequence = a_sequence()
    sequence.topic_id = "old"
    first = send(sequence, a_batch(), 1)

    assert sequence.on_topic_id("new") == [first]

    assert sequence.next_sequence == 0
    assert sequence.may_take_new(0)


def test_numbers_that_begin_again_begin_in_another_epoch():
    """The topic may be the same after all: its log would take sequence 0 of the old epoch for a duplicate."""
    sequence = a_sequence()
    sequence.topic_id = "orders"
    first = send(sequence, a_batch(), 1)
    sequence.on_acked(first, 1)
    used = (sequence.producer_id, sequence.producer_epoch)

    sequence.on_topic_id("")
    sequence.on_topic_id("orders")
    second = send(sequence, a_batch(), 2)

    assert second.base_sequence == 0
    assert (second.producer_id, second.producer_epoch) == (used[0], used[1] + 1)


def test_an_id_whose_epochs_are_used_up_is_replaced():
    sequence = a_sequence()
    sequence.producer_epoch = PRODUCER_EPOCH_MAX
    first = send(sequence, a_batch(), 1)
    sequence.on_refused(first, 1, InvalidRecordError(), NEVER)

    assert sequence.bump_if_known(0)
    assert sequence.needs_producer_id
    assert sequence.used_up_id == 7


def test_another_producer_id_cannot_be_adopted_over_numbered_batches():
    sequence = a_sequence()
    send(sequence, a_batch(), 1)

    with pytest.raises(InvariantViolated):
        sequence.adopt(8, 0)
