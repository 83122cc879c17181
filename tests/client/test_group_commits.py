"""What members of a group commit, by themselves and by the application, and where they begin: scripted brokers."""

from __future__ import annotations

import threading
import time

import pytest
from filling import fill, read
from group_members import T0, T1, Recorder, committed, poll_until

from callboard import (
    CallboardTimeoutError,
    ErrorCode,
    IllegalArgumentError,
    IllegalStateError,
    NoOffsetForPartitionError,
    OffsetAndMetadata,
    TopicPartition,
)
from callboard.errors import (
    OffsetMetadataTooLargeError,
)
from callboard.transport.group_messages import (
    OffsetCommitRequest,
)
from callboard.transport.messages import ListOffsetsRequest

# -- offsets ---------------------------------------------------------------------------------------


def test_positions_begin_where_the_group_has_committed(cluster, member):
    cluster.create("t", 2)
    fill(cluster, 10)
    fill(cluster, 10, partition=1, first=100)
    first = member("t", enable_auto_commit=False)
    first.poll(0)
    first.commit({T0: OffsetAndMetadata(7, "mine"), T1: 3})
    first.close()

    second = member("t")

    assert sorted(read(second, 10)) == [7, 8, 9, 103, 104, 105, 106, 107, 108, 109]
    assert second.committed(T0) == 7
    assert second.committed(T0, metadata=True) == OffsetAndMetadata(7, "mine")
    assert second.committed(TopicPartition("t", 9)) is None
    assert not cluster.requests_of(ListOffsetsRequest)[2:]


def test_a_committed_offset_that_has_aged_out_is_reset(cluster, member):
    cluster.create("t")
    fill(cluster, 30)
    first = member("t")
    first.poll(0)
    first.commit({T0: 5})
    first.close(autocommit=False)

    def age() -> None:
        log = cluster.log("t")
        log.batches, log.start = log.batches[2:], 20

    cluster.call(age)
    assert read(member("t"), 10) == list(range(20, 30))


def test_without_a_committed_offset_and_a_policy_the_application_is_told(cluster, member):
    cluster.create("t")
    fill(cluster, 3)
    consumer = member("t", auto_offset_reset="none")
    with pytest.raises(NoOffsetForPartitionError, match="committed no offset"):
        consumer.poll(5_000)

    consumer.seek(T0, 1)

    assert read(consumer, 2) == [1, 2]


def test_commit_without_offsets_commits_what_was_handed_out(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    consumer = member("t", max_poll_records=4, enable_auto_commit=False)
    read(consumer, 4)

    consumer.commit()

    assert committed(cluster) == 4


def test_a_commit_of_everything_is_of_what_is_left_when_another_thread_gives_some_back_meanwhile(
    cluster, member, monkeypatch
):
    cluster.create("t", 2)
    first = member("t", enable_auto_commit=False)
    first.poll(0)
    poll_until(lambda: len(first.assignment()) == 2, first)
    [first.position(key) for key in first.assignment()]
    send = first._commit_now

    def give_back_first(*what):
        monkeypatch.setattr(first, "_commit_now", send)
        second = member("t", enable_auto_commit=False)
        poll_until(lambda: len(second.assignment()) == 1, first, second)
        send(*what)

    monkeypatch.setattr(first, "_commit_now", give_back_first)

    first.commit()

    (left,) = first.assignment()
    assert committed(cluster, left) == 0


def test_asynchronous_commits_call_back_in_order_in_the_thread_that_polls(cluster, member):
    cluster.create("t")
    consumer = member("t", enable_auto_commit=False)
    consumer.poll(0)
    seen = []

    for offset in range(1, 21):
        consumer.commit_async(
            {T0: offset}, lambda offsets, error: seen.append((offsets[T0].offset, error, threading.get_ident()))
        )
    consumer.commit({T0: 21})  # comes after them, and their callbacks before it returns

    assert seen == [(offset, None, threading.get_ident()) for offset in range(1, 21)]
    assert committed(cluster) == 21


def test_an_asynchronous_commit_is_not_tried_again_and_a_synchronous_one_is(cluster, member):
    cluster.create("t")
    consumer = member("t", enable_auto_commit=False)
    consumer.poll(0)
    cluster.add_fault(OffsetCommitRequest, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, count=1)
    failed = []
    consumer.commit_async({T0: 1}, lambda offsets, error: failed.append(error.errno))
    poll_until(lambda: failed, consumer)
    assert failed == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
    assert committed(cluster) is None

    cluster.add_fault(OffsetCommitRequest, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, count=3)
    consumer.commit({T0: 2})

    assert committed(cluster) == 2


def test_the_default_callback_hears_of_commits_without_one(cluster, member):
    cluster.create("t")
    seen = []
    consumer = member("t", default_offset_commit_callback=lambda offsets, error: seen.append((offsets, error)))
    consumer.poll(0)

    consumer.commit_async({T0: 3})

    poll_until(lambda: seen, consumer)
    assert seen[0] == ({T0: OffsetAndMetadata(3)}, None)


def test_a_synchronous_commit_ends_at_its_timeout_with_what_stood_in_the_way(cluster, member):
    cluster.create("t")
    consumer = member("t", enable_auto_commit=False)
    consumer.poll(0)
    cluster.add_fault(OffsetCommitRequest, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, count=1_000)

    with pytest.raises(CallboardTimeoutError, match="COORDINATOR_LOAD_IN_PROGRESS"):
        consumer.commit({T0: 2}, timeout_ms=100)


@pytest.mark.parametrize(
    ("offsets", "error", "says"),
    [
        ({T0: -1}, IllegalArgumentError, "must not be below 0"),
        ({T0: "1"}, TypeError, "OffsetAndMetadata"),
        ({"t": 1}, TypeError, "TopicPartition"),
        ([T0], TypeError, "expected a dict"),
        ({TopicPartition("t", 7): 1}, IllegalStateError, "t-7 is not assigned"),
        ({T0: OffsetAndMetadata(1, "x" * 5_000)}, OffsetMetadataTooLargeError, "4,096"),
        ({T0: 1 << 63}, IllegalArgumentError, "must be at most 9223372036854775807"),
        ({T0: OffsetAndMetadata(1, "\udc80")}, IllegalArgumentError, "is no text"),
    ],
)
def test_a_bad_commit_is_refused_and_changes_nothing(cluster, member, offsets, error, says):
    cluster.create("t")
    consumer = member("t", enable_auto_commit=False)
    consumer.poll(0)

    with pytest.raises(error, match=says):
        consumer.commit(offsets)

    assert committed(cluster) is None
    consumer.commit({T0: 0})  # one that cannot be sent stood in the way of all that followed


def test_without_a_group_there_is_nothing_to_commit(cluster, member):
    consumer = member("t", group_id=None)

    for call in (consumer.commit, consumer.commit_async, consumer.group_metadata, lambda: consumer.committed(T0)):
        with pytest.raises(IllegalStateError, match="give it a group_id"):
            call()
    with pytest.raises(IllegalStateError, match="give the consumer a group_id"):
        consumer.subscribe("t", listener=Recorder())


# -- automatic commits -----------------------------------------------------------------------------


def test_polling_commits_what_the_poll_before_has_returned_and_no_more(cluster, member):
    cluster.create("t")
    fill(cluster, 30)
    consumer = member("t", max_poll_records=10, auto_commit_interval_ms=0)
    read(consumer, 10)
    read(consumer, 10)

    cluster.wait_until(lambda: any(isinstance(request, OffsetCommitRequest) for request in cluster.requests))
    consumer._io.ask(lambda done: done(None, None), 5, "in order")
    (request,) = cluster.requests_of(OffsetCommitRequest)

    assert [entry.offset for entry in request.entries] == [10]  # B25: 20 was handed out, 10 is done with


def test_iterating_commits_records_whose_step_has_finished(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    consumer = member("t")

    for record in consumer:
        if record.offset == 4:
            break
    consumer.close()

    assert committed(cluster) == 4  # the step of offset 4 did not finish


def test_iterating_past_a_rebalance_gives_partitions_back_between_two_records(cluster, member):
    cluster.create("t", 2)
    fill(cluster, 1_000)
    fill(cluster, 1_000, partition=1)
    first = member("t")
    stream = iter(first)
    next(stream)
    second = member("t")
    second.poll(0)

    deadline = time.monotonic() + 10
    while len(first.assignment()) == 2 and time.monotonic() < deadline:
        next(stream)

    poll_until(lambda: len(second.assignment()) == 1, second)
    assert len(first.assignment()) == 1
    assert first.assignment().isdisjoint(second.assignment())


def test_a_block_that_raises_commits_nothing_automatically(cluster, member):
    cluster.create("t")
    fill(cluster, 10)

    with pytest.raises(ZeroDivisionError), member("t") as consumer:  # noqa: PT012 - what the block raises is the point
        read(consumer, 10)
        raise ZeroDivisionError
    assert committed(cluster) is None

    with member("t") as consumer:
        read(consumer, 10)
    assert committed(cluster) == 10


def test_what_is_done_with_is_committed_before_partitions_go(cluster, member):
    cluster.create("t", 2)
    fill(cluster, 10)
    fill(cluster, 10, partition=1)
    first = member("t")
    read(first, 20)
    second = member("t")

    poll_until(lambda: len(second.assignment()) == 1, first, second)

    (key,) = second.assignment()
    assert committed(cluster, key) == 10
    assert second.position(key) == 10


def test_who_commits_by_hand_numbers_it_under_a_name_of_its_own(cluster, member):
    cluster.create("t")
    consumer, other = member(enable_auto_commit=False), member(enable_auto_commit=False)
    consumer.assign([T0])
    other.assign([T0])
    consumer.commit({T0: 1})
    cluster.add_fault(OffsetCommitRequest, "lost connection")

    consumer.commit({T0: 2})
    other.commit({T0: 3})

    *mine, others = cluster.requests_of(OffsetCommitRequest)
    assert [request.number for request in mine] == [1, 2, 3], "each attempt has its own: one of them may come late"
    assert len({request.committer for request in mine}) == 1
    assert others.committer not in ("", mine[0].committer)
    assert {request.member_id for request in (*mine, others)} == {""}
