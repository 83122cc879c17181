"""The producer as applications see it.

``send`` is the hot path: about a microsecond. Its fast part appends a value to a list under a lock and makes a
two-word future; everything else (serializers, keys, a new batch, a full buffer) is in methods of its own. The I/O
thread is woken only when a batch is begun.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import index
from time import time_ns
from types import TracebackType
from typing import Any, Generic, TypeVar
from zlib import crc32

from ..errors import (
    BufferExhaustedError,
    CallboardError,
    DeliveryError,
    ForkedClientError,
    IllegalArgumentError,
    IllegalStateError,
    UnknownTopicOrPartitionError,
)
from ..model import Header, TopicPartition
from . import futures, records
from .accumulator import Accumulator, PartitionBuffer, TopicBuffer
from .config import ProducerConfig, from_keywords
from .delivery import Delivery
from .futures import FutureBatchMetadata, FutureRecordMetadata
from .io import IoThread, MakeTransport
from .partitioners import (
    Crc32Partitioner,
    KafkaPythonPartitioner,
    Murmur2Partitioner,
    Unserialized,
    make_partitioner,
)
from .producer_batch import RECORD_OVERHEAD, UNROUTED, ProducerBatch
from .serializers import encoder

K = TypeVar("K")
V = TypeVar("V")

_numbers = itertools.count(1)


class Producer(Generic[K, V]):
    """Sends records. Thread-safe; one producer serves any number of threads.

        with Producer(bootstrap_servers="localhost:9192") as producer:
            producer.send("flights", b"…", key=b"N14228")

    Promises:

    - Per partition, records are in the log in the order of ``send``, each once (``enable_idempotence``, the default).
    - Every future ends: acknowledged, refused, or failed after ``delivery_timeout_ms``.
    - ``flush``, ``close`` and the end of a ``with`` block raise ``DeliveryError`` for records that were not
      delivered and whose failure nobody has looked at: nothing is lost silently.

    Settings are those of ``client.config.ProducerConfig``, by name.

    Raises:
        ConfigurationError: an unknown setting (the nearest valid one is named), a wrong type or value.
    """

    def __init__(self, **settings: Any) -> None:
        make_transport: MakeTransport | None = settings.pop("make_transport", None)  # for tests
        self.config = config = from_keywords(ProducerConfig, settings, "producer")
        self.client_id = config.client_id or f"callboard-producer-{os.getpid()}-{next(_numbers)}"
        self._encode_key = encoder(config.key_serializer, "key_serializer")
        self._encode_value = encoder(config.value_serializer, "value_serializer")
        self._partitioner = make_partitioner(config.partitioner)
        self._is_sticky = isinstance(self._partitioner, Crc32Partitioner | Murmur2Partitioner)  # without a key
        self._is_plain = (  # send() may take its fast path: nothing to call, no limit to look at but the batch's
            type(self._partitioner) is Crc32Partitioner
            and self._encode_key is None
            and self._encode_value is None
            and config.batch_size <= config.max_request_size
        )
        self._accumulator = Accumulator(
            batch_size=config.batch_size, buffer_memory=config.buffer_memory, turn=random.randrange(1 << 16)
        )
        self._lock = self._accumulator.lock
        self._topics = self._accumulator.topics  # emptied on close and fork, so that send() leaves its fast path
        self._fast: dict[str, TopicBuffer] = {}  # topics whose records may take the fast path
        self._ended: CallboardError | None = None
        self._io = IoThread(f"producer {self.client_id}", self, make_transport)
        self._clock = self._io.clock
        self._delivery = Delivery(
            self._io, config, self.client_id, self._accumulator, route=self._route, split_columns=self._split_moved
        )
        self._io.post(self._delivery.start)

    # -- sending -----------------------------------------------------------------------------------

    def send(
        self,
        topic: str,
        value: V | None = None,
        key: K | None = None,
        headers: Sequence[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> FutureRecordMetadata:
        """Queue a record; return its future. Does not wait for brokers, not even for the topic's metadata.

        It waits only when ``buffer_memory`` is full: up to ``max_block_ms``, not at all with ``on_full="raise"`` or
        in a callback.

        Args:
            value, key: bytes, or what the serializers take. A value of None with a key is a tombstone.
            headers: (str, bytes) pairs.
            partition: None: the partitioner chooses.
            timestamp_ms: since 1970; None: now.

        Raises:
            TypeError, IllegalArgumentError: an argument of a wrong type; neither value nor key; a partition that
            cannot be. SerializationError: a serializer failed. MessageSizeTooLargeError: above
            ``max_request_size``. BufferExhaustedError: see above. IllegalStateError, ForkedClientError: it is
            closed; it was made before a fork.

        What only a broker can know (no such topic, not allowed, timed out) ends up in the future.
        """
        if headers is None and partition is None and timestamp_ms is None and type(value) is bytes:
            buffer = self._fast.get(topic)
            if buffer is not None and (key is None or type(key) is bytes):
                size = len(value) + RECORD_OVERHEAD
                with self._lock:
                    if key is None:
                        batch = buffer.sticky_batch
                    else:
                        size += len(key)  # type: ignore[arg-type]
                        at = crc32(key) % len(buffer.buffers)  # type: ignore[arg-type]
                        batch = buffer.buffers[at].open
                    if batch is not None:
                        size += batch.size
                        keys = batch.keys
                        if size <= batch.limit and (keys is not None or key is None):
                            # Never a sealed one: its limit is -1. The first key of a batch goes the longer way.
                            values = batch.values
                            index = len(values)
                            try:
                                values.append(value)
                                batch.timestamps.append(time_ns() // 1_000_000)  # type: ignore[union-attr]
                                if keys is not None:
                                    keys.append(key)  # type: ignore[arg-type]
                                if batch.headers is not None:
                                    batch.headers.append([])
                            except BaseException:  # Ctrl-C in the middle: no column may be longer than another
                                batch.even_out()
                                raise
                            batch.size = size
                            return FutureRecordMetadata(batch, index)
        return self._send(topic, value, key, headers, partition, timestamp_ms)

    def send_batch(
        self,
        topic: str,
        values: Sequence[V | None],
        keys: Sequence[K | None] | None = None,
        partition: int | None = None,
        timestamps: Sequence[int] | int | None = None,
        headers: Sequence[Sequence[Header]] | None = None,
    ) -> FutureBatchMetadata:
        """Queue many records at once, as columns; return one future for all. The fastest way in.

        The lists must not be changed afterwards. They are split into batches of ``batch_size``: by key if there are
        keys, else each batch goes to one partition. Blocks and raises as ``send``.

        Args:
            keys, timestamps, headers: as long as ``values``; ``timestamps`` may be one for all, None: now.
        """
        records.check_topic(topic)
        rows = records.column(values, "values", None)
        if partition is not None:
            records.check_partition(partition)
        self._check_open()
        if not rows:
            return FutureBatchMetadata([])
        columns = records.columns(topic, rows, keys, timestamps, headers, self._encode_key, self._encode_value)
        batch = records.whole_batch(topic, UNROUTED, *columns, self._clock.monotonic_ms())
        if batch.size > self.config.max_request_size:
            largest = records.largest_row(batch) - RECORD_OVERHEAD
            records.check_size(largest, self.config.max_request_size, topic)
        return FutureBatchMetadata(self._add_columns(batch, partition, self._block_until()))

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything sent before has ended, without lingering.

        Args:
            timeout: seconds; None: as long as it takes, which ``delivery_timeout_ms`` bounds.

        Raises:
            DeliveryError: some records were not delivered, or not in time; ``.failed`` holds the futures of those that
                nobody has looked at.
        """
        self._check_open()
        self._wait_until_done(timeout, "flush")
        self._raise_failures("flush")

    def close(self, timeout: float | None = None) -> None:
        """Send what is left, then stop. Harmless when repeated.

        Args:
            timeout: seconds; None: ``close_timeout_ms``. What is not acknowledged by then fails.

        Raises:
            DeliveryError: some records were not delivered; ``.failed`` holds the futures of those that nobody has
                looked at. The producer is closed all the same.
        """
        if self._ended is not None:
            return
        bound_s = self.config.close_timeout_ms / 1000 if timeout is None else timeout
        with self._lock:
            self._ended = IllegalStateError(f"producer {self.client_id} is closed")
            self._fast = {}
            self._accumulator.space.notify_all()
        try:
            if not self._io.is_own_thread:
                self._wait_until_done(bound_s, "close", raises=False)
                self._io.ask(self._delivery.shut_down, bound_s + 1, "close")
            else:
                self._delivery.shut_down(lambda *_: None)
        finally:
            self._io.stop()
        self._raise_failures("close")

    def partitions_for(self, topic: str) -> set[int]:
        """Return the partitions of a topic; waits up to ``max_block_ms`` for its metadata.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
            ConnectionFailedError, CallboardTimeoutError: nobody could be asked in time.
        """
        records.check_topic(topic)
        self._check_open()
        from .asking import partitions_of

        return partitions_of(self._io, self._delivery.cluster, topic, self.config.max_block_ms)

    def bootstrap_connected(self) -> bool:
        """Say whether a broker has been reached so far."""
        return self._delivery.cluster.has_contact

    def metrics(self) -> dict[str, int]:
        """Return counters since the start, and what is buffered now (bytes, batches)."""
        with self._lock:
            buffered = {"buffer_bytes": self._accumulator.used, "batches_incomplete": len(self._accumulator.incomplete)}
        return {**self._delivery.counters, "retries": self._delivery.sender.retries, **buffered}

    def __enter__(self) -> Producer[K, V]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except DeliveryError as undelivered:
            if error is None:
                raise
            error.add_note(f"callboard: {undelivered}")  # the block's own error must not be hidden

    # -- the slower part of send -------------------------------------------------------------------

    def _send(
        self, topic: str, value: Any, key: Any, headers: Any, partition: int | None, timestamp_ms: int | None
    ) -> FutureRecordMetadata:
        record = self._record(topic, value, key, headers, partition, timestamp_ms)
        until = 0.0
        while True:
            future = self._try_append(topic, record)
            if future is not None:
                return future
            until = until or self._block_until()
            self._wait_for_space(until)

    def send_now(
        self, topic: str, value: Any, key: Any, headers: Any, partition: int | None, timestamp_ms: int | None
    ) -> FutureRecordMetadata | None:
        """``send`` that never waits: None when there is no room. For the asyncio twin."""
        return self._try_append(topic, self._record(topic, value, key, headers, partition, timestamp_ms))

    @contextmanager
    def waiting_for_space(self, call: Callable[[], Any]) -> Iterator[None]:
        """While this lasts batches leave without lingering; ``call`` is called, once, when memory is given back."""
        accumulator = self._accumulator
        with self._lock:
            accumulator.waiters += 1
            accumulator.on_space.append(call)
        try:
            self._delivery.wake()
            yield
        finally:
            with self._lock:
                accumulator.waiters -= 1
                if call in accumulator.on_space:
                    accumulator.on_space.remove(call)

    def _record(self, topic: Any, value: Any, key: Any, headers: Any, partition: Any, timestamp_ms: Any) -> _Record:
        """Check and serialize. The application's code runs here, on its own thread and without a lock."""
        records.check_topic(topic)
        checked = records.check_headers(headers) if headers else None
        asked = partition
        if asked is None and isinstance(self._partitioner, KafkaPythonPartitioner):
            asked = Unserialized(key, value)
        if self._encode_key is not None:
            key = self._encode_key(topic, checked, key)
        if self._encode_value is not None:
            value = self._encode_value(topic, checked, value)
        if type(key) is not bytes and key is not None:
            key = records.check_bytes(key, "key")
        if type(value) is not bytes and value is not None:
            value = records.check_bytes(value, "value")
        if key is None and value is None:
            raise IllegalArgumentError("a record needs a value or a key")
        if partition is not None:
            records.check_partition(partition)
        if timestamp_ms is None:
            timestamp_ms = time_ns() // 1_000_000
        else:
            records.check_timestamp(timestamp_ms)
        size = (len(key) if key is not None else 0) + (len(value) if value is not None else 0)
        if size > self.config.max_request_size:
            records.check_size(size, self.config.max_request_size, topic)
        return value, key, checked, asked, timestamp_ms

    def _try_append(self, topic: str, record: _Record) -> FutureRecordMetadata | None:
        """Append a record; None: there is no room for it now."""
        value, key, headers, asked, timestamp_ms = record
        buffers = self._topics.get(topic)
        partition = asked if isinstance(asked, int) else None
        if partition is None and buffers is not None and buffers.is_routed:
            partition = self._choose(buffers, key, value, asked)
        with self._lock:
            if self._ended is not None:
                raise self._ended
            buffers = self._accumulator.topic(topic)
            if not buffers.is_routed:
                buffer = buffers.unrouted
            elif partition is None:
                buffer = self._accumulator.choose_sticky(buffers)
            elif partition < len(buffers.buffers):
                buffer = buffers.buffers[partition]
            else:
                raise self._no_such_partition(buffers, partition)
            began = buffer.open
            placed = self._accumulator.append(
                buffer, value, key, headers, timestamp_ms, self._clock.monotonic_ms(), requested=asked
            )
            if placed is None:
                return None
            batch, index = placed
            if buffers.is_routed:
                if partition is None:
                    self._note_sticky(buffers, batch, began)
                if self._is_plain:
                    self._fast[topic] = buffers
        if batch is not began:
            self._delivery.wake()
        return FutureRecordMetadata(batch, index)

    def _note_sticky(self, topic: TopicBuffer, batch: ProducerBatch, began: ProducerBatch | None) -> None:
        """Remember the open batch for the fast path; count what the sticky partition got when a batch ends."""
        if batch is began and topic.sticky_batch is batch:
            return
        before = topic.sticky_batch
        if before is not None and before is not batch:
            topic.sticky_bytes += before.size
        topic.sticky_batch = batch

    def _choose(
        self, topic: TopicBuffer, key: bytes | None, value: bytes | None, given: int | Unserialized | None = None
    ) -> int | None:
        if key is None and self._is_sticky:
            return None
        partitioner, count = self._partitioner, len(topic.buffers)
        of_record = topic.name, key, value, count, topic.available or range(count)
        try:
            if isinstance(given, Unserialized) and isinstance(partitioner, KafkaPythonPartitioner):
                chosen = partitioner.partition_of(given, *of_record)
            else:
                chosen = partitioner.partition(*of_record)
            chosen = None if chosen is None else index(chosen)
        except Exception as error:  # the application's partitioner
            raise IllegalArgumentError(
                f"the partitioner failed for topic {topic.name!r}: {type(error).__name__}: {error}"
            ) from error
        if chosen is not None and not 0 <= chosen < count:
            raise IllegalArgumentError(
                f"the partitioner chose {chosen!r} for topic {topic.name!r} with {count} partitions"
            )
        return chosen

    def _route(self, topic: TopicBuffer, batch: ProducerBatch) -> list[int | CallboardError | None]:
        """Choose partitions for records that had to wait for metadata. On the I/O thread, without the lock."""
        requested = batch.requested or [None] * batch.count
        keys = batch.keys or [None] * batch.count
        chosen: list[int | CallboardError | None] = []
        for asked, key, value in zip(requested, keys, batch.values, strict=True):
            try:
                chosen.append(asked if isinstance(asked, int) else self._choose(topic, key, value, asked))
            except IllegalArgumentError as error:  # of the application's partitioner: its record fails, no other
                chosen.append(error)
        return chosen

    def _no_such_partition(self, topic: TopicBuffer, partition: int) -> UnknownTopicOrPartitionError:
        return UnknownTopicOrPartitionError(
            f"topic {topic.name!r} has partitions 0 to {len(topic.buffers) - 1}, not {partition}"
        )

    # -- columns -----------------------------------------------------------------------------------

    def _add_columns(self, batch: ProducerBatch, partition: int | None, until: float) -> list[ProducerBatch]:
        with self._lock:
            if self._ended is not None:
                raise self._ended
            topic = self._accumulator.topic(batch.topic)
            is_routed = topic.is_routed
        batch.requested = [partition]
        pieces = self._split(topic, batch, partition) if is_routed else [batch]
        added: list[ProducerBatch] = []
        for piece in pieces:
            while not self._try_add(topic, piece):
                self._wait_for_space(until)
            added.append(piece)
        return added

    def _try_add(self, topic: TopicBuffer, piece: ProducerBatch) -> bool:
        with self._lock:
            if self._ended is not None:
                raise self._ended
            if piece.partition == UNROUTED and topic.is_routed:  # became known just now
                is_added, routed = False, True
            else:
                buffer = topic.unrouted if piece.partition == UNROUTED else topic.buffers[piece.partition]
                is_added, routed = self._accumulator.add_columns(buffer, piece), False
        if routed:
            pieces = self._split(topic, piece, _asked(piece))
            for part in pieces:
                while not self._try_add(topic, part):
                    self._wait_for_space(self._block_until())
            futures.move(piece, [(part, index) for part in pieces for index in range(part.count)])
            return True
        if is_added:
            self._delivery.wake()
        return is_added

    def _split(self, topic: TopicBuffer, batch: ProducerBatch, partition: int | None) -> list[ProducerBatch]:
        if partition is not None and partition >= len(topic.buffers):
            raise self._no_such_partition(topic, partition)

        def sticky(size: int) -> PartitionBuffer:
            with self._lock:
                buffer = self._accumulator.choose_sticky(topic)
                topic.sticky_bytes += size
                return buffer

        batch_size, count = topic.buffers[0].batch_size, len(topic.buffers)

        def by_hash(key: bytes | None, _: bytes | None) -> int | None:  # what the default partitioner does
            return None if key is None else crc32(key) % count

        def chosen(key: bytes | None, value: bytes | None) -> int | None:
            return self._choose(topic, key, value)

        partition_of = by_hash if type(self._partitioner) is Crc32Partitioner else chosen
        return records.split_columns(batch, partition, partition_of, sticky, batch_size)

    def _split_moved(self, topic: TopicBuffer, batch: ProducerBatch) -> list[ProducerBatch]:
        """Split columns that had to wait for metadata. On the I/O thread, without the lock."""
        try:
            return self._split(topic, batch, _asked(batch))
        except CallboardError:
            raise
        except Exception as error:  # the application's partitioner
            raise IllegalArgumentError(f"the partitioner failed: {type(error).__name__}: {error}") from error

    # -- waiting -----------------------------------------------------------------------------------

    def _block_until(self) -> float:
        """Return until when (monotonic seconds) a call that began now may wait for space."""
        if self.config.on_full == "raise" or self._io.is_own_thread:
            return 0.0001
        return time.monotonic() + self.config.max_block_ms / 1000

    def _wait_for_space(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise self.exhausted_error()
        accumulator = self._accumulator
        with self._lock:
            accumulator.waiters += 1
        try:
            self._delivery.wake()  # whoever waits makes every batch ready to leave
            with self._lock:
                if self._ended is None:
                    accumulator.space.wait(min(left, 1.0))
        finally:
            with self._lock:
                accumulator.waiters -= 1

    def exhausted_error(self) -> BufferExhaustedError:
        waited = "" if self.config.on_full == "raise" else f" and stayed so for {self.config.max_block_ms / 1000:g} s"
        return BufferExhaustedError(
            f"buffer_memory ({self.config.buffer_memory} bytes) is full{waited}; "
            "send more slowly, raise buffer_memory, or see whether the brokers can be reached"
        )

    def _wait_until_done(self, timeout: float | None, what: str, *, raises: bool = True) -> None:
        """Wait for everything sent before now; what is late is told by ``raises``."""
        self._io.check()
        if self._io.is_own_thread:
            raise IllegalStateError(f"{what}: a callback runs on the I/O thread and must not wait for it")
        deadline = None if timeout is None else time.monotonic() + timeout
        accumulator = self._accumulator
        with self._lock:
            accumulator.flushing += 1
            accumulator.seal_all()
            batches = list(accumulator.incomplete)
        try:
            self._delivery.wake()
            late = [batch for batch in batches if not futures.wait(batch, _left(deadline))]
        finally:
            with self._lock:
                accumulator.flushing -= 1
        if late and raises:
            left = [future for batch in late for future in futures.unobserved(batch)]
            raise DeliveryError(f"{what}: {len(left)} records are still on their way after {timeout:g} s", left)

    def _raise_failures(self, what: str) -> None:
        failures = self._delivery.failures
        self._delivery.failed_bytes = 0
        failed: list[FutureRecordMetadata] = []
        first: CallboardError | None = None
        while failures:
            batch = failures.popleft()
            unseen = futures.unobserved(batch)
            if unseen and first is None:
                first = batch.error
            failed += unseen
        if failed:
            places = sorted({_place(future.topic_partition) for future in failed})
            where = ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
            noun = "record was" if len(failed) == 1 else "records were"
            raise DeliveryError(f"{what}: {len(failed)} {noun} not delivered ({where}): {first}", failed) from first

    def _check_open(self) -> None:
        self._io.check()
        if self._ended is not None:
            raise self._ended

    def on_fork(self) -> None:
        """We are in a forked child: refuse from here on."""
        self._io.is_forked = True
        self._fast = {}
        self._topics = {}
        self._ended = ForkedClientError(
            f"producer {self.client_id} was made before this process was forked; make a new one in the child process"
        )
        self._lock = self._accumulator.fresh_lock()


_Record = tuple["bytes | None", "bytes | None", "list[Header] | None", "int | Unserialized | None", int]


def _asked(columns: ProducerBatch) -> int | None:
    """Return the partition that columns were sent to by ``partition=``."""
    asked = columns.requested[0] if columns.requested else None
    return asked if isinstance(asked, int) else None


def _place(where: TopicPartition) -> str:
    return str(where) if where.partition >= 0 else where.topic


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
