"""``on_error``: told once an outage or a loss, on a thread of its own, whatever the hook does."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading

import pytest
from fake_broker import fake_cluster
from filling import fill
from group_members import T0, poll_until
from test_async_groups import run

from callboard import (
    AdminClient,
    AsyncConsumer,
    AsyncProducer,
    CommitFailedError,
    ConfigurationError,
    ConnectionFailedError,
    Consumer,
    ErrorCode,
    LogTruncationError,
    MembershipLostError,
    Producer,
    TopicPartition,
)
from callboard.client import cluster as clusters
from callboard.client import error_hook, sender
from callboard.client.error_hook import ErrorHook
from callboard.client.fetcher import TellTruncated
from callboard.errors import BrokerResponseError, FencedInstanceIdError
from callboard.transport.group_messages import OffsetCommitRequest
from callboard.transport.messages import ProduceRequest


class Told(queue.Queue):
    """A hook that keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.threads = set()

    def __call__(self, error):
        self.threads.add(threading.current_thread())
        self.put(error)

    def next(self):
        return self.get(timeout=10)


class Clock:
    now = 0

    def __call__(self):
        return self.now


@pytest.fixture
def soon(monkeypatch):
    """Outages are told as soon as they are seen, and errors of a class however often they come."""
    monkeypatch.setattr(clusters, "TELL_AFTER_MS", 20)
    monkeypatch.setattr(clusters, "TELL_LOST_AFTER_MS", 20)
    monkeypatch.setattr(error_hook, "TELL_EVERY_MS", 0)


# -- the hook itself ---------------------------------------------------------------------------------


def test_one_of_a_class_is_told_in_a_second_and_of_another_class_at_once():
    told, clock = Told(), Clock()
    hook = ErrorHook(told, "me", clock)

    hook.tell(ConnectionFailedError("first"))
    hook.tell(ConnectionFailedError("again"))
    hook.tell(CommitFailedError("another"))
    clock.now += 1_000
    hook.tell(ConnectionFailedError("later"))

    assert [str(told.next()) for _ in range(3)] == ["first", "another", "later"]


def test_a_hook_that_raises_is_logged_and_is_called_again(caplog):
    told, clock = Told(), Clock()

    def raises(error):
        told(error)
        raise SystemExit

    hook = ErrorHook(raises, "me", clock)
    with caplog.at_level(logging.ERROR, "callboard.client"):
        for _ in range(2):
            hook.tell(ConnectionFailedError("no"))
            told.next()
            clock.now += 1_000
        for thread in told.threads:
            thread.join(10)

    assert [record.getMessage() for record in caplog.records] == ["me: on_error raised"] * 2


def test_what_comes_while_the_hook_blocks_is_told_later_up_to_a_bound_and_nothing_after_close():
    told, clock, is_in, may_go = Told(), Clock(), threading.Event(), threading.Event()

    def slow(error):
        told(error)
        is_in.set()
        assert may_go.wait(20)

    hook = ErrorHook(slow, "me", clock)
    for number in range(error_hook.WAITING_MAX + 10):
        hook.tell(ConnectionFailedError(str(number)))
        assert is_in.wait(10)
        clock.now += 1_000

    may_go.set()
    assert [str(told.next()) for _ in range(error_hook.WAITING_MAX + 1)][-1] == str(error_hook.WAITING_MAX)
    for thread in told.threads:
        thread.join(10)
    hook.close()
    hook.tell(CommitFailedError("late"))
    assert told.empty()


def test_without_a_hook_nothing_is_done():
    ErrorHook(None, "me", Clock()).tell(ConnectionFailedError("no"))


@pytest.mark.parametrize("client", [Producer, Consumer, AdminClient])
def test_what_cannot_be_called_is_refused(client):
    with pytest.raises(ConfigurationError, match="on_error: expected a callable, got str"):
        client(on_error="print")


# -- no broker ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [Producer, Consumer, AdminClient])
def test_every_client_tells_that_it_reaches_nobody_also_when_its_calls_give_up_soon(client, soon):
    told = Told()
    with client(bootstrap_servers="127.0.0.1:1", bootstrap_timeout_ms=50, on_error=told):
        error = told.next()

    assert isinstance(error, ConnectionFailedError)
    assert "tried tcp://127.0.0.1:1: " in str(error)


def test_each_outage_is_told_once(soon, monkeypatch):
    monkeypatch.setattr(clusters, "TELL_AFTER_MS", 60_000)  # the beginning is none
    told = Told()
    with fake_cluster(1) as cluster:
        cluster.create("t")
        with Producer(bootstrap_servers=cluster.bootstrap_servers, on_error=told) as producer:
            for _ in range(2):
                producer.send("t", b"1").get(10)
                cluster.stop_broker(1)
                assert isinstance(told.next(), ConnectionFailedError)
                cluster.start_broker(1)
            producer.send("t", b"2").get(10)

    assert told.empty()


@pytest.mark.parametrize("code", [ErrorCode.STORAGE_FULL, ErrorCode.NOT_ENOUGH_REPLICAS])
def test_records_that_wait_for_what_an_operator_must_see_to_are_told_of(cluster, monkeypatch, caplog, code):
    monkeypatch.setattr(sender, "TELL_WAITING_MS", 0)
    told = Told()
    cluster.create("t")
    cluster.faults.append(lambda inbound: code if isinstance(inbound.message, ProduceRequest) else None)
    with Producer(bootstrap_servers=cluster.bootstrap_servers, retry_backoff_ms=1, on_error=told) as producer:
        future = producer.send("t", b"1")
        error = told.next()
        cluster.faults.clear()
        future.get(10)

    assert isinstance(error, BrokerResponseError)
    assert error.errno is code
    assert told.empty(), "not at each attempt"
    (line,) = [record.getMessage() for record in caplog.records if "wait" in record.getMessage()]
    assert f"records for t-0 wait: t-0 ({code.name}" in line


def test_each_thing_that_records_wait_for_is_told_of_by_itself(cluster, monkeypatch):
    monkeypatch.setattr(sender, "TELL_WAITING_MS", 0)
    told, wanting = Told(), [ErrorCode.STORAGE_FULL]
    cluster.create("t")
    cluster.faults.append(lambda inbound: wanting[0] if isinstance(inbound.message, ProduceRequest) else None)
    with Producer(bootstrap_servers=cluster.bootstrap_servers, retry_backoff_ms=1, on_error=told) as producer:
        future = producer.send("t", b"1")
        first = told.next()
        wanting[0] = ErrorCode.NOT_ENOUGH_REPLICAS
        second = told.next()
        cluster.faults.clear()
        future.get(10)

    assert [first.errno, second.errno] == [ErrorCode.STORAGE_FULL, ErrorCode.NOT_ENOUGH_REPLICAS]


def test_a_hook_that_blocks_holds_up_neither_the_client_nor_its_close(cluster, soon):
    told, may_end = Told(), threading.Event()

    def block(error):
        told(error)
        may_end.wait(20)

    for broker in (1, 2):
        cluster.stop_broker(broker)
    with Consumer("t", bootstrap_servers=cluster.bootstrap_servers, on_error=block) as consumer:
        told.next()
        for broker in (1, 2):
            cluster.start_broker(broker)
        assert consumer.topics() == set()
    may_end.set()


def test_a_hook_may_close_its_client(soon):
    closed = threading.Event()

    def close(_):
        consumer.close()
        closed.set()

    consumer = Consumer("t", bootstrap_servers="127.0.0.1:1", on_error=close)

    assert closed.wait(10)


# -- a group -----------------------------------------------------------------------------------------


def test_a_member_that_is_put_out_tells_what_it_has_lost_without_a_poll(cluster, member):
    cluster.create("t", 2)
    told = Told()
    consumer = member("t", on_error=told, max_poll_interval_ms=200)
    consumer.poll(0)

    error = told.next()

    assert isinstance(error, MembershipLostError)
    assert error.partitions == [T0, TopicPartition("t", 1)]
    assert str(error).startswith("group g: lost t-0, t-1: the application has not polled for")
    assert told.threads.isdisjoint({threading.current_thread(), consumer._io._thread})


def test_a_member_that_was_fenced_tells_the_refusal(cluster, member):
    cluster.create("t")
    told = Told()
    first = member("t", on_error=told, group_instance_id="a")
    first.poll(0)
    second = member("t", group_instance_id="a")
    second.poll(0)

    assert isinstance(told.next(), FencedInstanceIdError)
    assert told.empty()


def test_a_member_that_closes_tells_nothing(cluster, member):
    cluster.create("t")
    told = Told()
    consumer = member("t", on_error=told)
    consumer.poll(0)
    consumer.close()

    assert told.empty()


def test_an_automatic_commit_that_fails_is_told(cluster, member):
    cluster.create("t")
    fill(cluster, 4)
    told = Told()
    consumer = member("t", on_error=told, auto_commit_interval_ms=0, max_poll_records=1)
    cluster.add_fault(OffsetCommitRequest, ErrorCode.UNKNOWN_MEMBER_ID)

    poll_until(lambda: not told.empty(), consumer)

    assert isinstance(told.next(), CommitFailedError)


def test_a_commit_that_nobody_waits_for_is_told_unless_it_has_a_callback(cluster, member):
    cluster.create("t")
    told, called = Told(), Told()
    consumer = member("t", on_error=told, enable_auto_commit=False)
    consumer.poll(0)
    cluster.add_fault(OffsetCommitRequest, ErrorCode.UNKNOWN_MEMBER_ID, count=2)

    consumer.commit_async({T0: 1}, lambda offsets, error: called(error))
    poll_until(lambda: not called.empty(), consumer)
    assert told.empty()
    consumer.commit_async({T0: 1})
    poll_until(lambda: not told.empty(), consumer)

    assert isinstance(told.next(), CommitFailedError)


def test_what_was_read_and_is_lost_is_told(cluster, soon):
    cluster.create("t")
    fill(cluster, 4)
    told = Told()
    with Consumer(
        "t", bootstrap_servers=cluster.bootstrap_servers, auto_offset_reset="earliest", on_error=told
    ) as consumer:
        while consumer.assignment() != {T0} or consumer.position(T0) < 4:
            consumer.poll(10)
        generation = consumer._inbox.readers[T0].generation
        consumer._inbox.items.append(TellTruncated(T0, generation, 2))
        consumer.poll(0)
        error = told.next()

    assert isinstance(error, LogTruncationError)
    assert error.divergent_offsets == {T0: 2}


@pytest.mark.parametrize("make", [Producer, Consumer, AdminClient])
def test_a_part_of_the_client_that_fails_is_told(make):
    told = Told()

    def fail():
        raise ZeroDivisionError("planted")

    with fake_cluster() as cluster, make(bootstrap_servers=cluster.bootstrap_servers, on_error=told) as client:
        client._io.post(fail)
        error = told.next()

    assert str(error) == "a part of the client failed: ZeroDivisionError: planted; see the log"
    assert isinstance(error.__cause__, ZeroDivisionError)


# -- on an event loop --------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [AsyncProducer, AsyncConsumer])
def test_a_coroutine_function_is_awaited_on_the_loop(client, soon):
    async def main():
        told = asyncio.get_running_loop().create_future()

        async def hook(error):
            await asyncio.sleep(0)
            told.set_result((error, threading.get_ident()))

        async with client(bootstrap_servers="127.0.0.1:1", on_error=hook):
            return await told

    error, thread = run(main())
    assert isinstance(error, ConnectionFailedError)
    assert thread == threading.get_ident()


def test_a_plain_hook_of_a_twin_is_called_on_its_own_thread(soon):
    told = Told()

    async def main():
        async with AsyncConsumer(bootstrap_servers="127.0.0.1:1", on_error=told):
            return await asyncio.to_thread(told.next)

    assert isinstance(run(main()), ConnectionFailedError)
    assert threading.current_thread() not in told.threads
