"""What a leader accepts, when it acknowledges, who may read what."""

import itertools

import pytest

from callboard.actors.partition.events import Answer, Append, Fetch, ListOffset, Produce, Read, Ticket
from callboard.actors.partition.leader import Leader
from callboard.errors import ErrorCode, InvariantViolated
from callboard.model import PartitionKey
from callboard.storage.batch import check_batch, encode_batch
from callboard.storage.epochs import EpochHistory
from callboard.storage.producers import ProducerStates
from callboard.transport.messages import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, ProduceEntryReply

KEY = PartitionKey("0" * 32, 3)
tickets = itertools.count(1)


def a_leader(**changes):
    settings = {
        "broker_id": 1,
        "epoch": 5,
        "isr": [1],
        "min_insync_replicas": 1,
        "flush": "ack",
        "max_message_bytes": 1 << 20,
        "producers": ProducerStates(),
        "epochs": EpochHistory([(5, 10)]),
        "high_watermark": 0,
        "log_start_offset": 0,
        "log_end_offset": 10,
        "durable_offset": 10,
    }
    return Leader(KEY, **{**settings, **changes})


def a_batch(count=1, *, producer_id=-1, sequence=-1, epoch=-1, size=10):
    return encode_batch(
        [None] * count,
        [b"v" * size] * count,
        1_000,
        producer_id=producer_id,
        producer_epoch=0 if producer_id >= 0 and epoch == -1 else epoch,
        base_sequence=sequence,
    )


def a_produce(batch=None, *, acks=-1, leader_epoch=5):
    return Produce(Ticket(next(tickets), 0), leader_epoch, acks, batch or a_batch())


def produce(leader, batch=None, **settings):
    """Give the leader a batch as the actor does: check, decide, and (when accepted) write."""
    request = a_produce(batch, **settings)
    header = check_batch(request.frames)
    effects = leader.on_produce(request, header)
    for effect in effects:
        if isinstance(effect, Append):
            placed = effect.header.at(effect.base_offset, leader.epoch)
            leader.producers.record(placed, 1_000)
    return effects


def a_fetch(offset, *, leader_epoch=5, min_bytes=1, last_epoch=-1):
    return Fetch(Ticket(next(tickets), 0), leader_epoch, offset, 1 << 20, min_bytes, last_fetched_epoch=last_epoch)


def replies(effects):
    return [effect.reply for effect in effects if isinstance(effect, Answer)]


def errors(effects):
    return [reply.error for reply in replies(effects)]


# -- producing ---------------------------------------------------------------------------------------


def test_a_batch_is_appended_at_the_log_end():
    leader = a_leader()

    (append,) = produce(leader, a_batch(3))
    (second,) = produce(leader, a_batch(2))

    assert (append.base_offset, second.base_offset, leader.log_end_offset) == (10, 13, 15)


def test_what_could_not_be_appended_is_refused_and_its_offsets_go_to_the_next():
    leader = a_leader()
    produce(leader, a_batch(2), acks=-1)
    leader.on_appended(12, 0)
    produce(leader, a_batch(3), acks=-1)
    produce(leader, a_batch(1), acks=1)

    assert errors(leader.on_append_failed(ErrorCode.STORAGE_FULL, "full")) == [ErrorCode.STORAGE_FULL] * 2
    (append,) = produce(leader, a_batch(1), acks=1)

    assert append.base_offset == 12
    assert [reply.base_offset for reply in replies(leader.on_appended(13, 0))] == [12]
    assert [reply.base_offset for reply in replies(leader.on_flushed(12))] == [10], "what was appended before still is"


def test_acks_all_is_answered_when_the_flush_has_passed_it():
    leader = a_leader()
    produce(leader, a_batch(2), acks=-1)

    assert leader.on_appended(12, 0) == []
    assert replies(leader.on_flushed(11)) == []
    (reply,) = replies(leader.on_flushed(12))
    assert (reply.base_offset, reply.error, reply.leader_epoch) == (10, ErrorCode.NONE, 5)


def test_acks_1_is_answered_from_the_page_cache():
    leader = a_leader()
    produce(leader, a_batch(2), acks=1)

    (reply,) = replies(leader.on_appended(12, 0))

    assert reply.base_offset == 10
    assert leader.high_watermark == 10, "but consumers do not see it before it is durable"


def test_acks_0_is_never_answered():
    leader = a_leader()

    assert replies(produce(leader, a_batch(2), acks=0)) == []
    assert replies(leader.on_appended(12, 0)) == []
    assert replies(leader.on_flushed(12)) == []


def test_under_flush_os_acks_all_is_answered_by_the_append():
    leader = a_leader(flush="os", durable_offset=10)
    produce(leader, a_batch(2))

    (reply,) = replies(leader.on_appended(12, 0))

    assert reply.base_offset == 10
    assert leader.high_watermark == 12


def test_two_waiting_producers_are_answered_in_offset_order():
    leader = a_leader()
    produce(leader, a_batch(2))
    produce(leader, a_batch(3))
    leader.on_appended(15, 0)

    assert [reply.base_offset for reply in replies(leader.on_flushed(15))] == [10, 12]


@pytest.mark.parametrize(
    ("believed", "code"), [(4, ErrorCode.FENCED_LEADER_EPOCH), (6, ErrorCode.UNKNOWN_LEADER_EPOCH)]
)
def test_another_epoch_is_refused_and_nothing_is_appended(believed, code):
    leader = a_leader()

    effects = produce(leader, leader_epoch=believed)

    assert errors(effects) == [code]
    assert leader.log_end_offset == 10
    assert errors(leader.on_fetch(a_fetch(3, leader_epoch=believed), 0)) == [code]


def test_a_batch_above_max_message_bytes_is_refused():
    leader = a_leader(max_message_bytes=200)

    assert errors(produce(leader, a_batch(size=500))) == [ErrorCode.MESSAGE_SIZE_TOO_LARGE]
    assert errors(produce(leader, a_batch(size=10))) == []


def test_acks_all_needs_min_insync_replicas_before_the_append_and_acks_1_does_not():
    leader = a_leader(min_insync_replicas=2)

    assert errors(produce(leader, acks=-1)) == [ErrorCode.NOT_ENOUGH_REPLICAS]
    assert leader.log_end_offset == 10
    assert [type(effect) for effect in produce(leader, acks=1)] == [Append]


def test_a_duplicate_is_answered_with_its_first_offset_and_not_appended():
    leader = a_leader()
    batch = a_batch(2, producer_id=7, sequence=0)
    produce(leader, batch, acks=1)
    leader.on_appended(12, 0)

    (reply,) = replies(produce(leader, batch, acks=1))

    assert (reply.base_offset, reply.error) == (10, ErrorCode.NONE)
    assert leader.log_end_offset == 12


def test_a_duplicate_with_acks_all_waits_for_the_high_watermark_like_the_original():
    leader = a_leader()
    batch = a_batch(2, producer_id=7, sequence=0)
    produce(leader, batch)
    leader.on_appended(12, 0)

    assert produce(leader, batch) == []
    assert [reply.base_offset for reply in replies(leader.on_flushed(12))] == [10, 10]


def test_a_gap_in_the_sequence_is_refused():
    leader = a_leader()
    produce(leader, a_batch(2, producer_id=7, sequence=0))
    leader.on_appended(12, 0)

    effects = produce(leader, a_batch(1, producer_id=7, sequence=5))

    assert errors(effects) == [ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER]


# -- reading -----------------------------------------------------------------------------------------


def test_a_fetch_reads_up_to_the_high_watermark_only():
    leader = a_leader()
    produce(leader, a_batch(2))
    leader.on_appended(12, 0)

    (read,) = leader.on_fetch(a_fetch(3), 0)

    assert isinstance(read, Read)
    assert read.up_to_offset == 10


def test_a_fetch_at_the_high_watermark_is_parked_and_woken_by_its_move():
    leader = a_leader()
    fetch = a_fetch(10)

    assert leader.on_fetch(fetch, 0) == []
    produce(leader, a_batch(2), acks=0)
    assert leader.on_appended(12, 0) == []
    assert leader.on_flushed(12) == [Read(fetch, 12)]
    assert leader.on_flushed(12) == [], "once"


def test_a_fetch_with_less_than_min_bytes_answers_and_stays_parked_until_unparked():
    leader = a_leader()
    fetch = a_fetch(9, min_bytes=1_000)
    assert leader.on_fetch(fetch, 0) == [Read(fetch, 10)]
    (answer,) = leader.on_read(fetch, [b"x" * 90], 90)
    assert answer.reply.frames == 1

    produce(leader, a_batch(1), acks=0)
    leader.on_appended(11, 0)
    assert leader.on_flushed(11) == [Read(fetch, 11)]
    leader.on_read(fetch, [b"x" * 180], 180)
    leader.on_unpark(fetch.ticket)
    produce(leader, a_batch(1), acks=0)
    leader.on_appended(12, 0)
    assert leader.on_flushed(12) == []


def test_not_yet_is_parked_but_beyond_the_log_is_out_of_range():
    leader = a_leader(log_start_offset=5)
    produce(leader, a_batch(2), acks=0)
    leader.on_appended(12, 0)

    assert leader.on_fetch(a_fetch(12), 0) == []
    assert errors(leader.on_fetch(a_fetch(13), 0)) == [ErrorCode.OFFSET_OUT_OF_RANGE]
    assert errors(leader.on_fetch(a_fetch(4), 0)) == [ErrorCode.OFFSET_OUT_OF_RANGE]
    assert replies(leader.on_fetch(a_fetch(4), 0))[0].log_start_offset == 5


def test_the_end_is_not_told_before_the_high_watermark_has_reached_the_start_of_the_epoch():
    leader = a_leader(log_end_offset=12, durable_offset=10)
    latest = ListOffset(Ticket(1, 0), 5, LATEST_TIMESTAMP)

    assert errors(leader.on_list_offset(latest)) == [ErrorCode.LEADER_NOT_AVAILABLE]
    leader.on_flushed(12)
    assert replies(leader.on_list_offset(latest))[0].offset == 12
    assert replies(leader.on_list_offset(ListOffset(Ticket(1, 0), 5, EARLIEST_TIMESTAMP)))[0].offset == 0
    assert leader.on_list_offset(ListOffset(Ticket(1, 0), 5, 1_234)) is None, "a time is looked up in the log"


# -- the controller's word ---------------------------------------------------------------------------


def test_a_deposed_leader_acknowledges_nothing_and_sends_everybody_to_the_next():
    leader = a_leader()
    produce(leader, a_batch(2), acks=-1)
    produce(leader, a_batch(2), acks=1)
    leader.on_fetch(a_fetch(10), 0)

    refused = replies(leader.on_deposed(2, 6))

    assert [reply.error for reply in refused] == [ErrorCode.NOT_LEADER_FOR_PARTITION] * 3
    assert {(reply.leader, reply.leader_epoch) for reply in refused} == {(2, 6)}
    appended = [reply.base_offset for reply in refused if isinstance(reply, ProduceEntryReply)]
    assert appended == [10, 12], "where they stand: the next leader may commit them, so their outcome is unknown (B15)"


def test_who_is_refused_by_a_deposed_leader_is_told_where_its_records_stand_that_may_be_kept():  # B15
    leader = a_leader()
    produce(leader, a_batch(2), acks=-1)
    leader.on_appended(12, 0)
    produce(leader, a_batch(3), acks=-1)
    leader.on_appended(15, 0)

    assert [reply.base_offset for reply in replies(leader.on_deposed(2, 6))] == [10, 12]


def test_the_high_watermark_never_goes_back():
    leader = a_leader()
    produce(leader, a_batch(2))
    leader.on_appended(12, 0)
    leader.on_flushed(12)

    leader.on_flushed(11)

    assert leader.high_watermark == 12


def test_the_high_watermark_is_held_while_a_member_of_the_isr_has_not_been_heard():
    leader = a_leader(isr=[1, 2], replicas=[1, 2], log_end_offset=12, durable_offset=10, high_watermark=10)

    assert leader.on_flushed(12) == []
    assert leader.high_watermark == 10
    leader.on_isr([1], 1, 1, 0)
    assert leader.high_watermark == 12


def test_a_leader_outside_its_own_isr_is_a_bug():
    with pytest.raises(InvariantViolated):
        a_leader(isr=[2])


def test_an_append_that_went_elsewhere_is_a_bug():
    leader = a_leader()
    produce(leader, a_batch(2))

    with pytest.raises(InvariantViolated):
        leader.on_appended(11, 0)


# -- consumers of a log that an unclean election has cut (B13) ----------------------------------------


def a_leader_that_lost_epoch_4(**changes):
    """Epoch 3 ended at 60, what epoch 4 wrote from there on is not in this log, epoch 5 has written to 120."""
    history = EpochHistory([(3, 0), (5, 60)])
    return a_leader(epochs=history, log_end_offset=120, durable_offset=120, high_watermark=120, **changes)


@pytest.mark.parametrize("offset", [100, 130])
def test_b13_a_consumer_that_has_read_what_was_lost_is_told_where_the_log_parts(offset):
    leader = a_leader_that_lost_epoch_4()

    (told,) = replies(leader.on_fetch(a_fetch(offset, last_epoch=4), now_ms=0))

    assert (told.error, told.diverging_epoch, told.diverging_end_offset) == (0, 3, 60)


@pytest.mark.parametrize(("offset", "last_epoch"), [(60, 3), (40, 3), (61, 5), (100, 5), (100, -1)])
def test_b13_a_consumer_that_has_read_what_is_there_reads_on(offset, last_epoch):
    leader = a_leader_that_lost_epoch_4()

    (effect,) = leader.on_fetch(a_fetch(offset, last_epoch=last_epoch), now_ms=0)

    assert isinstance(effect, Read)


def test_b13_of_what_is_no_longer_in_the_log_nothing_can_be_said():
    leader = a_leader(
        epochs=EpochHistory([(5, 80)]), log_start_offset=80, log_end_offset=120, durable_offset=120, high_watermark=120
    )

    (effect,) = leader.on_fetch(a_fetch(80, last_epoch=3), now_ms=0)

    assert isinstance(effect, Read)
