"""What people write who know another client, and what they leave out: each call does what its words say."""

from __future__ import annotations

import asyncio
import time

import pytest
from filling import fill, read
from group_members import T0, T1, committed, poll_until

from callboard import AsyncConsumer, IllegalArgumentError, TopicPartition


def test_a_consumer_that_reads_nothing_is_told_what_its_group_has_committed(cluster, member):
    cluster.create("t")
    fill(cluster, 3)
    first = member("t")
    read(first, 3)
    first.close()

    assert member().committed(T0, timeout_ms=5_000) == 3


def test_a_position_that_was_set_back_to_where_it_began_is_committed(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    first = member("t")
    first.poll(0)
    first.commit({T0: 4})
    first.close(autocommit=False)
    second = member("t")
    read(second, 6)
    second.commit()

    second.seek(T0, 4)
    second.close()

    assert committed(cluster) == 4


def test_a_commit_by_hand_that_is_behind_does_not_keep_an_automatic_one_back(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    consumer = member("t", auto_commit_interval_ms=0)
    read(consumer, 10)
    consumer.poll(0)  # commits all ten
    consumer.commit_async({T0: 2})
    consumer.commit({T0: 3})

    consumer.close()

    assert committed(cluster) == 10


@pytest.mark.parametrize("close", [lambda it: it.close(False), lambda it: it.close(autocommit=False, timeout_ms=2_000)])
def test_close_takes_first_whether_to_commit(cluster, member, close):
    cluster.create("t")
    fill(cluster, 3)
    consumer = member("t")
    read(consumer, 3)

    close(consumer)

    assert committed(cluster) is None


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda it: it.seek(T0, 1 << 63), IllegalArgumentError, "offset: must be at most 9223372036854775807"),
        (lambda it: it.commit_async({T0: 1}, "done"), TypeError, "callback: expected a callable, got str"),
        (lambda it: it.commit(timeout_ms="1"), TypeError, "timeout_ms: expected milliseconds as a number, got str"),
        (lambda it: it.commit(timeout_ms=-1), IllegalArgumentError, "timeout_ms: must not be below 0"),
        (lambda it: it.committed(T0, timeout_ms="1"), TypeError, "timeout_ms: expected milliseconds as a number"),
        (lambda it: it.position(T0, timeout_ms="1"), TypeError, "timeout_ms: expected milliseconds as a number"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_where_it_is_given(cluster, member, call, error, says):
    cluster.create("t")
    fill(cluster, 3)
    consumer = member("t")
    consumer.poll(0)

    with pytest.raises(error, match=says):
        call(consumer)

    assert committed(cluster) is None


def test_a_loop_whose_consumer_was_stopped_in_it_ends_without_an_error(cluster):
    cluster.create("t")
    fill(cluster, 5)
    wrong = []

    async def stop_in_the_middle() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        consumer = AsyncConsumer(
            "t", group_id="g", bootstrap_servers=cluster.bootstrap_servers, auto_offset_reset="earliest"
        )
        records = aiter(consumer)
        assert [(await anext(records)).offset for _ in range(3)] == [0, 1, 2]
        await consumer.stop()
        await records.aclose()

    asyncio.run(stop_in_the_middle())

    assert wrong == []
    assert committed(cluster, TopicPartition("t", 0)) == 2


def test_close_calls_all_callbacks_though_one_raises(cluster, member):
    cluster.create("t")
    fill(cluster, 3)
    consumer = member("t")
    read(consumer, 3)
    heard = []

    def fail(_offsets, _error):
        raise ZeroDivisionError

    consumer.commit_async(callback=fail)
    consumer.commit_async(callback=lambda offsets, error: heard.append((offsets[T0].offset, error)))
    with pytest.raises(ZeroDivisionError):
        consumer.close()

    assert heard == [(3, None)]


def test_what_is_not_known_yet_is_explained_in_words(cluster, member):
    consumer = member()

    before = str(consumer.explain()).splitlines()
    consumer.close()

    assert before == [
        "state: not subscribed",
        "waits for: subscribe() or assign()",
        "group: g, no member yet, coordinator: not known",
        "assignment: nothing",
        "last heartbeat: none yet, last fetch: none yet",
    ]
    assert str(consumer.explain()).startswith("state: closed\nwaits for: nothing: the consumer is closed")


def test_an_application_that_is_stuck_is_told_of_at_that_moment_not_with_the_next_heartbeat(cluster, member):
    cluster.create("t")
    consumer = member("t", session_timeout_ms=20_000, heartbeat_interval_ms=250, max_poll_interval_ms=500)
    consumer.poll(0)
    cluster.call(setattr, cluster.groups, "on_request", lambda *_: None)  # the next heartbeat is not answered …
    consumer.poll(300)  # … and older than this poll's end

    begin = time.monotonic()
    cluster.wait_until(lambda: any(getattr(one, "is_stuck", False) for one in cluster.requests))

    assert 0.49 < time.monotonic() - begin < 2


def test_a_partition_that_was_granted_is_there_though_a_broker_has_not_heard_of_it(cluster, member):
    cluster.create("t")
    consumer = member("t")
    consumer.poll(0)
    answer, asked = cluster._metadata, []

    def behind(broker, inbound, reply):
        def as_it_was(told):
            asked.append(told)
            for topic in told.topics:
                topic.partitions[:] = topic.partitions[:1]
            reply(told)

        answer(broker, inbound, as_it_was)

    cluster.call(setattr, cluster, "_metadata", behind)
    cluster.call(cluster.add_partition, "t")
    poll_until(lambda: consumer.assignment() == {T0, T1} and len(asked) > 2, consumer)

    cluster.call(setattr, cluster, "_metadata", answer)
    fill(cluster, 3, partition=1)
    assert read(consumer, 3) == [0, 1, 2]


def test_an_iteration_hands_out_nothing_more_of_a_topic_when_another_one_is_subscribed(cluster, member):
    for topic in ("t", "u"):
        cluster.create(topic)
        fill(cluster, 3, topic=topic)
    consumer = member("t")
    assert next(consumer).topic == "t"

    consumer.subscribe("u")

    assert [next(consumer).topic for _ in range(3)] == ["u"] * 3
