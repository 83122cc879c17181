"""What goes wrong for a consumer: what it gets over by itself, and what its application is told."""

from __future__ import annotations

import time

import pytest
from filling import fill, read
from group_members import T0

from callboard import (
    CallboardTimeoutError,
    ConnectionFailedError,
    ErrorCode,
    JsonSerializer,
    NoOffsetForPartitionError,
    SerializationError,
    TopicPartition,
)
from callboard.errors import (
    CorruptRecordError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from callboard.storage.batch import encode_batch
from callboard.transport.messages import FetchRequest, ListOffsetsRequest, MetadataRequest

NOBODY = "127.0.0.1:1"


def test_a_leader_that_moves_is_followed(cluster, consumer):
    cluster.create("t")
    fill(cluster, 10)
    c = consumer("t")
    read(c, 10)

    cluster.move("t", 0, leader=2)
    fill(cluster, 10, first=10)

    assert read(c, 10) == list(range(10, 20))


def test_a_broker_that_comes_back_is_read_again(cluster, consumer):
    cluster.create("t")
    fill(cluster, 10)
    c = consumer("t")
    read(c, 10)
    cluster.stop_broker(1)
    fill(cluster, 10, first=10)
    cluster.start_broker(1)

    assert read(c, 10) == list(range(10, 20))


@pytest.mark.parametrize("code", [ErrorCode.NOT_LEADER_FOR_PARTITION, ErrorCode.OVERLOADED, ErrorCode.INTERNAL])
def test_errors_that_pass_are_not_told(cluster, consumer, code):
    cluster.create("t")
    fill(cluster, 10)
    cluster.add_fault(FetchRequest, code, count=3)

    assert read(consumer("t"), 10) == list(range(10))


def test_a_question_that_leaders_refuse_for_good_is_not_asked_again_until_its_time_is_over(cluster, consumer):
    cluster.create("t")
    c = consumer()
    c.beginning_offsets([T0])
    cluster.add_fault(ListOffsetsRequest, ErrorCode.TOPIC_AUTHORIZATION_FAILED, count=100)
    before = len(cluster.requests_of(ListOffsetsRequest))

    with pytest.raises(TopicAuthorizationFailedError):
        c.end_offsets([T0], timeout_ms=5_000)

    assert len(cluster.requests_of(ListOffsetsRequest)) == before + 1


def test_an_offset_outside_the_log_is_reset_or_told(cluster, consumer, caplog):
    cluster.create("t")
    fill(cluster, 10)
    c = consumer()
    c.assign([T0])
    c.seek(T0, 1_000)
    assert read(c, 10) == list(range(10))
    assert "t-0: offset 1000 is outside the log; going on at the first record" in caplog.text

    strict = consumer(auto_offset_reset="none")
    strict.assign([T0])
    with pytest.raises(NoOffsetForPartitionError):
        strict.poll(1_000)
    strict.seek(T0, 1_000)
    with pytest.raises(OffsetOutOfRangeError):
        strict.poll(10_000)
    strict.seek(T0, 8)
    assert read(strict, 2) == [8, 9]


def test_an_unknown_topic_is_told_and_one_that_is_created_meanwhile_is_read(cluster, consumer):
    c = consumer("nope", unknown_topic_timeout_ms=50)
    with pytest.raises(UnknownTopicOrPartitionError, match="'nope'"):
        c.poll(10_000)

    cluster.create("nope")
    fill(cluster, 1, topic="nope")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if c.poll(100):
                return
        except UnknownTopicOrPartitionError:
            continue
    pytest.fail("the topic was never read")


def test_an_unknown_partition_is_told(cluster, consumer):
    cluster.create("t")
    c = consumer()
    c.assign([TopicPartition("t", 5)])

    with pytest.raises(UnknownTopicOrPartitionError, match="partitions 0 to 0, not 5"):
        c.poll(10_000)


def test_nobody_there_is_told_with_endpoint_and_stage(consumer):
    c = consumer("t", bootstrap_servers=NOBODY, bootstrap_timeout_ms=100)

    with pytest.raises(ConnectionFailedError, match=r"tcp://127\.0\.0\.1:1: connect"):
        c.poll(10_000)
    assert not c.health().is_ok


def test_brokers_that_are_away_for_too_long_are_told(cluster, consumer):
    cluster.create("t")
    c = consumer("t", raise_after_ms=100)
    c.poll(20)
    cluster.stop_broker(1)
    cluster.stop_broker(2)

    with pytest.raises(ConnectionFailedError):
        c.poll(10_000)


def test_health_tells_whether_reading_goes_on(cluster, consumer):
    cluster.create("t")
    fill(cluster, 10)
    c = consumer("t", max_poll_records=4)
    read(c, 4)

    health = c.health()

    assert health.is_ok, health.trouble
    assert (health.assigned, health.behind) == (1, {"t-0": 6})
    assert health.last_answer_ms >= 0


def test_a_bad_record_is_told_with_its_place_and_can_be_passed(cluster, consumer):
    cluster.create("t")
    cluster.append("t", 0, encode_batch(None, [b"1", b"2", b"{", b"4"], 5))
    c = consumer("t", value_deserializer=JsonSerializer())

    assert [record.value for record in c.poll(10_000)[T0]] == [1, 2]
    for _ in range(2):
        with pytest.raises(SerializationError, match="t-0 offset 2") as caught:
            c.poll(10_000)
    assert (caught.value.offset, caught.value.data) == (2, b"{")
    assert c.position(T0) == 2
    c.seek(T0, 3)
    assert [record.value for record in c.poll(10_000)[T0]] == [4]


def test_bad_records_can_be_skipped(cluster, consumer):
    cluster.create("t")
    cluster.append("t", 0, encode_batch(None, [b"{", b"2", b"{", b"4"], 5))
    c = consumer("t", value_deserializer=JsonSerializer(), on_bad_record="skip")

    assert [record.value for record in c.poll(10_000)[T0]] == [2, 4]
    assert c.metrics()["records_skipped"] == 2


def test_iteration_raises_at_a_bad_record_after_the_good_ones(cluster, consumer):
    cluster.create("t")
    cluster.append("t", 0, encode_batch(None, [b"1", b"{"], 5))
    seen = []

    with pytest.raises(SerializationError):  # noqa: PT012 - where it is raised is the claim
        for record in consumer("t", value_deserializer=JsonSerializer()):
            seen.append(record.value)

    assert seen == [1]


def test_damaged_data_is_told_not_handed_out(cluster, consumer):
    cluster.create("t")
    frames = encode_batch(None, [b"abc"], 5)
    cluster.append("t", 0, frames)
    log = cluster.log("t")
    base, end, data = log.batches[0]
    log.batches[0] = (base, end, data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])

    with pytest.raises(CorruptRecordError):
        consumer("t").poll(10_000)


def test_position_gives_up_after_its_timeout(cluster, consumer):
    cluster.create("t")
    cluster.add_fault(MetadataRequest, "drop", count=100)
    c = consumer()
    c.assign([T0])

    with pytest.raises(CallboardTimeoutError):
        c.position(T0, timeout_ms=50)
