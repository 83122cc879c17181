"""The transport in memory: what tests of actors and clients stand on must itself be sound."""

import pytest

from callboard.errors import CallboardTimeoutError, ConfigurationError, ConnectionLostError
from callboard.testing.loop import SimClock, SimLoop
from callboard.testing.transport import LoopbackNetwork, LoopbackTransport
from callboard.transport import messages
from callboard.transport.seam import Stage

from .rig import BROKER, produce


class World:
    def __init__(self, seed=0, shuffle=False):
        self.loop = SimLoop(seed, shuffle=shuffle)
        self.transport = LoopbackTransport(self.loop, SimClock(self.loop), seed=seed)
        self.batches, self.states, self.answers = [], [], []
        self.server = self.transport.serve(["127.0.0.1:0"], messages.ClientRequest, self.echo, identity=BROKER)
        self.endpoint = self.server.endpoints[0]
        self.connection = self.transport.connect(self.endpoint, client_id="x", on_state=self.states.append)

    def echo(self, batch):
        self.batches.append(len(batch))
        for inbound in batch:
            self.server.reply(inbound.peer, messages.ProduceReply(id=inbound.message.id), inbound.payload)

    def ask(self, timeout_ms=1_000, payload=(b"a", b"b")):
        self.connection.request(produce(), lambda *answer: self.answers.append(answer), payload, timeout_ms)

    def told(self):
        self.loop.run_until_idle()
        return [type(answer[0]).__name__ for answer in self.answers]


@pytest.fixture
def world():
    made = World()
    made.loop.run_until_idle()
    return made


def test_requests_and_payloads_travel_through_the_real_codec(world):
    world.ask()

    assert world.told() == ["ProduceReply"]
    assert world.answers[0][1] == [b"a", b"b"]
    assert world.server.peers()[0].client_id == "x"


def test_what_arrives_in_one_turn_comes_as_one_batch(world):
    for _ in range(3):
        world.ask()
    world.told()

    assert sum(world.batches) == 3
    assert len(world.batches) < 3


def test_order_is_kept_per_connection_whatever_the_loop_does():
    for seed in range(20):
        world = World(seed, shuffle=True)
        for number in range(10):
            world.ask(payload=(b"n", b"%d" % number))
        world.loop.run_until(lambda world=world: len(world.answers) == 10)
        assert [int(payload[1]) for _, payload in world.answers] == list(range(10))


def test_a_cut_ends_connections_and_keeps_new_ones_out_until_healed(world):
    world.transport.drop_next(lambda message: isinstance(message, messages.ProduceReply))
    world.ask(timeout_ms=60_000)
    world.told()

    world.transport.cut(world.endpoint)

    assert world.told() == [ConnectionLostError.__name__]
    world.loop.advance(1_000)
    assert not world.connection.is_ready
    assert {state.stage for state in world.states[2:]} == {Stage.CONNECT}
    world.transport.heal(world.endpoint)
    world.loop.advance(5_000)
    assert world.connection.is_ready


def test_a_silent_cut_is_only_noticed_by_the_clock(world):
    world.transport.cut(world.endpoint, is_silent=True)
    world.ask()
    world.loop.advance(999)
    assert world.told() == []

    world.loop.advance(1)

    assert world.told() == [CallboardTimeoutError.__name__]


def test_one_message_can_be_lost(world):
    world.transport.drop_next(lambda message: isinstance(message, messages.ProduceRequest))
    world.ask()
    world.ask()

    assert world.told() == ["ProduceReply"]
    assert world.transport.network.dropped == 1


def test_messages_take_their_time():
    world = World()
    world.transport.network.delay_ms = 5
    world.loop.advance(100)
    world.ask()
    world.loop.advance(9)
    assert world.told() == []
    world.loop.advance(1)
    assert world.told() == ["ProduceReply"]


def test_transports_of_several_processes_share_a_network():
    loop, network = SimLoop(), LoopbackNetwork()
    one, other = (LoopbackTransport(loop, SimClock(loop), network=network) for _ in range(2))
    one.serve(["ipc:///run/b"], messages.ClientRequest, lambda _: None, identity=BROKER)
    connection = other.connect("ipc:///run/b", client_id="", on_state=lambda _: None)
    loop.run_until_idle()

    assert connection.is_ready
    with pytest.raises(ConfigurationError, match="in use"):
        other.serve(["ipc:///run/b"], messages.ClientRequest, lambda _: None, identity=BROKER)


def test_a_server_that_closes_is_gone_for_its_peers(world):
    world.server.close()
    world.loop.run_until_idle()

    assert world.states[-1].stage is Stage.LOST


def test_close_ends_everything(world):
    world.ask()
    world.transport.close()
    world.loop.advance(60_000)

    assert world.told() == [ConnectionLostError.__name__]


def test_the_same_seed_gives_the_same_run():
    def run(seed):
        world = World(seed, shuffle=True)
        seen = []
        world.transport.network.on_message = lambda _, message: seen.append((world.loop.now_us, message))
        for _ in range(5):
            world.ask()
        world.transport.cut(world.endpoint)
        world.loop.advance(500)
        world.transport.heal(world.endpoint)
        world.loop.advance(5_000)
        return seen, world.loop.steps

    assert run(3) == run(3)
