"""The life of a connection, in virtual time: the real rules on wires in memory."""

import random

import msgspec
import pytest

from callboard.errors import (
    CallboardTimeoutError,
    ConnectionFailedError,
    ConnectionLostError,
    ErrorCode,
    MessageSizeTooLargeError,
)
from callboard.testing.loop import SimClock, SimLoop
from callboard.testing.transport import LoopbackNetwork, LoopbackTransport
from callboard.transport import codec, messages
from callboard.transport.peers import PeerConnection
from callboard.transport.seam import ConnectOptions, Stage

from .rig import BROKER, produce

OPTIONS = ConnectOptions(backoff_min_ms=100, backoff_max_ms=800, backoff_jitter=0.0, attempt_timeout_ms=1_000)


class SkewedClock(SimClock):
    """The clock of another machine."""

    def __init__(self, loop, ahead_ms):
        super().__init__(loop)
        self.ahead_ms = ahead_ms

    def monotonic_ms(self):
        return super().monotonic_ms() + self.ahead_ms


class FakeWire:
    """A wire that does what the test says."""

    def __init__(self, listener):
        self.listener = listener
        self.stage = Stage.CONNECT
        self.is_congested = False
        self.sent = []
        self.is_closed = False

    def send(self, frames):
        assert not self.is_closed
        self.sent.append([bytes(frame) for frame in frames])

    def close(self, *, is_graceful):
        self.is_closed = True

    def up(self):
        self.stage = Stage.HELLO
        self.listener.on_up()

    def down(self, stage=Stage.LOST, detail="gone"):
        self.listener.on_down(stage, detail, "")

    def answer(self, reply, *payload):
        self.listener.on_frames([codec.encode(reply), *payload])

    def hello(self, **fields):
        self.up()
        fields = {"id": self.requests()[0].id, "name": "broker-1", "request_bytes_max": 1_000, **fields}
        self.answer(messages.HelloReply(**fields))

    def requests(self):
        return [codec.decode_request(codec.decoder_for(messages.ClientRequest), frames[0]) for frames in self.sent]


class Bench:
    def __init__(self, **options):
        self.loop = SimLoop()
        self.states, self.wires, self.answers = [], [], []
        self.connection = PeerConnection(
            "tcp://there:1",
            client_id="me",
            software="x",
            on_state=self.states.append,
            options=msgspec.structs.replace(OPTIONS, **options),
            open_wire=self.open,
            loop=self.loop,
            clock=SimClock(self.loop),
            rng=random.Random(0),
        )

    def open(self, endpoint, listener):
        self.wires.append(FakeWire(listener))
        return self.wires[-1]

    @property
    def wire(self):
        return self.wires[-1]

    def request(self, message=None, payload=(), timeout_ms=5_000):
        self.connection.request(
            message or messages.MetadataRequest(), lambda *answer: self.answers.append(answer), payload, timeout_ms
        )

    def errors(self):
        self.loop.run_until_idle()
        return [type(answer[0]) for answer in self.answers]


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def ready(bench):
    bench.wire.hello()
    return bench


def test_hello_comes_first_and_says_who(bench):
    bench.wire.up()

    hello = bench.wire.requests()[0]
    assert isinstance(hello, messages.Hello)
    assert (hello.client_id, hello.version_min, hello.version_max) == ("me", 1, 1)
    assert not bench.connection.is_ready


def test_ready_after_the_hello_reply(ready):
    assert ready.connection.is_ready
    assert ready.connection.hello.name == "broker-1"
    assert [state.stage for state in ready.states] == [Stage.READY]


def test_requests_are_stamped(ready):
    ready.loop.advance(1_000)
    ready.request(timeout_ms=500)
    ready.request()

    first, second = ready.wire.requests()[1:]
    assert first.v == 1
    assert first.deadline_ms == 1_500
    assert len({first.id, second.id, ready.wire.requests()[0].id}) == 3


def test_deadlines_are_on_the_peers_clock():
    loop = SimLoop()
    network = LoopbackNetwork()
    network.delay_ms = 10
    here = LoopbackTransport(loop, SimClock(loop), network=network)
    there = LoopbackTransport(loop, SkewedClock(loop, 1_000_000), network=network)
    seen = []
    server = there.serve(["there:1"], messages.ClientRequest, seen.extend, identity=BROKER)
    connection = here.connect("there:1", client_id="", on_state=lambda _: None)
    loop.run_until(lambda: connection.is_ready)

    connection.request(messages.MetadataRequest(), lambda *_: None, timeout_ms=500)
    sent_ms = loop.now_us // 1_000
    loop.run_until(lambda: seen)

    assert connection.clock_offset_ms == 1_000_000
    assert seen[0].message.deadline_ms == sent_ms + 500 + 1_000_000
    assert server.counters["expired"] == 0


def test_a_reply_reaches_its_caller_once(ready):
    ready.request()
    request = ready.wire.requests()[1]
    ready.wire.answer(messages.MetadataReply(id=request.id, version=3), b"payload")
    ready.wire.answer(messages.MetadataReply(id=request.id, version=4))

    assert ready.answers == [(messages.MetadataReply(id=request.id, version=3), [b"payload"])]
    assert ready.connection.counters["stray_replies"] == 1


def test_a_lost_connection_fails_what_was_sent_and_keeps_what_was_not(ready):
    ready.request()
    ready.wire.down()
    ready.request()

    assert ready.errors() == [ConnectionLostError]
    assert ready.states[-1].stage is Stage.LOST
    assert not ready.connection.is_ready
    ready.loop.advance(100)
    assert len(ready.wires) == 2
    ready.wire.hello()
    assert isinstance(ready.wire.requests()[1], messages.MetadataRequest)
    assert ready.errors() == [ConnectionLostError]


def test_callbacks_never_run_within_request_or_close(ready):
    ready.request(timeout_ms=5_000)
    ready.wire.down()
    ready.connection.close()
    ready.request()

    assert ready.answers == []
    assert ready.errors() == [ConnectionLostError, ConnectionFailedError]


def test_attempts_back_off_up_to_a_bound_and_begin_anew_after_a_success(bench):
    pauses = []
    for _ in range(6):
        at, count = bench.loop.now_us, len(bench.wires)
        bench.wire.down(Stage.CONNECT, "refused")
        bench.loop.run_until(lambda count=count: len(bench.wires) > count)
        pauses.append((bench.loop.now_us - at) // 1_000)
    assert pauses == [100, 200, 400, 800, 800, 800]
    assert [state.attempt for state in bench.states] == [1, 2, 3, 4, 5, 6]

    bench.wire.hello()
    bench.wire.down()
    at = bench.loop.now_us
    bench.loop.run_until(lambda: len(bench.wires) == 8)
    assert (bench.loop.now_us - at) // 1_000 == 100


def test_backoff_has_jitter():
    pauses = set()
    for seed in range(5):
        bench = Bench(backoff_jitter=0.5)
        bench.connection._rng = random.Random(seed)
        bench.wire.down(Stage.CONNECT, "refused")
        bench.loop.run_until(lambda bench=bench: len(bench.wires) == 2)
        pauses.add(bench.loop.now_us)
    assert len(pauses) == 5
    assert all(50_000 <= pause <= 150_000 for pause in pauses)


@pytest.mark.parametrize("stage", [Stage.RESOLVE, Stage.CONNECT, Stage.HANDSHAKE])
def test_an_attempt_without_an_end_is_ended_at_its_stage(bench, stage):
    bench.wire.stage = stage
    bench.loop.advance(1_000)

    assert bench.states[0].stage is stage
    assert "1,000 ms" in bench.states[0].detail
    assert bench.wires[0].is_closed


def test_a_peer_that_accepts_and_says_nothing_fails_at_hello(bench):
    bench.wire.up()
    bench.loop.advance(1_000)

    assert bench.states[0].stage is Stage.HELLO
    assert "paused" in bench.states[0].advice


def test_a_refused_version_fails_at_hello_with_what_to_do(bench):
    bench.wire.hello(error=int(ErrorCode.UNSUPPORTED_VERSION), detail="versions 1 to 1 are asked for")

    assert bench.states[0].stage is Stage.HELLO
    assert "upgrade" in bench.states[0].advice
    assert not bench.connection.is_ready


def test_a_peer_that_speaks_only_newer_versions_is_refused(bench):
    bench.wire.hello(version_min=5, version_max=6)

    assert "5 to 6" in bench.states[0].detail


@pytest.mark.parametrize("answer", [b"garbage", codec.encode(messages.MetadataReply(id=1))])
def test_whoever_does_not_answer_a_hello_is_no_broker(bench, answer):
    bench.wire.up()
    bench.wire.listener.on_frames([answer])

    assert bench.states[0].stage is Stage.HELLO
    assert "Callboard" in bench.states[0].advice


def test_a_request_times_out_and_the_rest_go_on(ready):
    ready.request(timeout_ms=1_000)
    ready.request(timeout_ms=300)
    ready.loop.advance(299)
    assert ready.errors() == []

    ready.loop.advance(1)
    assert ready.errors() == [CallboardTimeoutError]
    assert "300 ms" in str(ready.answers[0][0])
    ready.loop.advance(700)
    assert ready.errors() == [CallboardTimeoutError] * 2


def test_a_request_that_waited_in_vain_fails_with_the_last_failure(bench):
    bench.request(timeout_ms=150)
    bench.wire.down(Stage.CONNECT, "refused")
    bench.loop.advance(150)

    assert bench.errors() == [ConnectionFailedError]
    assert "connect: refused" in str(bench.answers[0][0])
    bench.wire.hello()
    assert len(bench.wire.requests()) == 1  # only the hello: it must not take effect after it has failed


def test_one_timer_serves_all_deadlines(ready):
    timers = []
    call_later = ready.loop.call_later
    ready.loop.call_later = lambda *args: timers.append(args) or call_later(*args)
    for _ in range(1_000):
        ready.request()

    assert len(timers) == 1


def test_an_idle_connection_has_no_timer(ready):
    ready.request(timeout_ms=1_000)
    ready.wire.answer(messages.MetadataReply(id=ready.wire.requests()[1].id))
    ready.loop.advance(1_000)

    assert ready.connection._timer is None
    assert ready.loop._next_due_us() is None


def test_what_the_peer_would_not_take_is_not_sent(ready):
    ready.request(produce(), [b"p", b"x" * 1_000])

    assert ready.errors() == [MessageSizeTooLargeError]
    assert len(ready.wire.sent) == 1
    assert not ready.connection.send(produce(acks=0), [b"p", b"x" * 1_000])


def test_sending_without_a_reply_is_honest_about_the_moment(bench):
    assert not bench.connection.send(produce(acks=0), [b"a", b"b"])
    bench.wire.hello()
    assert bench.connection.send(produce(acks=0, id=44), [b"a", b"b"])
    assert bench.wire.requests()[1].id == 0
    bench.wire.is_congested = True
    assert not bench.connection.send(produce(acks=0), [b"a", b"b"])


def test_waiting_requests_are_bounded():
    bench = Bench(waiting_max=2)
    for _ in range(3):
        bench.request()

    assert bench.errors() == [ConnectionFailedError]


def test_close_ends_everything_and_nothing_comes_after(ready):
    ready.request()
    ready.connection.close()
    ready.connection.close()

    assert ready.errors() == [ConnectionLostError]
    assert ready.wire.is_closed
    ready.loop.advance(60_000)
    assert len(ready.wires) == 1
    assert len(ready.states) == 1


def test_close_in_a_callback_of_a_state_or_reply_is_safe(bench):
    bench.states = []
    bench.connection._on_state = lambda state: bench.connection.close()
    bench.request()
    bench.wire.hello()

    assert bench.errors() == [ConnectionFailedError]
    assert len(bench.wire.sent) == 1


def test_a_callback_that_raises_does_not_cost_the_next_its_answer(ready):
    def broken(*_):
        raise ValueError("a bug")

    ready.connection.request(messages.MetadataRequest(), broken)
    ready.request()
    ready.wire.down()

    with pytest.raises(ValueError, match="a bug"):
        ready.loop.run_until_idle()
    assert ready.errors() == [ConnectionLostError]


@pytest.mark.parametrize("seed", range(30))
def test_under_random_faults_every_request_is_answered_exactly_once(seed):
    chance = random.Random(seed)
    loop = SimLoop(seed, shuffle=True)
    network = LoopbackNetwork()
    network.delay_ms = 1.5
    here = LoopbackTransport(loop, SimClock(loop), network=network, seed=seed)
    there = LoopbackTransport(loop, SkewedClock(loop, 5_000), network=network)
    served = []

    def on_requests(batch):
        for inbound in batch:
            served.append(inbound.message.topics[0])
            loop.call_later(
                chance.random() * 0.05, server.reply, inbound.peer, messages.MetadataReply(id=inbound.message.id)
            )

    server = there.serve(["there:1"], messages.ClientRequest, on_requests, identity=BROKER)
    connection = here.connect("there:1", client_id="", on_state=lambda _: None, options=OPTIONS)
    answers = {}
    for number in range(200):
        what = chance.random()
        if what < 0.03:
            network.cut("there:1", is_silent=chance.random() < 0.3)
        elif what < 0.10:
            network.heal("there:1")
        elif what < 0.15:
            network.drop_next(lambda _: True)
        connection.request(
            messages.MetadataRequest(topics=[str(number)]),
            lambda reply, _, n=number: answers.setdefault(n, []).append(reply),
            timeout_ms=chance.choice([20, 200, 2_000]),
        )
        loop.advance(chance.random() * 20)
    network.heal("there:1")
    loop.advance(10_000)

    assert sorted(answers) == list(range(200))
    assert all(len(replies) == 1 for replies in answers.values())
    assert len(set(served)) == len(served), "nothing is resent by the transport"
    for number, (reply,) in answers.items():
        if isinstance(reply, ConnectionFailedError):
            assert str(number) not in served, "an error that says 'never sent' must be true"
