"""What a member's listener is told, where, and what it may do then: scripted brokers."""

from __future__ import annotations

import contextlib
import threading

import pytest
from filling import fill, read
from group_members import T0, T1, Recorder, committed, poll_until

from callboard import (
    ConsumerRebalanceListener,
    ErrorCode,
    IllegalStateError,
    TopicPartition,
)
from callboard.transport.group_messages import LEAVING, OffsetCommitRequest

# -- the listener ----------------------------------------------------------------------------------


def test_the_listener_is_called_in_the_thread_that_polls(cluster, member):
    cluster.create("t", 2)
    listener = Recorder()
    first = member()
    first.subscribe("t", listener=listener)
    first.poll(0)
    second = member("t")
    poll_until(lambda: len(second.assignment()) == 1, first, second)
    (gone,) = second.assignment()

    first.close()

    (left,) = {T0, T1} - {gone}
    assert listener.calls == [("assigned", [T0, T1]), ("revoked", [gone]), ("revoked", [left])]
    assert listener.threads == {threading.get_ident()}


def test_a_seek_in_on_partitions_assigned_counts(cluster, member):
    cluster.create("t")
    fill(cluster, 10)

    class Seeking(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            for key in assigned:
                consumer.seek(key, 6)

    consumer = member()
    consumer.subscribe("t", listener=Seeking())

    assert read(consumer, 4) == [6, 7, 8, 9]


def test_a_commit_in_on_partitions_revoked_is_taken(cluster, member):
    cluster.create("t", 2)

    class Committing(ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked):
            first.commit(dict.fromkeys(revoked, 0))

    first = member(enable_auto_commit=False)
    first.subscribe("t", listener=Committing())
    first.poll(0)
    second = member("t")
    poll_until(lambda: len(second.assignment()) == 1, first, second)

    assert committed(cluster, next(iter(second.assignment()))) == 0


@pytest.mark.parametrize("where", ["on_partitions_assigned", "on_partitions_revoked"])
def test_an_exception_in_a_listener_reaches_poll_and_the_consumer_goes_on(cluster, member, where):
    cluster.create("t", 2)
    fill(cluster, 5)
    fill(cluster, 5, partition=1)
    raised = []

    def fail(self, partitions):
        if not raised:
            raised.append(where)
            raise ZeroDivisionError

    listener = type("Failing", (ConsumerRebalanceListener,), {where: fail})()
    first = member(enable_auto_commit=False)
    first.subscribe("t", listener=listener)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - which of them raises depends on the case
        first.poll(0)
        second = member("t")
        poll_until(lambda: False, first, second)

    assert raised == [where]
    first.seek_to_beginning()
    assert len(first.assignment()) == (2 if where == "on_partitions_assigned" else 1)
    assert len(read(first, 5)) >= 5


def test_an_exception_in_a_listener_reaches_unsubscribe_and_the_member_has_left_all_the_same(cluster, member):
    cluster.create("t")

    class Failing(ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked):
            raise ZeroDivisionError

    first = member()
    first.subscribe("t", listener=Failing())
    first.poll(0)
    with pytest.raises(ZeroDivisionError):
        first.unsubscribe()

    assert (first.assignment(), first.subscription()) == (set(), None)
    second = member("t")
    poll_until(lambda: second.assignment() == {T0}, second)
    second.close()
    first.subscribe("t")
    poll_until(lambda: first.assignment() == {T0}, first)


def test_what_is_given_back_is_given_up_though_the_commit_before_it_is_interrupted(cluster, member):
    cluster.create("t", 2)
    fill(cluster, 1)
    fill(cluster, 1, partition=1)

    def interrupt(_offsets, error):
        if error is not None:
            raise KeyboardInterrupt

    listener = Recorder()
    first = member(default_offset_commit_callback=interrupt)
    first.subscribe("t", listener=listener)
    read(first, 2)
    cluster.add_fault(OffsetCommitRequest, ErrorCode.OFFSET_METADATA_TOO_LARGE, count=1)
    second = member("t")
    with pytest.raises(KeyboardInterrupt):
        poll_until(lambda: False, first, second)

    poll_until(lambda: len(second.assignment()) == 1, first, second)
    assert first.assignment() == {T0, T1} - second.assignment()
    assert listener.calls[1:] == [("revoked", sorted(second.assignment()))]
    first.commit()  # of what it has, and no more


def test_a_listener_must_not_poll(cluster, member):
    cluster.create("t")

    class Polling(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            consumer.poll(0)

    consumer = member()
    consumer.subscribe("t", listener=Polling())

    with pytest.raises(IllegalStateError, match="must not poll"):
        consumer.poll(0)


def test_what_is_no_listener_is_refused(cluster, member):
    with pytest.raises(TypeError, match="ConsumerRebalanceListener"):
        member().subscribe("t", listener=object())


# -- leaving while something else happens ----------------------------------------------------------


def hold_back_leaving(consumer, until):
    """Before the I/O thread hears that the consumer leaves, let ``until`` come true."""
    post = consumer._io.post

    def post_late(call, *args):
        if call == consumer._fetching.leave:
            until()
        post(call, *args)

    consumer._io.post = post_late


def test_what_is_granted_while_it_unsubscribes_is_nothing_that_a_later_subscription_has(cluster, member):
    cluster.create("t", 2)
    cluster.create("u")
    listener = Recorder()
    first, second = member(enable_auto_commit=False), member("t")
    first.subscribe("t", listener=listener)
    poll_until(lambda: len(first.assignment()) == len(second.assignment()) == 1, first, second)
    (own,), (others,) = first.assignment(), second.assignment()
    listener.calls.clear()

    def granted():
        second.close()
        cluster.wait_until(lambda: any(others in change.partitions for change in first._application.changes))

    hold_back_leaving(first, granted)
    first.unsubscribe()
    first.subscribe("u", listener=listener)
    poll_until(lambda: first.assignment(), first)

    assert first.assignment() == {TopicPartition("u", 0)}
    assert listener.calls == [("revoked", [own]), ("assigned", [TopicPartition("u", 0)])]
    assert not first._inbox.arrivals


@pytest.mark.parametrize("leave", ["close", "unsubscribe"])
def test_who_leaves_waits_for_a_listener_that_another_thread_calls(cluster, member, leave):
    cluster.create("t")
    inside, may_end, calls = threading.Event(), threading.Event(), []

    class Slow(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            inside.set()
            may_end.wait(10)
            calls.append("assigned")

        def on_partitions_revoked(self, revoked):
            calls.append(("revoked", revoked))

    consumer = member(default_poll_ms=100)
    consumer.subscribe("t", listener=Slow())

    def poll():
        with contextlib.suppress(IllegalStateError):
            consumer.poll(0)

    polling = threading.Thread(target=poll)
    leaving = threading.Thread(target=getattr(consumer, leave))
    polling.start()
    assert inside.wait(10)
    leaving.start()
    leaving.join(0.2)
    assert leaving.is_alive()
    assert calls == []
    may_end.set()
    polling.join(10)
    leaving.join(10)

    assert calls == ["assigned", ("revoked", {T0})]


def test_a_close_that_has_waited_long_enough_for_a_listener_goes_on_without_it(cluster, member, caplog):
    cluster.create("t")
    inside, may_end, calls = threading.Event(), threading.Event(), []

    class Stuck(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            inside.set()
            may_end.wait(10)

        def on_partitions_revoked(self, revoked):
            calls.append(revoked)

    consumer = member()
    consumer.subscribe("t", listener=Stuck())

    def poll():
        with contextlib.suppress(IllegalStateError):
            consumer.poll(0)

    polling = threading.Thread(target=poll)
    polling.start()
    assert inside.wait(10)

    consumer.close(timeout_ms=50)

    may_end.set()
    polling.join(10)
    assert calls == []
    assert "a rebalance listener is still busy in another thread" in caplog.text


def test_what_is_subscribed_while_another_thread_unsubscribes_comes_behind_it(cluster, member):
    cluster.create("t")
    cluster.create("u")
    fill(cluster, 3)
    consumer = member("t")
    assert read(consumer, 3) == [0, 1, 2]
    answer, held = cluster.groups.on_request, []

    def hold(broker, inbound, reply):
        if getattr(inbound.message, "member_epoch", 0) == LEAVING and not held:
            held.append((broker, inbound, reply))
        else:
            answer(broker, inbound, reply)

    cluster.call(setattr, cluster.groups, "on_request", hold)
    leaving = threading.Thread(target=consumer.unsubscribe)
    leaving.start()
    cluster.wait_until(lambda: held)
    subscribing = threading.Thread(target=consumer.subscribe, args=["u"])
    subscribing.start()
    subscribing.join(0.1)
    assert subscribing.is_alive()

    cluster.call(lambda: answer(*held[0]))
    leaving.join(10)
    subscribing.join(10)

    assert committed(cluster) == 3
    poll_until(lambda: consumer.assignment() == {TopicPartition("u", 0)}, consumer)


def test_a_listener_may_close_its_consumer(cluster, member):
    cluster.create("t")
    calls = []

    class Closing(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            consumer.close()

        def on_partitions_revoked(self, revoked):
            calls.append(revoked)

    consumer = member()
    consumer.subscribe("t", listener=Closing())

    with pytest.raises(IllegalStateError, match="closed"):
        consumer.poll(0)
    assert calls == [{T0}]


@pytest.mark.parametrize("where", ["listener", "callback"])
def test_what_a_poll_calls_is_stuck_like_any_other_work_if_it_takes_too_long(cluster, member, where):
    """A listener, or a commit's callback, that hung held the member's partitions for ever: it was within a poll."""
    cluster.create("t")
    fill(cluster, 1)
    begun, go_on, heard = threading.Event(), threading.Event(), Recorder()

    def hang(*_):
        begun.set()
        go_on.wait(10)

    class Hanging(Recorder):
        def on_partitions_assigned(self, assigned):
            heard.on_partitions_assigned(assigned)
            if where == "listener":
                hang()

        on_partitions_lost = heard.on_partitions_lost

    first = member(max_poll_interval_ms=800, enable_auto_commit=False, consumer_timeout_ms=10_000)
    first.subscribe("t", listener=Hanging())
    if where == "callback":
        assert read(first, 1) == [0]
        first.commit_async({T0: 0}, hang)
    thread = threading.Thread(target=next, args=(first,))
    thread.start()
    assert begun.wait(10)
    second = member("t", enable_auto_commit=False)
    poll_until(lambda: T0 in second.assignment(), second)

    assert first.health().group_state == "stuck"
    go_on.set()
    second.close()
    thread.join(10)  # the same poll goes on, and reads
    assert not thread.is_alive()
    assert heard.calls == [("assigned", [T0]), ("lost", [T0]), ("assigned", [T0])]
