"""Coordinators that move, go, are silent or refuse: what a member keeps, and when it gives up."""

from __future__ import annotations

import time

import pytest
from filling import fill, read
from group_members import T0, Recorder, committed, poll_until

from callboard import CallboardTimeoutError
from callboard.errors import InvalidSessionTimeoutError
from callboard.transport.group_messages import FindCoordinatorsRequest, GroupHeartbeatRequest, OffsetCommitRequest


def test_a_coordinator_that_moves_costs_no_partition(cluster, member):
    cluster.create("t")
    listener = Recorder()
    consumer = member(enable_auto_commit=False)
    consumer.subscribe("t", listener=listener)
    consumer.poll(0)
    consumer.commit({T0: 4})

    cluster.call(cluster.groups.move, 2)

    consumer.commit({T0: 5})
    assert committed(cluster) == 5
    assert listener.calls == [("assigned", [T0])]
    assert consumer.explain().coordinator == 2


def test_a_coordinator_whose_connection_ends_is_looked_up_at_once(cluster, member):
    cluster.create("t")
    cluster.call(cluster.groups.move, 2)
    consumer = member("t")
    consumer.poll(0)

    cluster.stop_broker(2)
    cluster.call(cluster.groups.move, 1)

    poll_until(lambda: consumer.explain().coordinator == 1, consumer)
    assert consumer.assignment() == {T0}
    consumer.commit({T0: 1})


def test_a_session_without_a_coordinator_is_over_and_nothing_more_is_handed_out(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    listener = Recorder()
    consumer = member(session_timeout_ms=300, max_poll_records=1)
    consumer.subscribe("t", listener=listener)
    read(consumer, 1)

    cluster.add_fault(GroupHeartbeatRequest, "drop", count=100)
    cluster.add_fault(FindCoordinatorsRequest, "drop", count=100)
    poll_until(lambda: listener.calls[-1] == ("lost", [T0]), consumer)

    assert consumer.assignment() == set()
    assert consumer.poll(0) == {}


def test_bounds_of_the_coordinator_are_told_by_poll(cluster, member):
    cluster.create("t")
    consumer = member("t", session_timeout_ms=2_000_000)

    with pytest.raises(InvalidSessionTimeoutError):
        consumer.poll(5_000)


def test_a_commit_ends_within_its_bound_though_the_coordinator_is_silent(cluster, member):
    cluster.create("t")
    consumer = member("t")
    consumer.poll(0)
    cluster.add_fault(OffsetCommitRequest, "drop", count=100)
    since = time.monotonic()

    with pytest.raises(CallboardTimeoutError, match="not acknowledged in time") as raised:
        consumer.commit({T0: 0}, timeout_ms=100)

    assert raised.value.outcome_unknown
    assert time.monotonic() - since < 0.9
