"""A member that closes: its last commit, its farewell, what its listener hears, and how long all that may take."""

from __future__ import annotations

import threading
import time

import pytest
from filling import fill, read
from group_members import T0, Recorder, committed

from callboard import ErrorCode
from callboard.transport.group_messages import LEAVING, GroupHeartbeatRequest, OffsetCommitRequest


def test_a_poll_after_an_iteration_that_was_left_counts_its_last_record_as_done(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    consumer = member("t")
    next(iter(consumer))
    read(consumer, 9)

    consumer.close()

    assert committed(cluster) == 10


def test_closing_from_two_threads_tells_the_listener_once(cluster, member):
    cluster.create("t")
    listener = Recorder()
    consumer = member()
    consumer.subscribe("t", listener=listener)
    consumer.poll(0)

    closing = [threading.Thread(target=consumer.close) for _ in range(2)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(10)

    assert listener.calls == [("assigned", [T0]), ("revoked", [T0])]


def farewells(cluster):
    return [one for one in cluster.requests_of(GroupHeartbeatRequest) if one.member_epoch == LEAVING]


def test_closing_commits_and_leaves_in_one_request(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    consumer = member("t")
    assert read(consumer, 10) == list(range(10))

    consumer.close()

    (farewell,) = farewells(cluster)
    assert [(entry.partition, entry.offset) for entry in farewell.last_offsets] == [(0, 10)]
    assert cluster.requests_of(OffsetCommitRequest) == []
    assert member().committed(T0) == 10


def test_a_last_commit_that_is_refused_is_tried_again_and_the_farewell_follows(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    consumer = member("t", heartbeat_interval_ms=5_000)
    assert read(consumer, 10) == list(range(10))
    cluster.add_fault(GroupHeartbeatRequest, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, count=1)

    consumer.close()

    assert [len(farewell.last_offsets) for farewell in farewells(cluster)] == [1, 0]
    assert member().committed(T0) == 10


@pytest.mark.parametrize("silent", [GroupHeartbeatRequest, OffsetCommitRequest])
def test_a_close_ends_within_its_bound_though_the_coordinator_is_silent(cluster, member, silent, caplog):
    cluster.create("t")
    fill(cluster, 10)
    consumer = member("t", heartbeat_interval_ms=5_000)
    assert read(consumer, 10) == list(range(10))
    cluster.add_fault(GroupHeartbeatRequest, "drop", count=100)
    cluster.add_fault(OffsetCommitRequest, "drop", count=100)
    if silent is OffsetCommitRequest:
        consumer.commit_async()
    since = time.monotonic()

    consumer.close(timeout_ms=200)

    assert time.monotonic() - since < 0.9
    assert "commit of t-0@10 failed: commit: not acknowledged in time" in caplog.text


def test_what_a_listener_commits_as_it_gives_back_is_not_overtaken_by_the_last_commit(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    consumer = member()

    class Careful(Recorder):
        def on_partitions_revoked(self, revoked):
            consumer.commit({T0: 4})

    consumer.subscribe("t", listener=Careful())
    assert read(consumer, 10) == list(range(10))

    consumer.close()

    assert member().committed(T0) == 4
