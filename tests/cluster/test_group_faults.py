"""Groups on real processes while those are killed and stopped: F10, F11 of the fault matrix, and who must not notice.

The verdict on commits and owners is the checker's (``callboard.testing.group_history``).
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from callboard.testing.clusters import cluster
from callboard.testing.group_history import group_anomalies
from callboard.testing.group_load import GroupLoad
from callboard.testing.group_member import MemberProcess
from callboard.testing.workload import Load

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

PARTITIONS = 4
DEADLINE_S = 60.0  # generous: a loaded machine is no bug
LATE_S = 3.0  # a takeover may be later than its session by so much on a machine that is busy; bench has the figures
SESSION_MS = 2_000
STORM = 20  # commits of every member, before, and again after


@pytest.fixture(scope="module")
def running():
    with cluster(brokers=3) as one:
        yield one


def until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S:.0f} s"
        time.sleep(0.01)


# -- F10 -------------------------------------------------------------------------------------------


def test_a_coordinator_killed_in_a_storm_of_commits_takes_no_offset_back_and_nobody_notices(running):
    running.create_topic("storm", partitions=PARTITIONS, replication_factor=3)
    with ExitStack() as stack:
        load = Load(running.bootstrap_servers, "storm", partitions=PARTITIONS, rate=1_500)
        stack.callback(load.stop)
        groups = []
        for name in ("bills", "mails", "audits"):
            group = GroupLoad(running.bootstrap_servers, "storm", name, members=2, session_timeout_ms=10_000)
            stack.callback(group.stop)
            groups.append(group)
        for group in groups:
            group.wait_until_shared(PARTITIONS)
        admin = running.admin()
        before = {group.group: group.owned for group in groups}
        for group in groups:
            for member in group.members:
                member.given_back.clear()  # of the time when they came together

        for group in groups:
            group.wait_for_commits(STORM)
            coordinator = admin.describe_groups([group.group])[group.group].coordinator
            old = running.kill_broker(coordinator)
            for each in groups:
                each.wait_for_commits(STORM)
            running.wait_for_new_pid(coordinator, old)

        assert {group.group: group.owned for group in groups} == before
        for group in groups:
            group.stop()
            assert group_anomalies(group.history) == []
            assert ([member.given_back for member in group.members], group.errors, group.refused) == ([[], []], [], [])
            assert group.history.reads


# -- F11, and members that come and go ---------------------------------------------------------------


@pytest.fixture
def group(running, request):
    """Return a maker of members, each a process of its own, of a group and a topic of this test's own."""
    name = request.node.name.replace("[", "-").rstrip("]")
    with ExitStack() as stack:

        def member(number, topic=name, **settings):
            given = {"session_timeout_ms": SESSION_MS, "heartbeat_interval_ms": 500, "metadata_max_age_ms": 500}
            given |= {"enable_auto_commit": "false", **settings}
            servers = running.bootstrap_servers
            return stack.enter_context(MemberProcess(f"m{number}", servers, topic, name, **given))

        member.group = member.topic = name
        yield member


def topic_with_records(running, topic, partitions=PARTITIONS):
    running.create_topic(topic, partitions=partitions, replication_factor=3)
    with running.producer() as producer:
        for number in range(partitions * 5):
            producer.send(topic, b"%d" % number, partition=number % partitions)


def shared(members, partitions):
    """Whether all is owned, by one each, and everybody has a fair part."""
    counts = [len(member.keys) for member in members]
    everything = set().union(*(member.keys for member in members))
    return len(everything) == sum(counts) == partitions and max(counts) - min(counts) <= 1


def given_back(members):
    return [
        (member.name, event["event"], event["keys"])
        for member in members
        for event in list(member.events)
        if event["event"] in ("revoked", "lost")
    ]


def events_since(member, count):
    return [(event["event"], event.get("keys")) for event in member.events[count:] if event["event"] != "first"]


def test_a_member_stopped_past_its_session_is_replaced_and_its_late_commit_refused_by_name(running, group):
    topic_with_records(running, group.topic)
    stopped, others = group(1), [group(2), group(3)]
    until(lambda: shared([stopped, *others], PARTITIONS), "sharing")
    held = stopped.keys
    until(lambda: stopped.first_after("first", 0).keys() >= {key.partition for key in held}, "its first records")
    kept = {member.name: member.keys for member in others}

    stopped.hold()
    since = stopped.stop()
    until(lambda: held <= set().union(*(member.keys for member in others)), "takeover")
    took_s = (max(event["at"] for member in others for event in member.events) - since) / 1e9
    assert took_s < SESSION_MS / 1e3 + LATE_S
    assert all(kept[member.name] <= member.keys for member in others), "what they had did not move"
    described = running.admin().describe_groups([group.group])[group.group].members
    new_owners = {one.member_id: one.member_epoch for one in described if one.assigned}
    seen = len(stopped.events)

    stopped.begin_to_commit()
    stopped.go_on()
    refused = stopped.committed()

    assert refused["error"] == "CommitFailedError"
    assert any(
        owner in refused["detail"] and f"since generation {epoch}" in refused["detail"]
        for owner, epoch in new_owners.items()
    ), refused["detail"]
    until(lambda: events_since(stopped, seen), "its loss")
    assert events_since(stopped, seen)[0] == ("lost", [list(key) for key in sorted(held)])
    until(lambda: shared([stopped, *others], PARTITIONS), "coming back")
    committed = running.admin().list_group_offsets([group.group])[group.group]
    assert committed == {}, "nothing was committed"


def test_a_killed_member_is_replaced_when_its_session_is_over_and_only_its_partitions_move(running, group):
    topic_with_records(running, group.topic)
    victim, *others = members = [group(number) for number in range(3)]
    until(lambda: shared(members, PARTITIONS), "sharing")
    held, before = victim.keys, given_back(others)

    since = victim.kill()
    until(lambda: shared(others, PARTITIONS), "takeover")

    at = max(event["at"] for member in others for event in member.events if event["event"] == "assigned")
    assert 0 < (at - since) / 1e9 < SESSION_MS / 1e3 + LATE_S
    assert given_back(others) == before
    assert held <= set().union(*(member.keys for member in others))


def test_a_closed_member_is_replaced_at_once(running, group):
    topic_with_records(running, group.topic)
    leaver, *others = members = [group(number, session_timeout_ms=60_000) for number in range(3)]
    until(lambda: shared(members, PARTITIONS), "sharing")
    before = given_back(others)

    since = leaver.close()
    until(lambda: shared(others, PARTITIONS), "takeover")

    at = max(event["at"] for member in others for event in member.events if event["event"] == "assigned")
    assert (at - since) / 1e9 < LATE_S, "far less than a session"
    assert given_back(others) == before


def test_partitions_that_are_added_are_assigned_and_no_other_moves(running, group):
    topic_with_records(running, group.topic)
    members = [group(number) for number in range(2)]
    until(lambda: shared(members, PARTITIONS), "sharing")
    before, kept = given_back(members), [member.keys for member in members]

    running.admin().create_partitions({group.topic: PARTITIONS + 2})
    until(lambda: shared(members, PARTITIONS + 2), "sharing the new ones")

    assert given_back(members) == before
    assert all(had <= member.keys for had, member in zip(kept, members, strict=True))


def test_a_new_topic_that_matches_the_pattern_is_assigned_and_nothing_else_moves(running, group):
    names = [f"{group.topic}-{number}" for number in range(2)]
    topic_with_records(running, names[0])
    members = [group(number, topic=f"^{group.topic}-.*") for number in range(2)]
    until(lambda: shared(members, PARTITIONS), "sharing")
    before = given_back(members)

    topic_with_records(running, names[1])
    until(lambda: shared(members, 2 * PARTITIONS), "sharing the new topic")

    assert given_back(members) == before
    assert {key.topic for member in members for key in member.keys} == set(names)


def test_a_static_member_that_restarts_within_its_session_is_noticed_by_nobody(running, group):
    topic_with_records(running, group.topic)
    first, other = members = [group(n, group_instance_id=f"i{n}", session_timeout_ms=60_000) for n in "ab"]
    until(lambda: shared(members, PARTITIONS), "sharing")
    held, seen = first.keys, len(other.events)

    first.kill()
    again = group("a again", group_instance_id="ia", session_timeout_ms=60_000)
    until(lambda: again.keys == held, "its old partitions")
    again.close()
    once_more = group("a once more", group_instance_id="ia", session_timeout_ms=60_000)
    until(lambda: once_more.keys == held, "its old partitions, after a close")

    assert events_since(other, seen) == []


def test_of_two_members_with_one_instance_id_the_older_is_fenced(running, group):
    topic_with_records(running, group.topic)
    older = group("older", group_instance_id="same")
    until(lambda: len(older.keys) == PARTITIONS, "all partitions")

    newer = group("newer", group_instance_id="same")
    until(lambda: len(newer.keys) == PARTITIONS, "all partitions")
    until(lambda: any(event["event"] == "error" for event in older.events), "the older one's error")

    (error,) = [event for event in older.events if event["event"] == "error"]
    assert error["error"] == "FencedInstanceIdError"
    assert "same" in error["detail"]
    assert older.keys == set()
