"""Whom a client asks for metadata when brokers do not answer: on a loop of virtual time, brokers of a few lines."""

from __future__ import annotations

import random

import msgspec
import pytest

from callboard.client.cluster import DOUBT_MS, Cluster
from callboard.client.config import ProducerConfig
from callboard.testing.loop import SimClock, SimLoop
from callboard.testing.transport import LoopbackNetwork, LoopbackTransport
from callboard.transport import messages as m
from callboard.transport.seam import ServerIdentity

BROKERS = (1, 2, 3)


def endpoint(broker_id):
    return f"tcp://127.0.0.1:{9_000 + broker_id}"


class World:
    """Three brokers that tell who they are, one client that knows them all; some brokers are silent."""

    def __init__(self, seed, *, is_met=True):
        self.loop, self.network = SimLoop(seed), LoopbackNetwork()
        self.clock = SimClock(self.loop)
        self.silent, self.asked, self.answered = set(), [], 0
        for broker_id in BROKERS:
            self.serve(broker_id)
        config = ProducerConfig(bootstrap_servers=[endpoint(broker_id) for broker_id in BROKERS])
        transport = LoopbackTransport(self.loop, self.clock, network=self.network, seed=seed)
        self.client = Cluster(self.loop, self.clock, transport, config, "client", self, rng=random.Random(seed))
        self.can_ask = []  # somebody, whenever metadata came
        self.client.start()
        if is_met:
            self.loop.run_until(lambda: self.answered)
            for broker_id in BROKERS:
                self.client.connection(broker_id)
            self.loop.run_until(lambda: all(map(self.client.is_connected, BROKERS)))
            self.loop.advance(100)

    def serve(self, broker_id):
        transport = LoopbackTransport(self.loop, self.clock, network=self.network, owner=str(broker_id))
        server = transport.serve(
            [endpoint(broker_id)],
            m.ClientRequest,
            lambda inbound: [self.on_request(server, broker_id, one) for one in inbound],
            identity=ServerIdentity(role="broker", name=f"broker-{broker_id}", cluster_id="c", broker_id=broker_id),
        )

    def on_request(self, server, broker_id, inbound):
        self.asked.append(broker_id)
        if broker_id not in self.silent:
            brokers = [m.BrokerMetadata(id=one, endpoints=[endpoint(one)]) for one in BROKERS]
            reply = m.MetadataReply(cluster_id="c", version=1, brokers=brokers)
            server.reply(inbound.peer, msgspec.structs.replace(reply, id=inbound.message.id))

    def on_metadata(self):
        self.answered += 1
        self.can_ask.append(self.client.anyone() is not None)

    def on_connected(self, broker_id): ...

    def on_disconnected(self, broker_id): ...

    def refreshed(self, within_ms):
        """Whether newer metadata came in time."""
        before = self.client.metadata.updated_ms
        self.client.refresh()
        self.loop.advance(within_ms)
        return self.client.metadata.updated_ms > before


@pytest.mark.parametrize("seed", range(10))
def test_when_all_are_in_doubt_the_one_that_was_stopped_holds_nobody_up(seed):
    world = World(seed)
    world.silent = {2}

    for _ in range(10):
        world.client.doubt(BROKERS)
        assert world.refreshed(within_ms=300)


@pytest.mark.parametrize("seed", range(10))
def test_who_is_in_doubt_is_not_asked_while_there_is_another(seed):
    world = World(seed)
    world.silent = {2}
    world.client.doubt([2])
    world.asked.clear()

    for _ in range(3):
        assert world.refreshed(within_ms=300)

    assert 2 not in world.asked


def test_an_answer_ends_the_doubt():
    world = World(0)
    world.client.doubt(BROKERS)
    world.refreshed(within_ms=10)
    world.asked.clear()

    assert world.refreshed(within_ms=300)

    assert len(world.asked) == 1


def test_when_nobody_answers_the_question_ends_once_and_is_put_again():
    world = World(0)
    world.silent = set(BROKERS)
    world.client.doubt(BROKERS)
    before = world.answered

    world.loop.advance(DOUBT_MS)
    assert world.answered - before <= 4
    world.silent.clear()

    assert world.refreshed(within_ms=5_000)


# -- first contact ---------------------------------------------------------------------------------


def test_what_is_wanted_while_nobody_can_be_asked_yet_is_asked_for_once():
    world = World(0, is_met=False)
    world.client.add_interest(["t"])
    world.client.refresh()
    world.client.refresh()

    world.loop.run_until(lambda: world.answered)
    world.loop.advance(1_000)

    assert len(world.asked) == 1


def test_there_is_always_somebody_to_ask_on_the_way_from_the_seeds_to_the_brokers():
    world = World(0, is_met=False)
    made = []
    connect = world.client._transport.connect
    world.client._transport.connect = lambda endpoint, **more: made.append(endpoint) or connect(endpoint, **more)

    world.loop.run_until(lambda: world.answered)
    world.client.ask_any(m.MetadataRequest(), lambda *_: None, 1_000)
    world.loop.advance(10_000)

    assert world.can_ask == [True]
    assert len(made) == 1, "no seed a second time"
    assert world.client._seed_connections == {}


def test_whoever_will_probably_be_asked_is_connected_ahead_and_not_everybody(monkeypatch):
    monkeypatch.setattr("callboard.client.cluster.AHEAD_MAX", 2)
    world = World(0, is_met=False)
    world.loop.run_until(lambda: world.answered)

    world.client.connect_ahead([1, 2, 3, 9])
    world.client.connect_ahead([1, 2, 3, 9])

    assert len(world.client._connections) == 2
