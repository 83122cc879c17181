"""Producers and consumers inside a simulation: the real client on a simulated loop, and what it saw written down.

Accumulator, sender, sequencing, fetcher, metadata, inbox: all of it is the client's own code. Only the thread between
an application and its I/O is missing: here both are one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..client.accumulator import Accumulator, TopicBuffer
from ..client.config import ConsumerConfig, ProducerConfig
from ..client.delivery import Delivery
from ..client.fetching import Fetching
from ..client.futures import FutureRecordMetadata
from ..client.inbox import Inbox
from ..client.producer_batch import ProducerBatch
from ..client.reading import Decoding
from ..errors import CallboardError
from ..model import RecordMetadata, TopicPartition
from ..transport.loop import Clock
from ..transport.messages import ProduceReply, Reply
from ..transport.seam import Transport
from .history import Outcome
from .loop import SimLoop
from .machine import ProcessClock, ProcessLoop
from .network import SimNetwork
from .recording import Recorder

VALUE_BITS = 32  # of a producer's own numbers; above them stands which producer


class ClientProcess:
    """A process with one client in it. Has what a client asks of its I/O thread."""

    def __init__(self, name: str, base: SimLoop, network: SimNetwork, seed: int | str) -> None:
        self.name = name
        self.chance = random.Random(f"{seed}/{name}")
        self.loop = ProcessLoop(base, name)
        self.clock: Clock = ProcessClock(base)
        self.transport: Transport = network.transport(self.loop, self.clock, owner=name, seed=f"{seed}/{name}/net")
        self._base = base

    @property
    def now_ns(self) -> int:
        """The time that is the same for all: only for what is written down."""
        return self._base.now_us * 1000

    def post(self, call: Callable[..., Any], *args: Any) -> None:
        self.loop.call_soon(call, *args)


@dataclass(frozen=True)
class Load:
    """How a producer sends."""

    topic: str
    partitions: int
    every_ms: float  # on average
    first: int = 0  # of the partitions
    burst_max: int = 3  # records at once


class SimProducer:
    """Sends unique numbers to the partitions of one topic, each with acks=all and idempotence unless told otherwise."""

    def __init__(
        self, process: ClientProcess, number: int, recorder: Recorder, load: Load, config: ProducerConfig
    ) -> None:
        self.process = process
        self.unsettled = 0
        self.sent = self.acked = 0
        self._recorder = recorder
        self._load = load
        self._is_sending = False
        self._next_value = number << VALUE_BITS
        self._epochs: dict[tuple[TopicPartition, int], int] = {}  # by base offset: the epoch of the acknowledgement
        self._accumulator = Accumulator(batch_size=config.batch_size, buffer_memory=config.buffer_memory)
        self._delivery = _ObservedDelivery(process, config, self._accumulator, self._epochs)
        process.post(self._delivery.start)

    def start(self) -> None:
        self._is_sending = True
        self._set_timer()

    def stop(self) -> None:
        """Send nothing new; what was sent goes on until it has an outcome."""
        self._is_sending = False

    def send(self, partition: int) -> None:
        """Send the next number, and write down how it ends."""
        value = self._next_value
        accumulator, topic = self._accumulator, self._accumulator.topic(self._load.topic)
        if topic.is_routed and partition >= len(topic.buffers):
            self.process.post(self._delivery.cluster.refresh)  # it was added, and whom it asked had not heard of it
            return
        buffer = topic.buffers[partition] if topic.is_routed else topic.unrouted
        began = buffer.open
        clock = self.process.clock
        with accumulator.lock:
            placed = accumulator.append(
                buffer, b"%d" % value, None, None, clock.wall_ms(), clock.monotonic_ms(), requested=partition
            )
        if placed is None:
            return  # the buffer is full
        self._next_value += 1
        self.sent += 1
        self.unsettled += 1
        key = TopicPartition(self._load.topic, partition)
        self._recorder.invoke_send(self.process.now_ns, self.process.name, key, value)
        batch, index = placed
        FutureRecordMetadata(batch, index).add_both(self._ended, key, value)
        if batch is not began:
            self._delivery.wake()

    def _ended(self, key: TopicPartition, value: int, outcome: RecordMetadata | CallboardError) -> None:
        self.unsettled -= 1
        now, name = self.process.now_ns, self.process.name
        if isinstance(outcome, CallboardError):
            kind: Outcome = "info" if outcome.outcome_unknown else "fail"
            self._recorder.end_send(now, name, key, value, kind, error=str(outcome))
            return
        self.acked += 1
        epoch = self._epoch_of(key, outcome.offset)
        self._recorder.end_send(now, name, key, value, "ok", offset=outcome.offset, epoch=epoch)

    def _epoch_of(self, key: TopicPartition, offset: int) -> int:
        base = next((base for base in range(offset, -1, -1) if (key, base) in self._epochs), -1)
        return self._epochs.get((key, base), -1)

    def _on_time(self) -> None:
        if not self._is_sending:
            return
        chance = self.process.chance
        for _ in range(chance.randint(1, self._load.burst_max)):
            self.send(self._load.first + chance.randrange(self._load.partitions))
        self._set_timer()

    def _set_timer(self) -> None:
        delay_ms = self._load.every_ms * self.process.chance.expovariate(1.0)
        self.process.loop.call_later(delay_ms / 1000, self._on_time)


class _ObservedDelivery(Delivery):
    """The producer's I/O side; remembers in which epoch each batch was acknowledged."""

    def __init__(
        self,
        process: ClientProcess,
        config: ProducerConfig,
        accumulator: Accumulator,
        epochs: dict[tuple[TopicPartition, int], int],
    ) -> None:
        io: Any = process  # has loop, clock, transport and post, as an IoThread has
        super().__init__(io, config, process.name, accumulator, route=_as_requested, split_columns=_never_split)
        self.cluster.rng = process.chance
        self._epochs = epochs

    def _on_reply(self, request_id: int, reply: Reply | CallboardError, payload: list[bytes]) -> None:
        request = self.sender.requests.get(request_id)
        if request is not None and isinstance(reply, ProduceReply):
            names = {(leader.topic_id, leader.partition): leader.topic for leader, _ in request.parts}
            for entry in reply.entries:
                topic = names.get((entry.topic_id, entry.partition))
                if topic is not None and not entry.error:
                    self._note_epoch(TopicPartition(topic, entry.partition), entry.base_offset, entry.leader_epoch)
        super()._on_reply(request_id, reply, payload)

    def _note_epoch(self, key: TopicPartition, base_offset: int, epoch: int) -> None:
        """What an older epoch had at or behind it is no more there: a log that lost something grows again."""
        for place in [
            (one, base)
            for (one, base), known in self._epochs.items()
            if one == key and base >= base_offset and known < epoch
        ]:
            del self._epochs[place]
        self._epochs[key, base_offset] = epoch


class SimConsumer:
    """Reads partitions from the beginning, and writes down every poll."""

    def __init__(
        self,
        process: ClientProcess,
        recorder: Recorder,
        keys: Sequence[TopicPartition],
        config: ConsumerConfig,
        *,
        poll_records_max: int = 500,
    ) -> None:
        self.process = process
        self.problems: list[str] = []  # what poll() would have raised
        self._recorder = recorder
        self._poll_records_max = poll_records_max
        self._is_polling = False
        self._inbox = Inbox(Decoding(None, None, is_verifying=True, skips_bad=False))
        self._generations = generations = itertools.count(1)
        io: Any = process
        self._fetching = Fetching(io, config, process.name, generations, self._inbox.items.append, self._on_news)
        self._fetching.cluster.rng = process.chance
        self._inbox.connect(self._fetching.fetcher.total, lambda: process.post(self._fetching.credit_returned))
        readers = self._inbox.assign(keys, lambda: next(generations))
        for key in keys:
            recorder.assign(process.now_ns, process.name, key)
        process.post(self._fetching.start)
        process.post(self._fetching.assign, [(reader.key, reader.generation, reader.credit) for reader in readers])

    def position(self, key: TopicPartition) -> int:
        """The offset that is handed out next; -1: not known yet."""
        position = self._inbox.readers[key].position
        return -1 if position is None else position

    def high_watermark(self, key: TopicPartition) -> int:
        watermark = self._inbox.readers[key].high_watermark
        return -1 if watermark is None else watermark

    def _on_news(self) -> None:
        if not self._is_polling:
            self._is_polling = True
            self.process.post(self._poll)

    def _poll(self) -> None:
        self._is_polling = False
        self._inbox.sort()
        for seek in self._inbox.go_back(lambda: next(self._generations)):
            self._recorder.assign(self.process.now_ns, self.process.name, seek[0])
            self.process.post(self._fetching.seek, [seek])
        try:
            found = self._inbox.take(self._poll_records_max)
        except CallboardError as error:
            self.problems.append(str(error))
            return
        for reader in self._inbox.readers.values():
            if reader.error is not None:
                self.problems.append(str(reader.error))
        for key, records in (found or {}).items():
            polled = [(record.offset, int(record.value)) for record in records]
            self._recorder.poll(self.process.now_ns, self.process.name, key, polled)
        if found:
            self._on_news()  # there may be more


def _as_requested(_: TopicBuffer, batch: ProducerBatch) -> list[int | CallboardError | None]:
    return [asked for asked in batch.requested or () if isinstance(asked, int)]  # they all are


def _never_split(_: TopicBuffer, batch: ProducerBatch) -> list[ProducerBatch]:
    return [batch]
