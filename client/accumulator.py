"""What has been given to ``send`` and is not yet under way: batches by partition, and the bound on their memory.

Rules of this file:

1. Every method is called with ``lock`` held (the fields that are read without it say so). The lock is held for
   nanoseconds and never while anything blocks or code of the application runs.
2. A record is appended to an open batch, or a new batch is begun. Only the I/O thread takes batches out, and it seals
   first: so no record can fall between two threads.
3. ``used`` is the sum of what all unfinished batches have reserved; it never exceeds ``buffer_memory`` by an append. A
   batch reserves in steps that double, so that a thousand partitions with one record each do not cost a thousand
   full batches.
4. Records of a topic whose partitions are not known yet wait in order in its *unrouted* buffer; when the metadata
   comes they are routed, in order, before anything else of that topic is appended. ``send`` never waits for metadata.
5. No clock, no thread, no socket: time comes in as ``now_ms`` (monotonic).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from ..errors import CallboardError
from ..model import Header
from ..storage.batch import RECORDS_MAX
from .partitioners import Unserialized
from .producer_batch import RECORD_OVERHEAD, UNROUTED, ProducerBatch, record_size

RESERVE_STEP = 4_096  # bytes of buffer_memory that a new batch reserves first

Route = Callable[
    ["TopicBuffer", "bytes | None", "bytes | None"], "int | None"
]  # (topic, key, value) -> partition or sticky


class PartitionBuffer:
    """Batches of one partition in the order of ``send``; all but the last are sealed."""

    __slots__ = ("batch_size", "open", "partition", "topic", "waiting")

    def __init__(self, topic: str, partition: int, batch_size: int) -> None:
        self.topic = topic
        self.partition = partition
        self.batch_size = batch_size  # of a batch with more than one record
        self.waiting: deque[ProducerBatch] = deque()  # not yet taken by the sender
        self.open: ProducerBatch | None = None  # the last of waiting while it takes records

    def __repr__(self) -> str:
        return f"<buffer {self.topic}-{self.partition} {len(self.waiting)} waiting>"


class TopicBuffer:
    """The buffers of one topic, and its sticky partition."""

    __slots__ = (
        "available",
        "buffers",
        "is_routed",
        "name",
        "sticky",
        "sticky_batch",
        "sticky_bytes",
        "turn",
        "unrouted",
    )

    def __init__(self, name: str, batch_size: int, turn: int) -> None:
        self.name = name
        self.buffers: list[PartitionBuffer] = []  # by partition
        self.is_routed = False  # False: the partitions are not known yet, or older records are still being routed
        self.unrouted = PartitionBuffer(name, UNROUTED, batch_size)
        self.available: Sequence[int] = ()  # partitions with a leader just now
        self.sticky: PartitionBuffer | None = None  # where records without a key go
        self.sticky_batch: ProducerBatch | None = (
            None  # its open batch, for the fast path of send(); maybe sealed since
        )
        self.sticky_bytes = 0  # given to the sticky partition since it became that
        self.turn = turn  # where the next sticky partition is looked for


class Accumulator:
    """All buffers of one producer."""

    def __init__(self, *, batch_size: int, buffer_memory: int, turn: int = 0) -> None:
        self.lock = threading.Lock()
        self.space = threading.Condition(self.lock)  # told when memory is given back and somebody waits for it
        self.batch_size = batch_size
        self.buffer_memory = buffer_memory
        self.turn = turn
        self.topics: dict[str, TopicBuffer] = {}
        self.used = 0  # 0 <= used; <= buffer_memory but for records that routing has moved
        self.waiters = 0  # threads (and coroutines) that wait for space
        self.on_space: list[Callable[[], None]] = []  # called, once, when memory is given back
        self.flushing = 0  # calls of flush and close under way: nothing lingers
        self.incomplete: set[ProducerBatch] = set()  # begun and not settled
        self.woken: list[PartitionBuffer] = []  # have a new batch that the sender has not heard of
        self.new_topics: list[str] = []  # likewise: metadata is to be asked for

    def fresh_lock(self) -> threading.Lock:
        """In a forked child: another thread may have held the lock at the fork. Returns a new one, now in use."""
        self.lock = threading.Lock()
        self.space = threading.Condition(self.lock)
        return self.lock

    # -- appending: user threads -------------------------------------------------------------------

    def topic(self, name: str) -> TopicBuffer:
        """Return the topic's buffers; a topic not seen before is new, its metadata will be asked for."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = TopicBuffer(name, self.batch_size, self.turn)
            self.new_topics.append(name)
        return topic

    def append(
        self,
        buffer: PartitionBuffer,
        value: bytes | None,
        key: bytes | None,
        headers: list[Header] | None,
        timestamp_ms: int,
        now_ms: int,
        requested: int | Unserialized | None = None,
    ) -> tuple[ProducerBatch, int] | None:
        """Append a record; return where it is. None: ``buffer_memory`` has no room for it now."""
        size = record_size(value, key, headers)
        batch = buffer.open
        if batch is None or batch.limit < 0 or not self._has_room(buffer, batch, size):
            if batch is not None and batch.limit >= 0 and batch.size + size <= buffer.batch_size:
                return None  # it would fit the batch; it is the memory that is used up
            batch = self._begin(buffer, size, now_ms)
            if batch is None:
                return None
        if buffer.partition == UNROUTED:
            if batch.requested is None:
                batch.requested = []
            batch.requested.append(requested)
        return batch, batch.append(value, key, headers, timestamp_ms, size)

    def add_columns(self, buffer: PartitionBuffer, batch: ProducerBatch) -> bool:
        """Add a ready-made batch behind all others; False: no room for it now.

        One that is larger than the whole of ``buffer_memory`` goes when nothing else is there.
        """
        if self.used and self.used + batch.size > self.buffer_memory:
            return False
        self._add(buffer, batch, batch.size)
        return True

    def choose_sticky(self, topic: TopicBuffer) -> PartitionBuffer:
        """Return where a record without a key goes: the same partition for ``batch_size`` bytes, then the next."""
        sticky = topic.sticky
        if sticky is None or topic.sticky_bytes >= self.batch_size or not self._is_available(topic, sticky):
            candidates = topic.available or range(len(topic.buffers))
            sticky = topic.sticky = topic.buffers[candidates[topic.turn % len(candidates)]]
            topic.turn += 1
            topic.sticky_bytes = 0
        return sticky

    def _is_available(self, topic: TopicBuffer, buffer: PartitionBuffer) -> bool:
        return not topic.available or buffer.partition in topic.available

    def _has_room(self, buffer: PartitionBuffer, batch: ProducerBatch, size: int) -> bool:
        """Make room for ``size`` bytes in an open batch by reserving more; False: batch or memory is full."""
        needed = batch.size + size
        if needed <= batch.limit:
            return True
        if needed > buffer.batch_size:
            return False
        reserve = min(max(needed, 2 * batch.reserved), buffer.batch_size)
        if self.used + reserve - batch.reserved > self.buffer_memory:
            reserve = needed
            if self.used + reserve - batch.reserved > self.buffer_memory:
                return False
        self.used += reserve - batch.reserved
        batch.reserved = batch.limit = reserve
        return True

    def _begin(self, buffer: PartitionBuffer, size: int, now_ms: int) -> ProducerBatch | None:
        reserve = max(size, min(RESERVE_STEP, buffer.batch_size))
        if self.used + reserve > self.buffer_memory:
            reserve = size
            if self.used and self.used + reserve > self.buffer_memory:
                return None
        batch = ProducerBatch(buffer.topic, buffer.partition, reserve, now_ms)
        self._add(buffer, batch, reserve)
        buffer.open = batch
        return batch

    def _add(self, buffer: PartitionBuffer, batch: ProducerBatch, reserve: int) -> None:
        self.seal(buffer)
        batch.reserved = reserve
        self.used += reserve
        buffer.waiting.append(batch)
        self.incomplete.add(batch)
        self.woken.append(buffer)

    # -- taking: the I/O thread --------------------------------------------------------------------

    def seal(self, buffer: PartitionBuffer) -> None:
        """Close the open batch, if any; what it reserved beyond its size is given back."""
        batch, buffer.open = buffer.open, None
        if batch is not None and batch.limit >= 0:
            batch.seal()
            self.used -= batch.reserved - batch.size
            batch.reserved = batch.size
            self._tell_space()

    def _tell_space(self) -> None:
        if self.waiters:
            self.space.notify_all()
            calls, self.on_space = self.on_space, []
            for call in calls:
                call()

    def seal_all(self) -> None:
        """Close every open batch: for flush and close."""
        for topic in self.topics.values():
            for buffer in (*topic.buffers, topic.unrouted):
                self.seal(buffer)

    def is_ready(self, buffer: PartitionBuffer, now_ms: int, linger_ms: int) -> bool:
        """Say whether the first batch may leave: it is full or sealed, has lingered, or others wait for its memory."""
        if not buffer.waiting:
            return False
        batch = buffer.waiting[0]
        if batch.limit < 0 or self.waiters > 0 or self.flushing > 0:
            return True
        return now_ms - batch.created_ms >= linger_ms

    def take(self, buffer: PartitionBuffer) -> ProducerBatch:
        """Take the first batch out, sealed. The caller has seen ``is_ready``."""
        if buffer.waiting[0] is buffer.open:
            self.seal(buffer)
        return buffer.waiting.popleft()

    def release(self, batch: ProducerBatch) -> None:
        """The batch is settled: its memory is free again, whoever waits for space is told."""
        if batch in self.incomplete:
            self.incomplete.remove(batch)
            self.used -= batch.reserved
            batch.reserved = 0
            self._tell_space()

    def drop_waiting(self, buffer: PartitionBuffer, is_over: Callable[[ProducerBatch], bool]) -> list[ProducerBatch]:
        """Take out, sealed, the batches from the front for which ``is_over``; the caller settles them."""
        dropped = []
        while buffer.waiting and is_over(buffer.waiting[0]):
            dropped.append(self.take(buffer))
        return dropped

    # -- routing: the I/O thread, when metadata comes ----------------------------------------------

    def set_partitions(self, topic: TopicBuffer, count: int, available: Sequence[int], message_bytes_max: int) -> None:
        """The topic has ``count`` partitions (never fewer than before), of which ``available`` have a leader.

        ``message_bytes_max`` bounds a batch as the broker stores it: ours stay below it, and below ``RECORDS_MAX``.
        """
        batch_size = max(1, min(self.batch_size, message_bytes_max * 31 // 32 - 256, RECORDS_MAX * RECORD_OVERHEAD))
        for buffer in topic.buffers:
            buffer.batch_size = batch_size
        for partition in range(len(topic.buffers), count):
            topic.buffers.append(PartitionBuffer(topic.name, partition, batch_size))
        topic.available = available

    def take_unrouted(self, topic: TopicBuffer) -> list[ProducerBatch]:
        """Take out, sealed, everything that waits for the topic's metadata."""
        self.seal(topic.unrouted)
        batches = list(topic.unrouted.waiting)
        topic.unrouted.waiting.clear()
        return batches

    def reroute(
        self, topic: TopicBuffer, batch: ProducerBatch, partitions: Sequence[int | CallboardError | None]
    ) -> list[tuple[ProducerBatch, int] | None]:
        """Append the records of an unrouted batch to the partitions chosen for them (None: sticky), in order.

        Returns where each is now; None for one without a partition: the topic does not have it, or choosing it
        failed. Memory moves with them: what is
        appended here was reserved before, so it is not refused.
        """
        moved: list[tuple[ProducerBatch, int] | None] = []
        for index, partition in enumerate(partitions):
            if isinstance(partition, CallboardError) or not (partition is None or 0 <= partition < len(topic.buffers)):
                moved.append(None)
                continue
            value = batch.values[index]
            key = batch.keys[index] if batch.keys is not None else None
            headers = batch.headers[index] if batch.headers is not None else None
            size = record_size(value, key, headers)
            if partition is None:
                buffer = self.choose_sticky(topic)
                topic.sticky_bytes += size
            else:
                buffer = topic.buffers[partition]
            moved.append(self._append_moved(buffer, batch, index, (value, key, headers, size)))
        return moved

    def add_moved(self, buffer: PartitionBuffer, batch: ProducerBatch) -> None:
        """Add a ready-made batch whose records were reserved before, as part of another: never refused."""
        self._add(buffer, batch, batch.size)

    def _append_moved(
        self,
        buffer: PartitionBuffer,
        source: ProducerBatch,
        index: int,
        record: tuple[bytes | None, bytes | None, list[Header] | None, int],
    ) -> tuple[ProducerBatch, int]:
        value, key, headers, size = record
        target = buffer.open
        if target is None or target.size + size > buffer.batch_size:
            target = ProducerBatch(buffer.topic, buffer.partition, 0, source.created_ms)
            self._add(buffer, target, 0)
            buffer.open = target
        at = target.append(value, key, headers, source.timestamp_at(index), size)
        if target.size > target.reserved:
            self.used += target.size - target.reserved
            target.reserved = target.limit = target.size
        return target, at


def failed_because(batch: ProducerBatch, error: CallboardError) -> CallboardError:
    """Return ``error`` chained to what the batch's last attempt failed of."""
    if batch.last_error is not None and error.__cause__ is None:
        error.__cause__ = batch.last_error
    return error
