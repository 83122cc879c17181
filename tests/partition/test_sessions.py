"""Requests split into entries and gathered into one reply."""

from callboard.actors.partition.leader import refusal_of_produce
from callboard.actors.sessions import FetchSession, GatherSession, ProduceSession
from callboard.errors import ErrorCode
from callboard.model import PartitionKey
from callboard.transport.messages import (
    FetchEntry,
    FetchEntryReply,
    FetchRequest,
    ListOffsetsEntryReply,
    ListOffsetsReply,
    ProduceEntry,
    ProduceEntryReply,
    ProduceRequest,
)

TOPIC = "a" * 32
KEYS = [PartitionKey(TOPIC, number) for number in range(3)]


def a_produce_session():
    request = ProduceRequest(id=9, entries=[ProduceEntry(topic_id=TOPIC, partition=key.partition) for key in KEYS])
    return ProduceSession(b"peer", request, KEYS, deadline_ms=100)


def a_fetch_session(min_bytes=1, max_bytes=1_000):
    entries = [FetchEntry(topic_id=TOPIC, partition=key.partition, fetch_offset=0) for key in KEYS]
    request = FetchRequest(id=9, min_bytes=min_bytes, max_bytes=max_bytes, entries=entries)
    return FetchSession(b"peer", request, KEYS, deadline_ms=100)


def produced(key, offset=0):
    return ProduceEntryReply(topic_id=key.topic_id, partition=key.partition, base_offset=offset)


def fetched(key, frames=1, error=0):
    return FetchEntryReply(topic_id=key.topic_id, partition=key.partition, frames=frames, error=error)


def test_a_produce_is_complete_when_every_entry_is_answered_and_replies_in_request_order():
    session = a_produce_session()

    for entry in (2, 0):
        session.on_answer(entry, produced(KEYS[entry], offset=entry * 10), ())
    assert not session.is_complete
    session.on_answer(1, produced(KEYS[1], offset=10), ())

    assert session.is_complete
    reply = session.reply()
    assert reply.id == 9
    assert [entry.base_offset for entry in reply.entries] == [0, 10, 20]


def test_only_the_first_answer_of_an_entry_counts():
    session = a_produce_session()
    session.on_answer(0, produced(KEYS[0], offset=5), ())

    session.on_answer(0, refusal_of_produce(KEYS[0], ErrorCode.INTERNAL), ())

    assert session.reply().entries[0].base_offset == 5


def test_entries_without_an_answer_have_timed_out():
    session = a_produce_session()
    session.on_answer(1, produced(KEYS[1]), ())

    errors = [entry.error for entry in session.reply().entries]

    assert errors == [ErrorCode.REQUEST_TIMED_OUT, 0, ErrorCode.REQUEST_TIMED_OUT]


def test_the_entries_of_a_failed_partition_are_those_without_an_answer():
    session = a_produce_session()
    assert session.entries_of(KEYS[2]) == [2]
    session.on_answer(2, produced(KEYS[2]), ())
    assert session.entries_of(KEYS[2]) == []


def test_a_fetch_is_complete_with_the_first_bytes_and_takes_along_what_else_is_ready():
    session = a_fetch_session()
    session.on_answer(2, fetched(KEYS[2]), [b"x" * 10])
    assert session.is_complete
    session.on_answer(0, fetched(KEYS[0]), [b"y" * 10])

    reply, payload = session.reply()

    assert [entry.partition for entry in reply.entries] == [0, 2]
    assert payload == [b"y" * 10, b"x" * 10]
    assert [key for _, key in session.parked_keys()] == [KEYS[1]]


def test_a_fetch_with_min_bytes_waits_for_their_sum_and_counts_each_entry_once():
    session = a_fetch_session(min_bytes=100)
    session.on_answer(0, fetched(KEYS[0]), [b"x" * 60])
    session.on_answer(0, fetched(KEYS[0]), [b"x" * 70])
    assert not session.is_complete

    session.on_answer(1, fetched(KEYS[1]), [b"x" * 40])

    assert session.is_complete
    assert [key for _, key in session.parked_keys()] == KEYS, "each has less than min_bytes by itself: still parked"


def test_an_error_completes_a_fetch_at_once():
    session = a_fetch_session(min_bytes=100)

    session.on_answer(1, fetched(KEYS[1], frames=0, error=ErrorCode.OFFSET_OUT_OF_RANGE), [])

    assert session.is_complete


def test_a_fetch_reply_stays_below_max_bytes_but_always_has_something():
    session = a_fetch_session(max_bytes=100)
    session.on_answer(0, fetched(KEYS[0]), [b"x" * 150])
    session.on_answer(1, fetched(KEYS[1]), [b"y" * 10])

    reply, payload = session.reply()

    assert [entry.partition for entry in reply.entries] == [0]
    assert payload == [b"x" * 150]


def test_gathered_answers_fill_in_for_those_that_are_missing():
    def missing(key):
        return ListOffsetsEntryReply(topic_id=key.topic_id, partition=key.partition, error=ErrorCode.INTERNAL)

    session = GatherSession(b"peer", 4, KEYS, 100, lambda entries: ListOffsetsReply(id=4, entries=entries), missing)
    session.on_answer(1, ListOffsetsEntryReply(topic_id=TOPIC, partition=1, offset=7), ())

    reply = session.reply()

    assert [(entry.offset, entry.error) for entry in reply.entries] == [(-1, 1006), (7, 0), (-1, 1006)]
