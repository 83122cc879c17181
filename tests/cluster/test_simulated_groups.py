"""Coordinators as actors, in a whole cluster on a virtual loop: groups and committed offsets survive what happens."""

from __future__ import annotations

import contextlib
import random
from itertools import pairwise
from typing import Annotated, get_args, get_origin

import msgspec
import pytest

from callboard.actors.controller.internal import CONFIGS
from callboard.actors.groups.coordinator import EARLY_MS, RETRY_MS, RETRY_SHARE, Coordinator
from callboard.actors.groups.events import GroupRequest
from callboard.actors.groups.naming import partition_of
from callboard.actors.lifecycle import Fail
from callboard.config import Limits
from callboard.errors import CallboardError, ErrorCode
from callboard.model import OFFSETS_TOPIC
from callboard.testing.loop import SimClock
from callboard.testing.simulated import METADATA_ENDPOINT, end_of_session
from callboard.transport import group_messages as said
from callboard.transport import messages as m

from .grouped import GROUP, RETRIED, Grouped
from .sim import find, produce


@pytest.fixture
def grouped():
    return Grouped()


# -- the topic ---------------------------------------------------------------------------------------


def test_the_first_who_asks_for_a_coordinator_has_the_topic_made(grouped):
    first = grouped.found()
    assert (first.error, first.broker_id) == (ErrorCode.COORDINATOR_NOT_AVAILABLE, -1)
    assert first.detail == "__consumer_offsets is being created"

    broker = grouped.coordinator()

    topic = grouped.cluster.ask(
        grouped.cluster.client_endpoint(1), m.MetadataRequest(topics=[OFFSETS_TOPIC], include_internal=True)
    ).topics[0]
    assert topic.is_internal
    assert [len(partition.replicas) for partition in topic.partitions] == [3, 3]
    assert topic.configs["cleanup_policy"] == "compact"
    assert topic.partitions[partition_of(GROUP, 2)].leader == broker
    assert [one.name for one in grouped.cluster.metadata().topics] == ["orders"], "hidden unless asked for"


def test_every_broker_names_the_same_coordinator(grouped):
    broker = grouped.coordinator()

    grouped.cluster.loop.advance(1_000)

    assert {grouped.found(broker=one).broker_id for one in grouped.live} == {broker}


def test_the_topic_waits_for_as_many_brokers_as_it_is_to_have_replicas(grouped):
    grouped.cluster.crash("broker-3")
    grouped.cluster.loop.advance(2_000)

    for _ in range(5):
        entry = grouped.found()
        grouped.cluster.loop.advance(1_000)

    assert entry.error == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert entry.detail == "__consumer_offsets is to have 3 replicas and waits for as many brokers; 2 live"
    grouped.cluster.restart("broker-3")
    assert grouped.coordinator()


def test_a_client_can_neither_write_to_the_topic_nor_delete_from_it(grouped):
    grouped.join()
    topic = grouped.cluster.ask(grouped.cluster.client_endpoint(1), m.MetadataRequest(topics=[OFFSETS_TOPIC])).topics[0]
    leader = topic.partitions[0].leader

    refused = produce(grouped.cluster, topic, [b"forged"], broker=leader)
    entry = m.DeleteRecordsEntry(topic_id=topic.topic_id, partition=0, before_offset=-1)
    deleted = grouped.cluster.ask(grouped.cluster.client_endpoint(leader), m.DeleteRecordsRequest(entries=[entry]))
    created = grouped.cluster.ask(
        grouped.cluster.client_endpoint(1), m.CreateTopicsRequest(topics=[m.NewTopic(name=OFFSETS_TOPIC)])
    )

    assert refused.error == ErrorCode.INVALID_TOPIC
    assert refused.detail == "the topic is the cluster's own: it may be read, not written"
    assert deleted.error == ErrorCode.INVALID_TOPIC
    assert getattr(created, "topics", [created])[0].error in (ErrorCode.INVALID_TOPIC, ErrorCode.NOT_CONTROLLER)


def test_asking_for_metadata_of_an_internal_name_does_not_create_it():
    grouped = Grouped(1, broker={"auto_create_topics": True})

    for name in (OFFSETS_TOPIC, "__mine", "mine"):
        request = m.MetadataRequest(topics=[name], allow_auto_create=True)
        grouped.cluster.ask(grouped.cluster.client_endpoint(1), request)
    grouped.cluster.loop.advance(3_000)

    names = grouped.cluster.ask(grouped.cluster.client_endpoint(1), m.MetadataRequest(include_internal=True)).topics
    assert sorted(topic.name for topic in names) == ["mine", "orders"]


# -- serving -----------------------------------------------------------------------------------------


def test_a_lone_member_gets_everything_with_its_first_heartbeat(grouped):
    reply = grouped.join()

    assert (reply.error, reply.is_complete) == (0, True)
    assert [(one.topic, one.partitions) for one in reply.assignment] == [("orders", [0, 1, 2, 3])]


def test_a_commit_is_read_back(grouped):
    epoch = grouped.join().member_epoch

    reply = grouped.ask(grouped.commit(41, partition=2, member="a", epoch=epoch))

    assert (reply.error, reply.entries) == (0, []), "none is refused"
    assert grouped.committed() == {2: 41}


def test_another_broker_says_that_it_is_not_the_coordinator(grouped):
    broker = grouped.coordinator()
    other = next(one for one in grouped.live if one != broker)
    grouped.cluster.loop.advance(1_000)

    reply = grouped.ask(grouped.heartbeat("a", 0, topics=["orders"]), other)

    assert reply.error == ErrorCode.NOT_COORDINATOR
    assert reply.detail == f"broker {broker} coordinates these groups"


def test_before_there_is_any_coordinator_requests_are_refused(grouped):
    endpoint = grouped.cluster.client_endpoint(1)

    heartbeat = grouped.cluster.ask(endpoint, grouped.heartbeat("a", 0, topics=["orders"]))
    listed = grouped.cluster.ask(endpoint, said.ListGroupsRequest())
    described = grouped.cluster.ask(endpoint, said.DescribeGroupsRequest(group_ids=["b", "a"]))

    assert heartbeat.error == ErrorCode.NOT_COORDINATOR
    assert (listed.groups, listed.loading) == ([], [])
    assert [(one.group_id, one.error) for one in described.groups] == [
        ("b", ErrorCode.NOT_COORDINATOR),
        ("a", ErrorCode.NOT_COORDINATOR),
    ]


@pytest.mark.parametrize("group", ["", "x" * 250])
def test_a_group_id_that_is_none_is_refused_by_name(grouped, group):
    grouped.coordinator()

    assert grouped.found(group).error == ErrorCode.INVALID_GROUP_ID
    reply = grouped.ask(said.GroupHeartbeatRequest(group_id=group, member_id="a", topics=["orders"]))
    assert reply.error == ErrorCode.INVALID_GROUP_ID


def test_groups_of_several_coordinators_are_listed_and_described_in_one_request():
    grouped = Grouped(1)
    grouped.coordinator()
    names = [f"group-{number}" for number in range(6)]
    assert {partition_of(name, 2) for name in names} == {0, 1}
    for name in names:
        grouped.until_answered(said.OffsetCommitRequest(group_id=name, entries=[grouped.entry(0, 7)]))

    listed = grouped.ask(said.ListGroupsRequest())
    described = grouped.ask(said.DescribeGroupsRequest(group_ids=[*reversed(names), "none", names[0]]))
    deleted = grouped.ask(said.DeleteGroupsRequest(group_ids=[names[3], "none", names[0]]))

    assert [one.group_id for one in listed.groups] == names
    assert [(one.group_id, one.error) for one in described.groups] == [
        *((name, 0) for name in reversed(names)),
        ("none", ErrorCode.GROUP_ID_NOT_FOUND),
        (names[0], 0),
    ]
    assert [(one.name, one.error) for one in deleted.results] == [
        (names[3], 0),
        ("none", ErrorCode.GROUP_ID_NOT_FOUND),
        (names[0], 0),
    ]
    assert len(grouped.ask(said.ListGroupsRequest()).groups) == 4


def test_a_parked_heartbeat_is_answered_when_there_is_news_for_its_member(grouped):
    first = grouped.join("a")
    endpoint = grouped.cluster.client_endpoint(grouped.coordinator())
    told = in_background(grouped, endpoint, grouped.heartbeat("a", first.member_epoch, max_wait_ms=60_000))
    grouped.cluster.loop.advance(500)
    assert not told

    grouped.join("b")

    grouped.cluster.run_until(lambda: told, timeout_ms=100)
    assert [one.partitions for one in told[0].assignment] == [[0, 1]], "the rest is to be given back"


def in_background(grouped, endpoint, request):
    """Ask, and return the list that the reply will be put into."""
    cluster, told = grouped.cluster, []
    context = cluster.processes[f"broker-{grouped.live[0]}"].context
    connection = context.transport.connect(endpoint, client_id="background", on_state=lambda _: None)
    connection.request(request, lambda reply, _: told.append(reply), timeout_ms=120_000)
    return told


def test_parked_heartbeats_do_not_keep_commits_out_and_are_bounded_themselves():
    grouped = Grouped(1, limits=Limits(requests_waiting=3))
    epochs = [grouped.join(name).member_epoch for name in "abc"]
    for name in "abc":  # until nothing is new to them
        owned = [said.TopicPartitions(topic="orders", topic_id=grouped.orders.topic_id, partitions=[])]
        grouped.ask(grouped.heartbeat(name, epochs[0], owned=owned if name == "a" else None))
    endpoint = grouped.cluster.client_endpoint(1)
    members = {
        one.member_id: one for one in grouped.ask(said.DescribeGroupsRequest(group_ids=[GROUP])).groups[0].members
    }
    parked = [
        in_background(grouped, endpoint, grouped.heartbeat(name, members[name].member_epoch, max_wait_ms=60_000))
        for name in "abc"
    ]
    grouped.cluster.loop.advance(10)
    assert parked == [[], [], []]

    refused = grouped.ask(grouped.heartbeat("d", 0, topics=["orders"], assignors=["range"]))
    taken = grouped.ask(grouped.commit(1, member="a", epoch=members["a"].member_epoch))

    assert refused.error == ErrorCode.OVERLOADED
    assert taken.error != ErrorCode.OVERLOADED


STRANGE = {
    str: ["", "a", "orders", GROUP, "x" * 300, "\0", "…"],
    int: [0, 1, -1, -2, -3, 7, (1 << 31) - 1, 1 << 31, (1 << 63) - 1, -(1 << 63)],
    bool: [True, False],
}


@pytest.mark.parametrize("seed", range(6))
def test_no_request_ends_a_coordinator(seed):
    grouped = Grouped(1, seed=seed)
    grouped.join("a")
    actor, chance = grouped.actor(), random.Random(seed)
    kinds = [kind for kind in GroupRequest.__args__ if kind is not said.ListGroupsRequest]

    for _ in range(300):
        fields = strange_fields(chance, chance.choice(kinds))
        with contextlib.suppress(CallboardError):  # refused before it was sent, or without an answer in time
            grouped.ask(fields, 1)

    assert grouped.actor() is actor
    assert actor.state == "running"


def strange_fields(chance, kind):
    """Return a request, or a part of one, whose fields are of the right types and say anything."""
    values = {}
    for field in msgspec.structs.fields(kind):
        if field.name not in ("id", "v", "deadline_ms", "max_wait_ms") and (field.required or chance.random() < 0.7):
            values[field.name] = strange(chance, field.type)
    return kind(**values)


def strange(chance, kind):
    kind = getattr(kind, "__origin__", kind) if get_origin(kind) is Annotated else kind
    if get_origin(kind) is list:
        return [strange(chance, get_args(kind)[0]) for _ in range(chance.choice((0, 1, 1, 2, 5)))]
    if choices := [one for one in get_args(kind) if one is not type(None)]:
        return None if chance.random() < 0.2 else strange(chance, choices[0])
    return chance.choice(STRANGE[kind]) if kind in STRANGE else strange_fields(chance, kind)


def test_new_partitions_reach_the_members_at_once(grouped):
    epoch = grouped.join("a").member_epoch
    endpoint = grouped.cluster.client_endpoint(grouped.coordinator())
    told = in_background(grouped, endpoint, grouped.heartbeat("a", epoch, max_wait_ms=60_000))
    controller = grouped.cluster.client_endpoint(grouped.cluster.metadata().controller_id)

    more = m.NewPartitions(name="orders", count=6)
    grouped.cluster.ask(controller, m.CreatePartitionsRequest(topics=[more]))

    grouped.cluster.run_until(lambda: told, timeout_ms=1_000)
    assert [one.partitions for one in told[0].assignment] == [[0, 1, 2, 3, 4, 5]]


def test_the_tree_says_how_many_groups_a_coordinator_has():
    grouped = Grouped(1)
    grouped.join()

    tree = grouped.ask(m.DescribeTreeRequest()).tree

    coordinators = next(child for child in tree.children if child.address == "broker-1/coordinators")
    roles = {child.address: child.role for child in coordinators.children}
    own = partition_of(GROUP, 2)
    assert roles == {
        f"broker-1/coordinators/{own}": "1 group",
        f"broker-1/coordinators/{1 - own}": "0 groups",
    }
    assert [child.address.rpartition("/")[2] for child in tree.children][-4:] == [
        "coordinators",
        "groups",
        "peers",
        "router",
    ]


# -- failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("power_loss", [False, True])
def test_the_next_coordinator_has_the_members_and_what_was_committed(grouped, power_loss):
    epoch = grouped.join("a").member_epoch
    assert grouped.ask(grouped.commit(41, member="a", epoch=epoch)).error == 0
    before = grouped.coordinator()

    grouped.cluster.crash(f"broker-{before}", power_loss=power_loss)

    assert grouped.committed() == {0: 41}
    assert grouped.coordinator() != before
    reply = grouped.until_answered(grouped.heartbeat("a", epoch))
    assert (reply.error, reply.member_epoch) == (0, epoch), "it is a member still, and keeps its partitions"
    assert grouped.until_answered(grouped.commit(42, member="a", epoch=epoch)).error == 0


@pytest.mark.parametrize("seed", range(8))
def test_an_acknowledged_commit_never_goes_back_whoever_coordinates(seed):
    grouped = Grouped(seed=seed)
    epoch = grouped.join("a").member_epoch
    acknowledged = -1
    for number in range(12):
        reply = grouped.until_answered(grouped.commit(number, member="a", epoch=epoch))
        assert (reply.error, reply.entries) == (0, [])
        acknowledged = number
        if number % 3 == 2:
            broker = grouped.coordinator()
            grouped.cluster.crash(f"broker-{broker}", power_loss=number % 2 == 0)
            assert grouped.committed()[0] >= acknowledged
            grouped.cluster.restart(f"broker-{broker}")
            grouped.cluster.loop.advance(5_000)

    assert grouped.committed() == {0: acknowledged}


def test_what_compaction_leaves_is_loaded(monkeypatch):
    monkeypatch.setitem(CONFIGS, "segment_bytes", 1_024)
    grouped = Grouped(1, broker={"compaction_check_ms": 1_000, "checkpoint_ms": 200})
    epoch = grouped.join("a").member_epoch
    for number in range(200):
        assert grouped.ask(grouped.commit(number, partition=number % 3, member="a", epoch=epoch)).error == 0
    log = grouped.offsets_leader(1).log
    before = log.size_bytes
    grouped.cluster.run_until(lambda: log.size_bytes < before / 4)

    grouped.actor(1).actor_ref.post(Fail())

    grouped.cluster.run_until(lambda: grouped.actor(1) is None)
    assert grouped.committed() == {0: 198, 1: 199, 2: 197}
    assert grouped.until_answered(grouped.heartbeat("a", epoch)).error == 0


def test_nothing_is_answered_from_what_is_not_loaded_yet(grouped):
    grouped.join("a")
    assert grouped.until_answered(grouped.commit(41, member="a", epoch=1)).error == 0
    broker = grouped.coordinator()
    others = [one for one in grouped.live if one != broker]
    # cut off from its followers it can append nothing: so it does not know what is committed
    for other in others:
        grouped.cluster.kill(f"broker-{other}")
    ref = find(grouped.cluster, f"coordinators/{partition_of(GROUP, 2)}", f"broker-{broker}")
    ref.post(Fail())
    grouped.cluster.run_until(lambda: (one := grouped.actor(broker)) is not None and one is not ref.actor)
    grouped.cluster.loop.advance(100)

    replies = [
        grouped.ask(grouped.commit(42), broker),
        grouped.ask(said.OffsetFetchRequest(group_id=GROUP), broker),
        grouped.ask(grouped.heartbeat("a", 1), broker),
        grouped.ask(said.DescribeGroupsRequest(group_ids=[GROUP]), broker).groups[0],
    ]

    assert [reply.error for reply in replies] == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS] * 4
    assert grouped.ask(said.ListGroupsRequest(), broker).loading
    assert grouped.actor(broker).describe().role.startswith("loading")


def until_loading(grouped, broker):
    """Have the coordinator fail, and return when another one loads."""
    ref = grouped.actor(broker).actor_ref
    ref.post(Fail())
    grouped.cluster.run_until(lambda: (one := grouped.actor(broker)) is not None and one is not ref.actor)
    assert grouped.actor(broker).describe().role == "loading"


def test_a_heartbeat_that_comes_while_its_coordinator_loads_waits_and_is_not_refused(grouped):
    epoch = grouped.join("a").member_epoch
    broker = grouped.coordinator()
    endpoint = grouped.cluster.client_endpoint(broker)
    until_loading(grouped, broker)

    lives = in_background(grouped, endpoint, grouped.heartbeat("a", epoch))
    joins = in_background(grouped, endpoint, grouped.heartbeat("b", 0, topics=["orders"], assignors=["range"]))
    grouped.cluster.run_until(lambda: lives and joins)

    assert [reply.error for reply in (*lives, *joins)] == [0, 0]


@pytest.mark.parametrize(("shortest_session_ms", "waits_ms"), [(1_000, EARLY_MS), (300, 30)])
def test_a_heartbeat_waits_for_the_end_of_loading_only_so_long(shortest_session_ms, waits_ms):
    """Its member must not take the coordinator for silent."""
    grouped = Grouped(broker={"group_session_timeout_ms_min": shortest_session_ms})
    epoch = grouped.join("a").member_epoch
    broker = grouped.coordinator()
    endpoint = grouped.cluster.client_endpoint(broker)
    for other in grouped.live:
        if other != broker:
            grouped.cluster.kill(f"broker-{other}")
    until_loading(grouped, broker)

    told = in_background(grouped, endpoint, grouped.heartbeat("a", epoch))
    grouped.cluster.loop.advance(waits_ms - 10)
    assert told == []
    grouped.cluster.loop.advance(20)

    assert [reply.error for reply in told] == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]


def test_what_keeps_a_coordinator_from_loading_is_noticed_to_be_over_by_a_part_of_what_it_took(grouped, monkeypatch):
    grouped.join("a")
    broker = grouped.coordinator()
    clock, times = SimClock(grouped.cluster.loop).monotonic_ms, []
    load = Coordinator._load
    monkeypatch.setattr(Coordinator, "_load", lambda self: (times.append(clock()), load(self)))
    for other in grouped.live:
        if other != broker:
            grouped.cluster.crash(f"broker-{other}")
    grouped.cluster.run_until(lambda: len(grouped.offsets_leader(broker).part.rules.isr) == 1)
    times.clear()
    grouped.actor(broker).actor_ref.post(Fail())

    grouped.cluster.loop.advance(4_000)

    pauses = [(after - before, before - times[0]) for before, after in pairwise(times)]
    assert len(times) > 10
    assert all(pause <= max(RETRY_MS, waited // RETRY_SHARE) + 5 for pause, waited in pauses), pauses


def test_an_append_that_fails_is_forgotten_and_everything_is_loaded_again(grouped):
    epoch = grouped.join("a").member_epoch
    assert grouped.until_answered(grouped.commit(41, member="a", epoch=epoch)).error == 0
    broker = grouped.coordinator()
    others = [one for one in grouped.live if one != broker]
    for other in others:
        grouped.cluster.crash(f"broker-{other}")
    grouped.cluster.run_until(lambda: len(grouped.offsets_leader(broker).part.rules.isr) == 1)

    refused = grouped.ask(grouped.commit(42, member="a", epoch=epoch), broker)

    assert refused.error == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    assert "NOT_ENOUGH_REPLICAS" in refused.detail
    for other in others:
        grouped.cluster.restart(f"broker-{other}")
    assert grouped.committed() == {0: 41}
    reply = grouped.until_answered(grouped.commit(43, member="a", epoch=epoch))
    assert reply.error == 0, "the member is known as before"
    assert grouped.committed() == {0: 43}


def test_a_coordinator_that_fails_is_restarted_and_loads(grouped):
    epoch = grouped.join("a").member_epoch
    assert grouped.until_answered(grouped.commit(41, member="a", epoch=epoch)).error == 0
    broker = grouped.coordinator()
    endpoint = grouped.cluster.client_endpoint(broker)
    told = in_background(grouped, endpoint, grouped.heartbeat("a", epoch, max_wait_ms=60_000))
    grouped.cluster.loop.advance(100)

    find(grouped.cluster, f"coordinators/{partition_of(GROUP, 2)}", f"broker-{broker}").post(Fail())

    grouped.cluster.run_until(lambda: told, timeout_ms=100)
    assert told[0].error == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, "who waited is told at once"
    assert grouped.committed() == {0: 41}
    assert grouped.coordinator() == broker
    assert grouped.until_answered(grouped.heartbeat("a", epoch)).error == 0


def test_a_coordinator_past_its_limit_has_another_broker_lead(grouped):
    epoch = grouped.join("a").member_epoch
    assert grouped.until_answered(grouped.commit(41, member="a", epoch=epoch)).error == 0
    broker = grouped.coordinator()

    for _ in range(20):
        actor = grouped.actor(broker)
        if actor is not None:
            actor.fail("message", RuntimeError("planted"))
        grouped.cluster.loop.advance(1_000)
        if grouped.found().broker_id not in (-1, broker):
            break

    assert grouped.coordinator() != broker
    assert grouped.committed() == {0: 41}


def test_who_hosts_coordinators_can_fail_without_disturbing_them(grouped):
    grouped.join("a")
    broker = grouped.coordinator()
    actor = grouped.actor(broker)
    router = find(grouped.cluster, "router", f"broker-{broker}")

    find(grouped.cluster, "groups", f"broker-{broker}").post(Fail())
    grouped.cluster.run_until(lambda: find(grouped.cluster, "router", f"broker-{broker}") not in (None, router))

    assert grouped.until_answered(grouped.heartbeat("a", 1)).error == 0
    assert grouped.actor(broker) is actor


def test_a_deposed_coordinator_acknowledges_nothing(grouped):
    """It hears nothing of its end, and goes on believing: what it appends is fenced by its leader epoch."""
    epoch = grouped.join("a").member_epoch
    assert grouped.until_answered(grouped.commit(41, member="a", epoch=epoch)).error == 0
    old = grouped.coordinator()
    process, endpoint = grouped.cluster.processes[f"broker-{old}"], grouped.cluster.client_endpoint(old)
    process.context.directory.find(f"broker-{old}/metadata").actor.mailbox.replace_drain(lambda: None)
    grouped.cluster.ask(METADATA_ENDPOINT, end_of_session(process))
    elsewhere = next(one for one in grouped.live if one != old)
    grouped.cluster.run_until(lambda: grouped.found(broker=elsewhere).broker_id not in (-1, old))
    new = grouped.found(broker=elsewhere).broker_id

    told = [in_background(grouped, endpoint, grouped.commit(42, member="a", epoch=epoch))]
    grouped.cluster.run_until(lambda: grouped.ask(grouped.heartbeat("a", epoch), new).error not in RETRIED)
    assert grouped.ask(grouped.commit(50, member="a", epoch=epoch), new).error == 0
    told += [in_background(grouped, endpoint, grouped.heartbeat("late", 0, topics=["orders"], assignors=["range"]))]
    grouped.cluster.loop.advance(30_000)

    assert None not in (grouped.actor(old), grouped.actor(new)), "there are two of them"
    assert [[reply.error for reply in some] for some in told] == [[ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]] * 2
    assert grouped.committed(new) == {0: 50}
