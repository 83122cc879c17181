"""A broker's line to the metadata process: its session, its picture, producer ids, whatever the network does."""

import pytest

from callboard.actors.controller.image import ClusterImage
from callboard.actors.metadata.client import (
    Campaign,
    Commit,
    Committed,
    Granted,
    MetadataChanged,
    MetadataClient,
    NewProducerId,
    Refused,
    Reopen,
    SessionLost,
    SessionOpened,
    Subscribe,
    Unknown,
)
from callboard.actors.metadata.producer_ids import PRODUCER_IDS_BLOCK
from callboard.config import BrokerSettings
from callboard.errors import ErrorCode
from callboard.testing.metadata_cluster import ENDPOINT, MetadataCluster
from callboard.testing.probe import probe
from callboard.transport import messages as m


@pytest.fixture
def cluster():
    return MetadataCluster().start(brokers=2)


@pytest.fixture
def broker(cluster):
    """The one that is not the controller: it does nothing of its own."""
    return next(one for one in cluster.brokers.values() if one is not cluster.active)


def told(broker, message):
    broker.client_ref.post(message)


def ids(cluster, broker, count=1):
    replies = []
    for _ in range(count):
        told(broker, NewProducerId(replies.append))
    cluster.settle()
    return replies


def test_it_opens_its_session_and_keeps_it(cluster, broker):
    cluster.advance(30_000)

    assert [one.incarnation for one in broker.probe.all_of(SessionOpened)] == [broker.incarnation]
    assert broker.probe.all_of(SessionLost) == []
    assert cluster.image.incarnation_of(broker.broker_id) == broker.incarnation


def test_pictures_never_go_back_and_say_what_changed(cluster, broker):
    cluster.create_topic("a")
    cluster.create_topic("b")
    cluster.settle()

    pictures = broker.probe.all_of(MetadataChanged)

    versions = [picture.image.version for picture in pictures]
    assert versions == sorted(set(versions))
    assert pictures[0].keys is None
    topic = cluster.image.topic_named("b").topic_id
    assert pictures[-1].keys == {f"topic/{topic}", f"partition/{topic}/0"}


def test_who_subscribes_late_is_told_the_present(cluster, broker):
    cluster.create_topic("a")
    cluster.settle()
    late, with_sessions, function = probe(broker.context, "late"), probe(broker.context, "late2"), []

    told(broker, Subscribe(late.actor_ref))
    told(broker, Subscribe(with_sessions.actor_ref, with_sessions=True))
    told(broker, Subscribe(function.append))
    cluster.settle(1)

    assert [type(one) for one in late.told] == [MetadataChanged]
    assert [type(one) for one in with_sessions.told] == [SessionOpened, MetadataChanged], (
        "who it is, then what there is"
    )
    assert function[0].image.topic_named("a") is not None
    assert function[0].keys is None


def test_subscribers_that_have_ended_are_forgotten(cluster, broker):
    late = probe(broker.context, "late")
    told(broker, Subscribe(late.actor_ref))
    late.actor_ref.stop()
    cluster.create_topic("a")
    cluster.settle()

    assert all(one.subscriber is not late.actor_ref for one in broker.client._subscriptions)


def test_without_a_document_the_session_waits_for_one(cluster):
    context = cluster.context("broker-9")
    heard = probe(context)
    ref = MetadataClient.start(
        context,
        "broker-9/metadata",
        endpoint=ENDPOINT,
        session_name="broker-9",
        incarnation="i9",
        document=None,
        settings=BrokerSettings(),
        subscribers=[heard.actor_ref],
    )
    cluster.settle()
    assert heard.all_of(MetadataChanged)
    assert "broker-9" not in cluster.image.sessions

    ref.post(Reopen("i9", {"kind": "broker", "broker_id": 9, "endpoints": ["tcp://x:9"]}))
    cluster.settle()
    assert cluster.image.brokers[9].endpoints == ("tcp://x:9",)

    ref.post(Reopen("i9", {"kind": "broker", "broker_id": 9, "endpoints": ["tcp://x:10"]}))
    cluster.settle()
    assert cluster.image.brokers[9].endpoints == ("tcp://x:10",)
    assert not heard.all_of(SessionLost)


@pytest.mark.parametrize("wanted", ["", "ours", "another"])
def test_whoever_answers_for_another_cluster_is_not_listened_to(cluster, wanted):
    cluster_id = cluster.image.cluster_id if wanted == "ours" else wanted
    context = cluster.context("broker-9")
    heard = probe(context)
    MetadataClient.start(
        context,
        "broker-9/metadata",
        endpoint=ENDPOINT,
        session_name="broker-9",
        incarnation="i9",
        document={"kind": "broker", "broker_id": 9, "endpoints": ["tcp://x:9"]},
        settings=BrokerSettings(),
        cluster_id=cluster_id,
        subscribers=[heard.actor_ref],
    )
    cluster.advance(5_000)

    assert bool(heard.all_of(MetadataChanged)) == (wanted != "another")
    assert ("broker-9" in cluster.image.sessions) == (wanted != "another")


def test_a_lost_session_is_said_once_and_another_life_begins(cluster, broker, caplog):
    cluster.ask_store(m.EndSessionRequest(name=broker.name))
    cluster.advance(2_000)

    (lost,) = broker.probe.all_of(SessionLost)
    assert (lost.incarnation, lost.error) == (broker.incarnation, ErrorCode.STALE_BROKER_EPOCH)
    assert "session.lost" in caplog.text
    assert "error=STALE_BROKER_EPOCH" in caplog.text
    newer = broker.probe.all_of(SessionOpened)[-1].incarnation
    assert newer != broker.incarnation
    assert cluster.image.incarnation_of(broker.broker_id) == newer


def test_the_doors_may_say_the_lost_incarnation_again_without_harm(cluster, broker):
    cluster.ask_store(m.EndSessionRequest(name=broker.name))
    cluster.advance(2_000)
    newer = cluster.image.incarnation_of(broker.broker_id)

    told(
        broker,
        Reopen(broker.incarnation, {"kind": "broker", "broker_id": broker.broker_id, "endpoints": ["tcp://x:1"]}),
    )
    cluster.advance(1_000)

    assert cluster.image.incarnation_of(broker.broker_id) == newer
    assert len(broker.probe.all_of(SessionLost)) == 1


def test_a_life_that_was_replaced_does_not_displace_its_successor(cluster, broker):
    """A zombie: the host has started the same broker anew, and the old process wakes up."""
    successor = m.OpenSessionRequest(
        name=broker.name,
        incarnation="successor",
        timeout_ms=600_000,
        document={"kind": "broker", "broker_id": broker.broker_id, "machine": "m"},
    )
    assert cluster.ask_store(successor).error == 0

    cluster.advance(5_000)

    assert len(broker.probe.all_of(SessionLost)) == 1
    assert cluster.image.incarnation_of(broker.broker_id) == "successor"


def test_cut_off_for_less_than_the_timeout_it_is_the_same_life(cluster, broker):
    cluster.network.cut(ENDPOINT)
    cluster.advance(1_000)
    cluster.network.heal(ENDPOINT)
    cluster.advance(5_000)

    assert {one.incarnation for one in broker.probe.all_of(SessionOpened)} == {broker.incarnation}
    assert broker.probe.all_of(SessionLost) == []


def test_a_lost_answer_to_a_watch_costs_two_heartbeats_at_most(cluster, broker, caplog):
    cluster.network.drop_next(lambda message: isinstance(message, m.StoreDeltaReply), 2)
    cluster.create_topic("a")
    cluster.advance(2 * BrokerSettings().heartbeat_ms)

    assert all(one.image.topic_named("a") for one in cluster.brokers.values())
    assert "metadata.watch_lost" in caplog.text


def test_a_lost_watch_costs_two_heartbeats_at_most(cluster, broker):
    cluster.network.drop_next(lambda message: isinstance(message, m.StoreWatchRequest), 2)
    cluster.create_topic("a")
    cluster.create_topic("b")
    cluster.advance(2 * BrokerSettings().heartbeat_ms)

    assert all(one.image.topic_named("b") for one in cluster.brokers.values())


def test_who_is_not_behind_watches_once_however_much_changes(cluster, broker, caplog):
    for number in range(20):
        cluster.create_topic(f"t{number}")
        cluster.advance(100)

    assert "metadata.watch_lost" not in caplog.text


def test_a_gap_brings_the_whole_picture(cluster, broker, monkeypatch):  # B29
    monkeypatch.setattr("callboard.actors.metadata.changes.CHANGES_MAX", 2)
    cluster.kill_metadata()
    cluster.start_metadata()
    cluster.run_until(lambda: cluster.active is not None)
    for number in range(5):
        cluster.create_topic(f"t{number}", 3)
    cluster.settle()

    assert broker.image.topics == cluster.image.topics
    assert {one.image.version for one in cluster.brokers.values()} == {cluster.disk.version}


def test_a_store_that_went_back_is_not_followed(cluster, broker, caplog):
    cluster.create_topic("a")
    cluster.settle()
    version = broker.image.version
    cluster.kill_metadata()
    cluster.disk.rows = {"cluster": cluster.disk.rows["cluster"]}  # an old copy was restored
    cluster.disk.version = 1
    cluster.start_metadata()
    cluster.advance(1_000)

    assert broker.image.version == version
    assert broker.image.topic_named("a") is not None
    assert "metadata.went_back" in caplog.text


# -- producer ids ------------------------------------------------------------------------------------------


def test_producer_ids_of_all_brokers_are_different(cluster):
    replies = [reply for broker in cluster.brokers.values() for reply in ids(cluster, broker, 1_500)]

    given = [reply.producer_id for reply in replies]
    assert all(reply.error == 0 and reply.producer_epoch == 0 for reply in replies)
    assert len(set(given)) == 3_000


def test_a_block_is_asked_for_before_the_last_is_used_up(cluster, broker):
    ids(cluster, broker)
    cluster.network.cut(ENDPOINT)  # from now on there are no more blocks

    served = ids(cluster, broker, PRODUCER_IDS_BLOCK - 1)
    refused = ids(cluster, broker)

    assert {reply.error for reply in served} == {0}
    assert [reply.error for reply in refused] == [ErrorCode.STORE_UNAVAILABLE]


def test_a_restarted_broker_begins_a_new_block(cluster, broker):
    (first,) = ids(cluster, broker)
    broker.die()
    again = cluster.start_broker(broker.broker_id)
    cluster.settle()

    (second,) = ids(cluster, again)

    assert second.producer_id >= first.producer_id + PRODUCER_IDS_BLOCK - 1


def test_too_many_that_wait_for_producer_ids_are_refused(cluster, broker, monkeypatch):
    monkeypatch.setattr("callboard.actors.metadata.producer_ids.PRODUCER_IDS_WAITING_MAX", 2)

    replies = ids(cluster, broker, 3)

    assert sorted(reply.error for reply in replies) == [0, 0, ErrorCode.OVERLOADED]


# -- commits -----------------------------------------------------------------------------------------------


def committed(cluster, broker, epoch=1, **put):
    outcomes = []
    value = {"key": "topic/x", "value": {"name": "x", "partitions": 1}, "if_version": 0, **put}
    told(broker, Commit([m.Put(**value)], epoch, outcomes.append))
    cluster.run_until(lambda: outcomes)
    return outcomes[0]


def test_a_commit_is_answered_by_what_the_store_says(cluster, broker):
    assert committed(cluster, broker) == Committed(cluster.disk.version)
    assert committed(cluster, broker).error == ErrorCode.STORE_CONFLICT
    assert committed(cluster, broker, epoch=7).error == ErrorCode.STALE_CONTROLLER_EPOCH


def test_a_commit_that_was_never_sent_did_not_happen(cluster, broker):
    cluster.network.cut(ENDPOINT)
    cluster.settle()

    assert isinstance(committed(cluster, broker), Refused)


def test_a_commit_without_an_answer_may_have_happened(cluster, broker):
    cluster.network.drop_next(lambda message: isinstance(message, m.StoreCommitReply))

    assert isinstance(committed(cluster, broker), Unknown)
    assert "topic/x" in cluster.disk.rows


def test_campaigns_are_answered(cluster, broker):
    outcomes = []
    told(broker, Campaign(outcomes.append))
    cluster.settle()
    assert outcomes == [
        Refused(ErrorCode.STALE_CONTROLLER_EPOCH, f"{cluster.active.name} holds the lease", cluster.active.name, 1)
    ]

    cluster.ask_store(m.ResignRequest(controller_epoch=1, name=cluster.active.name))
    told(broker, Campaign(outcomes.append))
    cluster.settle()
    assert isinstance(outcomes[1], Granted | Refused)


def test_nobody_is_told_anything_before_there_is_a_picture():
    cluster = MetadataCluster()
    broker = cluster.start_broker(1)
    cluster.advance(5_000)

    assert broker.probe.told == []
    assert broker.image is ClusterImage.empty()
