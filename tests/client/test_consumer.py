"""The consumer through real sockets against scripted brokers."""

from __future__ import annotations

import re
import threading
import time

import pytest
from filling import fill, read

from callboard import IllegalArgumentError, IllegalStateError, TopicPartition
from callboard.errors import UnknownTopicOrPartitionError
from callboard.storage.batch import encode_batch
from callboard.transport.messages import FetchRequest, ListOffsetsRequest

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


def test_all_records_of_all_partitions_come_in_order(cluster, consumer):
    cluster.create("t", 2)
    fill(cluster, 500, partition=0)
    fill(cluster, 500, partition=1, first=1_000)

    values = read(consumer("t", max_poll_records=70), 1_000)

    assert [v for v in values if v < 1_000] == list(range(500))
    assert [v for v in values if v >= 1_000] == list(range(1_000, 1_500))


def test_a_record_has_its_place_time_key_and_sizes(cluster, consumer):
    cluster.create("t")
    cluster.append("t", 0, encode_batch([None, b"k"], [b"a", None], [5, 6], [[("h", b"1")], []]))

    first, second = consumer("t").poll(10_000)[T0]

    assert (first.topic, first.partition, first.offset, first.timestamp, first.key, first.value) == (
        "t",
        0,
        0,
        5,
        None,
        b"a",
    )
    assert first.headers == [("h", b"1")]
    assert (second.key, second.value, second.serialized_key_size, second.serialized_value_size) == (b"k", None, 1, -1)
    assert second.topic_partition == T0


def test_poll_returns_nothing_when_its_time_is_over(cluster, consumer):
    cluster.create("t")
    c = consumer("t")

    begin = time.monotonic()
    assert c.poll(50) == {}
    assert 0.05 <= time.monotonic() - begin < 5


def test_poll_zero_starts_fetching_and_a_later_one_returns_what_has_come(cluster, consumer):
    cluster.create("t")
    fill(cluster, 10)
    c = consumer("t")
    seen = sum(map(len, c.poll(0).values()))

    cluster.wait_until(lambda: any(isinstance(r, FetchRequest) for r in cluster.requests))
    deadline = time.monotonic() + 10
    while not seen and time.monotonic() < deadline:
        seen += sum(map(len, c.poll(0).values()))

    assert seen == 10


def test_a_record_comes_as_soon_as_it_is_written(cluster, consumer):
    cluster.create("t")
    c = consumer("t")
    assert c.poll(20) == {}
    threading.Timer(0.02, fill, (cluster, 1)).start()

    begin = time.monotonic()
    assert read(c, 1) == [0]
    assert time.monotonic() - begin < 5


def test_latest_reads_only_what_is_written_from_now_on(cluster, consumer):
    cluster.create("t")
    fill(cluster, 10)
    c = consumer("t", auto_offset_reset="latest")
    c.subscribe("t")
    while not c.assignment():
        c.poll(5)
    assert c.position(T0) == 10

    fill(cluster, 5, first=10)

    assert read(c, 5) == list(range(10, 15))


def test_a_seek_takes_effect_with_the_next_record(cluster, consumer):
    cluster.create("t")
    fill(cluster, 100)
    c = consumer(max_poll_records=3)
    c.assign([T0])
    assert read(c, 3) == [0, 1, 2]

    c.seek(T0, 95)
    assert c.position(T0) == 95
    assert read(c, 5) == [95, 96, 97, 98, 99]
    c.seek_to_beginning(T0)
    assert read(c, 3) == [0, 1, 2]
    c.seek_to_end(T0)
    assert c.position(T0) == 100


def test_the_position_is_that_of_the_next_record_to_be_handed_out(cluster, consumer):
    cluster.create("t")
    fill(cluster, 20, batch=20)
    c = consumer(max_poll_records=7)
    c.assign([T0])

    assert c.position(T0) == 0
    read(c, 7)
    assert c.position(T0) == 7


def test_iteration_yields_every_record_and_ends_after_the_timeout(cluster, consumer):
    cluster.create("t", 2)
    fill(cluster, 50, partition=0)
    fill(cluster, 50, partition=1, first=50)

    values = [int(record.value) for record in consumer("t", consumer_timeout_ms=200)]

    assert sorted(values) == list(range(100))


def test_a_record_that_was_not_asked_for_is_not_lost_when_iteration_is_left(cluster, consumer):
    cluster.create("t")
    fill(cluster, 20, batch=20)
    c = consumer("t")

    for record in c:
        if record.offset == 4:
            break

    assert c.position(T0) == 5
    assert read(c, 15) == list(range(5, 20))


def test_a_seek_during_iteration_takes_effect_at_once(cluster, consumer):
    cluster.create("t")
    fill(cluster, 20, batch=20)
    c = consumer("t")

    seen = []
    for record in c:
        seen.append(record.offset)
        if record.offset == 2 and len(seen) == 3:
            c.seek(T0, 18)
        if len(seen) == 5:
            break

    assert seen == [0, 1, 2, 18, 19]


def test_next_gives_one_record(cluster, consumer):
    cluster.create("t")
    fill(cluster, 3)
    c = consumer("t")

    assert [next(c).offset, next(c).offset] == [0, 1]


def test_a_paused_partition_waits_and_loses_nothing(cluster, consumer):
    cluster.create("t", 2)
    fill(cluster, 10, partition=0)
    fill(cluster, 10, partition=1, first=10)
    c = consumer()
    c.assign([T0, T1])
    c.pause(T0)

    assert read(c, 10) == list(range(10, 20))
    assert c.poll(30) == {}
    assert c.paused() == {T0}
    c.resume(T0)
    assert read(c, 10) == list(range(10))


def test_batches_come_as_columns(cluster, consumer):
    cluster.create("t")
    fill(cluster, 30, batch=10)
    c = consumer()
    c.assign([T0])
    c.seek(T0, 5)

    found = []
    while sum(map(len, found)) < 25:
        found += c.poll_batches(10_000)[T0]

    assert [offset for columns in found for offset in columns.offsets] == list(range(5, 30))
    assert [int(v) for columns in found for v in columns.values] == list(range(5, 30))
    assert [t for columns in found for t in columns.timestamps] == [1_000 + i for i in range(5, 30)]
    assert found[0].keys == [b"k"] * 5
    assert c.position(T0) == 30


def test_columns_after_records_go_on_where_they_stopped(cluster, consumer):
    cluster.create("t")
    fill(cluster, 20, batch=20)
    c = consumer("t", max_poll_records=5)
    assert read(c, 5) == list(range(5))

    (columns,) = c.poll_batches(10_000)[T0]

    assert list(columns.offsets) == list(range(5, 20))


def test_offsets_are_looked_up(cluster, consumer):
    cluster.create("t", 2)
    fill(cluster, 10)
    c = consumer()

    assert c.beginning_offsets([T0, T1]) == {T0: 0, T1: 0}
    assert c.end_offsets([T0, T1]) == {T0: 10, T1: 0}
    found = c.offsets_for_times({T0: 1_004, T1: 0})
    assert (found[T0].offset, found[T0].timestamp, found[T1]) == (4, 1_004, None)
    with pytest.raises(IllegalArgumentError):
        c.offsets_for_times({T0: -5})
    with pytest.raises(UnknownTopicOrPartitionError, match="partitions 0 to 1, not 9"):
        c.end_offsets([TopicPartition("t", 9)])


def test_offsets_are_looked_up_again_after_an_election(cluster, consumer):
    cluster.create("t")
    fill(cluster, 10)
    c = consumer()
    assert c.end_offsets([T0]) == {T0: 10}
    cluster.move("t", 0, leader=2)

    assert c.end_offsets([T0]) == {T0: 10}
    assert len(cluster.requests_of(ListOffsetsRequest)) >= 3


def test_lag_and_high_watermark(cluster, consumer):
    cluster.create("t")
    fill(cluster, 10)
    c = consumer("t", max_poll_records=4)
    read(c, 4)

    assert c.highwater(T0) == 10
    assert c.lag() == {T0: 6}


def test_partitions_that_are_added_are_read_from_their_beginning(cluster, consumer):
    cluster.create("t", 1)
    c = consumer("t", auto_offset_reset="latest", metadata_max_age_ms=30)
    while c.assignment() != {T0}:  # "latest" is for what was there when it began
        assert c.poll(5) == {}
    cluster.call(cluster.add_partition, "t")
    fill(cluster, 10, partition=1)

    assert read(c, 10) == list(range(10))
    assert c.assignment() == {T0, T1}


def test_a_pattern_subscribes_to_all_topics_that_match(cluster, consumer):
    for name in ("logs-a", "logs-b", "other"):
        cluster.create(name)
    c = consumer()
    c.subscribe(pattern="logs-.*")
    while len(c.assignment()) < 2:
        c.poll(5)

    assert c.subscription() == {"logs-a", "logs-b"}


def test_an_iteration_that_has_ended_can_be_begun_again(cluster, consumer):
    cluster.create("t")
    c = consumer("t", consumer_timeout_ms=1)
    assert list(c) == []
    fill(cluster, 2)
    seen: list[int] = []

    deadline = time.monotonic() + 10
    while len(seen) < 2 and time.monotonic() < deadline:
        seen += [int(record.value) for record in c]

    assert seen == [0, 1]


def test_what_is_prefetched_is_bounded(cluster, consumer):
    cluster.create("t")
    fill(cluster, 2_000, batch=10)
    c = consumer("t", max_partition_fetch_bytes=1_000)
    cluster.wait_until(lambda: sum(isinstance(r, FetchRequest) for r in cluster.requests) >= 2)
    c.poll(5_000, max_records=1)

    assert c.metrics()["buffer_bytes"] <= 3_000  # less than one fetch waits, two are under way
    assert read(c, 1_999) == list(range(1, 2_000))
    assert c.metrics()["buffer_bytes"] == 0


def test_credit_is_given_back_whatever_way_records_are_dropped(cluster, consumer):
    cluster.create("t", 2)
    fill(cluster, 500, partition=0)
    fill(cluster, 500, partition=1)
    c = consumer(max_partition_fetch_bytes=1_000, max_poll_records=3)
    for _ in range(5):
        c.assign([T0, T1])
        read(c, 20)
        c.seek_to_beginning()
        c.poll_batches(1_000)
    c.seek_to_end()
    c.position(T0)
    c.position(T1)
    c.poll(50)

    assert c.metrics()["buffer_bytes"] == 0


def test_an_idle_consumer_leaves_its_fetch_at_the_broker(cluster, consumer, monkeypatch):
    monkeypatch.setattr("callboard.client.fetcher.WAIT_MS_MIN", 30_000)  # as when it has been idle for long
    cluster.create("t")
    c = consumer("t")
    c.poll(0)
    cluster.wait_until(lambda: any(isinstance(request, FetchRequest) for request in cluster.requests))
    c.poll(50)
    before = len(cluster.requests_of(FetchRequest)), c._io.loop.wakeups

    c.poll(700)

    assert len(cluster.requests_of(FetchRequest)) == before[0] == 1
    assert c._io.loop.wakeups <= before[1] + 1


def test_min_bytes_and_their_wait_stand_in_the_request(cluster, consumer):
    cluster.create("t")
    fill(cluster, 1)
    begin = time.monotonic()
    assert read(consumer("t", fetch_min_bytes=100_000, fetch_max_wait_ms=100), 1) == [0]

    assert time.monotonic() - begin >= 0.1
    request = cluster.requests_of(FetchRequest)[0]
    assert (request.min_bytes, request.max_wait_ms) == (100_000, 100)


def test_order_of_calls_is_checked(cluster, consumer):
    cluster.create("t")
    c = consumer()
    with pytest.raises(IllegalStateError, match="subscribe"):
        c.poll(0)
    c.assign([T0])
    with pytest.raises(IllegalStateError, match="unsubscribe"):
        c.subscribe(["t"])
    with pytest.raises(IllegalStateError, match="t-1 is not assigned"):
        c.seek(T1, 0)
    with pytest.raises(IllegalArgumentError):
        c.seek(T0, -1)
    c.unsubscribe()
    c.subscribe(["t"])
    with pytest.raises(IllegalStateError, match="unsubscribe"):
        c.assign([T0])
    with pytest.raises(TypeError, match="TopicPartition"):
        c.seek("t", 0)
    c.close()
    with pytest.raises(IllegalStateError, match="closed"):
        c.poll(0)
    c.close()


def test_assigning_again_keeps_positions(cluster, consumer):
    cluster.create("t", 2)
    fill(cluster, 10)
    c = consumer(max_poll_records=4)
    c.assign([T0])
    read(c, 4)

    c.assign([T0, T1])

    assert c.position(T0) == 4
    assert read(c, 6) == list(range(4, 10))


def test_another_thread_may_close_while_one_polls(cluster, consumer):
    cluster.create("t")
    c = consumer("t")
    threading.Timer(0.05, c.close).start()

    with pytest.raises(IllegalStateError, match="closed"):
        c.poll(60_000)


def test_two_threads_get_each_record_once(cluster, consumer):
    cluster.create("t", 2)
    c = consumer("t", max_poll_records=10)
    seen: list[int] = []

    def work() -> None:
        while len(seen) < 1_000:
            for records in c.poll(200).values():
                seen.extend(int(record.value) for record in records)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    fill(cluster, 500, partition=0)
    fill(cluster, 500, partition=1, first=500)
    for thread in threads:
        thread.join(30)

    assert sorted(seen) == list(range(1_000))


def test_topics_and_partitions_are_told(cluster, consumer):
    cluster.create("a", 2)
    cluster.create("b")
    c = consumer(unknown_topic_timeout_ms=20)

    assert c.topics() == {"a", "b"}
    assert c.partitions_for_topic("a") == {0, 1}
    with pytest.raises(UnknownTopicOrPartitionError):
        c.partitions_for_topic("nope")


def test_arguments_of_a_wrong_type_are_told_in_words(cluster, consumer):
    cluster.create("t", 1)
    c = consumer("t")

    with pytest.raises(TypeError, match="timeout_ms: expected milliseconds as a number, got str"):
        c.poll("100")
    with pytest.raises(TypeError, match="expected a dict of timestamps by TopicPartition, got list"):
        c.offsets_for_times([TopicPartition("t", 0)])
    with pytest.raises(IllegalArgumentError, match=r"subscribe: '\(' is not a regular expression"):
        c.subscribe(pattern="(")
    for pattern in (b"logs-.*", 5, re.compile(b"logs-.*")):
        with pytest.raises(TypeError, match=r"subscribe: pattern: expected str, got (bytes|int|Pattern)"):
            c.subscribe(pattern=pattern)
