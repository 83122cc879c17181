"""What a member's listener is told, where, and what it may do then: scripted brokers."""

from __future__ import annotations

import threading

import pytest
from group_members import T0, T1, Recorder, committed, poll_until
from test_consumer import fill, read

from callboard import (
    ConsumerRebalanceListener,
    ErrorCode,
    IllegalStateError,
)
from callboard.transport.group_messages import OffsetCommitRequest

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
