"""The leader's end of a follower's fetch session: what is parked between its requests."""

from callboard.actors.replication.sessions import FollowerSession
from callboard.model import PartitionKey
from callboard.transport.messages import FetchEntry, FetchEntryReply, FetchRequest, ProduceEntryReply

TOPIC = "a" * 32
A, B, C = (PartitionKey(TOPIC, number) for number in range(3))


def a_request(*keys, sequence=0, max_bytes=1_000):
    entries = [FetchEntry(topic_id=key.topic_id, partition=key.partition, fetch_offset=sequence) for key in keys]
    return FetchRequest(
        id=100 + sequence,
        replica_id=2,
        replica_incarnation="life",
        session=7,
        sequence=sequence,
        max_bytes=max_bytes,
        entries=entries,
    )


def a_session(*keys, **how):
    request = a_request(*keys, **how)
    session = FollowerSession(b"peer", request, 0)
    session.on_request(request, 0, 1_000)
    return session


def read(key, offset=0):
    return FetchEntryReply(topic_id=key.topic_id, partition=key.partition, high_watermark=offset, frames=1)


def numbers(session, request):
    return [number for number, _ in session.on_request(request, 0, 1_000)]


def answered(session):
    reply, payload = session.reply()
    return reply.id, [entry.partition for entry in reply.entries], payload


def test_only_the_next_request_is_taken():
    session = a_session(A)

    assert not session.may_follow(a_request(A, sequence=0)), "a duplicate"
    assert not session.may_follow(a_request(A, sequence=2)), "one was lost"
    assert session.may_follow(a_request(A, sequence=1))


def test_a_partition_keeps_its_number_for_as_long_as_the_session_lives():
    session = a_session(A, B)

    assert numbers(session, a_request(B, C, sequence=1)) == [1, 2]
    assert session.forget(A) == 0
    assert numbers(session, a_request(C, A, sequence=2)) == [2, 0]
    for sequence in range(3, 1_000):  # a follower in trouble comes and goes for ever
        session.forget(A)
        numbers(session, a_request(A, sequence=sequence))
    assert len(session.keys) == 3


def test_it_is_complete_as_soon_as_one_is_ready_and_the_others_stay_parked():
    session = a_session(A, B)
    assert not session.is_complete

    session.on_answer(1, read(B), [b"b"])

    assert session.is_complete
    assert answered(session) == (100, [1], [b"b"])
    assert not session.is_complete, "no request waits"
    assert session.parked_keys() == [(0, A)]


def test_what_becomes_ready_between_two_requests_is_kept_for_the_next():
    session = a_session(A, B)
    session.on_answer(0, read(A), [b"a"])
    answered(session)

    session.on_answer(1, read(B), [b"b"])
    assert not session.is_complete
    session.on_request(a_request(A, sequence=1), 0, 1_000)

    assert session.is_complete
    assert answered(session) == (101, [1], [b"b"])


def test_what_was_read_for_an_older_position_is_dropped_when_it_is_asked_again():
    session = a_session(A, B)
    session.on_answer(0, read(A), [b"a"])
    answered(session)
    session.on_answer(1, read(B), [b"old"])

    session.on_request(a_request(B, sequence=1), 0, 1_000)

    assert not session.is_complete
    session.on_answer(1, read(B), [b"new"])
    assert answered(session) == (101, [1], [b"new"])


def test_only_one_answer_of_a_parked_partition_counts_and_none_of_one_that_is_not():
    session = a_session(A, B)
    session.on_answer(0, read(A), [b"a"])
    session.on_answer(0, read(A), [b"again"])
    session.on_answer(5, read(C), [b"c"])
    session.on_answer(1, ProduceEntryReply(topic_id=TOPIC, partition=1), [])

    assert answered(session) == (100, [0], [b"a"])


def test_a_reply_holds_max_bytes_but_at_least_one_and_the_rest_goes_with_the_next_in_turn():
    session = a_session(A, B, C, max_bytes=10)
    for number, key in enumerate((A, B, C)):
        session.on_answer(number, read(key), [bytes(12)])

    parts = []
    for sequence in (1, 2, 3):
        assert session.is_complete
        parts += answered(session)[1]
        session.on_request(a_request(sequence=sequence), 0, 1_000)

    assert parts == [0, 1, 2]
    assert not session.is_complete


def test_who_is_forgotten_is_not_answered_any_more():
    session = a_session(A, B)
    session.on_answer(0, read(A), [b"a"])

    session.forget(A)
    assert not session.is_complete
    session.forget(B)
    session.on_answer(1, read(B), [b"b"])

    assert not session.is_complete
    assert session.parked_keys() == []
    assert session.forget(C) is None


def test_a_session_without_requests_expires():
    session = a_session(A)

    assert session.expires_ms == 10_000
    session.on_request(a_request(sequence=1), 4_000, 1_000)
    assert session.expires_ms == 14_000


def test_entries_that_wait_for_a_partition_are_known_to_be_refused_when_it_fails():
    session = a_session(A, B)
    session.on_answer(0, read(A), [])

    assert session.entries_of(A) == []
    assert session.entries_of(B) == [1]
