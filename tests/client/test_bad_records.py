"""Bad records handed on to the application's handler: what it may do meanwhile, and where the position is then."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from group_members import T0, T1, Recorder, committed, poll_until

from callboard import ConfigurationError, Consumer, IllegalStateError, JsonSerializer, SerializationError
from callboard.storage.batch import encode_batch

BAD = b"{"


@pytest.fixture
def consumer(cluster):
    """Return a maker of consumers of JSON without a group, of all there is."""
    made = []

    def make(handler, *topics, **settings):
        given = {"bootstrap_servers": cluster.bootstrap_servers, "auto_offset_reset": "earliest", "retry_backoff_ms": 5}
        given |= {"value_deserializer": JsonSerializer(), "on_bad_record": handler}
        made.append(Consumer(*(topics or ("t",)), **{**given, **settings}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def have(cluster, *values, partition=0, partitions=1):
    if "t" not in cluster.topics:
        cluster.create("t", partitions)
    cluster.append("t", partition, encode_batch(None, list(values), 5))


def read(consumer, count):
    """Return the first so many values; they are all there is to come soon."""
    found = []
    while len(found) < count:
        polled = consumer.poll(10_000)
        assert polled, f"only {found} came"
        found += [record.value for records in polled.values() for record in records]
    return found


class Handler:
    """Keeps what it is given. It does ``then``; with ``fails`` it raises that, once for each."""

    def __init__(self, *fails, then=lambda _: None):
        self.offsets, self.threads, self.fails, self.then = [], set(), list(fails), then

    def __call__(self, error):
        assert isinstance(error, SerializationError)
        self.offsets.append(error.record.offset)
        self.threads.add(threading.get_ident())
        self.then(error)
        if self.fails:
            raise self.fails.pop(0)


class Gate:
    """A handler that waits in the middle until the test lets it go on."""

    def __init__(self):
        self.is_in, self.may_go, self.offsets = threading.Event(), threading.Event(), []

    def __call__(self, error):
        self.offsets.append(error.record.offset)
        self.is_in.set()
        assert self.may_go.wait(20)


def in_thread(call, *args):
    """Begin it on a thread of its own, and return its future."""
    with_one = ThreadPoolExecutor(1)
    try:
        return with_one.submit(call, *args)
    finally:
        with_one.shutdown(wait=False)


def test_each_bad_record_is_handed_on_once_in_its_place(cluster, consumer):
    have(cluster, BAD, b"2", BAD, BAD, b"5")
    handler = Handler()
    c = consumer(handler)

    assert read(c, 2) == [2, 5]
    assert handler.offsets == [0, 2, 3]
    assert handler.threads == {threading.get_ident()}
    assert c.position(T0) == 5
    assert c.metrics()["records_handed_on"] == c.health().records_handed_on == 3
    assert c.health().is_ok
    assert "bad records: 3 handed on" in str(c.explain())


def test_iteration_hands_them_on_too(cluster, consumer):
    have(cluster, b"1", BAD, b"3", BAD)
    handler = Handler()
    c = consumer(handler)

    assert [next(c).value for _ in range(2)] == [1, 3]
    assert handler.offsets == [1]
    have(cluster, b"5")
    assert next(c).value == 5
    assert handler.offsets == [1, 3]


def test_an_iteration_is_not_over_while_bad_records_come(cluster, consumer):
    have(cluster, BAD, BAD, b"3")
    c = consumer(Handler(then=lambda _: late_by(c, 60_000)), consumer_timeout_ms=30_000)

    assert next(c).value == 3


def late_by(c, ms):
    """A handler took so long, for this consumer's clock."""
    before = c._now_s
    c._now_s = lambda: before() + ms / 1000


def test_a_poll_hands_on_at_least_one_and_none_once_its_time_is_over(cluster, consumer):
    have(cluster, BAD, BAD, BAD, b"4")
    handler = Handler(then=lambda _: late_by(c, 60_000))
    c = consumer(handler)

    assert [c.poll(30_000) for _ in range(2)] == [{}, {}]
    assert handler.offsets == [0, 1]
    assert c.poll(30_000) != {}


def test_what_the_handler_raises_reaches_the_caller_and_the_record_stays(cluster, consumer):
    have(cluster, b"1", BAD, b"3")
    handler = Handler(ValueError("no room"), KeyboardInterrupt())
    c = consumer(handler)
    assert read(c, 1) == [1]

    with pytest.raises(ValueError, match="no room"):
        c.poll(10_000)
    assert c.position(T0) == 1
    assert "handing it on failed: ValueError('no room')" in c.health().trouble[0]
    assert "somebody to help" in c.explain().waits_for
    with pytest.raises(KeyboardInterrupt):
        c.poll(10_000)
    assert read(c, 1) == [3]
    assert handler.offsets == [1, 1, 1]
    assert c.health().is_ok
    assert c.metrics()["records_handed_on"] == 1


def test_an_error_that_cannot_even_be_shown_does_not_pass_for_success(cluster, consumer):
    class Hidden(Exception):
        def __repr__(self):
            raise ValueError("not to be shown")

    have(cluster, BAD, b"2")
    c = consumer(Handler(Hidden()))

    with pytest.raises(ValueError, match="not to be shown"):
        c.poll(10_000)
    assert c.position(T0) == 0
    assert read(c, 1) == [2]


def test_an_iteration_goes_on_after_its_handler_has_raised(cluster, consumer):
    have(cluster, BAD, b"2")
    c = consumer(Handler(ValueError("no room")))

    with pytest.raises(ValueError, match="no room"):
        for _ in c:
            pass

    seen = []
    for record in c:
        seen.append(record.value)
        break
    assert seen == [2]


def test_a_seek_in_the_handler_is_what_counts(cluster, consumer):
    have(cluster, b"1", BAD, b"3", b"4")
    c = consumer(Handler(then=lambda _: c.seek(T0, 3)))

    assert read(c, 2) == [1, 4]
    assert c.position(T0) == 4


def test_a_seek_in_the_handler_to_the_same_record_hands_it_on_again(cluster, consumer):
    have(cluster, BAD, b"2")
    handler = Handler(then=lambda error: c.seek(T0, 0) if len(handler.offsets) == 1 else None)
    c = consumer(handler)

    assert read(c, 1) == [2]
    assert handler.offsets == [0, 0]


def test_pause_and_questions_in_the_handler_are_answered(cluster, consumer):
    have(cluster, BAD, b"2")
    asked = []

    def ask(_):
        c.pause(T0)
        asked.append((c.position(T0), c.end_offsets([T0]), c.assignment(), c.explain().waits_for, c.health().is_ok))

    c = consumer(Handler(then=ask))

    while not asked:
        assert c.poll(10) == {}
    assert asked == [(0, {T0: 2}, {T0}, "the handler of bad records, which has t-0 offset 0", True)]
    assert c.position(T0) == 1
    c.resume(T0)
    assert read(c, 1) == [2]


def test_close_in_the_handler(cluster, consumer):
    have(cluster, BAD, b"2")
    c = consumer(Handler(then=lambda _: c.close()))

    with pytest.raises(IllegalStateError, match="closed"):
        c.poll(10_000)


def test_close_by_another_thread_does_not_wait_for_the_handler(cluster, consumer):
    have(cluster, BAD, b"2")
    gate = Gate()
    c = consumer(gate)
    polling = in_thread(c.poll, 10_000)
    assert gate.is_in.wait(10)

    c.close()
    gate.may_go.set()

    assert isinstance(polling.exception(10), IllegalStateError)


def test_an_assignment_that_went_and_came_again_meanwhile_is_left_as_it_is(cluster, consumer):
    have(cluster, BAD, b"2", partitions=2)

    def again(_):
        if len(handler.offsets) == 1:
            c.unsubscribe()
            c.assign([T1, T0])
            c.seek(T0, 0)

    handler = Handler(then=again)
    c = consumer(handler)

    assert read(c, 1) == [2]
    assert handler.offsets == [0, 0]


def test_a_handler_that_polls_is_refused(cluster, consumer):
    have(cluster, BAD, b"2")
    c = consumer(Handler(then=lambda _: c.poll(0)))

    with pytest.raises(IllegalStateError, match="a handler of bad records must not poll"):
        c.poll(10_000)
    assert c.position(T0) == 0


def test_while_one_thread_hands_on_another_reads_other_partitions_and_never_past_the_record(cluster, consumer):
    have(cluster, BAD, b"2", partitions=2)
    gate = Gate()
    c = consumer(gate)
    polling = in_thread(c.poll, 10_000)
    assert gate.is_in.wait(10)

    have(cluster, b"7", partition=1)
    assert {key: [r.value for r in records] for key, records in c.poll(10_000).items()} == {T1: [7]}
    assert c.poll(0) == {}
    gate.may_go.set()

    assert [record.value for record in polling.result(10)[T0]] == [2]
    assert gate.offsets == [0]


def test_two_threads_hand_on_records_of_two_partitions_at_once(cluster, consumer):
    have(cluster, BAD, b"2", partitions=2)
    have(cluster, BAD, b"2", partition=1)
    both, handed = threading.Barrier(2, timeout=20), []

    def meet(error):
        handed.append(error.record.topic_partition)
        both.wait()

    c = consumer(meet)
    polling = in_thread(c.poll, 10_000)

    found = [*c.poll(10_000), *polling.result(10)]

    assert sorted(handed) == [T0, T1]
    assert sorted(found) == [T0, T1]


def test_batches_in_columns_hold_bad_records_and_nothing_is_handed_on(cluster, consumer):
    have(cluster, b"1", BAD)
    handler = Handler()

    (columns,) = consumer(handler).poll_batches(10_000)[T0]

    assert (columns.values, handler.offsets) == ([b"1", BAD], [])


def test_a_coroutine_function_is_refused_without_losing_the_record(cluster, consumer):
    have(cluster, BAD)

    async def handler(_):
        raise AssertionError("it cannot run")

    c = consumer(handler)

    with pytest.raises(TypeError, match="AsyncConsumer"):
        c.poll(10_000)
    assert c.position(T0) == 0


@pytest.mark.parametrize("given", ["dlq", None, 7])
def test_what_is_no_policy_is_refused_at_once(given):
    with pytest.raises(ConfigurationError, match=r"on_bad_record: use 'raise', 'skip', callboard\.dlq"):
        Consumer("t", on_bad_record=given)


def test_what_is_skipped_is_logged_now_and_then_and_all_of_it_at_the_end(cluster, consumer, caplog):
    have(cluster, BAD, BAD, b"3")
    c = consumer("skip")
    with caplog.at_level(logging.WARNING, "callboard.client"):
        read(c, 1)
        have(cluster, BAD, b"5")
        read(c, 1)
        c.close()

    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(", the last one: ")[0] for line in said] == [
        f"{c.client_id}: 2 bad records were skipped",
        f"{c.client_id}: 1 bad record was skipped",
    ]
    assert "t-0 offset 3" in said[1]


# -- in a group --------------------------------------------------------------------------------------


def a_member(member, handler, **settings):
    return member("t", value_deserializer=JsonSerializer(), on_bad_record=handler, **settings)


def test_a_record_that_was_handed_on_is_committed_like_any_other_and_one_that_was_not_is_not(cluster, member):
    have(cluster, BAD, b"2", BAD)
    handler = Handler()
    first = a_member(member, handler, auto_commit_interval_ms=0)
    assert read(first, 1) == [2]
    handler.fails.append(ValueError("no"))

    with pytest.raises(ValueError, match="no"):
        first.poll(10_000)
    first.close()

    assert committed(cluster) == 2
    again = Handler()
    second = a_member(member, again)
    poll_until(lambda: again.offsets, second)
    assert again.offsets == [2]


def test_a_partition_that_is_asked_back_meanwhile_goes_with_the_record_done(cluster, member):
    have(cluster, BAD, b"2", partition=1, partitions=2)
    second, again, joining = None, Handler(), []

    def share(_):
        nonlocal second
        second = a_member(member, again)
        joining.append(in_thread(read, second, 1))
        cluster.wait_until(lambda: any(change.kind == "revoked" for change in first._application.changes))

    first = a_member(member, Handler(then=share))
    while not joining:
        first.poll(100)
    poll_until(lambda: first.assignment() == {T0}, first)  # T1 is the one that moves
    values = joining[0].result(10)

    assert committed(cluster, T1) == 1
    assert (values, again.offsets) == ([2], [])


def test_a_handler_that_takes_too_long_is_stuck_like_any_other_work_and_what_it_had_is_handed_on_again(cluster, member):
    have(cluster, BAD, b"2")
    heard = Recorder()

    def hang(_):
        if len(handler.offsets) == 1:
            cluster.wait_until(lambda: any(change.kind == "lost" for change in c._application.changes))

    handler = Handler(then=hang)
    c = member(value_deserializer=JsonSerializer(), on_bad_record=handler, max_poll_interval_ms=300)
    c.subscribe("t", listener=heard)

    assert read(c, 1) == [2]
    assert handler.offsets == [0, 0]  # it began where the group had committed
    assert heard.calls == [("assigned", [T0]), ("lost", [T0]), ("assigned", [T0])]
