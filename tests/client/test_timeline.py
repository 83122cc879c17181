"""What the timeline tells: merging, who noticed, and how long a partition had no leader."""

import pytest

from callboard.client.timeline import SETTLE_MS, Gap, Leaderships, Settling, gaps, merged, noticed_by
from callboard.transport.messages import EventDescription


def happened(wall_ms, process, event, /, **values):
    texts = {key: str(value) for key, value in values.items()}
    return EventDescription(wall_ms=wall_ms, process=process, name=event, values=texts)


def leads(wall_ms, process, epoch, partition="orders-0"):
    return happened(wall_ms, process, "partition.leads", partition=partition, epoch=epoch)


def elected(wall_ms, leader, was, epoch, partition="orders-0"):
    return happened(wall_ms, "broker-3", "leader.elected", partition=partition, leader=leader, was=was, epoch=epoch)


def ended(wall_ms, name="broker-1", exitcode=-9, **values):
    return happened(wall_ms, "host", "process.ended", name=name, exitcode=exitcode, **values)


def silent(wall_ms, name="broker-1"):
    return happened(wall_ms, "metadata", "session.ended", name=name, reason="not heard of in time")


def failed(wall_ms, actor, process="broker-1"):
    return happened(wall_ms, process, "actor.failed", actor=actor, error="ValueError: x")


# -- merging -------------------------------------------------------------------------------------------


def test_rings_are_merged_by_wall_clock_and_keep_their_own_order():
    one = [happened(10, "a", "first"), happened(10, "a", "second"), happened(30, "a", "fourth")]
    other = [happened(20, "b", "third")]

    assert [each.name for each in merged(one, other)] == ["first", "second", "third", "fourth"]


def test_what_a_process_told_late_stands_where_it_happened():
    told = [happened(50, "host", "process.ready"), happened(20, "broker-1", "session.lost")]

    assert [each.wall_ms for each in merged(told)] == [20, 50]


def test_who_follows_gets_each_event_when_nothing_can_precede_it_any_more():
    settling = Settling()
    settling.add([happened(1_000, "broker-2", "second")])
    too_soon = settling.settled(1_000 + SETTLE_MS - 1)
    settling.add([happened(990, "metadata", "first"), happened(1_100, "host", "third")])
    told = settling.settled(1_000 + SETTLE_MS)

    assert too_soon == []
    assert [one.name for one in told] == ["first", "second"]
    assert [one.name for one in settling.rest()] == ["third"]
    assert settling.is_empty


# -- who noticed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "by"),
    [
        (ended(0), "sentinel"),
        (ended(0, exitcode=1), "stall"),
        (ended(0, exitcode=72), "memory"),
        (ended(0, exitcode=0, is_asked=True), ""),
        (silent(0), "silence"),
        (happened(0, "metadata", "session.ended", name="broker-1", reason="its process ended"), ""),
        (failed(0, "broker-1/partitions/orders-0"), "supervisor"),
        (leads(0, "broker-1", 1), ""),
    ],
)
def test_who_noticed_a_failure_is_told(event, by):
    assert noticed_by(event) == by


# -- gaps ----------------------------------------------------------------------------------------------


def test_a_killed_leader_leaves_a_gap_until_the_next_one_leads():
    found = gaps([leads(0, "broker-1", 4), ended(100), elected(112, 2, 1, 5), leads(120, "broker-2", 5)])

    assert found == [
        Gap("orders-0", "broker-1", "sentinel", 100, elected_ms=112, end_ms=120, new_leader="broker-2", epoch=5)
    ]
    assert found[0].ms == 20


def test_the_first_who_notices_begins_the_gap():
    found = gaps([leads(0, "broker-1", 4), ended(100), silent(1_600), leads(1_700, "broker-2", 5)])

    assert (found[0].begin_ms, found[0].cause) == (100, "sentinel")


def test_a_silent_leader_is_a_gap_too():
    found = gaps([leads(0, "broker-1", 4), silent(1_500), elected(1_510, 2, 1, 5), leads(1_520, "broker-2", 5)])

    assert (found[0].ms, found[0].cause) == (20, "silence")


def test_only_the_partitions_of_the_lost_broker_have_a_gap():
    events = [leads(0, "broker-1", 1), leads(0, "broker-2", 1, "orders-1"), ended(10), leads(30, "broker-2", 2)]

    assert [gap.partition for gap in gaps(events)] == ["orders-0"]


def test_a_failed_replica_is_a_gap_of_its_partition_alone():
    events = [
        leads(0, "broker-1", 1),
        leads(0, "broker-1", 1, "orders-1"),
        failed(10, "broker-1/partitions/orders-0"),
        leads(15, "broker-1", 2),
    ]

    assert [(gap.partition, gap.ms, gap.new_leader) for gap in gaps(events)] == [("orders-0", 5, "broker-1")]


@pytest.mark.parametrize("actor", ["broker-1/router", "broker-1/partitions", "broker-1/partitions/orders-0/x"])
def test_the_failure_of_another_actor_is_none(actor):
    assert gaps([leads(0, "broker-1", 1), failed(10, actor)]) == []


def test_a_decision_that_nobody_leads_begins_a_gap():
    found = gaps([leads(0, "broker-1", 1), elected(10, -1, 1, 2), elected(50, 1, -1, 3), leads(60, "broker-1", 3)])

    assert [(gap.ms, gap.elected_ms) for gap in found] == [(50, 50)]


def test_an_election_that_is_told_after_the_new_leader_leads_was_at_the_end_of_the_gap_at_the_latest():
    found = gaps([leads(0, "broker-1", 4), ended(100), leads(120, "broker-2", 5), elected(121, 2, 1, 5)])

    assert [(gap.begin_ms, gap.elected_ms, gap.end_ms) for gap in found] == [(100, 120, 120)]


def test_an_election_that_is_told_before_the_failure_was_at_the_beginning_of_the_gap():
    events = [leads(0, "broker-1", 4), elected(99, 1, 1, 5), failed(100, "broker-1/partitions/orders-0")]

    found = gaps([*events, leads(120, "broker-1", 5)])

    assert [(gap.begin_ms, gap.elected_ms, gap.end_ms) for gap in found] == [(100, 100, 120)]


def test_an_orderly_change_of_leader_is_no_gap():
    assert gaps([leads(0, "broker-1", 1), elected(10, 2, 1, 2), leads(12, "broker-2", 2)]) == []


def test_a_deposed_leader_that_tells_late_ends_nothing():
    found = gaps([leads(0, "broker-1", 4), silent(10), leads(11, "broker-1", 4), leads(30, "broker-2", 5)])

    assert [(gap.new_leader, gap.ms) for gap in found] == [("broker-2", 20)]


def test_news_of_a_loss_that_come_after_the_end_of_the_gap_begin_no_new_one():
    found = gaps([leads(0, "broker-1", 1), leads(30, "broker-1", 2), silent(10)])

    assert found == []


def test_the_death_of_a_deposed_leader_is_no_gap():
    assert gaps([leads(0, "broker-1", 1), leads(5, "broker-2", 2), ended(10)]) == []


def test_who_led_is_known_from_an_election_whose_leader_was_never_heard():
    found = gaps([elected(0, 1, 3, 4), ended(10), leads(30, "broker-2", 5)])

    assert [(gap.old_leader, gap.ms) for gap in found] == [("broker-1", 20)]


def test_a_gap_that_lasts_is_told_last_and_is_not_over():
    found = gaps(
        [leads(0, "broker-1", 1), leads(0, "broker-2", 1, "orders-1"), ended(10), leads(9, "broker-2", 9, "x")]
    )

    assert [(gap.partition, gap.is_over, gap.ms) for gap in found] == [("orders-0", False, 0)]


def test_events_of_another_version_or_garbage_do_no_harm():
    leaderships = Leaderships()
    for name in ("partition.leads", "leader.elected", "process.ended", "actor.failed", "leader.lost"):
        assert leaderships.add(EventDescription(name=name)) == []
        assert leaderships.add(EventDescription(name=name, values={"epoch": "x", "leader": "?", "actor": "/"})) == []
