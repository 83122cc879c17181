"""A member whose fetching comes to a stop is reset by its coordinator, and reads on by itself: scripted brokers."""

from __future__ import annotations

import msgspec
import pytest
from filling import fill, read
from group_members import T0, T1, T2, Recorder, poll_until

from callboard.transport.group_messages import GroupHeartbeatRequest

SESSION_MS = 6_000  # at least so long a stall is borne with


@pytest.fixture
def watched(cluster):
    """A coordinator that bears with a stall for as short as may be."""

    def begin():
        groups = cluster.groups
        groups.settings = msgspec.structs.replace(groups.settings, group_fetch_stall_ms=1)
        groups.begin()

    cluster.call(begin)
    return cluster


def forget(consumer, key):
    """Have the fetch layer know nothing of a partition any more."""
    consumer._io.post(consumer._fetching.fetcher.states.pop, key)


def beats(cluster):
    return [request for request in cluster.requests_of(GroupHeartbeatRequest) if request.member_epoch > 0]


def beat(cluster, consumer, times=1):
    """Poll for some heartbeats, with a third of a session between them for the coordinator."""
    for _ in range(times):
        before = len(beats(cluster))
        cluster.call(cluster.groups.time_passes, SESSION_MS // 3)
        poll_until(lambda before=before: len(beats(cluster)) > before, consumer)


def test_a_consumer_that_forgets_a_partition_reads_it_again_by_itself_and_says_why(watched, member):
    watched.create("t", 2)
    listener = Recorder()
    consumer = member(session_timeout_ms=SESSION_MS, group_instance_id="rack-7")
    consumer.subscribe("t", listener=listener)
    consumer.poll(0)
    beat(watched, consumer)

    forget(consumer, T1)
    beat(watched, consumer, times=5)
    fill(watched, 10, partition=1)

    assert read(consumer, 10) == list(range(10))
    assert listener.calls == [("assigned", [T0, T1]), ("lost", [T0, T1]), ("assigned", [T0, T1])]
    assert "was reset: it owned t-1 and did not fetch it" in consumer.explain().lost_why
    assert "lost everything: " in str(consumer.explain())


def test_health_says_so_before_the_coordinator_acts(cluster, member):
    cluster.create("t", 2)
    consumer = member("t")
    consumer.poll(0)
    assert consumer.health().is_ok

    forget(consumer, T1)

    poll_until(lambda: "t-1: nobody fetches it" in consumer.health().trouble, consumer)


def test_a_consumer_that_is_not_polled_is_paused_or_waits_for_records_says_that_it_fetches(watched, member):
    watched.create("t", 3)
    fill(watched, 500, partition=2)
    consumer = member("t", session_timeout_ms=SESSION_MS, heartbeat_interval_ms=20, max_partition_fetch_bytes=1_000)
    consumer.poll(0)
    consumer.pause(T1)
    fetching = consumer._fetching.fetcher
    poll_until(lambda: fetching.states[T2].credit.buffered > 1_000)

    before = len(beats(watched))
    poll_until(lambda: len(beats(watched)) > before + 5)

    assert all(request.is_fetching for request in beats(watched)[before + 1 :])
