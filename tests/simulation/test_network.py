"""The faulty network: it does to messages what TCP and ZeroMQ can do, and nothing else."""

import pytest

from callboard.testing.loop import SimLoop
from callboard.testing.machine import ProcessClock, ProcessLoop
from callboard.testing.network import LinkQuality, SimNetwork
from callboard.transport import messages as m
from callboard.transport.seam import ServerIdentity


class World:
    """A client and a server that answers at once."""

    def __init__(self, seed=0, shuffle=False):
        self.loop = SimLoop(seed, shuffle=shuffle)
        self.network = SimNetwork(self.loop, seed)
        self.states, self.answers, self.seen = [], [], []
        self.client, self.server_process = ProcessLoop(self.loop, "client"), ProcessLoop(self.loop, "server")
        self.clock = ProcessClock(self.loop)
        transport = self.network.transport(self.server_process, self.clock, owner="server")
        identity = ServerIdentity(role="broker", name="server")
        self.server = transport.serve(["127.0.0.1:7001"], m.ClientRequest, self.on_requests, identity=identity)
        self.transport = self.network.transport(self.client, self.clock, owner="client")
        self.connection = self.transport.connect("127.0.0.1:7001", client_id="c", on_state=self.states.append)

    def on_requests(self, batch):
        for inbound in batch:
            self.seen.append(int(inbound.payload[0]))
            self.server.reply(inbound.peer, m.ProduceReply(id=inbound.message.id), inbound.payload)

    def ask(self, number, timeout_ms=30_000):
        entry = m.ProduceEntry(topic_id="0" * 32, partition=0, frames=2)
        request = m.ProduceRequest(acks=-1, entries=[entry])
        self.connection.request(
            request, lambda reply, _: self.answers.append((number, reply)), [b"%d" % number, b""], timeout_ms
        )

    def outcomes(self):
        return [(number, type(reply).__name__) for number, reply in self.answers]


@pytest.fixture
def world():
    made = World()
    made.loop.advance(10)
    assert made.connection.is_ready
    return made


@pytest.mark.parametrize("seed", range(20))
def test_order_within_a_connection_is_kept_whatever_the_delays_and_the_loop_do(seed):
    world = World(seed, shuffle=True)
    world.network.quality = LinkQuality(delay_ms=1, jitter_ms=20)
    for number in range(50):
        world.ask(number)
        world.loop.advance(1)
    world.loop.advance(5_000)

    assert world.seen == list(range(50))
    assert [number for number, _ in world.outcomes()] == list(range(50))


def test_what_is_sent_into_a_short_cut_comes_late_and_in_order(world):
    world.network.cut_link("client", "server")
    world.ask(1)
    world.ask(2)
    world.loop.advance(1_000)
    assert world.seen == []

    world.network.heal_link("client", "server")
    world.ask(3)
    world.loop.advance(1_000)

    assert world.seen == [1, 2, 3]
    assert world.outcomes() == [(1, "ProduceReply"), (2, "ProduceReply"), (3, "ProduceReply")]


def test_a_cut_in_one_direction_lets_the_other_one_pass(world):
    world.network.cut_link("server", "client")
    world.ask(1)
    world.loop.advance(1_000)

    assert world.seen == [1], "the request arrived"
    assert world.outcomes() == [], "its answer did not"


def test_who_hears_nothing_for_long_gives_the_connection_up_and_what_was_under_way_is_lost(world):
    world.network.cut_link("server", "client")
    world.ask(1)
    world.loop.advance(10_000)

    assert world.outcomes() == [(1, "ConnectionLostError")]
    world.network.heal_link("server", "client")
    world.loop.advance(10_000)
    assert world.connection.is_ready
    assert world.outcomes() == [(1, "ConnectionLostError")], "no answer of the old connection reaches the new one"


def test_a_paused_process_finds_all_its_mail_when_it_wakes(world):
    world.server_process.pause()
    world.network.fell_asleep("server")
    world.ask(1)
    world.ask(2)
    world.loop.advance(1_000)
    assert world.seen == []

    world.server_process.resume()
    world.network.woke_up("server")
    world.loop.advance(10)

    assert world.seen == [1, 2]


def test_a_request_of_a_connection_that_was_given_up_may_yet_be_seen():
    found = 0
    for seed in range(20):
        world = World(seed)
        world.network.quality = LinkQuality(delay_ms=5, replay=1.0)
        world.loop.advance(50)
        world.ask(1)
        world.loop.advance(1)
        world.network.reset_link("client", "server")
        world.loop.advance(100)
        assert world.outcomes() in ([(1, "ConnectionLostError")], [(1, "ProduceReply")])
        world.loop.advance(3_000)
        found += world.seen == [1] and world.outcomes() == [(1, "ConnectionLostError")]

    assert found


def test_who_was_killed_hangs_up_at_once_and_who_lost_power_does_not(world):
    world.server_process.kill()
    world.network.hung_up("server")
    world.loop.advance(10)
    assert not world.connection.is_ready

    other = World()
    other.loop.advance(10)
    other.server_process.kill()
    other.network.vanished("server")
    other.loop.advance(1_000)
    assert other.connection.is_ready, "nobody has said anything"
    other.loop.advance(5_000)
    assert not other.connection.is_ready


def test_loss_is_of_single_messages_and_every_request_still_has_one_outcome():
    world = World(3)
    world.loop.advance(10)
    world.network.quality = LinkQuality(loss=0.3)
    for number in range(200):
        world.ask(number, timeout_ms=1_000)
    world.loop.advance(5_000)

    kinds = [kind for _, kind in world.outcomes()]
    assert 50 < len(world.seen) < 200
    assert world.seen == sorted(world.seen)
    assert len(kinds) == 200
    assert set(kinds) == {"ProduceReply", "CallboardTimeoutError"}


def _digest_of(seed):
    world = World(seed, shuffle=True)
    world.network.quality = LinkQuality(delay_ms=1, jitter_ms=5, loss=0.05, reset=0.05)
    for number in range(100):
        world.ask(number, timeout_ms=2_000)
        world.loop.advance(3)
    world.loop.advance(10_000)
    return world.network.digest, world.outcomes()


def test_one_seed_is_one_run():
    assert _digest_of(1) == _digest_of(1)
    assert _digest_of(1)[0] != _digest_of(2)[0]


def test_no_connection_is_kept_when_both_ends_are_over():
    world = World(5)
    world.network.quality = LinkQuality(delay_ms=1, reset=0.3)
    for number in range(100):
        world.ask(number, timeout_ms=1_000)
        world.loop.advance(50)
    world.connection.close()
    world.loop.advance(20_000)

    assert world.network.resets > 10
    assert not world.network._wires
    assert not world.server.peers()
