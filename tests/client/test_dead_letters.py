"""Bad records on their way to a dead-letter topic: what a letter holds, and that the position waits for it."""

from __future__ import annotations

import time

import pytest
from fake_broker import FakeCluster
from group_members import committed
from test_bad_records import BAD, T0, have, in_thread, read

import callboard
from callboard import (
    CallboardTimeoutError,
    ConfigurationError,
    Consumer,
    DeliveryError,
    ErrorCode,
    IllegalArgumentError,
    IllegalStateError,
    JsonSerializer,
    SerializationError,
)
from callboard.client.dead_letters import ERROR_CHARS_MAX
from callboard.errors import InvalidTopicError, UnknownTopicOrPartitionError
from callboard.storage.batch import decode_batch, encode_batch
from callboard.transport.messages import ProduceRequest


@pytest.fixture
def consumer(cluster):
    made = []

    def make(*topics, **settings):
        given = {"bootstrap_servers": cluster.bootstrap_servers, "auto_offset_reset": "earliest", "retry_backoff_ms": 5}
        given |= {"value_deserializer": JsonSerializer(), "on_bad_record": callboard.dlq("dead")}
        made.append(Consumer(*(topics or ("t",)), **{**given, **settings}))
        return made[-1]

    yield make
    for each in made:
        each.close(autocommit=False)


def letters(cluster: FakeCluster):
    """(key, value, headers) of all there are."""
    return [
        letter
        for _, _, data in cluster.log("dead").batches
        for letter in zip(decode_batch(data).keys, decode_batch(data).values, decode_batch(data).headers, strict=True)
    ]


def a_bad_record(**of):
    record = callboard.ConsumerRecord(
        **{
            "topic": "t",
            "partition": 0,
            "leader_epoch": 0,
            "offset": 3,
            "timestamp": 5,
            "timestamp_type": 0,
            "key": None,
            "value": BAD,
            "headers": (),
            **of,
        }
    )
    return SerializationError("why", BAD, offset=record.offset, record=record)


def test_a_letter_is_the_record_with_its_headers_and_says_where_it_was_and_why(cluster, consumer):
    cluster.create("t"), cluster.create("dead")
    headers = [[("trace", b"1"), ("none", None)]]
    cluster.append("t", 0, encode_batch([b"k"], [BAD], [1_700], headers))
    have(cluster, b"2")

    assert read(consumer(group_id="g"), 1) == [2]

    ((key, value, told),) = letters(cluster)
    assert (key, value) == (b"k", BAD)
    assert told[:2] == headers[0]
    where = dict(told[2:])
    assert where.pop("callboard.dlq.error").startswith(b"the value deserializer failed on t-0 offset 0: JSONDecodeErr")
    assert where == {
        "callboard.dlq.topic": b"t",
        "callboard.dlq.partition": b"0",
        "callboard.dlq.offset": b"0",
        "callboard.dlq.timestamp": b"1700",
        "callboard.dlq.group": b"g",
    }


def test_a_letter_of_no_group_and_with_a_long_error_does_without(cluster):
    cluster.create("dead")
    letter = callboard.dlq("dead", bootstrap_servers=cluster.bootstrap_servers)

    error = a_bad_record(key=b"\xff")
    error.args = ("\udcff" + "x" * 10_000,)
    there = letter(error)
    letter.close()

    assert (there.topic, there.offset) == ("dead", 0)
    ((key, _, headers),) = letters(cluster)
    assert key == b"\xff"
    assert "callboard.dlq.group" not in dict(headers)
    assert dict(headers)["callboard.dlq.error"] == b"\\udcff" + b"x" * (ERROR_CHARS_MAX - 1)


def test_the_position_moves_only_when_the_letter_is_acknowledged_by_all(cluster, consumer):
    cluster.create("dead")
    have(cluster, BAD, b"2")
    cluster.add_fault(ProduceRequest, "drop")
    c = consumer()
    polling = in_thread(c.poll, 10_000)
    cluster.wait_until(lambda: any(isinstance(request, ProduceRequest) for request in cluster.requests))

    assert c.position(T0) == 0
    c.close(timeout_ms=0)
    assert polling.exception(10) is not None
    (asked,) = cluster.requests_of(ProduceRequest)
    assert asked.acks == -1


def test_a_topic_that_is_not_there_is_named_with_the_command_that_makes_it_and_then_reading_goes_on(cluster, consumer):
    have(cluster, BAD, b"2")
    c = consumer(unknown_topic_timeout_ms=20)

    with pytest.raises(DeliveryError, match=r"t-0 offset 0 is not in the dead-letter topic 'dead'") as caught:
        c.poll(10_000)
    assert str(caught.value).endswith("; create it: callboard topics create dead")
    assert isinstance(caught.value.__cause__, UnknownTopicOrPartitionError)
    assert not caught.value.outcome_unknown
    assert c.position(T0) == 0

    cluster.create("dead")
    assert read(c, 1) == [2]
    assert len(letters(cluster)) == 1


def test_a_letter_that_is_refused_stops_the_partition_and_nothing_is_committed_past_it(cluster, consumer):
    cluster.create("dead")
    have(cluster, b"1", BAD, b"3")
    cluster.add_fault(ProduceRequest, ErrorCode.INVALID_RECORD)
    c = consumer(group_id="g", auto_commit_interval_ms=0)
    assert read(c, 1) == [1]

    with pytest.raises(DeliveryError, match="INVALID_RECORD"):
        c.poll(10_000)
    c.close()

    assert committed(cluster) == 1
    assert read(consumer(group_id="g"), 1) == [3]
    assert [value for _, value, _ in letters(cluster)] == [BAD]


def test_close_ends_a_letter_that_nobody_acknowledges_in_its_time(cluster, consumer):
    cluster.create("dead")
    have(cluster, BAD, b"2")
    cluster.add_fault(ProduceRequest, "drop", count=1_000)
    c = consumer()
    polling = in_thread(c.poll, 10_000)
    cluster.wait_until(lambda: any(isinstance(request, ProduceRequest) for request in cluster.requests))

    begin = time.monotonic()
    c.close(timeout_ms=100)
    took_s = time.monotonic() - begin
    error = polling.exception(10)

    assert took_s < 2
    assert isinstance(error, DeliveryError)
    assert isinstance(error.__cause__, CallboardTimeoutError)
    assert error.outcome_unknown


def test_a_topic_is_not_its_own_dead_letter_topic(cluster, consumer):
    have(cluster, BAD)

    with pytest.raises(DeliveryError, match="cannot be its own") as caught:
        consumer(on_bad_record=callboard.dlq("t")).poll(10_000)
    assert isinstance(caught.value.__cause__, IllegalStateError)
    assert cluster.log("t").end == 1


def test_one_handler_serves_several_consumers_each_with_its_own_producer(cluster, consumer):
    cluster.create("dead")
    have(cluster, BAD, b"2")
    handler = callboard.dlq("dead")
    first, second = consumer(on_bad_record=handler), consumer(on_bad_record=handler)

    assert read(first, 1) == [2]
    first.close()
    assert read(second, 1) == [2]

    assert len(letters(cluster)) == 2


def test_a_handler_that_is_closed_sends_nothing(cluster):
    letter = callboard.dlq("dead", bootstrap_servers=cluster.bootstrap_servers)
    letter.close()

    with pytest.raises(DeliveryError, match="it is closed"):
        letter(a_bad_record())


def test_without_a_bad_record_no_producer_is_made(cluster, consumer):
    cluster.create("dead")
    have(cluster, b"1")

    c = consumer()
    assert read(c, 1) == [1]

    assert c._bad_records._letters._producer is None


def test_what_the_consumer_was_told_holds_for_the_letters_unless_said_otherwise(cluster, consumer):
    c = consumer(
        request_timeout_ms=7_000, client_id="me", on_bad_record=callboard.dlq("dead", retry_backoff_ms=9, linger_ms=1)
    )

    settings = c._bad_records._letters._settings

    assert settings["bootstrap_servers"] == cluster.bootstrap_servers
    assert (settings["client_id"], settings["delivery_timeout_ms"], settings["acks"]) == ("me-dlq", 7_000, "all")
    assert (settings["retry_backoff_ms"], settings["linger_ms"]) == (9, 1)


def test_bad_settings_are_refused_at_once():
    for setting in ("acks", "value_serializer"):
        with pytest.raises(ConfigurationError, match=f"dlq: {setting} is not to be chosen"):
            callboard.dlq("dead", **{setting: "all"})
    with pytest.raises(ConfigurationError, match="linger_ms"):
        callboard.dlq("dead", lingerms=5)
    with pytest.raises(InvalidTopicError):
        callboard.dlq("no/topic")
    with pytest.raises(IllegalArgumentError, match="not about a record"):
        callboard.dlq("dead")(SerializationError("of a serializer"))
