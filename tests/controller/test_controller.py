"""The controller at work: over a real metadata actor and real clients, in virtual time."""

from dataclasses import replace

import msgspec
import pytest

from callboard.actors.controller.controller import ACTIVE, STANDBY
from callboard.actors.metadata.client import SessionLost, SessionOpened
from callboard.actors.metadata.documents import NO_LEADER
from callboard.actors.runtime import Fail
from callboard.config import BrokerSettings
from callboard.errors import ErrorCode
from callboard.model import PartitionKey
from callboard.testing.metadata_cluster import ENDPOINT, MetadataCluster
from callboard.transport import messages as m


@pytest.fixture
def cluster():
    return MetadataCluster().start(brokers=3)


def roles(cluster):
    return sorted(one.controller.role for one in cluster.brokers.values() if one.controller_ref.is_alive())


def leaders(image):
    return [partition.leader for _, partition in sorted(image.partitions())]


def end_session(cluster, broker_id):
    """What the host does when it has seen a broker die."""
    return cluster.ask_store(m.EndSessionRequest(name=f"broker-{broker_id}"))


def test_one_controller_is_active_and_the_others_stand_by(cluster):
    assert roles(cluster) == [ACTIVE, STANDBY, STANDBY]
    assert cluster.image.controller_id == cluster.active.broker_id
    assert cluster.image.lease.controller_epoch == cluster.active.controller.controller_epoch == 1


def test_it_stays_active_while_it_renews(cluster):
    first = cluster.active

    cluster.advance(60_000)

    assert cluster.active is first
    assert cluster.image.lease.controller_epoch == 1


def test_a_created_topic_is_durable_when_it_is_answered(cluster):
    wish = m.NewTopic(name="orders", num_partitions=6)

    reply = cluster.ask_controller(m.CreateTopicsRequest(topics=[wish]))

    assert reply.topics[0].error == 0
    assert reply.version == cluster.disk.version
    assert sorted(leaders(cluster.image)) == [1, 1, 2, 2, 3, 3]


def test_every_broker_sees_it(cluster):
    cluster.create_topic("orders", 3)
    cluster.settle()

    assert [one.image.topic_named("orders").document.partitions for one in cluster.brokers.values()] == [3, 3, 3]


def test_who_stands_by_says_who_is_the_controller(cluster):
    other = next(one for one in cluster.brokers.values() if one is not cluster.active)

    replies = cluster.command(other.broker_id, m.CreateTopicsRequest(topics=[m.NewTopic(name="a")]))
    cluster.settle()

    assert replies[0].error == ErrorCode.NOT_CONTROLLER
    assert f"broker {cluster.active.broker_id} is the controller" in replies[0].detail


def test_one_commit_moves_everything_away_from_a_broker_that_died(cluster):
    cluster.create_topic("orders", 30, 3)
    victim = next(one for one in cluster.brokers.values() if one is not cluster.active)
    cluster.settle()
    victim.die()
    version = cluster.disk.version
    started_ms = cluster.clock.monotonic_ms()

    end_session(cluster, victim.broker_id)
    cluster.run_until(lambda: victim.broker_id not in leaders(cluster.image))

    assert cluster.disk.version == version + 2  # the end of the session, and one commit
    assert cluster.clock.monotonic_ms() - started_ms <= 5
    for _, partition in cluster.image.partitions():
        assert victim.broker_id not in partition.isr
        assert partition.leader in partition.isr
    cluster.settle()
    assert cluster.disk.version == version + 2


def test_a_silent_broker_is_found_dead_after_its_timeout_and_not_before(cluster):
    cluster.create_topic("orders", 3, 3)
    victim = next(one for one in cluster.brokers.values() if one is not cluster.active)
    victim.die()

    cluster.advance(1_200)
    assert victim.broker_id in leaders(cluster.image)

    cluster.advance(400)
    assert victim.broker_id not in leaders(cluster.image)


def test_another_takes_over_when_the_controllers_broker_dies_and_moves_its_partitions(cluster):  # F8
    cluster.create_topic("orders", 6, 3)
    victim = cluster.active
    victim.die()
    started_ms = cluster.clock.monotonic_ms()

    end_session(cluster, victim.broker_id)
    cluster.run_until(lambda: victim.broker_id not in leaders(cluster.image))

    assert cluster.clock.monotonic_ms() - started_ms <= 10
    assert cluster.image.lease.controller_epoch == 2
    assert cluster.active is not victim


def test_a_broker_that_comes_back_leads_its_own_partitions_again(cluster):
    cluster.create_topic("orders", 3, 1)
    victim = next(one for one in cluster.brokers.values() if one is not cluster.active)
    cluster.settle()
    victim.die()
    end_session(cluster, victim.broker_id)
    cluster.settle()
    assert NO_LEADER in leaders(cluster.image)

    again = cluster.start_broker(victim.broker_id)
    cluster.settle()

    led = [one for _, one in cluster.image.partitions() if one.leader == again.broker_id]
    assert [(one.leader_epoch, one.leader_incarnation) for one in led] == [(2, again.incarnation)]


def test_a_deposed_controller_changes_nothing_and_stands_by(cluster):  # B26, F9
    old = cluster.active
    cluster.create_topic("before")
    cluster.settle()
    # Nobody hears what happens in the store: the old controller believes to be the one.
    cluster.network.drop_next(lambda message: isinstance(message, m.StoreDeltaReply), 100)
    other = next(one for one in cluster.brokers.values() if one is not old)
    cluster.ask_store(m.ResignRequest(controller_epoch=1, name=old.name))
    granted = cluster.ask_store(m.CampaignRequest(name=other.name, incarnation=other.incarnation))
    assert granted.controller_epoch == 2
    assert old.controller.role == ACTIVE

    replies = cluster.command(old.broker_id, m.CreateTopicsRequest(topics=[m.NewTopic(name="after")]))
    cluster.settle()

    assert replies[0].error == ErrorCode.NOT_CONTROLLER
    assert old.controller.role == STANDBY
    assert cluster.image.topic_named("after") is None


def gone(name="nowhere"):
    return m.DeleteTopicsRequest(names=[name])


def test_past_its_lease_it_decides_nothing_not_even_a_refusal(cluster):
    """A refusal is compared by no store: another controller may know better by now."""
    active = cluster.active
    active.controller._lease_until_ms = cluster.clock.monotonic_ms()  # as after a pause

    replies = cluster.command(active.broker_id, gone())
    cluster.advance(1)
    assert replies == []

    cluster.advance(2_000)
    assert len(replies) == 1


def test_a_picture_from_before_the_grant_decides_nothing(cluster):
    cluster.settle()
    controller = cluster.active.controller
    now = controller._image
    controller._image = replace(now, lease=msgspec.structs.replace(now.lease, controller_epoch=0))

    replies = cluster.command(cluster.active.broker_id, gone())
    cluster.advance(1)
    assert replies == []

    controller._image = now
    cluster.command(cluster.active.broker_id, gone())  # wakes it
    cluster.advance(1)
    assert [one.topics[0].error for one in replies] == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


def test_what_it_has_just_committed_is_known_to_the_next_command(cluster):
    active = cluster.active
    cluster.network.drop_next(lambda message: isinstance(message, m.StoreDeltaReply), 3)  # one for each broker
    cluster.command(active.broker_id, m.CreateTopicsRequest(topics=[m.NewTopic(name="new")]))
    cluster.advance(5)
    assert cluster.disk.version > active.image.version

    replies = cluster.command(active.broker_id, gone("new"))
    cluster.advance(2_000)

    assert [one.topics[0].error for one in replies] == [0]


def test_a_controller_that_cannot_renew_stands_by_at_the_end_of_its_lease(cluster):  # F26
    cluster.network.cut(ENDPOINT, is_silent=True)

    cluster.advance(2_100)

    assert ACTIVE not in roles(cluster)


def test_the_brokers_keep_their_picture_and_come_back_when_the_metadata_process_does(cluster):  # F26
    cluster.create_topic("orders", 3)
    cluster.settle()
    lives = {one.broker_id: one.incarnation for one in cluster.brokers.values()}
    epochs = [one.leader_epoch for _, one in cluster.image.partitions()]
    cluster.kill_metadata()

    cluster.advance(5_000)
    for broker in cluster.brokers.values():
        assert broker.image.topic_named("orders") is not None
        assert broker.image.leader_of(
            broker.image.partition(PartitionKey(broker.image.topic_named("orders").topic_id, 0))
        )

    cluster.start_metadata()
    cluster.run_until(lambda: cluster.active is not None)
    cluster.advance(3_000)

    assert {one.broker_id: one.incarnation for one in cluster.brokers.values()} == lives
    assert {id_: session.incarnation for id_, session in cluster.image.brokers.items()} == lives
    assert [one.leader_epoch for _, one in cluster.image.partitions()] == epochs, "no election was needed"
    assert not [one for broker in cluster.brokers.values() for one in broker.probe.all_of(SessionLost)]
    cluster.create_topic("more")


def test_a_metadata_process_restarted_at_once_keeps_the_controller(cluster):
    active = cluster.active
    cluster.kill_metadata()
    cluster.start_metadata()

    cluster.advance(5_000)

    assert cluster.active is active


def test_a_commit_whose_outcome_is_unknown_is_answered_as_such_and_found_afterwards(cluster):
    def die():
        cluster.disk.after_write = None
        cluster.kill_metadata()

    cluster.disk.after_write = die
    replies = cluster.command(cluster.active.broker_id, m.CreateTopicsRequest(topics=[m.NewTopic(name="orders")]))
    cluster.run_until(lambda: replies)

    assert replies[0].error == ErrorCode.STORE_UNAVAILABLE  # the outcome is unknown, and it did happen
    cluster.start_metadata()
    cluster.run_until(lambda: cluster.active is not None)
    cluster.settle()
    assert cluster.image.topic_named("orders") is not None
    assert cluster.active.image.topic_named("orders") is not None


def test_a_commit_that_failed_on_the_disk_did_not_happen(cluster):
    def full():
        cluster.disk.before_write = None
        raise OSError("no space left")

    cluster.disk.before_write = full
    replies = cluster.command(cluster.active.broker_id, m.CreateTopicsRequest(topics=[m.NewTopic(name="orders")]))
    cluster.run_until(lambda: replies)
    assert replies[0].error == ErrorCode.STORE_UNAVAILABLE

    cluster.start_metadata()
    cluster.run_until(lambda: cluster.active is not None)
    cluster.settle()
    assert cluster.image.topic_named("orders") is None


def test_commands_that_come_together_share_commits(cluster):
    groups = cluster.disk.groups
    active = cluster.active.broker_id

    replies = [
        cluster.command(active, m.CreateTopicsRequest(topics=[m.NewTopic(name=f"t{number}")])) for number in range(50)
    ]
    cluster.run_until(lambda: all(replies))

    assert all(one[0].topics[0].error == 0 for one in replies)
    assert len(cluster.image.topics) == 50
    assert cluster.disk.groups - groups <= 3


def test_a_commit_that_was_overtaken_is_decided_anew(cluster):
    """The picture that a decision was made on may be behind the store: refused, looked at again, done."""
    cluster.create_topic("orders")
    cluster.settle()
    active = cluster.active
    topic = cluster.image.topic_named("orders")
    # Somebody with the controller's epoch changes the topic; the controller does not hear of it yet.
    cluster.network.drop_next(lambda message: isinstance(message, m.StoreDeltaReply), 3)
    put = m.Put(
        key=f"topic/{topic.topic_id}",
        value={"name": "orders", "partitions": 1, "configs": {"flush": "os"}},
        if_version=topic.version,
    )
    assert cluster.ask_store(m.StoreCommitRequest(controller_epoch=1, puts=[put])).error == 0

    change = m.TopicConfigChange(name="orders", set={"segment_ms": 9_000})
    replies = cluster.command(active.broker_id, m.AlterTopicsRequest(topics=[change]))
    cluster.run_until(lambda: replies, timeout_ms=60_000)

    assert replies[0].topics[0].error == 0
    cluster.settle()
    assert cluster.image.topic_named("orders").document.configs == {"flush": "os", "segment_ms": 9_000}


def test_a_restarted_controller_takes_the_lease_again_under_a_new_epoch(cluster):
    broker = cluster.active
    broker.controller_ref.post(Fail("raise"))
    cluster.settle()
    assert not broker.controller_ref.is_alive()

    broker.start_controller(cluster.config)
    cluster.settle()

    assert broker.controller.role == ACTIVE
    assert cluster.image.lease.controller_epoch == 2
    cluster.create_topic("orders")


def test_who_waits_for_a_controller_that_fails_is_answered(cluster):
    active = cluster.active
    replies = cluster.command(active.broker_id, m.CreateTopicsRequest(topics=[m.NewTopic(name="a")]))
    active.controller_ref.post(Fail("raise"))

    cluster.settle()

    assert [reply.error for reply in replies] in ([ErrorCode.INTERNAL], [ErrorCode.NOT_CONTROLLER])


def test_a_broker_that_stops_cleanly_hands_over_at_once(cluster):
    cluster.create_topic("orders", 6, 3)
    leaving = cluster.active
    started_ms = cluster.clock.monotonic_ms()
    leaving.controller_ref.stop()
    cluster.settle(1)
    leaving.client_ref.stop()

    cluster.run_until(lambda: leaving.broker_id not in leaders(cluster.image) and cluster.active not in (None, leaving))

    assert cluster.clock.monotonic_ms() - started_ms <= 10


def test_a_command_past_its_deadline_is_not_carried_out(cluster):
    request = m.CreateTopicsRequest(topics=[m.NewTopic(name="late")], deadline_ms=1)
    cluster.advance(10)

    reply = cluster.ask_controller(request)

    assert reply.error == ErrorCode.REQUEST_TIMED_OUT
    assert cluster.image.topic_named("late") is None


def test_too_many_commands_are_refused(cluster, monkeypatch):
    monkeypatch.setattr("callboard.actors.controller.controller.COMMANDS_WAITING_MAX", 3)
    active = cluster.active.broker_id

    replies = [cluster.command(active, m.DeleteTopicsRequest(names=["x"])) for _ in range(5)]
    cluster.settle()

    assert [one[0].error for one in replies] == [0, 0, 0, ErrorCode.OVERLOADED, ErrorCode.OVERLOADED]


def test_a_restarted_replica_gets_a_new_epoch_from_the_controller(cluster):
    result = cluster.create_topic("orders", 1)
    ((_, partition),) = cluster.image.partitions()
    broker = cluster.brokers[partition.leader]

    reply = cluster.ask_controller(
        m.ReelectRequest(
            broker_id=broker.broker_id,
            incarnation=broker.incarnation,
            topic_id=result.topic_id,
            partition=0,
            leader_epoch=0,
        )
    )

    assert (reply.error, reply.leader_epoch) == (0, 1)
    assert cluster.image.partition(PartitionKey(result.topic_id, 0)).leader_epoch == 1


def test_the_cluster_creates_its_own_topics(cluster):
    request = m.CreateTopicsRequest(topics=[m.NewTopic(name="__consumer_offsets")])

    assert cluster.ask_controller(request).topics[0].error == ErrorCode.INVALID_TOPIC
    assert cluster.ask_controller(request, is_internal=True).topics[0].error == 0


def test_a_broker_whose_session_was_ended_comes_back_as_another_life(cluster):
    """Ended by mistake or cut off for long: it goes on, but everything it led is elected anew."""
    cluster.create_topic("orders", 3, 1)
    victim = next(one for one in cluster.brokers.values() if one is not cluster.active)
    cluster.settle()

    end_session(cluster, victim.broker_id)
    cluster.advance(1_000)

    assert len(victim.probe.all_of(SessionLost)) == 1
    assert victim.probe.all_of(SessionOpened)[-1].incarnation != victim.incarnation
    led = [one for _, one in cluster.image.partitions() if one.leader == victim.broker_id]
    assert [one.leader_epoch for one in led] == [2]
    assert cluster.image.leader_of(led[0]) == victim.broker_id


@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_of_events_one_epoch_has_one_controller_and_all_ends_well(seed):
    cluster = MetadataCluster(seed, shuffle=True).start(brokers=3)
    chance = cluster.context("chaos").random
    cluster.create_topic("orders", 6, 3)
    epochs = {}
    for _ in range(12):
        what = chance.choice(["kill broker", "end session", "kill metadata", "kill controller", "wait"])
        broker = cluster.brokers[chance.randint(1, 3)]
        if what == "kill broker":
            broker.die()
            if chance.random() < 0.5:
                cluster.loop.run_until_idle()
            cluster.start_broker(broker.broker_id)
        elif what == "end session" and cluster.metadata_ref.is_alive():
            end_session(cluster, broker.broker_id)
        elif what == "kill metadata":
            cluster.kill_metadata()
            cluster.advance(chance.randint(0, 3_000))
            cluster.start_metadata()
        elif what == "kill controller" and broker.controller_ref.is_alive():
            broker.controller_ref.post(Fail("raise"))
            cluster.loop.run_until_idle()
            broker.start_controller(cluster.config)
        cluster.advance(chance.choice([0, 1, 5, 100, 700, 2_000]))
        for one in cluster.brokers.values():
            epoch = one.controller.controller_epoch if one.controller_ref.is_alive() else -1
            if epoch > 0:
                life = (one.broker_id, id(one.controller))
                assert epochs.setdefault(epoch, life) == life, "two controllers in one epoch"

    cluster.advance(10_000)

    assert cluster.active is not None
    assert len(cluster.image.brokers) == 3
    for _, partition in cluster.image.partitions():
        assert cluster.image.leader_of(partition) != NO_LEADER
    cluster.create_topic("afterwards", 3)
    cluster.settle()
    assert {one.image.version for one in cluster.brokers.values()} == {cluster.disk.version}


# -- in-sync sets and elections by word ---------------------------------------------------------------------


def only(cluster):
    ((key, partition),) = cluster.image.partitions()
    return key, partition


def alter_isr(cluster, isr):
    """What the leader of the only partition asks for."""
    key, partition = only(cluster)
    leader = cluster.brokers[partition.leader]
    members = [m.IsrMember(broker_id=one, incarnation=cluster.image.incarnation_of(one)) for one in isr]
    entry = m.AlterPartitionEntry(
        topic_id=key.topic_id,
        partition=key.partition,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        isr=members,
    )
    request = m.AlterPartitionRequest(broker_id=leader.broker_id, incarnation=leader.incarnation, entries=[entry])
    return cluster.ask_controller(request)


def test_another_in_sync_set_is_durable_when_it_is_answered(cluster):
    cluster.create_topic("orders", 1, 3)
    _, partition = only(cluster)
    isr = [one for one in partition.replicas if one != partition.replicas[-1]]

    reply = alter_isr(cluster, isr)

    assert reply.version == cluster.disk.version
    assert (reply.entries[0].error, reply.entries[0].isr, reply.entries[0].partition_epoch) == (0, isr, 1)
    assert only(cluster)[1].isr == tuple(isr)


def test_a_deposed_controller_commits_no_in_sync_set(cluster):  # B26, B28
    cluster.create_topic("orders", 1, 3)
    old, (_, partition) = cluster.active, only(cluster)
    other = next(one for one in cluster.brokers.values() if one is not old)
    cluster.network.drop_next(lambda message: isinstance(message, m.StoreDeltaReply), 10)
    cluster.ask_store(m.ResignRequest(controller_epoch=1, name=old.name))
    cluster.ask_store(m.CampaignRequest(name=other.name, incarnation=other.incarnation))

    reply = alter_isr(cluster, [partition.leader])

    assert reply.error == ErrorCode.NOT_CONTROLLER
    assert only(cluster)[1].isr == partition.isr


def moved_away(cluster):
    """The partition's preferred leader has restarted its replica: another one leads."""
    key, partition = only(cluster)
    broker = cluster.brokers[partition.leader]
    cluster.ask_controller(
        m.ReelectRequest(
            broker_id=broker.broker_id,
            incarnation=broker.incarnation,
            topic_id=key.topic_id,
            partition=key.partition,
            leader_epoch=partition.leader_epoch,
        )
    )
    assert only(cluster)[1].leader != partition.leader
    return partition.leader


def test_leadership_goes_back_to_the_preferred_leader_after_a_while(cluster):
    cluster.create_topic("orders", 1, 3)
    preferred = moved_away(cluster)

    cluster.advance(cluster.config.broker.leader_rebalance_ms + 100)

    assert only(cluster)[1].leader == preferred
    epoch = only(cluster)[1].leader_epoch
    cluster.advance(3 * cluster.config.broker.leader_rebalance_ms)
    assert only(cluster)[1].leader_epoch == epoch, "and stays there"


def test_it_does_so_however_busy_the_controller_is(cluster):
    cluster.create_topic("orders", 1, 3)
    preferred = moved_away(cluster)
    until_ms = cluster.clock.monotonic_ms() + cluster.config.broker.leader_rebalance_ms + 100
    number = 0
    while cluster.clock.monotonic_ms() < until_ms:
        number += 1
        value = 1_000 + number
        change = m.TopicConfigChange(name="orders", set={"segment_ms": value})
        cluster.command(cluster.active.broker_id, m.AlterTopicsRequest(topics=[change]))
        cluster.advance(20)

    assert only(cluster)[1].leader == preferred


def test_by_hand_only_when_told_so():
    cluster = MetadataCluster(settings=BrokerSettings(leader_rebalance_ms=0, offsets_topic_ahead_ms=0)).start(brokers=3)
    cluster.create_topic("orders", 1, 3)
    preferred = moved_away(cluster)
    cluster.advance(60_000)
    assert only(cluster)[1].leader != preferred

    reply = cluster.ask_controller(m.ElectLeadersRequest())

    assert [(entry.topic, entry.error, entry.leader) for entry in reply.entries] == [("orders", 0, preferred)]
    assert only(cluster)[1].leader == preferred


def test_an_unclean_election_is_logged_as_an_error(cluster, caplog):
    cluster.create_topic("orders", 1, 3)
    _, partition = only(cluster)
    survivor = next(one for one in cluster.brokers if one != partition.leader)
    members = [one for one in partition.replicas if one != survivor]
    alter_isr(cluster, members)
    for broker_id in members:
        cluster.brokers[broker_id].die()
        end_session(cluster, broker_id)
    cluster.run_until(lambda: cluster.active is not None and cluster.active.broker_id == survivor)
    cluster.settle()
    assert only(cluster)[1].leader == NO_LEADER

    with caplog.at_level("INFO", logger="callboard"):
        reply = cluster.ask_controller(m.ElectLeadersRequest(election="unclean"))
        cluster.settle()

    assert (reply.entries[0].error, reply.entries[0].leader) == (0, survivor)
    assert only(cluster)[1].isr == (survivor,)
    (told,) = [record for record in caplog.records if "leader.elected_unclean" in record.getMessage()]
    assert told.levelname == "ERROR"
    assert "orders-0" in told.getMessage()
