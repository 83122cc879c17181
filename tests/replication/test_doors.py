"""Followers at a broker's doors, on a virtual loop: sessions end with an answer, and only at the door for brokers."""

from __future__ import annotations

import pytest

from callboard.actors.controller.controller import AdminCommand
from callboard.actors.controller.image import ClusterImage
from callboard.errors import ErrorCode
from callboard.testing.context import sim_context
from callboard.testing.simulated import SimulatedCluster
from callboard.testing.transport import LoopbackTransport
from callboard.transport import messages as m


@pytest.fixture
def cluster():
    return SimulatedCluster(brokers=1).start()


@pytest.fixture
def topic(cluster):
    return cluster.create_topic("orders")


def actor_of(cluster, name):
    return cluster.processes["broker-1"].context.directory.find(f"broker-1/{name}").actor


class Peer:
    """A follower's broker, by one connection: ``answers`` as they came."""

    def __init__(self, cluster, door="peers", name="peer"):
        self.answers = []
        self._cluster = cluster
        context = sim_context(0, name, loop=cluster.loop)
        transport = LoopbackTransport(cluster.loop, context.clock, network=cluster.network)
        endpoint = next(one for one in actor_of(cluster, door)._server.endpoints if one.startswith("tcp"))
        self._connection = transport.connect(endpoint, client_id=name, on_state=lambda _: None)
        cluster.run_until(lambda: self._connection.is_ready)

    def send(self, request):
        self._connection.request(request, lambda reply, _: self.answers.append(reply), timeout_ms=60_000)
        self._cluster.loop.run_until_idle()


def a_fetch(topic, *, session=1, sequence=0, life="life-1", max_wait_ms=30_000):
    entry = m.FetchEntry(topic_id=topic.topic_id, partition=0, leader_epoch=0, fetch_offset=0)
    return m.FetchRequest(
        replica_id=2,
        replica_incarnation=life,
        max_wait_ms=max_wait_ms,
        session=session,
        sequence=sequence,
        entries=[entry] if sequence == 0 else [],
    )


def test_a_session_that_another_one_ends_is_answered_and_not_left_to_its_timeout(cluster, topic):
    """A request of an earlier life that comes late, by another connection, looks just like that."""
    present, zombie = Peer(cluster), Peer(cluster, name="zombie")
    present.send(a_fetch(topic, life="life-2"))
    present.send(a_fetch(topic, life="life-2", sequence=1))
    before = len(present.answers)

    zombie.send(a_fetch(topic, life="life-1"))

    (ended,) = present.answers[before:]
    assert ended.error == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    present.send(a_fetch(topic, life="life-2", session=2))
    assert len(actor_of(cluster, "peers")._followers) == 1


@pytest.mark.parametrize("sequence", [1, 7])
def test_a_request_of_no_session_is_refused(cluster, topic, sequence):
    peer = Peer(cluster)

    peer.send(a_fetch(topic, sequence=sequence))

    assert [one.error for one in peer.answers] == [ErrorCode.FETCH_SESSION_ID_NOT_FOUND]


def test_a_duplicate_of_a_request_does_not_disturb_the_session(cluster, topic):
    peer = Peer(cluster)
    peer.send(a_fetch(topic))
    peer.send(a_fetch(topic, sequence=1))
    before = len(peer.answers)

    peer.send(a_fetch(topic, sequence=1))

    assert [one.error for one in peer.answers[before:]] == [ErrorCode.FETCH_SESSION_ID_NOT_FOUND]
    assert len(actor_of(cluster, "peers")._followers) == 1


def test_followers_are_served_at_the_door_for_brokers_only(cluster, topic):
    client = Peer(cluster, door="router")

    client.send(a_fetch(topic))
    progress = m.ReplicaProgressRequest(replica_id=2, replica_incarnation="life-1", entries=[])
    client.send(progress)

    assert [one.error for one in client.answers] == [ErrorCode.INVALID_REQUEST] * 2


def test_a_session_that_is_not_used_ends(cluster, topic):
    peer = Peer(cluster)
    peer.send(a_fetch(topic, max_wait_ms=100))

    cluster.loop.advance(20_000)

    router = actor_of(cluster, "peers")
    assert (router._followers, router._sessions) == ({}, {})


def test_a_controller_past_its_lease_refuses_nothing_by_what_it_believes(cluster):
    """It was paused, and another one has changed the partitions since: a refusal is compared by no store."""
    controller = actor_of(cluster, "controller")
    cluster.run_until(lambda: controller.role == "active")
    replies = []
    controller._lease_until_ms = 0  # as after a pause, before its timers run

    entry = m.AlterPartitionEntry(topic_id="a" * 32, partition=0, leader_epoch=0, partition_epoch=0)
    request = m.AlterPartitionRequest(broker_id=1, incarnation="broker-1-life-1", entries=[entry])
    controller.actor_ref.post(AdminCommand(request, replies.append))
    cluster.loop.run_until_idle()
    assert replies == []
    cluster.run_until(lambda: replies)

    assert replies[0].error == ErrorCode.NOT_CONTROLLER


def test_a_broker_that_has_only_begun_does_not_say_that_the_cluster_is_empty(cluster):
    """It has its session, and the picture of the cluster is still on its way."""
    router = actor_of(cluster, "router")
    picture, router._image = router._image, ClusterImage.empty()
    peer = Peer(cluster, door="router", name="client")

    peer.send(m.DescribeClusterRequest())
    router._image = picture
    peer.send(m.DescribeClusterRequest())

    begun, knowing = peer.answers
    assert begun.error == ErrorCode.BROKER_NOT_AVAILABLE
    assert [broker.id for broker in knowing.brokers] == [1]
