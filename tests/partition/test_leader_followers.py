"""What a leader gives its followers, and what their word does: lineage, the high watermark, the reader's view."""

import pytest

from callboard.actors.partition.events import Answer, Fetch, ListOffset, Read, Ticket
from callboard.errors import ErrorCode
from callboard.storage.epochs import EpochHistory
from callboard.transport.messages import LATEST_TIMESTAMP

from .replicas import a_fetch, a_leader, acknowledged, errors, fetch, produce, progress, proposals, replies


def both_fetched(**changes):
    leader = a_leader(**changes)
    for broker in (2, 3):
        fetch(leader, broker, 10)
    return leader


def consumer_fetch(offset):
    return Fetch(Ticket(9_999, 0), 5, offset, 1 << 20)


def latest(leader):
    (answer,) = leader.on_list_offset(ListOffset(Ticket(9_998, 0), 5, LATEST_TIMESTAMP))
    return answer.reply


# -- reading -----------------------------------------------------------------------------------------


def test_a_follower_reads_to_the_log_end_and_a_consumer_to_the_high_watermark():
    leader = both_fetched()
    produce(leader, 3)

    (read,) = [one for one in fetch(leader, 2, 10) if isinstance(one, Read)]

    assert read.up_to_offset == 13
    assert leader.on_fetch(consumer_fetch(10), 0) == [], "nothing of it is committed"


def test_followers_are_woken_by_the_append_before_it_is_on_the_leaders_disk():
    leader = both_fetched()

    effects = produce(leader, 3, is_durable=False)

    assert [(one.fetch.replica_id, one.up_to_offset) for one in effects if isinstance(one, Read)] == [(2, 13), (3, 13)]


def test_a_batch_that_was_accepted_and_not_written_yet_is_not_given_to_followers():
    leader = both_fetched()
    leader.log_end_offset = 13  # as between on_produce and on_appended

    assert [one for one in fetch(leader, 2, 10) if isinstance(one, Read)] == []


@pytest.mark.parametrize(
    ("epoch", "code"), [(4, ErrorCode.FENCED_LEADER_EPOCH), (6, ErrorCode.UNKNOWN_LEADER_EPOCH), (-1, 76)]
)
def test_b4_a_follower_of_another_epoch_moves_nothing(epoch, code):
    """It acknowledged offset 12 under epoch 4, and cut back later: the leader of 5 must not have counted that."""
    leader = both_fetched()
    produce(leader, 2)
    fetch(leader, 3, 12)

    (error,) = errors(fetch(leader, 2, 12, epoch=epoch))

    assert error == (code if epoch >= 0 else ErrorCode.UNKNOWN_LEADER_EPOCH)
    assert leader.high_watermark == 10
    assert progress(leader, 2, 12, epoch=epoch) == []
    assert leader.high_watermark == 10


@pytest.mark.parametrize("epoch", [4, 6])
def test_b4_progress_of_another_epoch_is_void(epoch):
    """What it had on disk at that place in another epoch is not what it has copied there in this one."""
    leader = both_fetched()
    produce(leader, 2)
    fetch(leader, 3, 12)
    fetch(leader, 2, 12, durable=10)

    assert progress(leader, 2, 12, epoch=epoch) == []

    assert leader.high_watermark == 10


def test_a_broker_that_hosts_no_replica_is_refused():
    assert errors(fetch(a_leader(), 4, 10)) == [ErrorCode.INELIGIBLE_REPLICA]
    assert progress(a_leader(), 4, 10) == []


def test_a_follower_beyond_the_log_is_told_where_the_logs_part_and_is_not_counted():
    leader = a_leader(isr=[1, 2], replicas=[1, 2], high_watermark=5)

    (reply,) = replies(fetch(leader, 2, 14, last_epoch=4))

    assert (reply.diverging_epoch, reply.diverging_end_offset) == (4, 10)
    assert leader.high_watermark == 5
    assert progress(leader, 2, 10) == [], "R1: nothing of it is known before its lineage agrees"
    assert leader.high_watermark == 5
    fetch(leader, 2, 10)
    assert leader.high_watermark == 10


def test_b3_after_two_failovers_the_leader_answers_with_the_largest_epoch_not_above_the_one_asked_for():
    """Epoch 6 wrote at 10 what epoch 5 had written elsewhere; leader of 7 knows neither."""
    leader = a_leader(epoch=7, epochs=EpochHistory([(4, 0), (7, 10)]))

    (reply,) = replies(leader.on_fetch(a_fetch(2, 12, epoch=7, last_epoch=6), 0))

    assert (reply.diverging_epoch, reply.diverging_end_offset) == (4, 10)


def test_b36_a_follower_below_the_log_start_is_told_where_the_log_begins():
    leader = a_leader(log_start_offset=8)

    (reply,) = replies(fetch(leader, 2, 3))

    assert (reply.error, reply.log_start_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, 8)


def test_an_empty_follower_beyond_the_log_end_is_out_of_range():
    """Its log was emptied by a leader whose log nobody has any more."""
    leader = a_leader()

    (reply,) = replies(fetch(leader, 2, 50, last_epoch=-1))

    assert (reply.error, reply.log_start_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, 0)


# -- the high watermark --------------------------------------------------------------------------------


def test_under_flush_ack_the_high_watermark_is_the_least_durable_offset():
    leader = both_fetched()
    produce(leader, 5, is_durable=False)
    fetch(leader, 2, 15, durable=12)
    fetch(leader, 3, 15)
    leader.on_flushed(14)

    assert leader.high_watermark == 12
    progress(leader, 2, 15)
    assert leader.high_watermark == 14, "now the leader's own disk is the slowest"


def test_under_flush_os_the_high_watermark_is_the_least_log_end():
    leader = both_fetched(flush="os")
    produce(leader, 5, is_durable=False)
    fetch(leader, 2, 15, durable=0)

    assert acknowledged(fetch(leader, 3, 12, durable=0)) == []
    assert leader.high_watermark == 12
    assert acknowledged(fetch(leader, 3, 15, durable=0)) == [10]


def test_progress_never_says_more_than_the_fetch_before_it():
    leader = both_fetched()
    produce(leader, 5)
    fetch(leader, 2, 15)
    fetch(leader, 3, 12)

    progress(leader, 3, 15)

    assert leader.high_watermark == 12


def test_progress_of_another_life_is_void():
    leader = both_fetched()
    produce(leader, 2)
    fetch(leader, 2, 12)
    fetch(leader, 3, 12, durable=10)

    progress(leader, 3, 12, life="life-2")

    assert leader.high_watermark == 10


def test_b1_the_high_watermark_never_moves_past_what_a_restarted_follower_lost():
    """R4's other half: a member that restarted is where its new life says, whatever the old one said."""
    leader = both_fetched(flush="os")
    produce(leader, 5)
    fetch(leader, 2, 15)
    fetch(leader, 3, 12)
    fetch(leader, 3, 11, life="life-2")

    produce(leader, 1)
    fetch(leader, 2, 16)

    assert leader.high_watermark == 12, "it does not go back either"
    fetch(leader, 3, 16, life="life-2")
    assert leader.high_watermark == 16


def test_a_waiting_consumer_is_woken_by_the_slowest_follower():
    leader = both_fetched()
    waiting = consumer_fetch(10)
    leader.on_fetch(waiting, 0)
    produce(leader)
    fetch(leader, 2, 11)

    assert Read(waiting, 11) in fetch(leader, 3, 11)


# -- what followers are told -----------------------------------------------------------------------------


def test_a_follower_that_has_everything_is_told_a_high_watermark_that_it_does_not_know():
    leader = both_fetched()

    (reply,) = replies(fetch(leader, 2, 10, high_watermark=7))

    assert (reply.high_watermark, reply.frames, reply.error) == (10, 0, 0)
    assert fetch(leader, 2, 10, high_watermark=10) == []


def test_a_parked_follower_is_told_of_a_later_high_watermark_after_a_while():
    """Else it would know it with the next batch only, which may come next year, and begin to lead below it."""
    leader = both_fetched()
    produce(leader)
    for broker in (2, 3):
        fetch(leader, broker, 11, durable=10, high_watermark=10)
    for broker in (2, 3):
        progress(leader, broker, 11)
    assert leader.high_watermark == 11

    assert leader.needs_watching
    told = [one for one in leader.on_look_at_followers(1_000) if isinstance(one, Answer)]

    assert [(one.ticket.session, one.reply.high_watermark) for one in told] == [(1_002, 11), (1_003, 11)]
    for broker in (2, 3):
        fetch(leader, broker, 11, high_watermark=11)
    assert not leader.needs_watching, "an idle partition costs nothing"


def test_parked_followers_are_told_that_the_log_begins_later():
    """Else the old segments of an idle partition, and deleted records, stay with its followers until the next batch."""
    leader = both_fetched()

    told = leader.on_deleted(6)

    assert [(one.ticket.session, one.reply.log_start_offset) for one in told] == [(1_002, 6), (1_003, 6)]
    assert leader.on_deleted(7) == [], "they are not parked any more"


def test_a_deposed_leader_sends_parked_followers_to_the_next():
    leader = both_fetched()

    refused = replies(leader.on_deposed(2, 6))

    assert [(one.error, one.leader, one.leader_epoch) for one in refused] == [
        (ErrorCode.NOT_LEADER_FOR_PARTITION, 2, 6)
    ] * 2


def test_a_follower_that_is_forgotten_is_not_woken():
    leader = both_fetched()
    leader.on_unpark(a_fetch(2, 10).ticket)

    assert [one.fetch.replica_id for one in produce(leader) if isinstance(one, Read)] == [3]


# -- epochs and readers ----------------------------------------------------------------------------------


def test_b6_a_leader_that_woke_up_deposed_acknowledges_none_of_what_was_queued():
    """Brokers 2 and 3 follow epoch 6 by now: their words are of that epoch, and its own disk alone commits nothing."""
    leader = both_fetched()
    effects = [effect for _ in range(50) for effect in produce(leader)]
    for broker in (2, 3):
        effects += fetch(leader, broker, 60, epoch=6)
    effects += leader.on_look_at_followers(60_000)

    assert acknowledged(effects) == []
    assert set(errors(leader.on_deposed(2, 6))) == {ErrorCode.NOT_LEADER_FOR_PARTITION}
    (proposal,) = proposals(effects)
    assert proposal.leader_epoch == 5, "it wants to go on alone, but that is compared with 6 (R5)"


def test_b11_the_latest_offset_is_not_told_before_the_high_watermark_has_reached_this_epoch():
    leader = a_leader(high_watermark=8)

    assert latest(leader).error == ErrorCode.LEADER_NOT_AVAILABLE
    fetch(leader, 2, 10)
    assert latest(leader).error == ErrorCode.LEADER_NOT_AVAILABLE, "broker 3 is not heard"
    fetch(leader, 3, 10)
    assert (latest(leader).error, latest(leader).offset) == (0, 10)


def test_b12_a_consumer_ahead_of_the_high_watermark_waits_and_is_not_reset():
    leader = a_leader(high_watermark=8)

    assert leader.on_fetch(consumer_fetch(10), 0) == []
    assert errors(leader.on_fetch(consumer_fetch(11), 0)) == [ErrorCode.OFFSET_OUT_OF_RANGE]


def test_b14_a_retry_at_the_next_leader_is_known_by_what_it_copied():
    first = both_fetched(producers=(states := a_leader().producers))
    produce(first, 2, sequence=0)
    second = a_leader(
        broker_id=2, epoch=6, producers=states, log_end_offset=12, durable_offset=12, epochs=EpochHistory([(6, 12)])
    )

    assert produce(second, 2, sequence=0) == [], "it waits for the high watermark like the original"
    fetch(second, 1, 12, epoch=6, last_epoch=-1)
    assert acknowledged(fetch(second, 3, 12, epoch=6, last_epoch=-1)) == [10]
    assert second.log_end_offset == 12


def test_b18_a_later_batch_that_overtakes_an_earlier_one_is_refused():
    leader = both_fetched(isr=[1])
    refused = errors(produce(leader, sequence=0))  # too few in sync
    leader.on_isr([1, 2, 3], 21, 2, 0)

    assert refused == [ErrorCode.NOT_ENOUGH_REPLICAS]
    assert errors(produce(leader, sequence=1)) == [ErrorCode.UNKNOWN_PRODUCER_ID]
    assert errors(produce(leader, sequence=0)) == []
    assert errors(produce(leader, sequence=2)) == [ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER]
    assert errors(produce(leader, sequence=1)) == []


def test_what_waits_for_the_watermark_is_kept_without_its_records():
    """A watermark that stands (no controller, a lost follower) must not fill the memory with batches and retries."""
    leader = both_fetched()
    produce(leader, 1_000, sequence=0)
    for _ in range(100):
        produce(leader, 1_000, sequence=0)

    assert all(isinstance(ticket, Ticket) for _, _, ticket, _ in leader._acks_all)
    assert len(leader._acks_all) == 101
