"""Consumers with a group, through real sockets: scripted brokers, the broker's own rules of coordination."""

from __future__ import annotations

import os
import threading
import time

import pytest
from filling import fill, read
from group_members import T0, T1, T2, T3, Recorder, committed, poll_until

from callboard import ErrorCode, ForkedClientError, IllegalStateError, TopicPartition
from callboard.errors import NonEmptyGroupError, UnknownTopicOrPartitionError
from callboard.transport.group_messages import (
    JOINING,
    FindCoordinatorsRequest,
    GroupHeartbeatRequest,
    OffsetFetchRequest,
)
from callboard.transport.messages import ListOffsetsRequest

# -- joining and reading ---------------------------------------------------------------------------


def test_poll_zero_completes_the_join_so_that_the_assignment_is_there_after_it(cluster, member):
    cluster.create("t", 3)
    consumer = member("t")

    consumer.poll(0)

    assert consumer.assignment() == {T0, T1, T2}
    assert consumer.group_metadata().state == "STABLE"


def test_the_first_poll_is_bounded_when_there_is_no_coordinator(cluster, member, monkeypatch):
    monkeypatch.setattr("callboard.client.application.JOIN_MS_MAX", 100)
    cluster.create("t")
    cluster.call(setattr, cluster.groups, "broker", 0)
    consumer = member("t")

    begin = time.monotonic()
    assert consumer.poll(0) == {}
    assert 0.1 <= time.monotonic() - begin < 5
    begin = time.monotonic()
    assert consumer.poll(0) == {}
    assert time.monotonic() - begin < 0.1
    assert "the group's coordinator" in consumer.explain().waits_for

    cluster.call(cluster.groups.move, 2)
    poll_until(lambda: consumer.assignment() == {T0}, consumer)


def test_the_time_of_joining_does_not_count_against_that_of_the_first_poll(cluster, member):
    cluster.create("t")
    fill(cluster, 5)
    begin = time.monotonic()

    def is_loading(inbound):
        if isinstance(inbound.message, GroupHeartbeatRequest) and time.monotonic() < begin + 1.1:
            return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        return None

    cluster.call(cluster.faults.append, is_loading)

    polled = member("t").poll(timeout_ms=1_000)

    assert time.monotonic() >= begin + 1.1
    assert [record.offset for record in polled[T0]] == [0, 1, 2, 3, 4]


def test_a_lone_member_reads_everything(cluster, member):
    cluster.create("t", 2)
    fill(cluster, 50)
    fill(cluster, 50, partition=1, first=50)

    assert sorted(read(member("t"), 100)) == list(range(100))


def test_a_member_that_joins_asks_each_leader_once_where_to_begin_and_the_coordinator_nothing_more(cluster, member):
    cluster.create("t", 6)
    fill(cluster, 10)

    assert read(member("t"), 10) == list(range(10))

    assert cluster.requests_of(OffsetFetchRequest) == [], "the answer to joining has said it"
    assert [len(asked.entries) for asked in cluster.requests_of(ListOffsetsRequest)] == [3, 3]
    joins = [one for one in cluster.requests_of(GroupHeartbeatRequest) if one.member_epoch == JOINING]
    assert len(joins) == len(cluster.requests_of(FindCoordinatorsRequest)) == 1


def test_what_was_committed_needs_no_question_at_all(cluster, member):
    cluster.create("t")
    fill(cluster, 20)
    first = member("t")
    assert read(first, 20) == list(range(20))
    first.commit({T0: 10})
    first.close(autocommit=False)
    asked = len(cluster.requests_of(ListOffsetsRequest))

    assert read(member("t"), 10) == list(range(10, 20))

    assert cluster.requests_of(OffsetFetchRequest) == []
    assert len(cluster.requests_of(ListOffsetsRequest)) == asked


def test_a_coordinator_that_does_not_say_where_to_begin_is_asked(cluster, member, monkeypatch):
    """One of before."""
    monkeypatch.setattr("callboard.actors.groups.state._with_beginnings", lambda group, given, reply: reply)
    cluster.create("t")
    fill(cluster, 20)
    first = member("t")
    assert read(first, 20) == list(range(20))
    first.commit({T0: 10})
    first.close(autocommit=False)

    assert read(member("t"), 10) == list(range(10, 20))
    assert len(cluster.requests_of(OffsetFetchRequest)) == 2


def test_partitions_are_shared_and_each_record_is_read_by_one(cluster, member):
    cluster.create("t", 4)
    first, second = member("t"), member("t")

    poll_until(lambda: len(first.assignment()) == len(second.assignment()) == 2, first, second)

    assert first.assignment() | second.assignment() == {T0, T1, T2, T3}
    fill(cluster, 10, partition=min(first.assignment()).partition)
    assert read(first, 10) == list(range(10))
    assert second.poll(20) == {}


def test_a_member_that_closes_hands_over_at_once_with_what_it_committed(cluster, member):
    cluster.create("t")
    fill(cluster, 20)
    first = member("t", max_poll_records=10)
    assert read(first, 10) == list(range(10))
    second = member("t")
    second.poll(0)

    first.close()

    assert read(second, 10) == list(range(10, 20))


def test_groups_are_independent_of_each_other(cluster, member):
    cluster.create("t")
    fill(cluster, 10)

    assert read(member("t", group_id="one"), 10) == read(member("t", group_id="two"), 10) == list(range(10))


def test_a_pattern_is_made_topics_by_the_client_and_later_ones_join(cluster, member):
    cluster.create("orders-eu")
    consumer = member(heartbeat_interval_ms=4_000)
    consumer.subscribe(pattern="orders-.*")
    consumer.poll(0)
    assert consumer.assignment() == {TopicPartition("orders-eu", 0)}

    cluster.create("orders-us")
    cluster.create("returns")

    since = time.monotonic()
    poll_until(lambda: len(consumer.assignment()) == 2, consumer)
    assert time.monotonic() - since < 2  # not with the next heartbeat, nor when metadata are old
    assert consumer.subscription() == {"orders-eu", "orders-us"}


def test_a_partition_that_is_added_is_read_from_its_beginning(cluster, member):
    cluster.create("t")
    consumer = member("t", auto_offset_reset="latest", metadata_max_age_ms=50)
    consumer.poll(0)
    consumer.position(T0)

    cluster.call(cluster.add_partition, "t")
    fill(cluster, 5, partition=1)

    assert read(consumer, 5) == list(range(5))


def test_a_member_that_is_silent_is_replaced_and_its_partitions_read_on(cluster, member):
    cluster.create("t")
    first = member("t", session_timeout_ms=300)
    first.poll(0)
    second = member("t")
    second.poll(0)
    assert second.assignment() == set()

    first._io.stop()  # as a process that ends without a word

    poll_until(lambda: second.assignment() == {T0}, second)
    assert "silent" in second.explain().why


def test_a_slow_handler_keeps_its_partitions(cluster, member):
    cluster.create("t")
    fill(cluster, 2)
    consumer = member("t", session_timeout_ms=10_000, heartbeat_interval_ms=20, max_poll_records=1)
    assert read(consumer, 1) == [0]

    for _ in range(15):  # three sessions by the coordinator's clock, without a poll
        seen = _heartbeats(cluster)
        cluster.wait_until(lambda seen=seen: _heartbeats(cluster) > seen)
        cluster.call(cluster.groups.time_passes, 2_000)

    assert read(consumer, 1) == [1]
    consumer.commit()
    assert committed(cluster) == 2


def _heartbeats(cluster):
    return sum(isinstance(request, GroupHeartbeatRequest) for request in cluster.requests)


def test_an_idle_member_makes_one_exchange_a_heartbeat_interval(cluster, member):
    cluster.create("t")
    consumer = member("t", heartbeat_interval_ms=100)
    consumer.poll(0)
    consumer.position(T0)
    consumer.poll(300)

    before = len(cluster.requests)
    consumer.poll(1_000)

    assert len(cluster.requests) - before <= 12


def test_a_static_member_that_comes_back_has_its_partitions_again_and_nobody_else_moves(cluster, member):
    cluster.create("t", 2)
    listener = Recorder()
    stays = member()
    stays.subscribe("t", listener=listener)
    stays.poll(0)
    first = member("t", group_instance_id="one")
    poll_until(lambda: len(first.assignment()) == 1, stays, first)
    before, calls = first.assignment(), list(listener.calls)

    first.close()
    again = member("t", group_instance_id="one")
    poll_until(lambda: again.assignment() == before, stays, again)

    assert listener.calls == calls


# -- what to read ----------------------------------------------------------------------------------


def test_assign_with_a_group_begins_at_committed_offsets_and_commits_while_there_are_no_members(cluster, member):
    cluster.create("t", 2)
    fill(cluster, 10)
    consumer = member(enable_auto_commit=False)
    consumer.assign([T0])
    assert read(consumer, 10) == list(range(10))
    consumer.commit()
    consumer.close()

    again = member()
    again.assign([T0])
    assert again.position(T0) == 10
    with pytest.raises(IllegalStateError, match="assigned by hand"):
        again.subscribe("t")

    member("t").poll(0)
    with pytest.raises(NonEmptyGroupError):
        again.commit({T0: 3})


def test_a_member_that_unsubscribes_leaves_and_can_come_back(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    listener = Recorder()
    consumer = member()
    consumer.subscribe("t", listener=listener)
    read(consumer, 10)

    consumer.unsubscribe()

    assert consumer.assignment() == set()
    assert committed(cluster) == 10
    with pytest.raises(IllegalStateError, match="nothing to read"):
        consumer.poll(0)
    consumer.subscribe("t", listener=listener)
    consumer.poll(0)
    assert listener.calls == [("assigned", [T0]), ("revoked", [T0]), ("assigned", [T0])]


def test_subscribing_to_other_topics_keeps_the_partitions_that_stay(cluster, member):
    cluster.create("t")
    cluster.create("u")
    listener = Recorder()
    consumer = member()
    consumer.subscribe("t", listener=listener)
    consumer.poll(0)

    consumer.subscribe(["t", "u"], listener=listener)

    poll_until(lambda: len(consumer.assignment()) == 2, consumer)
    assert listener.calls == [("assigned", [T0]), ("assigned", [TopicPartition("u", 0)])]


def test_positions_of_what_is_not_assigned_are_refused(cluster, member):
    cluster.create("t", 2)
    consumer = member("t")
    consumer.poll(0)
    other = TopicPartition("t", 9)

    for call in (consumer.position, consumer.seek_to_end, consumer.pause, consumer.resume, consumer.highwater):
        with pytest.raises(IllegalStateError, match="t-9 is not assigned"):
            call(other)
    with pytest.raises(IllegalStateError, match="t-9 is not assigned"):
        consumer.seek(other, 1)


def test_lag_is_known_without_a_question_while_fetches_wait(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    consumer = member("t", max_poll_records=4)
    read(consumer, 4)
    state = consumer._fetching.fetcher.states[T0]
    cluster.wait_until(lambda: state.is_waiting)
    before = len(cluster.requests_of(ListOffsetsRequest))

    assert consumer.lag() == {T0: 6}
    assert len(cluster.requests_of(ListOffsetsRequest)) == before


def test_explain_says_what_a_member_does_and_waits_for(cluster, member):
    cluster.create("t")
    consumer = member("t")
    assert (consumer.explain().state, "first poll" in consumer.explain().waits_for) == ("joining", True) or (
        "no broker" in consumer.explain().waits_for
    )
    consumer.poll(0)
    consumer.poll(50)

    told = consumer.explain()

    assert (told.state, told.assignment, told.generation) == ("joined", ["t-0"], 1)
    assert told.waits_for == "new records"
    assert "joined" in told.why
    assert 0 <= told.last_heartbeat_ms < 5_000
    assert told.member_id in str(told)
    idle = member("t")
    idle.poll(0)
    assert "there are none for it" in idle.explain().waits_for


def test_a_topic_that_is_not_there_is_what_a_member_waits_for_and_no_good_health(cluster, member):
    cluster.create("t")
    consumer = member("gone", unknown_topic_timeout_ms=50)
    with pytest.raises(UnknownTopicOrPartitionError):
        consumer.poll(10_000)

    assert "there is no topic 'gone'" in consumer.explain().waits_for
    assert not consumer.health().is_ok
    assert "there is no topic 'gone'" in consumer.health().trouble[0]


def test_a_part_of_the_client_that_fails_is_no_good_health_and_the_others_go_on(cluster, member):
    cluster.create("t")
    consumer = member("t")
    consumer.poll(0)

    def fail():
        raise ZeroDivisionError("planted")

    consumer._io.post(fail)
    fill(cluster, 3)
    assert read(consumer, 3) == [0, 1, 2]

    assert not consumer.health().is_ok
    assert "ZeroDivisionError: planted" in consumer.health().trouble[0]


def test_a_topic_that_is_not_there_is_told_by_poll(cluster, member):
    consumer = member("nowhere", unknown_topic_timeout_ms=50)

    with pytest.raises(UnknownTopicOrPartitionError, match="nowhere"):
        poll_until(lambda: False, consumer)


def test_two_threads_may_poll_and_each_record_and_each_change_goes_to_one(cluster, member):
    cluster.create("t", 2)
    fill(cluster, 300)
    fill(cluster, 300, partition=1, first=300)
    listener, values = Recorder(), []
    consumer = member(max_poll_records=7, enable_auto_commit=False)
    consumer.subscribe("t", listener=listener)

    def work() -> None:
        while len(values) < 600:
            values.extend(int(record.value) for records in consumer.poll(20).values() for record in records)

    working = [threading.Thread(target=work) for _ in range(2)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join(20)

    assert sorted(values) == list(range(600))
    assert listener.calls == [("assigned", [T0, T1])]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_member_made_before_a_fork_refuses_in_the_child_and_lives_on_in_the_parent(cluster, member):
    cluster.create("t")
    consumer = member("t")
    consumer.poll(0)
    name = consumer.group_metadata().member_id

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for call in (consumer.poll, consumer.commit, consumer.group_metadata, consumer.unsubscribe):
                try:
                    call()
                except ForkedClientError:
                    continue
                break
            else:
                code = 0
            consumer.close()
        finally:
            os._exit(code)

    assert os.waitpid(pid, 0)[1] == 0
    consumer.poll(200)
    assert consumer.group_metadata().member_id == name
    assert consumer.assignment() == {T0}


def test_a_consumer_that_is_made_and_not_polled_holds_nothing(cluster, member):
    cluster.create("t")
    waiting = member("t")
    reading = member("t")

    cluster.wait_until(lambda: sum(isinstance(r, FindCoordinatorsRequest) for r in cluster.requests) >= 2)
    reading.poll(0)

    assert reading.assignment() == {T0}
    assert waiting.explain().state == "joining"
    assert len({request.member_id for request in cluster.requests_of(GroupHeartbeatRequest)}) == 1


def test_a_consumer_that_reads_nothing_learns_what_was_committed_as_soon_as_the_coordinator_is_reached(cluster, member):
    cluster.create("t")

    assert member().committed(T0, timeout_ms=20_000) is None


@pytest.mark.parametrize("was_member", [False, True])
def test_who_is_assigned_by_hand_joins_nothing_so_that_a_poll_waits_no_longer_than_it_was_told(
    cluster, member, was_member
):
    cluster.create("t")
    consumer = member("t") if was_member else member()
    if was_member:
        fill(cluster, 1)
        assert read(consumer, 1) == [0]
        consumer.unsubscribe()
    consumer.assign([T0])
    since = time.monotonic()

    assert consumer.poll(10) == {}

    assert time.monotonic() - since < 2


def test_nothing_of_a_topic_is_handed_out_that_is_not_subscribed_any_more(cluster, member):
    cluster.create("t")
    cluster.create("other")
    fill(cluster, 10)
    fill(cluster, 3, topic="other")
    consumer = member("t", max_poll_records=2)
    assert read(consumer, 2) == [0, 1]

    consumer.subscribe("other")

    seen = []
    poll_until(lambda: len(seen) == 3, _Noting(consumer, seen))
    assert {record.topic for record in seen} == {"other"}
    assert consumer.assignment() == {TopicPartition("other", 0)}
    assert consumer.committed(T0) == 2  # it went as any other goes


class _Noting:
    """Polls for ``poll_until``, and keeps what came."""

    def __init__(self, consumer, seen):
        self.consumer, self.seen = consumer, seen

    def poll(self, timeout_ms):
        for records in self.consumer.poll(timeout_ms).values():
            self.seen.extend(records)
