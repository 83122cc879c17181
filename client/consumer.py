"""The consumer as applications see it.

The I/O thread fetches ahead and puts what comes into an inbox; ``poll`` and iteration sort the inbox into partitions,
decode, and hand out. Positions live on this side, fetch offsets on the other; a *generation* per partition, new with
each seek, tells which of what comes is still wanted.

One lock guards this side. It is never held while waiting, so ``close``, ``seek`` and ``pause`` from other threads
go through while one waits in ``poll``. Two threads may poll: each record goes to one of them. Iterate with one
thread at a time.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from ..errors import (
    CallboardError,
    CallboardTimeoutError,
    ForkedClientError,
    IllegalArgumentError,
    IllegalStateError,
    NoOffsetForPartitionError,
)
from ..model import ConsumerRecord, OffsetAndTimestamp, TopicPartition
from ..transport.messages import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, MetadataReply, MetadataRequest
from .asking import partitions_of
from .cluster import error_of
from .config import ConsumerConfig, from_keywords
from .fetching import Fetching, Subscription
from .health import ConsumerHealth, describe_health
from .inbox import Inbox
from .io import Done, IoThread, MakeTransport
from .reading import Decoding, PartitionReader, RecordColumns
from .serializers import decoder

K = TypeVar("K")
V = TypeVar("V")

Records = dict[TopicPartition, list[ConsumerRecord[K, V]]]

_numbers = itertools.count(1)
WAIT_S_MAX = 1.0  # of one wait: then look whether something else ends it


class Consumer(Generic[K, V]):
    """Reads records.

        with Consumer("flights", bootstrap_servers="localhost:9192", auto_offset_reset="earliest") as consumer:
            for record in consumer:
                …

    Without a group: topics given here or to ``subscribe`` are read in all their partitions, also those added later;
    ``assign`` names partitions. Records come in order within a partition, in no order between partitions.

    Only acknowledged records are seen: what a consumer has read survives (see docs/guarantees.md).

    Settings are those of ``client.config.ConsumerConfig``, by name.

    Raises:
        ConfigurationError: an unknown setting (the nearest valid one is named), a wrong type or value.
    """

    def __init__(self, *topics: str, **settings: Any) -> None:
        make_transport: MakeTransport | None = settings.pop("make_transport", None)  # for tests
        self.config = config = from_keywords(ConsumerConfig, settings, "consumer")
        self.client_id = config.client_id or f"callboard-consumer-{os.getpid()}-{next(_numbers)}"
        self._decoding = Decoding(
            _with_topic(decoder(config.key_deserializer, "key_deserializer")),
            _with_topic(decoder(config.value_deserializer, "value_deserializer")),
            is_verifying=config.check_crcs,
            skips_bad=config.on_bad_record == "skip",
        )
        self._lock = threading.RLock()
        self._inbox = Inbox(self._decoding)
        self._arrived = threading.Event()
        self._on_arrival: Callable[[], None] | None = None  # of the asyncio twin
        self._generations = itertools.count(1)
        self._is_assigned_by_hand = False
        self._ended: CallboardError | None = None
        self._iterator: Iterator[ConsumerRecord[K, V]] | None = None
        self._io = IoThread(f"consumer {self.client_id}", self, make_transport)
        self._fetching = Fetching(
            self._io, config, self.client_id, self._generations, self._inbox.items.append, self._on_news
        )
        self._inbox.connect(self._fetching.fetcher.total, lambda: self._io.post(self._fetching.credit_returned))
        self._io.post(self._fetching.start)
        if topics:
            self.subscribe(topics)

    # -- what to read ------------------------------------------------------------------------------

    def subscribe(self, topics: Iterable[str] | str = (), pattern: str | None = None) -> None:
        """Read all partitions of these topics, or of those whose whole name matches the regular expression ``pattern``.

        Replaces what was read before. A partition that is added later is read from its beginning.

        Raises:
            IllegalStateError: partitions were assigned by hand; ``unsubscribe`` first.
            IllegalArgumentError: neither topics nor pattern, or both.
        """
        names = frozenset([topics] if isinstance(topics, str) else topics)
        if bool(names) == (pattern is not None):
            raise IllegalArgumentError("subscribe: give topics or a pattern")
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"subscribe: expected topic names, got {type(name).__name__}")
        try:
            matcher = re.compile(pattern) if pattern is not None else None
        except re.error as error:
            raise IllegalArgumentError(f"subscribe: {pattern!r} is not a regular expression: {error}") from None
        with self._lock:
            self._check_open()
            if self._is_assigned_by_hand:
                raise IllegalStateError("subscribe: partitions were assigned by hand; call unsubscribe() first")
            self._forget_readers()
            self._inbox.subscription = Subscription(names, matcher)
            self._io.post(self._fetching.subscribe, self._inbox.subscription)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions, each from where ``auto_offset_reset`` says unless ``seek`` follows.

        Partitions that were assigned before keep their positions.

        Raises:
            IllegalStateError: topics are subscribed; ``unsubscribe`` first.
        """
        keys = [_partition(given) for given in partitions]
        with self._lock:
            self._check_open()
            if self._inbox.subscription is not None:
                raise IllegalStateError("assign: topics are subscribed; call unsubscribe() first")
            before = {key: reader.position for key, reader in self._inbox.readers.items()}
            self._inbox.sort()
            self._forget_readers()
            self._is_assigned_by_hand = bool(keys)
            readers = self._inbox.assign(dict.fromkeys(keys), lambda: next(self._generations))
            wanted = [(reader.key, reader.generation, reader.credit) for reader in readers]
            self._io.post(self._fetching.assign, wanted)
            for key, position in before.items():
                if key in self._inbox.readers and position is not None:
                    self._seek(key, position, None)

    def unsubscribe(self) -> None:
        """Read nothing."""
        with self._lock:
            self._check_open()
            self._forget_readers()
            self._inbox.subscription, self._is_assigned_by_hand = None, False
            self._io.post(self._fetching.assign, [])

    def assignment(self) -> set[TopicPartition]:
        """Return the partitions that are being read; of a subscription those known so far."""
        with self._lock:
            self._inbox.sort()
            return set(self._inbox.readers)

    def subscription(self) -> set[str] | None:
        """Return the subscribed topics; None: there are none."""
        with self._lock:
            if self._inbox.subscription is None:
                return None
            if self._inbox.subscription.pattern is None:
                return set(self._inbox.subscription.topics)
            self._inbox.sort()
            return {key.topic for key in self._inbox.readers}

    # -- reading -----------------------------------------------------------------------------------

    def poll(self, timeout_ms: int | None = None, max_records: int | None = None) -> Records[K, V]:
        """Return records by partition; {} if none came in time.

        Args:
            timeout_ms: how long to wait for the first record. None: ``default_poll_ms`` (1 s). 0: what is there
            already;
                fetching goes on in the background all the same.
            max_records: None: ``max_poll_records``.

        Raises:
            SerializationError: a deserializer failed on the very next record (with ``on_bad_record="raise"``); it
            carries the
                raw data and the offset. The position stays: ``seek`` past it to go on.
            OffsetOutOfRangeError, NoOffsetForPartitionError: with ``auto_offset_reset="none"``.
            UnknownTopicOrPartitionError, TopicAuthorizationFailedError, CorruptRecordError: what is read is not
            there, … ConnectionFailedError: no broker has been reachable for ``raise_after_ms`` (at first:
            ``bootstrap_timeout_ms``). IllegalStateError, ForkedClientError: it is closed, nothing is subscribed; it
            was made before a fork.
        """
        limit = self.config.max_poll_records if max_records is None else max_records
        if limit < 1:
            raise IllegalArgumentError(f"max_records: must be at least 1 (given: {limit})")
        return self._wait_for(lambda: self._inbox.take(limit), self._poll_ms(timeout_ms)) or {}

    def poll_batches(
        self, timeout_ms: int | None = None, max_records: int | None = None
    ) -> dict[TopicPartition, list[RecordColumns]]:
        """Return whole batches as columns, by partition: the fastest way out. Keys and values are bytes.

        Args:
            max_records: when to stop adding batches; the first is returned whatever its size. Waits and raises as
            ``poll``.
        """
        limit = 1 << 62 if max_records is None else max_records
        return self._wait_for(lambda: self._inbox.take_columns(limit), self._poll_ms(timeout_ms)) or {}

    def __iter__(self) -> Iterator[ConsumerRecord[K, V]]:
        """Yield records as they come, for ever; or until none has come for ``consumer_timeout_ms``.

        The position moves with each record: one that was not asked for is not lost when the loop is left.
        """
        if self._iterator is None:
            self._iterator = self._iterate()
        return self._iterator

    def __next__(self) -> ConsumerRecord[K, V]:
        try:
            return next(iter(self))
        except BaseException:
            self._iterator = None
            raise

    # -- positions ---------------------------------------------------------------------------------

    def position(self, partition: TopicPartition, timeout_ms: int | None = None) -> int:
        """Return the offset of the next record that will be handed out; waits while it is being looked up.

        Raises:
            IllegalStateError: the partition is not assigned.
            CallboardTimeoutError: not known within ``timeout_ms`` (None: ``request_timeout_ms``).
        """
        key = _partition(partition)
        bound_ms = self.config.request_timeout_ms if timeout_ms is None else timeout_ms

        def look() -> int | None:
            reader = self._reader(key, "position")
            if reader.error is not None:
                raise reader.error
            return reader.position

        found: int | None = self._wait_for(look, bound_ms, is_reading=False)
        if found is None:
            raise CallboardTimeoutError(f"position of {key}: not known within {bound_ms / 1000:g} s")
        return found

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read this partition from ``offset`` on. Takes effect with the next record.

        Raises:
            IllegalStateError: the partition is not assigned. IllegalArgumentError: the offset is negative.
        """
        key = _partition(partition)
        if type(offset) is not int:
            raise TypeError(f"offset: expected int, got {type(offset).__name__}")
        if offset < 0:
            raise IllegalArgumentError(f"offset: must not be below 0 (given: {offset})")
        with self._lock:
            self._check_open()
            self._reader(key, "seek")
            self._seek(key, offset, None)

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Read these partitions (none given: all assigned) from their first record."""
        self._seek_to(partitions, EARLIEST_TIMESTAMP, "seek_to_beginning")

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Read these partitions (none given: all assigned) from the next record that will be written."""
        self._seek_to(partitions, LATEST_TIMESTAMP, "seek_to_end")

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these partitions, and fetch no more of them, until ``resume``."""
        self._set_paused(partitions, True)

    def resume(self, *partitions: TopicPartition) -> None:
        self._set_paused(partitions, False)

    def paused(self) -> set[TopicPartition]:
        with self._lock:
            return {key for key, reader in self._inbox.readers.items() if reader.is_paused}

    # -- questions ---------------------------------------------------------------------------------

    def beginning_offsets(
        self, partitions: Iterable[TopicPartition], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """Return the offset of the first record there still is.

        Raises:
            UnknownTopicOrPartitionError, ConnectionFailedError, CallboardTimeoutError: …
        """
        return self._bounds(partitions, EARLIEST_TIMESTAMP, timeout_ms)

    def end_offsets(
        self, partitions: Iterable[TopicPartition], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """Return the high watermark: the offset behind the last record that can be read. Raises as
        ``beginning_offsets``."""
        return self._bounds(partitions, LATEST_TIMESTAMP, timeout_ms)

    def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int], timeout_ms: int | None = None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """Return the first record at or after a timestamp (ms since 1970), by partition; None: there is none.

        Raises:
            IllegalArgumentError: a negative timestamp. Else as ``beginning_offsets``.
        """
        if not isinstance(timestamps, Mapping):
            raise TypeError(f"expected a dict of timestamps by TopicPartition, got {type(timestamps).__name__}")
        for timestamp in timestamps.values():
            if timestamp < 0:
                raise IllegalArgumentError(f"timestamps are milliseconds since 1970 (given: {timestamp})")
        return self._look_up({_partition(key): timestamp for key, timestamp in timestamps.items()}, timeout_ms)

    def highwater(self, partition: TopicPartition) -> int | None:
        """Return the high watermark as the last fetch told it; None: not known yet. Asks nobody."""
        with self._lock:
            self._inbox.sort()
            return self._reader(_partition(partition), "highwater").high_watermark

    def lag(self, timeout_ms: int | None = None) -> dict[TopicPartition, int]:
        """Return how many records lie between the position and the end, by assigned partition. One round trip."""
        with self._lock:
            self._inbox.sort()
            keys = list(self._inbox.readers)
        ends = self.end_offsets(keys, timeout_ms) if keys else {}
        return {key: max(0, ends[key] - self.position(key, timeout_ms)) for key in keys}

    def health(self) -> ConsumerHealth:
        """Return whether reading goes on, and if not why. Asks nobody, waits for nothing."""
        with self._lock:
            self._inbox.sort()
            return describe_health(self._inbox.readers, self._fetching, self._io)

    def topics(self, timeout_ms: int | None = None) -> set[str]:
        """Return the names of all topics."""
        bound_ms = self.config.request_timeout_ms if timeout_ms is None else timeout_ms
        request = MetadataRequest(include_internal=not self.config.exclude_internal_topics)

        def start(done: Done[MetadataReply]) -> None:
            self._fetching.cluster.ask_any(
                request, lambda reply, _: done(cast("MetadataReply", reply), error_of(reply)), bound_ms
            )

        return {topic.name for topic in self._io.ask(start, bound_ms / 1000 + 1, "topics").topics}

    def partitions_for_topic(self, topic: str, timeout_ms: int | None = None) -> set[int]:
        """Return the partitions of a topic.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
        """
        bound_ms = self.config.request_timeout_ms if timeout_ms is None else timeout_ms
        return partitions_of(self._io, self._fetching.cluster, topic, bound_ms)

    def bootstrap_connected(self) -> bool:
        """Say whether a broker has been reached so far."""
        return self._fetching.cluster.has_contact

    def metrics(self) -> dict[str, int]:
        """Return counters since the start, and the bytes that are buffered now."""
        total = self._fetching.fetcher.total
        return {**self._fetching.counters, "records_skipped": self._decoding.skipped, "buffer_bytes": total.buffered}

    # -- life --------------------------------------------------------------------------------------

    def close(self, timeout_ms: int | None = None) -> None:
        """Stop reading. Bounded by ``timeout_ms`` (None: ``close_timeout_ms``). Harmless when repeated."""
        with self._lock:
            if self._ended is not None:
                return
            self._ended = IllegalStateError(f"consumer {self.client_id} is closed")
        self._on_news()
        bound_s = (self.config.close_timeout_ms if timeout_ms is None else timeout_ms) / 1000
        try:
            if not self._io.is_own_thread:
                self._io.ask(self._fetching.shut_down, bound_s, "close")
        except CallboardTimeoutError:  # the thread is ended below all the same; nothing of ours is lost by that
            pass
        finally:
            self._io.stop(max(0.1, bound_s))

    def on_fork(self) -> None:
        """We are in a forked child: refuse from here on."""
        self._io.is_forked = True
        self._lock = threading.RLock()
        self._arrived = threading.Event()
        self._ended = ForkedClientError(
            f"consumer {self.client_id} was made before this process was forked; make a new one in the child process"
        )

    def __enter__(self) -> Consumer[K, V]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def on_arrival(self, call: Callable[[], None] | None) -> None:
        """Call this, on the I/O thread, whenever something has come; None: no more. For the asyncio twin."""
        self._on_arrival = call

    # -- waiting -----------------------------------------------------------------------------------

    def _on_news(self) -> None:
        """Something is in the inbox, or has ended. From any thread."""
        self._arrived.set()
        call = self._on_arrival
        if call is not None:
            call()

    def _wait_for(self, look: Callable[[], Any], timeout_ms: float, *, is_reading: bool = True) -> Any:
        """Call ``look`` until it returns something, or ``timeout_ms`` have passed (then None)."""
        if self._io.is_own_thread:
            raise IllegalStateError("a callback runs on the I/O thread and must not wait for it")
        until = time.monotonic() + timeout_ms / 1000
        while True:
            self._arrived.clear()  # first, then look: what comes from now on ends the wait
            with self._lock:
                self._check_open()
                self._inbox.sort()
                found = look()
                if found is None and is_reading:
                    self._raise_trouble()
            left = until - time.monotonic()
            if found is not None or left <= 0:
                return found
            self._arrived.wait(min(left, WAIT_S_MAX))

    def _poll_ms(self, timeout_ms: int | None) -> float:
        if timeout_ms is None:
            return self.config.default_poll_ms
        if not isinstance(timeout_ms, int | float):
            raise TypeError(f"timeout_ms: expected milliseconds as a number, got {type(timeout_ms).__name__}")
        if timeout_ms < 0:
            raise IllegalArgumentError(f"timeout_ms: must not be below 0 (given: {timeout_ms})")
        return timeout_ms

    def _raise_trouble(self) -> None:
        """Nothing is there to hand out: raise why, if waiting will not help."""
        if self._inbox.subscription is None and not self._inbox.readers:
            raise IllegalStateError("nothing to read: call subscribe() or assign() first")
        for reader in self._inbox.readers.values():
            if reader.error is not None and not reader.is_paused:
                raise reader.error
            if reader.position is None and self.config.auto_offset_reset == "none" and reader.generation:
                raise NoOffsetForPartitionError(
                    f"{reader.key} has no position and auto_offset_reset is 'none'; seek first"
                )
        missing = self._fetching.missing_topic_error()
        if missing is not None:
            raise missing
        self._raise_unreachable()

    def _raise_unreachable(self) -> None:
        cluster = self._fetching.cluster
        since_ms = cluster.unreachable_since_ms
        limit_ms = self.config.raise_after_ms if cluster.has_contact else cluster.bootstrap_timeout_ms
        if since_ms is not None and limit_ms is not None and self._io.clock.monotonic_ms() - since_ms >= limit_ms:
            raise cluster.unreachable_error()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended
        self._io.check()

    # -- iterating ---------------------------------------------------------------------------------

    def _iterate(self) -> Iterator[ConsumerRecord[K, V]]:
        timeout = self.config.consumer_timeout_ms
        timeout_ms = float("inf") if timeout is None else timeout
        while True:
            reader = self._wait_for(self._inbox.next_reader, timeout_ms)
            if reader is None:
                return
            records = reader.records
            for at in range(reader.at, len(records)):
                if reader.records is not records or reader.at != at or reader.is_paused:
                    break  # a seek, a pause or a poll came between
                record = records[at]
                reader.at = at + 1
                reader.position = record.offset + 1
                yield record
            with self._lock:
                if reader.records is records and reader.at >= len(records) and reader.bad is None:
                    self._inbox.give_back(reader.release(), reader)

    # -- seeking -----------------------------------------------------------------------------------

    def _seek(self, key: TopicPartition, offset: int | None, reset_to: int | None) -> None:
        generation = next(self._generations)
        self._inbox.move(key, generation, offset)
        self._io.post(self._fetching.seek, [(key, generation, offset, reset_to)])

    def _seek_to(self, partitions: Sequence[TopicPartition], reset_to: int, what: str) -> None:
        keys = [_partition(given) for given in partitions]
        with self._lock:
            self._check_open()
            self._inbox.sort()
            for key in keys or list(self._inbox.readers):
                self._reader(key, what)
                self._seek(key, None, reset_to)

    def _set_paused(self, partitions: Sequence[TopicPartition], is_paused: bool) -> None:
        keys = [_partition(given) for given in partitions]
        with self._lock:
            self._check_open()
            self._inbox.sort()
            for key in keys:
                self._reader(key, "pause" if is_paused else "resume").is_paused = is_paused
            self._io.post(self._fetching.pause, keys, is_paused)
        self._on_news()

    def _reader(self, key: TopicPartition, what: str) -> PartitionReader:
        reader = self._inbox.readers.get(key)
        if reader is None:
            raise IllegalStateError(f"{what}: {key} is not assigned to this consumer")
        return reader

    def _forget_readers(self) -> None:
        self._inbox.forget()
        self._iterator = None

    def _bounds(
        self, partitions: Iterable[TopicPartition], timestamp: int, timeout_ms: int | None
    ) -> dict[TopicPartition, int]:
        found = self._look_up({_partition(key): timestamp for key in partitions}, timeout_ms)
        return {key: answer.offset for key, answer in found.items() if answer is not None}

    def _look_up(
        self, wanted: Mapping[TopicPartition, int], timeout_ms: int | None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        bound_ms = self.config.request_timeout_ms if timeout_ms is None else timeout_ms
        if not wanted:
            return {}
        return self._io.ask(lambda done: self._fetching.look_up(wanted, bound_ms, done), bound_ms / 1000 + 1, "offsets")


def _partition(given: Any) -> TopicPartition:
    if isinstance(given, TopicPartition):
        return given
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], int):
        return TopicPartition(*given)
    raise TypeError(f"expected TopicPartition, got {given!r}")


class _WithTopic:
    """A deserializer as the decoder calls it."""

    def __init__(self, function: Callable[[str, Any, bytes], Any]) -> None:
        self.deserialize = function


def _with_topic(function: Callable[[str, Any, bytes], Any] | None) -> Any:
    return None if function is None else _WithTopic(function)
