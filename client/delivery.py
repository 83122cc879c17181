"""The producer's shell on the I/O thread: performs what ``Sender`` decides, tells it what happened.

Encoding is done here, a whole batch at a time. Everything but ``wake``, ``is_woken`` and ``failures`` belongs to
the I/O thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ..errors import (
    CallboardError,
    CallboardTimeoutError,
    ErrorCode,
    IllegalStateError,
    UnknownTopicOrPartitionError,
    error_for_code,
)
from ..storage.batch import encode_batch
from ..transport.loop import Timer
from ..transport.messages import (
    InitProducerIdReply,
    InitProducerIdRequest,
    ProduceEntry,
    ProduceReply,
    ProduceRequest,
    Reply,
)
from . import futures
from .accumulator import Accumulator, TopicBuffer, failed_because
from .cluster import Cluster, error_of
from .config import ProducerConfig
from .io import Done, IoThread
from .metadata import PartitionLeader
from .patience import DoubtBrokers
from .producer_batch import UNROUTED, ProducerBatch
from .sender import (
    Effect,
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

TELL_WAITING_EVERY_MS = 10_000  # that records wait, and why
FAILURES_MAX = 1_000  # failed batches kept for flush() and close() to tell of; beyond, the oldest are only counted
FAILED_BYTES_MAX = 16 << 20  # of their records; beyond, only how many there were

# The partition of each record; None: sticky; an error: choosing it failed.
RouteBatch = Callable[[TopicBuffer, ProducerBatch], "list[int | CallboardError | None]"]
SplitColumns = Callable[[TopicBuffer, ProducerBatch], "list[ProducerBatch]"]


class Delivery:
    """The I/O side of one producer."""

    def __init__(
        self,
        io: IoThread,
        config: ProducerConfig,
        client_id: str,
        accumulator: Accumulator,
        *,
        route: RouteBatch,
        split_columns: SplitColumns,
    ) -> None:
        self._io, self._loop, self._clock = io, io.loop, io.clock
        self._config, self.client_id = config, client_id
        self._accumulator = accumulator
        self._route, self._split_columns = route, split_columns
        self.cluster = Cluster(io.loop, io.clock, io.transport, config, client_id, self)
        io.tell = self.cluster.hook.tell
        self.sender = Sender(_sender_settings(config), accumulator, self)
        self.is_woken = False  # on_wake is on its way
        self.failures: deque[ProducerBatch] = deque(maxlen=FAILURES_MAX)
        self.failed_bytes = 0  # of the records in them, kept for sending again
        self.counters = dict.fromkeys(
            ("records_acked", "records_failed", "batches_sent", "requests_sent", "bytes_sent", "retries"), 0
        )
        self._timer: Timer | None = None  # fires at or before the earliest event of the sender
        self._timer_at_ms = 0
        self._is_ended = False
        self._told_waiting_ms: dict[ErrorCode, int] = {}  # when last, by what they wait for

    # -- from user threads -------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something new in the accumulator. From any thread, after the lock was released."""
        if not self.is_woken:
            self.is_woken = True
            self._io.post(self.on_wake)

    # -- the view of the sender --------------------------------------------------------------------

    def leader(self, topic: str, partition: int) -> PartitionLeader | None:
        return self.cluster.metadata.leader(topic, partition)

    def is_gone(self, topic: str, now_ms: int) -> bool:
        return self.cluster.metadata.is_gone(topic, now_ms)

    def is_connected(self, broker_id: int) -> bool:
        return self.cluster.is_connected(broker_id)

    # -- events ------------------------------------------------------------------------------------

    def start(self) -> None:
        self.cluster.start()

    def on_wake(self) -> None:
        self.is_woken = False  # first, then look: who comes later wakes again
        accumulator = self._accumulator
        with accumulator.lock:
            woken, accumulator.woken = accumulator.woken, []
            topics, accumulator.new_topics = accumulator.new_topics, []
        if topics:
            self.cluster.add_interest(topics)
        for buffer in woken:
            if buffer.waiting:
                self.cluster.metadata.doubt_unknown(buffer.topic, buffer.waiting[0].created_ms)
        self.sender.on_woken(buffer for buffer in woken if buffer.partition != UNROUTED)
        self._pump()

    def on_metadata(self) -> None:
        for topic in self._topics():
            self._learn(topic)
        self._perform(self.sender.on_metadata(self._clock.monotonic_ms()))
        self._pump()
        if self._needs_leaders(self.sender.active):
            self.cluster.refresh()

    def on_connected(self, broker_id: int) -> None:
        self.sender.on_connected(broker_id)
        self._pump()

    def on_disconnected(self, broker_id: int) -> None:
        """Requests on the connection fail one by one, through their callbacks."""

    def _on_timer(self) -> None:
        self._timer = None
        now = self._clock.monotonic_ms()
        self._fail_unrouted(now)
        self._perform(self.sender.on_metadata(now))  # a topic may count as gone by now
        self._perform(self.sender.on_tick(now))
        self._pump()

    def _on_reply(self, request_id: int, reply: Reply | CallboardError, payload: list[bytes]) -> None:
        if self._is_ended:
            return
        entries = reply.entries if isinstance(reply, ProduceReply) and not reply.error else []
        now, jitter = self._clock.monotonic_ms(), self.cluster.rng.random()
        effects = self.sender.on_reply(request_id, entries, error_of(reply), now, jitter)
        self._perform([effect for effect in effects if not isinstance(effect, Settle)])
        # Last of all: whoever waits for a result wants the interpreter's lock the moment it is there, and would
        # have to sleep once more for it while the rest is done here.
        self._loop.call_soon(self._perform, [effect for effect in effects if isinstance(effect, Settle)])
        self._pump()

    def _on_sent_without_reply(self, request_id: int, is_sent: bool) -> None:
        now, jitter = self._clock.monotonic_ms(), self.cluster.rng.random()
        self._perform(self.sender.on_sent_without_reply(request_id, is_sent, now, jitter))
        self._pump()

    def _on_producer_id(self, reply: Reply | CallboardError, payload: list[bytes]) -> None:
        if self._is_ended:
            return
        error = error_of(reply)
        if error is None and isinstance(reply, InitProducerIdReply) and reply.producer_id >= 0:
            self.sender.on_producer_id(reply.producer_id, max(0, reply.producer_epoch))
            self._pump()
        elif error is not None and not error.retriable:
            self._perform(self.sender.fail_everything(error, self._clock.monotonic_ms()))
            self.sender.is_asking_for_id = False
        else:
            self._loop.call_later(self._config.retry_backoff_ms / 1000, self._ask_for_id)

    # -- the end -----------------------------------------------------------------------------------

    def shut_down(self, done: Done[None]) -> None:
        """Fail whatever is left, close the connections. What was sent may be stored: its error says so."""
        error = IllegalStateError("the producer was closed before this record was sent")
        if_sent = CallboardTimeoutError(
            "the producer was closed before this record was acknowledged; it was sent, and may be stored"
        )
        self.on_wake()
        for topic in self._topics():
            for batch in self._take_unrouted(topic):
                self._settle(batch, -1, error)
        self._perform(self.sender.fail_everything(error, self._clock.monotonic_ms(), if_sent))
        self._is_ended = True
        if self._timer is not None:
            self._timer.cancel()
        self.cluster.close()
        done(None, None)

    # -- topics that become known ------------------------------------------------------------------

    def _topics(self) -> list[TopicBuffer]:
        """Return those of now: another thread may send to a new one at any moment."""
        return list(self._accumulator.topics.values())

    def _learn(self, topic: TopicBuffer) -> None:
        """Take the topic's partitions from the metadata; route what has waited for them."""
        known = self.cluster.metadata.topics.get(topic.name)
        if known is None:
            return
        accumulator, available = self._accumulator, self.cluster.metadata.available(topic.name)
        with accumulator.lock:
            accumulator.set_partitions(topic, len(known.partitions), available, known.message_bytes_max)
        while not topic.is_routed:
            with accumulator.lock:
                batches = accumulator.take_unrouted(topic)
                topic.is_routed = not batches  # nothing is left: from now on send() routes by itself
            for batch in batches:
                self._route_batch(topic, batch)

    def _route_batch(self, topic: TopicBuffer, batch: ProducerBatch) -> None:
        accumulator = self._accumulator
        if batch.is_columns:
            try:
                pieces = self._split_columns(topic, batch)
            except CallboardError as error:
                self._settle(batch, -1, error)
                return
            with accumulator.lock:
                for piece in pieces:
                    accumulator.add_moved(topic.buffers[piece.partition], piece)
            moved = [(piece, index) for piece in pieces for index in range(piece.count)]
        else:
            chosen = self._route(topic, batch)  # calls the application's partitioner: without the lock
            with accumulator.lock:
                places = accumulator.reroute(topic, batch, chosen)
            moved = [
                place or (self._refused(topic, batch, index, chosen[index]), 0) for index, place in enumerate(places)
            ]
        futures.move(batch, moved)
        with accumulator.lock:
            accumulator.release(batch)
            woken, accumulator.woken = accumulator.woken, []
        self.sender.on_woken(buffer for buffer in woken if buffer.partition != UNROUTED)

    def _refused(
        self, topic: TopicBuffer, batch: ProducerBatch, index: int, chosen: int | CallboardError | None
    ) -> ProducerBatch:
        """Return a batch of the one record without a partition, failed: the topic has none such, or choosing failed."""
        asked = batch.requested[index] if batch.requested is not None else None
        alone = ProducerBatch(topic.name, asked if isinstance(asked, int) else -1, 0, batch.created_ms)
        headers = batch.headers[index] if batch.headers is not None else None
        key = batch.keys[index] if batch.keys is not None else None
        alone.append(batch.values[index], key, headers, batch.timestamp_at(index), 0)
        alone.seal()
        if not isinstance(chosen, CallboardError):
            chosen = UnknownTopicOrPartitionError(
                f"topic {topic.name!r} has partitions 0 to {len(topic.buffers) - 1}, not {asked}"
            )
        self._settle(alone, -1, chosen)
        return alone

    def _fail_unrouted(self, now_ms: int) -> None:
        oldest_ms = now_ms - self._config.delivery_timeout_ms

        def is_over(batch: ProducerBatch) -> bool:
            return batch.created_ms <= oldest_ms

        for topic in self._topics():
            error = self._unrouted_error(topic, now_ms)
            if error is not None:
                for batch in self._take_unrouted(topic):
                    self._settle(batch, -1, failed_because(batch, error))
            elif topic.unrouted.waiting:
                with self._accumulator.lock:
                    over = self._accumulator.drop_waiting(topic.unrouted, is_over)
                for batch in over:
                    self._settle(batch, -1, self._no_metadata_error(topic))

    def _unrouted_error(self, topic: TopicBuffer, now_ms: int) -> CallboardError | None:
        """Return why records that wait for this topic's metadata wait in vain; None: they may wait on."""
        if not topic.unrouted.waiting:
            return None
        code, detail = self.cluster.metadata.topic_errors.get(topic.name, (0, ""))
        if self.cluster.metadata.is_gone(topic.name, now_ms):
            return error_for_code(
                code or ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, detail or f"there is no topic {topic.name!r}"
            )
        if code and not (error := error_for_code(code, detail or topic.name)).retriable:
            return error
        waits_ms = now_ms - topic.unrouted.waiting[0].created_ms
        if not self.cluster.has_contact and waits_ms >= self._config.bootstrap_timeout_ms:
            return self.cluster.unreachable_error()
        return None

    def _no_metadata_error(self, topic: TopicBuffer) -> CallboardError:
        seconds = self._config.delivery_timeout_ms / 1000
        why = self.cluster.unreachable_error()
        return CallboardTimeoutError(
            f"topic {topic.name!r}: its partitions were not learnt within {seconds:g} s; {why}"
        )

    def _take_unrouted(self, topic: TopicBuffer) -> list[ProducerBatch]:
        with self._accumulator.lock:
            return self._accumulator.take_unrouted(topic)

    # -- performing --------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send what can be sent; set the timer for what cannot."""
        if self._is_ended:
            return
        unrouted = [topic for topic in self._topics() if topic.unrouted.waiting]
        if not unrouted and not self.sender.active:
            return  # a timer that is set looks once more and finds nothing
        now = self._clock.monotonic_ms()
        self._perform(self.sender.drain(now))
        if self._needs_leaders(self.sender.pending):  # of the others that was asked when metadata came
            self.cluster.refresh()
        self._set_timer(now, unrouted)

    def _needs_leaders(self, keys: Iterable[tuple[str, int]]) -> bool:
        """Say whether somebody waits for newer metadata than there is: one of these, or a topic."""
        if any(topic.unrouted.waiting for topic in self._topics()):
            return True
        metadata = self.cluster.metadata
        for key in keys:
            leader = metadata.leader(*key)
            if leader is None or leader.broker_id < 0 or leader.broker_id not in metadata.brokers:
                return True
        return False

    def _set_timer(self, now_ms: int, unrouted: list[TopicBuffer]) -> None:
        """Have a timer that fires when it is due, or earlier: a record that is acknowledged in time costs none."""
        due = self.sender.next_event_ms(now_ms)
        for topic in unrouted:
            due = min(due or 1 << 62, self._unrouted_event_ms(topic, now_ms))
        if self.cluster.metadata.unknown_since_ms:
            for topic_name in {topic_name for topic_name, _ in self.sender.active}:
                gone_at = self.cluster.metadata.gone_at_ms(topic_name)
                if gone_at is not None:
                    due = min(due or 1 << 62, gone_at)
        if due is None:
            return
        due = max(due, now_ms + 1)
        if self._timer is not None:
            if self._timer_at_ms <= due:
                return
            self._timer.cancel()
        self._timer_at_ms = due
        self._timer = self._loop.call_later((due - now_ms) / 1000, self._on_timer)

    def _unrouted_event_ms(self, topic: TopicBuffer, now_ms: int) -> int:
        oldest = topic.unrouted.waiting[0].created_ms
        times = [oldest + self._config.delivery_timeout_ms, self.cluster.metadata.gone_at_ms(topic.name) or 1 << 62]
        if not self.cluster.has_contact:
            times.append(oldest + self._config.bootstrap_timeout_ms)
        return min(times)

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendProduce):
                self._send(effect)
            elif isinstance(effect, Settle):
                self._settle(effect.batch, effect.base_offset, effect.error)
            elif isinstance(effect, RefreshMetadata):
                self.cluster.refresh()
            elif isinstance(effect, Split):
                self._split(effect)
            elif isinstance(effect, LeaderHint):
                if self.cluster.metadata.on_leader_hint(*effect):
                    self._perform(self.sender.on_metadata(self._clock.monotonic_ms()))
            elif isinstance(effect, DoubtBrokers):
                self.cluster.doubt(effect.broker_ids)
            elif isinstance(effect, TellWaiting):
                self._tell_waiting(effect)
            elif isinstance(effect, NeedProducerId):
                self._ask_for_id()

    def _tell_waiting(self, effect: TellWaiting) -> None:
        now, why = self._clock.monotonic_ms(), effect.error.errno
        if why in self._told_waiting_ms and now < self._told_waiting_ms[why] + TELL_WAITING_EVERY_MS:
            return
        import logging  # the first that this thread has to say

        self._told_waiting_ms[why] = now
        logging.getLogger("callboard.client").warning(
            "%s: records for %s wait: %s; trying on", self.client_id, effect.batch.topic_partition, effect.error
        )
        self.cluster.hook.tell(effect.error)

    def _send(self, effect: SendProduce) -> None:
        connection = self.cluster.connection(effect.broker_id)
        try:
            entries, payload = self._encoded(effect)
        except CallboardError as error:  # the application's data does not fit a batch: nothing was sent
            self._loop.call_soon(self._on_reply, effect.request_id, error, [])
            return
        self.counters["requests_sent"] += 1
        self.counters["batches_sent"] += len(entries)
        self.counters["bytes_sent"] += sum(map(len, payload))
        acks = self._config.acks_code
        message = ProduceRequest(acks=acks, timeout_ms=effect.ack_timeout_ms, entries=entries)
        if acks == 0:
            is_sent = connection is not None and connection.send(message, payload)
            self._loop.call_soon(self._on_sent_without_reply, effect.request_id, is_sent)
        elif connection is None:
            self._loop.call_soon(self._on_reply, effect.request_id, self.cluster.unreachable_error(), [])
        else:
            connection.request(message, partial(self._on_reply, effect.request_id), payload, effect.timeout_ms)

    def _encoded(self, effect: SendProduce) -> tuple[list[ProduceEntry], list[bytes]]:
        entries, payload = [], []
        for leader, batch in effect.parts:
            if batch.frames is None:
                batch.frames = encode_batch(
                    batch.keys,
                    batch.values,
                    batch.timestamps,
                    batch.headers,
                    compression=self._config.compression,
                    producer_id=batch.producer_id,
                    producer_epoch=batch.producer_epoch,
                    base_sequence=batch.base_sequence,
                    value_width=batch.width,
                )
            entries.append(
                ProduceEntry(
                    topic_id=leader.topic_id,
                    partition=leader.partition,
                    leader_epoch=leader.leader_epoch,
                    frames=len(batch.frames),
                )
            )
            payload += batch.frames
        return entries, payload

    def _settle(self, batch: ProducerBatch, base_offset: int, error: CallboardError | None) -> None:
        if error is not None:
            self.failures.append(batch)
            self.failed_bytes += batch.size
            if self.failed_bytes > FAILED_BYTES_MAX:
                batch.forget_data()
        futures.settle(batch, base_offset, error)
        self.counters["records_acked" if error is None else "records_failed"] += batch.count
        with self._accumulator.lock:
            self._accumulator.release(batch)

    def _split(self, effect: Split) -> None:
        futures.move(effect.batch, [(part, index) for part in effect.parts for index in range(part.count)])
        with self._accumulator.lock:
            self._accumulator.release(effect.batch)

    def _ask_for_id(self) -> None:
        if not self._is_ended:
            self.cluster.ask_any(InitProducerIdRequest(), self._on_producer_id, self._config.request_timeout_ms)


def _sender_settings(config: ProducerConfig) -> SenderSettings:
    return SenderSettings(
        acks=config.acks_code,
        is_idempotent=config.is_idempotent,
        in_flight_max=config.max_in_flight_requests_per_connection,
        linger_ms=config.linger_ms,
        timeout_ms=min(config.timeout_ms, config.request_timeout_ms),
        delivery_timeout_ms=config.delivery_timeout_ms,
        retry_backoff_ms=config.retry_backoff_ms,
        retry_backoff_max_ms=config.retry_backoff_max_ms,
        retries_max=config.retries_max,
    )
