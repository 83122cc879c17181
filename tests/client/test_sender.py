"""The rules of sending against a world that loses, delays, refuses and moves: by Hypothesis, and by examples.

The world is a model of what may happen to a request: it waits in a connection's queue (also after the connection was
lost: ZeroMQ delivers what was queued), it is handled by a leader that knows five batches a producer, its answer may
be lost. Time moves only when a step says so. A request whose deadline has passed is not handled any more.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.client.accumulator import Accumulator
from callboard.client.metadata import PartitionLeader
from callboard.client.patience import LOOK_AGAIN_MS, SLOW_ANSWER_MS, DoubtBrokers
from callboard.client.producer_batch import ProducerBatch
from callboard.client.sender import (
    LeaderHint,
    NeedProducerId,
    RefreshMetadata,
    Sender,
    SenderSettings,
    SendProduce,
    Settle,
    Split,
)
from callboard.errors import (
    CallboardTimeoutError,
    ConnectionLostError,
    ErrorCode,
    InvalidRecordError,
    UnknownTopicOrPartitionError,
)
from callboard.transport.messages import ProduceEntryReply

SETTINGS = SenderSettings(
    acks=-1,
    is_idempotent=True,
    in_flight_max=5,
    linger_ms=0,
    timeout_ms=300,
    delivery_timeout_ms=2_000,
    retry_backoff_ms=10,
    retry_backoff_max_ms=100,
    retries_max=float("inf"),
)


class LeaderLog:
    """What a leader keeps of one partition: values, and the last five batches of each producer."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.producers: dict[int, tuple[int, deque[tuple[int, int, int]]]] = {}
        self.numbers: dict[tuple[int, int, int], tuple[bytes, ...]] = {}  # what was ever seen under a number

    def append(self, number: tuple[int, int, int], values: tuple[bytes, ...]) -> tuple[ErrorCode, int]:
        producer, epoch, sequence = number
        if producer < 0:
            self.values += values
            return ErrorCode.NONE, len(self.values) - len(values)
        assert self.numbers.setdefault(number, values) == values, f"two batches under {number}"
        known, last = self.producers.get(producer, (-1, deque(maxlen=5)))
        if epoch == known:
            for start, count, offset in last:
                if (start, count) == (sequence, len(values)):
                    return ErrorCode.NONE, offset
            if sequence != last[-1][0] + last[-1][1]:
                return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1
        elif epoch < known:
            return ErrorCode.INVALID_PRODUCER_EPOCH, -1
        elif sequence != 0:
            return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1
        else:
            last = deque(maxlen=5)
        last.append((sequence, len(values), len(self.values)))
        self.producers[producer] = (epoch, last)
        self.values += values
        return ErrorCode.NONE, len(self.values) - len(values)


class World:
    """Two brokers, some partitions, one sender."""

    def __init__(self, settings_: SenderSettings = SETTINGS, partitions: int = 2) -> None:
        self.now = 1_000
        self.accumulator = Accumulator(batch_size=100_000, buffer_memory=1 << 30)
        topic = self.accumulator.topic("t")
        self.accumulator.set_partitions(topic, partitions, range(partitions), 1 << 20)
        topic.is_routed = True
        self.topic_id = "id-1"
        self.leaders = {p: PartitionLeader("t", self.topic_id, p, p % 2, 0) for p in range(partitions)}
        self.known = dict(self.leaders)  # what the client believes
        self.connected = {0: True, 1: True}
        self.is_topic_gone = False
        self.logs: dict[tuple[str, int], LeaderLog] = defaultdict(LeaderLog)
        self.sender = Sender(settings_, self.accumulator, self)
        self.requests: dict[int, deque[tuple[SendProduce, int, list[Any]]]] = {0: deque(), 1: deque()}
        self.floating: list[tuple[SendProduce, int, list[Any]]] = []  # of connections that were lost
        self.answers: deque[tuple[int, list[ProduceEntryReply]]] = deque()
        self.waiting: set[int] = set()  # requests that must still be reported
        self.settled: dict[ProducerBatch, Settle] = {}
        self.batches: list[ProducerBatch] = []
        self.next_value = 0
        self.refuse_next: ErrorCode | None = None
        self.depose_next = False
        self.ids_asked = 0

    # -- the view ----------------------------------------------------------------------------------

    def leader(self, topic: str, partition: int) -> PartitionLeader | None:
        return None if self.is_topic_gone else self.known.get(partition)

    def is_gone(self, topic: str, now_ms: int) -> bool:
        return self.is_topic_gone

    def is_connected(self, broker_id: int) -> bool:
        return self.connected[broker_id]

    # -- steps -------------------------------------------------------------------------------------

    def send(self, partition: int, count: int = 1) -> ProducerBatch:
        buffer = self.accumulator.topics["t"].buffers[partition % len(self.leaders)]
        batch = None
        for _ in range(count):
            batch, _ = self.accumulator.append(buffer, b"%d" % self.next_value, None, None, 0, self.now)
            self.next_value += 1
        woken, self.accumulator.woken = self.accumulator.woken, []
        self.sender.on_woken(woken)
        if batch not in self.batches:
            self.batches.append(batch)
        self.drain()
        return batch

    def drain(self) -> None:
        self.perform(self.sender.drain(self.now))

    def perform(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, SendProduce):
                contents = [
                    ((b.producer_id, b.producer_epoch, b.base_sequence), tuple(b.values)) for _, b in effect.parts
                ]
                self.requests[effect.broker_id].append((effect, self.now + effect.timeout_ms, contents))
                self.waiting.add(effect.request_id)
                assert self.sender.in_flight[effect.broker_id] <= self.sender.settings.in_flight_max
            elif isinstance(effect, Settle):
                assert effect.batch not in self.settled, "settled twice"
                self.settled[effect.batch] = effect
                effect.batch.is_done = True
                effect.batch.base_offset, effect.batch.error = effect.base_offset, effect.error
                self.accumulator.release(effect.batch)
            elif isinstance(effect, Split):
                effect.batch.is_done = True
                self.accumulator.release(effect.batch)
                self.batches.remove(effect.batch)
                self.batches += effect.parts
            elif isinstance(effect, NeedProducerId):
                self.ids_asked += 1
                self.sender.on_producer_id(100 + self.ids_asked, 0)
                self.drain()
            else:
                assert isinstance(effect, (RefreshMetadata, LeaderHint))

    def handle(self, broker: int) -> None:
        """The broker takes the next request of its connection."""
        if self.requests[broker]:
            self._handle(broker, self.requests[broker].popleft(), is_floating=False)

    def handle_floating(self, at: int) -> None:
        """A request of a lost connection reaches its broker after all; its answer goes nowhere."""
        if self.floating:
            request = self.floating.pop(at % len(self.floating))
            self._handle(request[0].broker_id, request, is_floating=True)

    def _handle(self, broker: int, request: tuple[SendProduce, int, list[Any]], *, is_floating: bool) -> None:
        effect, deadline, contents = request
        if self.now >= deadline:
            return
        entries = []
        for (leader, _), (number, values) in zip(effect.parts, contents, strict=True):
            truth = self.leaders[leader.partition]
            code, offset = ErrorCode.NONE, -1
            if self.refuse_next is not None:
                code, self.refuse_next = self.refuse_next, None
            elif leader.topic_id != truth.topic_id:
                code = ErrorCode.UNKNOWN_TOPIC_ID
            elif truth.broker_id != broker or truth.leader_epoch != leader.leader_epoch:
                code = ErrorCode.NOT_LEADER_FOR_PARTITION
            else:
                code, offset = self.logs[leader.topic_id, leader.partition].append(number, values)
                if code == ErrorCode.NONE and self.depose_next:  # appended and not yet acknowledged: others decide
                    code, self.depose_next = ErrorCode.NOT_LEADER_FOR_PARTITION, False
                    self.leaders[leader.partition] = truth._replace(leader_epoch=truth.leader_epoch + 1)
            entries.append(
                ProduceEntryReply(topic_id=leader.topic_id, partition=leader.partition, error=code, base_offset=offset)
            )
        if not is_floating:
            self.answers.append((effect.request_id, entries))

    def answer(self) -> None:
        """The next answer arrives."""
        if self.answers:
            request_id, entries = self.answers.popleft()
            if request_id in self.waiting:
                self.waiting.discard(request_id)
                self.perform(self.sender.on_reply(request_id, entries, None, self.now, 0.5))
                self.drain()

    def lose(self, broker: int) -> None:
        """The connection to a broker ends, and is there again: what was queued floats, answers are lost."""
        of_broker = [r for r in self.sender.requests if self.sender.requests[r].broker_id == broker]
        self.floating += self.requests[broker]
        self.requests[broker].clear()
        for request_id in of_broker:
            self.waiting.discard(request_id)
            self.perform(self.sender.on_reply(request_id, [], ConnectionLostError("lost"), self.now, 0.5))
        self.sender.on_connected(broker)
        self.drain()

    def move(self, partition: int) -> None:
        """The other broker leads; the client learns of it with ``learn``."""
        truth = self.leaders[partition % len(self.leaders)]
        self.leaders[truth.partition] = truth._replace(
            broker_id=1 - truth.broker_id, leader_epoch=truth.leader_epoch + 1
        )

    def depose(self) -> None:
        """Whoever appends next is deposed before it can acknowledge that, and elected again; what it wrote stays."""
        self.depose_next = True

    def learn(self) -> None:
        self.known = dict(self.leaders)
        self.perform(self.sender.on_metadata(self.now))
        self.drain()

    def tick(self, ms: int) -> None:
        self.now += ms
        expired = [r for r, request in self.sender.requests.items() if self.now >= request.deadline_ms]
        for request_id in expired:
            self.waiting.discard(request_id)
            error = CallboardTimeoutError("no answer")
            self.perform(self.sender.on_reply(request_id, [], error, self.now, 0.5))
        self.perform(self.sender.on_tick(self.now))
        self.drain()

    def finish(self) -> None:
        """Everything heals; run until nothing is left to do."""
        self.refuse_next = None
        for _ in range(400):
            self.learn()
            while any(self.requests.values()) or self.answers:
                self.handle(0)
                self.handle(1)
                self.answer()
            if not self.accumulator.incomplete:
                return
            due = self.sender.next_event_ms(self.now)
            self.tick(max(1, (due or self.now) - self.now))
        raise AssertionError(f"not done: {self.accumulator.incomplete}")

    # -- what must hold ----------------------------------------------------------------------------

    def check(self) -> None:
        for (_, partition), log in self.logs.items():
            numbers = [int(value) for value in log.values]
            assert numbers == sorted(set(numbers)), f"partition {partition}: out of order or twice: {numbers}"

    def check_end(self) -> None:
        self.check()
        assert set(self.settled) == set(self.batches)
        stored = {value for log in self.logs.values() for value in log.values}
        for batch, settled in self.settled.items():
            if settled.error is not None and not settled.error.outcome_unknown:
                assert not stored & set(batch.values), f"said not to be stored: {settled}"
            if settled.error is None:
                log = self.logs[self.leaders[batch.partition].topic_id, batch.partition]
                at = settled.base_offset
                assert log.values[at : at + batch.count] == batch.values
        assert self.accumulator.used == 0
        assert not any(self.sender.in_flight.values())
        assert self.sender.next_event_ms(self.now) is None


def a_step() -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    partition, broker = st.integers(0, 1), st.integers(0, 1)
    errors = st.sampled_from(
        [
            ErrorCode.NOT_LEADER_FOR_PARTITION,
            ErrorCode.REQUEST_TIMED_OUT,
            ErrorCode.NOT_ENOUGH_REPLICAS,
            ErrorCode.INVALID_RECORD,
            ErrorCode.MESSAGE_SIZE_TOO_LARGE,
            ErrorCode.OVERLOADED,
        ]
    )
    return st.one_of(
        st.tuples(st.just("send"), st.tuples(partition, st.integers(1, 3))),
        st.tuples(st.just("send"), st.tuples(partition, st.integers(1, 3))),
        st.tuples(st.just("handle"), st.tuples(broker)),
        st.tuples(st.just("handle"), st.tuples(broker)),
        st.tuples(st.just("handle_floating"), st.tuples(st.integers(0, 9))),
        st.tuples(st.just("answer"), st.just(())),
        st.tuples(st.just("answer"), st.just(())),
        st.tuples(st.just("lose"), st.tuples(broker)),
        st.tuples(st.just("move"), st.tuples(partition)),
        st.tuples(st.just("learn"), st.just(())),
        st.tuples(st.just("tick"), st.tuples(st.sampled_from([1, 20, 150, 400, 1_000, 2_500]))),
        st.tuples(st.just("refuse"), st.tuples(errors)),
        st.tuples(st.just("depose"), st.just(())),
    )


@settings(max_examples=400, deadline=None)
@given(st.lists(a_step(), max_size=80))
def test_whatever_happens_order_holds_nothing_is_twice_and_every_future_ends_once(steps):
    world = World()
    for name, arguments in steps:
        if name == "refuse":
            world.refuse_next = arguments[0]
        else:
            getattr(world, name)(*arguments)
        world.check()

    world.finish()
    while world.floating:
        world.handle_floating(0)

    world.check_end()


ROUGH = [  # one partition, one broker, hardly an answer: what it takes to come near the rules about epochs
    ("send", (0, 1)),
    ("handle", (0,)),
    ("handle", (0,)),
    ("handle_floating", (0,)),
    ("handle_floating", (3,)),
    ("answer", ()),
    ("lose", (0,)),
    ("depose", ()),
    ("learn", ()),
    ("tick", (20,)),
    ("tick", (400,)),
    ("tick", (1_000,)),
]


@pytest.mark.parametrize("seed", range(40))
def test_long_rough_runs_keep_order_and_append_nothing_twice(seed):
    for run in range(10):
        rng = random.Random(seed * 1_000 + run)
        world = World(partitions=1)
        weights = [rng.choice((1, 2, 5)) for _ in ROUGH]
        for name, arguments in rng.choices(ROUGH, weights, k=120):
            getattr(world, name)(*arguments)
            world.check()
        while world.floating and rng.random() < 0.5:
            world.handle_floating(0)
        world.finish()
        while world.floating:
            world.handle_floating(0)
        world.check_end()
        for settled in world.settled.values():  # nothing was refused: only time may have run out
            assert settled.error is None or isinstance(settled.error, CallboardTimeoutError), settled


@settings(max_examples=150, deadline=None)
@given(st.lists(a_step(), max_size=60))
def test_without_idempotence_order_holds_as_long_as_nothing_is_lost(steps):
    world = World(SETTINGS._replace(is_idempotent=False))
    for name, arguments in steps:
        if name == "refuse":
            world.refuse_next = arguments[0]
        elif name in ("send", "handle", "answer", "learn", "move"):
            getattr(world, name)(*arguments)
            world.check()

    world.finish()

    world.check_end()


def test_one_batch_takes_one_decision():
    world = World()
    world.send(0)  # it has its producer id now
    world.handle(0)
    world.answer()
    asked, leader = [], world.leader
    world.leader = lambda topic, partition: asked.append(partition) or leader(topic, partition)

    world.send(0)

    assert asked == [0]


def test_a_lost_answer_is_asked_again_and_not_appended_twice():
    world = World()
    batch = world.send(0)
    world.handle(0)
    world.answers.clear()

    world.lose(0)
    world.finish()

    assert world.settled[batch].base_offset == 0
    assert world.logs["id-1", 0].values == [b"0"]


def test_a_batch_goes_to_the_new_leader_as_soon_as_it_is_known():
    world = World()
    batch = world.send(0)
    world.move(0)
    world.handle(0)
    world.answer()

    assert not world.requests[1]
    world.learn()  # no time has passed: the backoff is not waited for
    world.handle(1)
    world.answer()

    assert world.settled[batch].error is None


def test_a_leader_that_was_stopped_is_doubted_and_its_batches_go_to_who_leads_instead():
    """It neither answers nor ends its connection; resumed, what it still says counts for nothing."""
    world = World(SETTINGS._replace(timeout_ms=60_000, delivery_timeout_ms=60_000))
    batch = world.send(0)
    world.move(0)
    world.learn()
    assert not world.requests[1], "it may still answer"

    world.now += SLOW_ANSWER_MS
    assert DoubtBrokers((0,)) in world.sender.on_tick(world.now)
    assert world.sender.next_event_ms(world.now) <= world.now + LOOK_AGAIN_MS
    world.learn()
    world.handle(1)
    world.answer()
    assert world.settled[batch].error is None

    world.handle(0)
    world.answer()
    assert world.logs["id-1", 0].values == [b"0"]


def test_what_was_sent_to_a_topic_made_anew_fails_and_what_was_not_goes_there():
    world = World()
    sent = world.send(0)
    world.connected[0] = False
    waiting = world.send(0)
    world.connected[0] = True
    world.topic_id = "id-2"
    world.leaders[0] = world.leaders[0]._replace(topic_id="id-2", leader_epoch=0)

    world.learn()
    world.finish()

    assert isinstance(world.settled[sent].error, UnknownTopicOrPartitionError)
    assert world.settled[sent].error.outcome_unknown, "nobody has answered: it may lie in the old one"
    assert world.settled[waiting].error is None
    assert world.logs["id-2", 0].values == [b"1"]


def test_records_of_a_topic_that_is_gone_fail():
    world = World()
    world.connected[0] = False
    batch = world.send(0)
    world.is_topic_gone = True

    world.learn()

    assert isinstance(world.settled[batch].error, UnknownTopicOrPartitionError)
    assert not world.settled[batch].error.outcome_unknown, "it was never sent"


def test_what_was_sent_to_a_topic_that_is_gone_may_have_been_stored():
    world = World()
    batch = world.send(0)
    world.is_topic_gone = True

    world.learn()

    assert isinstance(world.settled[batch].error, UnknownTopicOrPartitionError)
    assert world.settled[batch].error.outcome_unknown
    assert "may have taken effect" in str(world.settled[batch].error)


def test_a_refusal_of_a_retry_whose_first_attempt_was_lost_leaves_the_outcome_unknown():
    world = World()
    batch = world.send(0)
    world.handle(0)
    world.answers.clear()
    world.lose(0)
    world.refuse_next = ErrorCode.INVALID_RECORD
    world.tick(20)
    world.handle(0)
    world.answer()

    assert world.logs["id-1", 0].values == [b"0"]
    assert isinstance(world.settled[batch].error, InvalidRecordError)
    assert world.settled[batch].error.outcome_unknown


def test_what_a_deposed_leader_had_appended_is_not_sent_again_under_another_epoch():  # B15
    world = World(SETTINGS._replace(delivery_timeout_ms=1_000))
    world.connected[0] = False
    first = world.send(0)
    world.tick(900)
    world.connected[0] = True
    world.drain()
    second = world.send(0)
    world.handle(0)
    world.answers.clear()  # of the first
    world.depose()
    world.handle(0)
    world.connected[0] = False
    world.answer()  # the second: not here any more, but appended

    world.tick(100)  # the first is over its time: its sequence is given up
    assert world.settled[first].error.outcome_unknown
    world.connected[0] = True
    world.finish()

    assert world.logs["id-1", 0].values == [b"0", b"1"]
    assert (world.settled[second].error, world.settled[second].base_offset) == (None, 1)


def test_a_batch_expires_at_its_delivery_timeout_whatever_brokers_do():
    world = World()
    world.connected[0] = False
    batch = world.send(0)

    world.tick(SETTINGS.delivery_timeout_ms - 1)
    assert batch not in world.settled
    world.tick(1)

    assert isinstance(world.settled[batch].error, CallboardTimeoutError)


def test_more_than_five_requests_are_never_under_way():
    world = World()

    for _ in range(20):
        world.send(0)

    assert len(world.requests[0]) == 5


def test_with_acks_none_a_batch_ends_when_it_was_handed_over():
    world = World(SETTINGS._replace(acks=0, is_idempotent=False))
    batch = world.send(0)
    (request_id,) = world.sender.requests

    world.perform(world.sender.on_sent_without_reply(request_id, True, world.now, 0.5))

    assert world.settled[batch].error is None
    assert world.settled[batch].base_offset == -1


def test_with_acks_none_a_batch_that_could_not_be_handed_over_is_retried():
    world = World(SETTINGS._replace(acks=0, is_idempotent=False))
    batch = world.send(0)
    (request_id,) = world.sender.requests

    world.perform(world.sender.on_sent_without_reply(request_id, False, world.now, 0.5))

    assert batch not in world.settled
    assert world.sender.next_event_ms(world.now) is not None


def test_a_producer_id_is_asked_for_once_and_before_anything_is_sent():
    world = World()
    world.perform = lambda effects: world.seen.extend(effects)  # type: ignore[method-assign]
    world.seen = []  # type: ignore[attr-defined]

    world.send(0)
    world.send(1)

    assert [type(effect) for effect in world.seen] == [NeedProducerId]


def test_nothing_is_due_while_nothing_is_sent():
    world = World()

    assert world.sender.next_event_ms(world.now) is None
    assert world.sender.drain(world.now) == []
