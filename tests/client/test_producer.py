"""The producer through real sockets against scripted brokers."""

from __future__ import annotations

import threading
import time

import pytest
from fake_broker import sequences

from callboard import (
    BrokerResponseError,
    BufferExhaustedError,
    CallboardTimeoutError,
    ConfigurationError,
    ConnectionFailedError,
    DeliveryError,
    ErrorCode,
    IllegalArgumentError,
    IllegalStateError,
    JsonSerializer,
    Producer,
    SerializationError,
    StringSerializer,
)
from callboard.errors import (
    InvalidRecordError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from callboard.transport.messages import InitProducerIdRequest, MetadataRequest, ProduceRequest

NOBODY = "127.0.0.1:1"


def test_a_record_is_acknowledged_with_its_place(cluster, producer):
    cluster.create("t", 3)

    metadata = producer().send("t", b"value", key=b"key", partition=2, timestamp_ms=1_234).get(10)

    assert metadata[:5] == ("t", 2, ("t", 2), 0, 1_234)
    assert cluster.log("t", 2).records() == [(0, b"key", b"value")]


def test_records_of_one_key_keep_their_order_and_go_to_one_partition(cluster, producer):
    cluster.create("t", 3)
    with producer() as p:
        for i in range(600):
            p.send("t", b"%d" % i, key=b"key-%d" % (i % 7))

    for log in cluster.topics["t"].logs:
        by_key = {}
        for _, key, value in log.records():
            by_key.setdefault(key, []).append(int(value))
        assert all(values == sorted(values) for values in by_key.values())
    assert sorted(i for values in sequences(cluster).values() for i in values) == list(range(600))


def test_records_sent_before_the_metadata_is_known_keep_their_order(cluster, producer):
    cluster.create("t", 1)
    cluster.add_fault(MetadataRequest, "drop", count=0)
    with producer() as p:
        futures = [p.send("t", b"%d" % i) for i in range(50)]

    assert [future.get(0).offset for future in futures] == list(range(50))
    assert sequences(cluster)["t", 0] == list(range(50))


def test_send_does_not_wait_for_metadata(cluster, producer):
    p = producer(bootstrap_servers=NOBODY, bootstrap_timeout_ms=60_000)

    begin = time.monotonic()
    for _ in range(100):
        p.send("t", b"x")

    assert time.monotonic() - begin < 1
    with pytest.raises(DeliveryError):
        p.close(timeout=0)


def test_records_without_a_key_are_spread_over_partitions(cluster, producer):
    cluster.create("t", 3)
    with producer(batch_size=1_000) as p:
        p.send("t", b"0").get(10)
        for i in range(300):
            p.send("t", b"%d" % (i + 1))

    assert all(log.end > 50 for log in cluster.topics["t"].logs)


def test_headers_and_tombstones_arrive(cluster, producer):
    cluster.create("t")
    with producer() as p:
        p.send("t", b"v", headers=[("a", b"1"), ("b", None)])
        p.send("t", None, key=b"k")

    assert cluster.log("t").records() == [(0, None, b"v"), (1, b"k", None)]


def test_a_lost_answer_is_retried_and_nothing_is_there_twice(cluster, producer):
    cluster.create("t")
    cluster.add_fault(ProduceRequest, "lost connection")
    with producer() as p:
        futures = [p.send("t", b"%d" % i) for i in range(20)]

    assert sorted(f.get(0).offset for f in futures) == list(range(20))
    assert sequences(cluster)["t", 0] == list(range(20))
    assert p.metrics()["retries"] >= 1


@pytest.mark.parametrize(
    "code", [ErrorCode.NOT_LEADER_FOR_PARTITION, ErrorCode.OVERLOADED, ErrorCode.REQUEST_TIMED_OUT, ErrorCode.INTERNAL]
)
def test_errors_that_pass_are_retried(cluster, producer, code):
    cluster.create("t")
    cluster.add_fault(ProduceRequest, code, count=3)

    assert producer().send("t", b"x").get(10).offset == 0


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (ErrorCode.INVALID_RECORD, InvalidRecordError),
        (ErrorCode.TOPIC_AUTHORIZATION_FAILED, TopicAuthorizationFailedError),
    ],
)
def test_refusals_are_told_at_once_and_later_records_go_on(cluster, producer, code, error):
    cluster.create("t")
    p = producer()
    p.send("t", b"0").get(10)
    cluster.add_fault(ProduceRequest, code)

    with pytest.raises(error):
        p.send("t", b"1").get(10)

    assert p.send("t", b"2").get(10).offset == 1
    p.close()


def test_a_topic_that_moves_is_followed(cluster, producer):
    cluster.create("t")
    p = producer()
    p.send("t", b"0").get(10)

    cluster.move("t", 0, leader=2)

    assert p.send("t", b"1").get(10).offset == 1


def test_a_broker_that_was_away_gets_what_waited_for_it(cluster, producer):
    cluster.create("t")
    p = producer()
    p.send("t", b"0").get(10)
    cluster.stop_broker(1)
    futures = [p.send("t", b"%d" % i) for i in range(1, 50)]
    cluster.start_broker(1)

    assert [future.get(10).offset for future in futures] == list(range(1, 50))
    assert sequences(cluster)["t", 0] == list(range(50))


def test_a_producer_id_is_asked_for_once(cluster, producer):
    cluster.create("t", 3)
    with producer() as p:
        for i in range(30):
            p.send("t", b"x", partition=i % 3)

    assert len(cluster.requests_of(InitProducerIdRequest)) == 1


@pytest.mark.parametrize("acks", [1, "all"])
def test_acks_stand_in_the_request(cluster, producer, acks):
    cluster.create("t")
    producer(acks=acks, timeout_ms=777).send("t", b"x").get(10)

    (request,) = cluster.requests_of(ProduceRequest)
    assert request.acks == (-1 if acks == "all" else acks)
    assert request.timeout_ms == 777


def test_without_acks_a_record_counts_as_sent_and_has_no_offset(cluster, producer):
    cluster.create("t")
    p = producer(acks=0)

    assert p.send("t", b"x").get(10).offset == -1
    p.close()
    cluster.wait_until(lambda: cluster.log("t").end == 1)
    assert not cluster.requests_of(InitProducerIdRequest)


def test_an_unknown_topic_is_told_by_the_future(cluster, producer):
    future = producer(unknown_topic_timeout_ms=50).send("nope", b"x")

    with pytest.raises(UnknownTopicOrPartitionError, match="there is no topic 'nope'"):
        future.get(10)


def test_a_topic_that_is_created_meanwhile_is_found(cluster, producer):
    future = producer(unknown_topic_timeout_ms=10_000).send("late", b"x")
    cluster.create("late")

    assert future.get(10).offset == 0


def test_an_unknown_partition_is_told(cluster, producer):
    cluster.create("t", 2)
    p = producer()

    with pytest.raises(UnknownTopicOrPartitionError, match="partitions 0 to 1, not 7"):
        p.send("t", b"x", partition=7).get(10)  # the metadata is not known yet: the future tells
    with pytest.raises(UnknownTopicOrPartitionError, match="partitions 0 to 1, not 7"):
        p.send("t", b"x", partition=7)


def test_a_batch_that_is_too_large_is_split_and_a_record_that_is_fails_alone(cluster, producer):
    cluster.create("t", real_max=2_000)
    p = producer(linger_ms=20)
    futures = [p.send("t", b"%d" % i + b" " * 150) for i in range(40)]
    large = p.send("t", b"x" * 5_000)
    last = p.send("t", b"40")

    assert [f.get(10).offset for f in futures] == list(range(40))
    with pytest.raises(MessageSizeTooLargeError):
        large.get(10)
    assert last.get(10).offset == 40
    assert [int(v) for v in cluster.log("t").values()] == list(range(41))


def test_batches_stay_below_what_the_topic_takes(cluster, producer):
    cluster.create("t", max_message_bytes=3_000)
    with producer() as p:
        for i in range(200):
            p.send("t", b"%d" % i + b" " * 100)

    assert p.metrics()["retries"] == 0
    assert cluster.log("t").end == 200


def test_what_was_sent_to_a_topic_made_anew_is_not_slipped_into_it(cluster, producer):
    cluster.create("t")
    p = producer()
    p.send("t", b"0").get(10)
    cluster.add_fault(ProduceRequest, ErrorCode.NOT_LEADER_FOR_PARTITION, count=1)
    cluster.delete("t")
    cluster.create("t")

    with pytest.raises(UnknownTopicOrPartitionError, match="created anew"):
        p.send("t", b"1").get(10)

    assert p.send("t", b"2").get(10).offset == 0


def test_nobody_there_is_told_with_endpoint_and_stage(cluster, producer):
    future = producer(bootstrap_servers=NOBODY, bootstrap_timeout_ms=100).send("t", b"x")

    with pytest.raises(ConnectionFailedError, match=r"tcp://127\.0\.0\.1:1: connect: .*callboard up"):
        future.get(10)


def test_a_record_fails_after_its_delivery_timeout(cluster, producer):
    cluster.create("t")
    p = producer(delivery_timeout_ms=300, request_timeout_ms=100)
    p.send("t", b"0").get(10)
    cluster.add_fault(ProduceRequest, "drop", count=1_000)

    with pytest.raises(CallboardTimeoutError, match="delivery_timeout_ms"):
        p.send("t", b"1").get(10)


def test_a_lingering_batch_leaves_after_its_time(cluster, producer):
    cluster.create("t")

    assert producer(linger_ms=20).send("t", b"x").get(10).offset == 0


def test_a_full_buffer_raises_at_once_or_after_max_block_ms(cluster, producer):
    for settings, waits in (({"on_full": "raise"}, 0.0), ({"max_block_ms": 100}, 0.1)):
        p = producer(bootstrap_servers=NOBODY, buffer_memory=10_000, batch_size=1_000, **settings)
        while p.metrics()["buffer_bytes"] + 600 <= 10_000:
            p.send("t", b"x" * 500)
        begin = time.monotonic()
        with pytest.raises(BufferExhaustedError, match="buffer_memory"):
            p.send("t", b"x" * 500)
        assert waits <= time.monotonic() - begin < waits + 5
        with pytest.raises(DeliveryError):
            p.close(timeout=0)


def test_a_full_buffer_lets_send_wait_for_acknowledgements(cluster, producer):
    cluster.create("t")
    with producer(buffer_memory=20_000, batch_size=2_000) as p:
        for i in range(2_000):
            p.send("t", b"%d" % i + b" " * 100)

    assert sequences(cluster)["t", 0] == list(range(2_000))


def test_memory_is_given_back(cluster, producer):
    cluster.create("t", 3)
    p = producer(batch_size=500)
    for i in range(1_000):
        p.send("t", b"x" * 50, key=b"%d" % i)
    p.flush(10)

    assert p.metrics()["buffer_bytes"] == 0
    assert p.metrics()["batches_incomplete"] == 0


def test_columns_are_sent_and_split(cluster, producer):
    cluster.create("t", 3)
    p = producer(batch_size=1_000)
    p.partitions_for("t")

    placed = p.send_batch("t", [b"%d" % i for i in range(500)], keys=[b"k%d" % (i % 9) for i in range(500)]).get(10)

    assert sum(where.count for where in placed) == 500
    values = sequences(cluster)
    assert sorted(i for each in values.values() for i in each) == list(range(500))
    assert all(each == sorted(each) for each in values.values())


def test_columns_sent_before_the_metadata_is_known_arrive_in_order_with_records(cluster, producer):
    cluster.create("t", 1)
    with producer(batch_size=300) as p:
        p.send("t", b"0")
        future = p.send_batch("t", [b"%d" % i for i in range(1, 100)], timestamps=5)
        p.send("t", b"100")

    assert sum(where.count for where in future.get(0)) == 99
    assert sequences(cluster)["t", 0] == list(range(101))


def test_columns_that_do_not_fit_are_refused(cluster, producer):
    p = producer()

    with pytest.raises(IllegalArgumentError, match="keys: 1 of them for 2 values"):
        p.send_batch("t", [b"a", b"b"], keys=[b"k"])
    with pytest.raises(TypeError, match="value: expected bytes, got int"):
        p.send_batch("t", [b"a", 1])
    with pytest.raises(TypeError, match="values: expected a list, got bytes"):
        p.send_batch("t", b"abc")
    assert p.send_batch("t", []).get(0) == []


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"topic": 5, "value": b"x"}, TypeError, "topic: expected str, got int"),
        ({"topic": "", "value": b"x"}, IllegalArgumentError, "topic"),
        ({"topic": "t", "value": "x"}, TypeError, "value_serializer"),
        ({"topic": "t", "value": b"x", "key": 1}, TypeError, "key_serializer"),
        ({"topic": "t"}, IllegalArgumentError, "a value or a key"),
        ({"topic": "t", "value": b"x", "partition": -1}, IllegalArgumentError, "partition"),
        ({"topic": "t", "value": b"x", "partition": "0"}, TypeError, "partition: expected int, got str"),
        ({"topic": "t", "value": b"x", "timestamp_ms": -1}, IllegalArgumentError, "timestamp_ms"),
        ({"topic": "t", "value": b"x", "timestamp_ms": 1.5}, TypeError, "timestamp_ms: expected int"),
        ({"topic": "t", "value": b"x", "headers": [("a",)]}, TypeError, "headers"),
        ({"topic": "t", "value": b"x", "headers": [(b"a", b"b")]}, TypeError, "headers"),
        ({"topic": "t", "value": b"x" * 2_000_000}, MessageSizeTooLargeError, "producer's max_request_size of 1048576"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(producer, arguments, error, says):
    with pytest.raises(error, match=says) as caught:
        producer().send(**arguments)
    assert "\n" not in str(caught.value)


def test_serializers_are_used_and_their_failures_told(cluster, producer):
    cluster.create("t")
    p = producer(key_serializer=StringSerializer(), value_serializer=JsonSerializer())
    p.send("t", {"a": 1}, key="schlüssel").get(10)

    assert cluster.log("t").records() == [(0, "schlüssel".encode(), b'{"a":1}')]
    with pytest.raises(SerializationError, match="value_serializer failed for topic 't'") as caught:
        p.send("t", object())
    assert type(caught.value.data) is object


def test_the_producer_serves_many_threads(cluster, producer):
    cluster.create("t", 2)
    with producer(batch_size=2_000) as p:

        def fill(name: int) -> None:
            for i in range(1_000):
                p.send("t", b"%d" % (name * 10_000 + i), partition=name % 2)

        threads = [threading.Thread(target=fill, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for (_, partition), values in sequences(cluster).items():
        for name in range(4):
            mine = [value for value in values if value // 10_000 == name]
            assert mine == ([name * 10_000 + i for i in range(1_000)] if name % 2 == partition else [])


def test_a_callback_may_send_but_not_wait(cluster, producer):
    cluster.create("t")
    p, done, seen = producer(), threading.Event(), []

    def on_sent(metadata) -> None:
        try:
            p.flush()
        except IllegalStateError as error:
            seen.append(error)
        p.send("t", b"second").add_both(lambda _: done.set())

    p.send("t", b"first").add_callback(on_sent)

    assert done.wait(10)
    assert "must not wait" in str(seen[0])
    assert cluster.log("t").values() == [b"first", b"second"]


@pytest.mark.parametrize("timeout", [None, 30])
def test_a_callback_that_would_wait_for_a_future_is_refused_at_once(cluster, producer, timeout):
    cluster.create("t")
    p, other, done, seen = producer(), producer(), threading.Event(), []

    def on_sent(metadata) -> None:
        for future in (p.send("t", b"x"), p.send_batch("t", [b"y"]), other.send("t", b"z")):
            try:
                future.get(timeout)
            except IllegalStateError as error:
                seen.append(str(error))
        with pytest.raises(CallboardTimeoutError):  # looking without waiting is allowed
            p.send("t", b"w").get(0)
        done.set()

    p.send("t", b"first").add_callback(on_sent)

    assert done.wait(10)
    assert len(seen) == 3
    assert all("must not wait for an acknowledgement; use add_callback" in says for says in seen)
    p.flush(10)
    other.flush(10)
    assert sorted(cluster.log("t").values()) == [b"first", b"w", b"x", b"y", b"z"]


def test_partitions_for_tells_partitions_or_that_there_is_no_topic(cluster, producer):
    cluster.create("t", 4)
    p = producer(unknown_topic_timeout_ms=20)

    assert p.partitions_for("t") == {0, 1, 2, 3}
    with pytest.raises(UnknownTopicOrPartitionError):
        p.partitions_for("nope")


def test_compressed_batches_arrive(cluster, producer):
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        cluster.create(codec)
        with producer(compression_type=codec) as p:
            p.send_batch(codec, [b"%d" % i for i in range(100)])
        assert sequences(cluster)[codec, 0] == list(range(100))


@pytest.mark.parametrize("kwargs", [{"bootstrap_server": "x"}, {"acks": 7}, {"linger_ms": "5"}, {"partitioner": "crc"}])
def test_bad_settings_are_refused_in_one_line(kwargs):
    with pytest.raises(ConfigurationError) as caught:
        Producer(**kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("partitioner", "says"),
    [
        (lambda key, everything, available: 77, "the partitioner chose 77 for topic 't' with 2 partitions"),
        (lambda key, everything, available: 1 // 0, "the partitioner failed for topic 't': ZeroDivisionError"),
        (lambda key, everything, available: "1", "the partitioner failed for topic 't': TypeError"),
    ],
)
def test_a_partitioner_that_fails_is_named_whether_the_topic_is_known_or_not(cluster, producer, partitioner, says):
    cluster.create("t", 2)
    p = producer(partitioner=partitioner)

    with pytest.raises(IllegalArgumentError, match=says):
        p.send("t", b"before the metadata is there").get(10)
    with pytest.raises(IllegalArgumentError, match=says):
        p.send("t", b"after")
    assert p.send("t", b"another", partition=1).get(10).offset == 0


def test_a_kafka_python_partitioner_sees_what_was_sent_before_and_after_serializing(cluster, producer):
    cluster.create("t", 4)
    seen = []

    class ById:
        def partition(self, topic, key, serialized_key, value, serialized_value, cluster):
            seen.append((key, serialized_key, value, serialized_value, cluster.partitions_for_topic(topic)))
            return key["id"] % len(cluster.partitions_for_topic(topic))

    p = producer(partitioner=ById(), key_serializer=JsonSerializer(), value_serializer=StringSerializer())

    before_metadata = p.send("t", "a", key={"id": 6})
    assert before_metadata.get(10).partition == 2
    assert p.send("t", "b", key={"id": 3}).get(10).partition == 3
    assert p.send("t", "c", key={"id": 3}, partition=0).get(10).partition == 0

    every = {0, 1, 2, 3}
    assert seen == [({"id": 6}, b'{"id":6}', "a", b"a", every), ({"id": 3}, b'{"id":3}', "b", b"b", every)]


def test_every_error_of_a_broker_is_one_class_with_its_number():
    assert issubclass(UnknownTopicOrPartitionError, BrokerResponseError)
    assert UnknownTopicOrPartitionError.errno == 3


def test_a_topic_that_was_unknown_is_looked_for_again_when_it_is_needed_again(cluster, producer):
    p = producer(unknown_topic_timeout_ms=50)
    assert p.send("t", b"0").add_both(lambda _: None) is not None
    with pytest.raises(UnknownTopicOrPartitionError):
        p.partitions_for("t")
    p.flush(10)

    cluster.create("t")

    assert p.send("t", b"1").get(10).offset == 0
    assert p.partitions_for("t") == {0}


def test_an_idle_producer_does_not_wake_up(cluster, producer):
    cluster.create("t")
    p = producer()
    p.send("t", b"x").get(10)
    p.flush()
    cluster.wait_until(lambda: True)
    before = p._io.loop.wakeups

    threading.Event().wait(0.5)

    assert p._io.loop.wakeups <= before + 1


def test_a_record_that_ctrl_c_cut_in_two_is_taken_back(cluster, producer):
    class Interrupting(list):
        def append(self, item):
            if item == 13:
                raise KeyboardInterrupt
            super().append(item)

    cluster.create("t")
    p = producer(linger_ms=60_000)
    p.send("t", b"0", timestamp_ms=1)
    p.partitions_for("t")
    p.send("t", b"1", timestamp_ms=1)
    (batch,) = [batch for batch in p._accumulator.incomplete if not batch.is_done]
    batch.timestamps = Interrupting(batch.timestamps)

    with pytest.raises(KeyboardInterrupt):
        p.send("t", b"cut", timestamp_ms=13)
    p.send("t", b"2", timestamp_ms=2)
    batch.timestamps = list(batch.timestamps)
    p.flush(10)

    assert cluster.log("t").values() == [b"0", b"1", b"2"]
