"""A member whose fetching comes to a stop is reset by its coordinator, and reads on by itself: scripted brokers."""

from __future__ import annotations

import msgspec
import pytest
from group_members import T0, T1, Recorder, poll_until
from test_consumer import fill, read

SESSION_MS = 1_500  # at least so long a stall is borne with


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


def test_a_consumer_that_forgets_a_partition_reads_it_again_by_itself_and_says_why(watched, member):
    watched.create("t", 2)
    listener = Recorder()
    consumer = member(session_timeout_ms=SESSION_MS, group_instance_id="rack-7")
    consumer.subscribe("t", listener=listener)
    consumer.poll(0)

    forget(consumer, T1)
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


def test_who_does_not_poll_pauses_or_waits_for_records_is_not_reset(watched, member):
    watched.create("t", 3)
    fill(watched, 500, partition=2)
    consumer = member("t", session_timeout_ms=SESSION_MS, heartbeat_interval_ms=300, max_partition_fetch_bytes=1_000)
    consumer.poll(0)
    consumer.pause(T1)
    before = consumer.group_metadata().member_id

    beats = consumer._fetching.group.member
    begun = beats._last_number
    poll_until(lambda: beats._last_number > begun + 8)  # nobody polls meanwhile: longer than a stall is borne with

    assert consumer.group_metadata().member_id == before
    assert consumer.explain().lost_ms == -1
