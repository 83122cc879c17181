"""Links that are cut or slow on purpose: what gets through a wire that suffers faults, and in which order."""

import random

import pytest

from callboard.errors import CallboardTimeoutError
from callboard.testing.loop import SimClock, SimLoop
from callboard.transport import codec, messages
from callboard.transport.faults import Faults, FaultyWire, with_faults
from callboard.transport.peers import PeerConnection
from callboard.transport.seam import ConnectOptions, Stage


class Inner:
    """The wire below, as a test moves it."""

    def __init__(self, listener):
        self.listener, self.stage, self.is_congested = listener, Stage.HELLO, False
        self.sent, self.closed = [], None

    def send(self, frames):
        self.sent.append(list(frames))

    def close(self, *, is_graceful):
        self.closed = is_graceful

    def hears(self, *frames):
        self.listener.on_frames(list(frames))


class Bench:
    def __init__(self):
        self.loop, self.faults = SimLoop(), Faults()
        self.heard, self.told = [], []
        self.wire = FaultyWire(
            lambda endpoint, listener: Inner(listener),
            "tcp://there:1",
            self,
            self.faults,
            self.loop,
            SimClock(self.loop),
        )
        self.inner = self.wire._wire

    def on_up(self):
        self.told.append("up")

    def on_frames(self, frames):
        self.heard.append(frames)

    def on_down(self, stage, detail, advice):
        self.told.append(stage)

    def greet(self, name="broker-2"):
        self.inner.hears(codec.encode(messages.HelloReply(name=name)))
        self.heard.clear()


@pytest.fixture
def bench():
    return Bench()


def run_for(loop, ms):
    """Let virtual time pass."""
    ended = []
    loop.call_later(ms / 1_000, ended.append, True)
    loop.run_until(lambda: bool(ended))


def test_without_a_fault_everything_passes_at_once(bench):
    bench.greet()
    bench.wire.send([b"one"])
    bench.inner.hears(b"two")

    assert (bench.inner.sent, bench.heard) == ([[b"one"]], [[b"two"]])


@pytest.mark.parametrize(
    ("direction", "sent", "heard"), [("to", [], [[b"reply"]]), ("from", [[b"request"]], [])], ids=["to", "from"]
)
def test_a_cut_loses_one_direction_and_only_that(bench, direction, sent, heard):
    bench.greet()
    bench.faults.cut("broker-2", direction)
    bench.wire.send([b"request"])
    bench.inner.hears(b"reply")

    assert (bench.inner.sent, bench.heard) == (sent, heard)
    assert bench.faults.dropped == 1


def test_a_cut_from_another_process_does_not_matter(bench):
    bench.greet("broker-3")
    bench.faults.cut("broker-2", "to")
    bench.wire.send([b"request"])

    assert bench.inner.sent == [[b"request"]]


def test_what_was_lost_stays_lost_when_the_link_is_healed(bench):
    bench.greet()
    bench.faults.cut("broker-2", "to")
    bench.wire.send([b"lost"])
    bench.faults.heal("broker-2", "to", "cut")
    bench.wire.send([b"sent"])

    assert bench.inner.sent == [[b"sent"]]


@pytest.mark.parametrize("direction", ["to", "from"])
def test_a_new_wire_to_one_who_is_cut_off_never_gets_past_the_hello(bench, direction):
    bench.faults.cut("broker-2", direction)
    bench.wire.send([b"hello"])  # nobody knows yet who is there
    bench.inner.hears(codec.encode(messages.HelloReply(name="broker-2")))

    assert bench.inner.sent == [[b"hello"]]
    assert bench.heard == []


def test_a_delay_holds_back_each_message_and_keeps_their_order(bench):
    bench.greet()
    bench.faults.delay("broker-2", "to", 50)
    bench.wire.send([b"1"])
    run_for(bench.loop, 10)
    bench.faults.delay("broker-2", "to", 5)  # shorter now: but nobody overtakes
    bench.wire.send([b"2"])
    run_for(bench.loop, 30)
    before = list(bench.inner.sent)
    bench.faults.heal("broker-2", "to", "delay")
    bench.wire.send([b"3"])
    run_for(bench.loop, 20)

    assert before == []
    assert bench.inner.sent == [[b"1"], [b"2"], [b"3"]]


def test_what_is_held_back_is_lost_with_the_wire(bench):
    bench.greet()
    bench.faults.delay("broker-2", "from", 50)
    bench.inner.hears(b"late")
    bench.inner.listener.on_down(Stage.LOST, "gone", "")
    run_for(bench.loop, 100)

    assert bench.heard == []
    assert bench.told == [Stage.LOST]


def test_a_graceful_close_still_sends_what_was_held_back(bench):
    bench.greet()
    bench.faults.delay("broker-2", "to", 50)
    bench.wire.send([b"acks=0"])
    bench.wire.close(is_graceful=True)

    assert bench.inner.sent == [[b"acks=0"]]


def test_a_request_into_a_cut_link_times_out_and_the_next_one_after_healing_is_answered():
    loop, faults, wires, answers = SimLoop(), Faults(), [], []

    def open_inner(endpoint, listener):
        wires.append(Inner(listener))
        loop.call_soon(listener.on_up)
        return wires[-1]

    connection = PeerConnection(
        "tcp://there:1",
        client_id="broker-1",
        software="x",
        on_state=lambda _: None,
        options=ConnectOptions(),
        open_wire=with_faults(open_inner, faults, loop, SimClock(loop)),
        loop=loop,
        clock=SimClock(loop),
        rng=random.Random(1),
    )
    loop.run_until(lambda: bool(wires and wires[0].sent))
    hello = codec.decode_request(codec.decoder_for(messages.ClientRequest), wires[0].sent[0][0])
    wires[0].hears(codec.encode(messages.HelloReply(id=hello.id, name="broker-2", request_bytes_max=1_000)))
    faults.cut("broker-2", "to")
    connection.request(messages.MetadataRequest(), lambda reply, _: answers.append(reply), timeout_ms=100)
    loop.run_until(lambda: bool(answers))
    faults.heal("broker-2", "to", "cut")
    connection.request(messages.MetadataRequest(), lambda reply, _: answers.append(reply), timeout_ms=100)
    request = codec.decode_request(codec.decoder_for(messages.ClientRequest), wires[0].sent[-1][0])
    wires[0].hears(codec.encode(messages.MetadataReply(id=request.id)))
    connection.close()

    assert isinstance(answers[0], CallboardTimeoutError)
    assert isinstance(answers[1], messages.MetadataReply)
