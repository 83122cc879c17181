"""A world that loses, delays, refuses and moves, for the rules of sending.

It is a model of what may happen to a request: it waits in a connection's queue (also after the connection was lost:
ZeroMQ delivers what was queued), it is handled by a leader that knows five batches a producer, its answer may be lost.
Time moves only when a step says so. A request whose deadline has passed is not handled any more.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

from callboard.client.accumulator import Accumulator
from callboard.client.metadata import PartitionLeader
from callboard.client.patience import LOOK_AGAIN_MS
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
    TellWaiting,
)
from callboard.errors import (
    CallboardTimeoutError,
    ConnectionLostError,
    ErrorCode,
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
        self.check_who_is_looked_at()

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
                assert isinstance(effect, (RefreshMetadata, LeaderHint, TellWaiting))

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

    def check_who_is_looked_at(self) -> None:
        """Who is looked at only now and then waits for an answer that is to come, and is looked at in time."""
        sender, due = self.sender, self.sender.next_event_ms(self.now)
        assert sender.pending.items() <= sender.active.items()
        for key, lane in sender.lanes.items():
            unresolved, waiting = lane.sequence.unresolved, lane.buffer.waiting
            if unresolved or waiting:
                assert key in sender.active
                oldest = min(batch.created_ms for batch in (*unresolved, *waiting))
                assert due is not None
                assert due <= max(oldest + sender.settings.delivery_timeout_ms, self.now + LOOK_AGAIN_MS)
            if waiting or any(batch.attempt_id not in sender.requests for batch in unresolved):
                assert key in sender.pending

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
