"""The consumer as applications see it.

The I/O thread fetches ahead and puts what comes into an inbox; ``poll`` and iteration sort the inbox into partitions,
decode, and hand out. Positions live on this side, fetch offsets on the other; a *generation* per partition, new with
each seek, tells which of what comes is still wanted.

One lock guards this side. It is never held while waiting, so ``close``, ``seek`` and ``pause`` from other threads
go through while one waits in ``poll``. Two threads may poll: each record goes to one of them. Iterate with one
thread at a time.

What is here is what to read, and reading; where, is in ``positions.py``, for which group and with which commits in
``committing.py``, what both stand on in ``consumer_core.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from types import GeneratorType, TracebackType
from typing import Any, Generic, TypeVar, cast

from ..errors import CallboardTimeoutError, IllegalArgumentError, IllegalStateError, InvalidTopicError
from ..model import TOPIC_NAME_MAX, ConsumerRecord, TopicPartition, is_topic_name
from ..transport.messages import MetadataReply, MetadataRequest
from .application import check_listener
from .asking import partitions_of
from .cluster import error_of
from .committing import Committing
from .consumer_core import as_partition
from .fetching import Subscription
from .health import ConsumerExplanation, ConsumerHealth, describe_health, explain
from .io import Done
from .positions import Positions
from .reading import PartitionReader, RecordColumns

K = TypeVar("K")
V = TypeVar("V")

Records = dict[TopicPartition, list[ConsumerRecord[K, V]]]


class Consumer(Committing, Positions, Generic[K, V]):
    """Reads records.

        with Consumer("flights", group_id="billing", bootstrap_servers="localhost:9192") as consumer:
            for record in consumer:
                …

    With a ``group_id`` the partitions of the subscribed topics are shared with the other members of the group, and
    begin where the group has committed (docs/groups.md). Without one, topics given here or to ``subscribe`` are read in
    all their partitions, also those added later. ``assign`` names partitions. Records come in order within a partition,
    in no order between partitions.

    Only acknowledged records are seen: what a consumer has read survives (see docs/guarantees.md).

    Settings are those of ``client.config.ConsumerConfig``, by name.

    Raises:
        ConfigurationError: an unknown setting (the nearest valid one is named), a wrong type or value.
    """

    def __init__(self, *topics: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._iterator: GeneratorType[ConsumerRecord[K, V], None, None] | None = None
        if topics:
            self.subscribe(topics)

    # -- what to read ------------------------------------------------------------------------------

    def subscribe(self, topics: Iterable[str] | str = (), pattern: str | None = None, listener: Any = None) -> None:
        """Read these topics, or those whose whole name matches the regular expression ``pattern``, also later ones.

        With a group: the partitions that its coordinator gives this member; those it has already and is given again are
        read on, those of other topics are not, and go with one of the next polls. Without: all partitions, replacing
        what was read before; one that is added later is read from its beginning.

        Args:
            listener: a ``ConsumerRebalanceListener``, told when partitions come and go. Needs a group.

        Raises:
            IllegalStateError: partitions were assigned by hand; ``unsubscribe`` first.
            IllegalArgumentError: neither topics nor pattern, or both; a pattern that is no regular expression.
            InvalidTopicError: no topic can be called so.
        """
        names = frozenset([topics] if isinstance(topics, str) else topics)
        if bool(names) == (pattern is not None):
            raise IllegalArgumentError("subscribe: give topics or a pattern")
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"subscribe: expected topic names, got {type(name).__name__}")
            if not is_topic_name(name):
                raise InvalidTopicError(f"subscribe: {name[:TOPIC_NAME_MAX]!r} is not a topic name")
        if not isinstance(getattr(pattern, "pattern", pattern), str | None):  # a compiled one is welcome
            raise TypeError(f"subscribe: pattern: expected str, got {type(pattern).__name__}")
        try:
            matcher = re.compile(pattern) if pattern is not None else None
        except re.error as error:
            raise IllegalArgumentError(f"subscribe: {pattern!r} is not a regular expression: {error}") from None
        if listener is not None:
            check_listener(listener)
            if self._application is None:
                raise IllegalStateError("subscribe: a listener hears of a group; give the consumer a group_id")
        if self._application is not None:
            self._wait_for_leaving(self._application)
        with self._lock:
            self._check_open()
            if self._is_assigned_by_hand:
                raise IllegalStateError("subscribe: partitions were assigned by hand; call unsubscribe() first")
            if self._application is None:
                self._forget_readers()
                subscription = Subscription(names, matcher)
            else:
                self._application.on_subscribed(listener)
                subscription = Subscription(names, matcher, self._application.life)
            self._inbox.subscribe(subscription)
            self._io.post(self._fetching.subscribe, subscription)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions, each from where the group has committed (if there is one), else
        from where ``auto_offset_reset`` says, unless ``seek`` follows.

        Nobody else is told: with a group, commits are refused while it has members. Partitions that were assigned
        before keep their positions.

        Raises:
            IllegalStateError: topics are subscribed; ``unsubscribe`` first.
        """
        keys = [as_partition(given) for given in partitions]
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
        """Read nothing, and leave the group: as ``close`` does, with commit and listener."""
        self._check_open()
        application = self._application
        if application is None:
            self._stop_reading()
            return
        with self._turn_to_leave(application, self.config.close_timeout_ms) as (may_tell, until_ms):
            try:
                if self._inbox.subscription is not None:
                    self._leave_in_turn(application, until_ms, autocommit=True, may_tell=may_tell)
            finally:  # also when the listener has raised: it is done all the same
                self._stop_reading()

    def _stop_reading(self) -> None:
        with self._lock:
            self._check_open()
            self._forget_readers()
            self._inbox.subscription, self._is_assigned_by_hand = None, False
            self._io.post(self._fetching.leave, lambda _result, _error: None)

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
                already; fetching goes on in the background all the same.
            max_records: None: ``max_poll_records``.

        In a group the first poll joins, and waits until that is done, for five seconds at most; then ``timeout_ms``
        begins to run.
        Polling also does what the group asks of the application: the rebalance listener is called here.

        Raises:
            SerializationError: a deserializer failed on the very next record (with ``on_bad_record="raise"``);
            ``error.record`` is it, as it lies in the log. The position stays: ``seek`` past it to go on.
            DeliveryError, or what a handler of your own raises: with ``on_bad_record``, see ``callboard.dlq``.
            OffsetOutOfRangeError, NoOffsetForPartitionError: with ``auto_offset_reset="none"``.
            FencedInstanceIdError, InvalidSessionTimeoutError, GroupAuthorizationFailedError: the group does not take
            this member.
            UnknownTopicOrPartitionError, TopicAuthorizationFailedError, CorruptRecordError: what is read is not
            there, … ConnectionFailedError: no broker has been reachable for ``raise_after_ms`` (at first:
            ``bootstrap_timeout_ms``). IllegalStateError, ForkedClientError: it is closed, nothing is subscribed; it
            was made before a fork.
        """
        limit = self.config.max_poll_records if max_records is None else max_records
        if limit < 1:
            raise IllegalArgumentError(f"max_records: must be at least 1 (given: {limit})")
        return self._read(lambda: self._inbox.take(limit), self._poll_ms(timeout_ms)) or {}

    def poll_batches(
        self, timeout_ms: int | None = None, max_records: int | None = None
    ) -> dict[TopicPartition, list[RecordColumns]]:
        """Return whole batches as columns, by partition: the fastest way out. Keys and values are bytes.

        Args:
            max_records: when to stop adding batches; the first is returned whatever its size. Waits and raises as
            ``poll``.
        """
        limit = 1 << 62 if max_records is None else max_records
        return self._read(lambda: self._inbox.take_columns(limit), self._poll_ms(timeout_ms)) or {}

    def __iter__(self) -> Iterator[ConsumerRecord[K, V]]:
        """Yield records as they come, for ever; or until none has come for ``consumer_timeout_ms``.

        The position moves with each record: one that was not asked for is not lost when the loop is left.
        """
        if self._iterator is None or self._iterator.gi_frame is None:  # has ended, by its time or by an error
            self._iterator = cast("GeneratorType[ConsumerRecord[K, V], None, None]", self._iterate())
        return self._iterator

    def __next__(self) -> ConsumerRecord[K, V]:
        try:
            return next(iter(self))
        except BaseException:
            self._iterator = None
            raise

    def _read(self, look: Callable[[], Any], timeout_ms: float) -> Any:
        application = self._application
        if application is None:
            return self._wait_for(look, timeout_ms)
        application.enter()
        try:
            self._before_reading(application)
            return self._wait_for(look, timeout_ms)
        finally:
            application.leave()

    def _iterate(self) -> Iterator[ConsumerRecord[K, V]]:
        timeout = self.config.consumer_timeout_ms
        timeout_ms = float("inf") if timeout is None else timeout
        while True:
            before = self._bad_records.handed_on
            reader = self._read(self._inbox.next_reader, timeout_ms)
            if reader is None:
                if self._bad_records.handed_on == before:
                    return
                continue  # records have come, though none to hand out
            yield from self._records_of(reader)

    def _records_of(self, reader: PartitionReader) -> Iterator[ConsumerRecord[K, V]]:
        """Hand out what is decoded of a partition, record by record, until something comes between. Never waits."""
        application, records = self._application, reader.records
        for at in range(reader.at, len(records)):
            if reader.records is not records or reader.at != at or reader.is_paused or reader.is_unsubscribed:
                break  # a seek, a pause, a poll or another subscription came between
            record = records[at]
            reader.at = at + 1
            reader.position = record.offset + 1
            if application is None:
                yield record
                continue
            application.handing = record  # until its step has finished
            yield record
            application.handing = None
            if application.changes or application.is_commit_due:
                break
        with self._lock:
            if reader.records is records and reader.is_used_up:
                self._inbox.give_back(reader.release(), reader)

    def _forget_readers(self) -> None:
        self._inbox.forget()
        self._iterator = None

    # -- questions ---------------------------------------------------------------------------------

    def health(self) -> ConsumerHealth:
        """Return whether reading goes on, and if not why. Asks nobody, waits for nothing."""
        with self._lock:
            self._inbox.sort()
            return describe_health(self._inbox.readers, self._fetching, self._io, self._bad_records)

    def explain(self) -> ConsumerExplanation:
        """Return what is going on, for people and monitoring: state, assignment and why, what is waited for.

        Asks nobody, waits for nothing; ``print`` it.
        """
        with self._lock:
            self._inbox.sort()
            return explain(
                self._inbox,
                self._fetching,
                self._io,
                self._application,
                self._bad_records,
                is_assigned_by_hand=self._is_assigned_by_hand,
            )

    def topics(self, timeout_ms: int | None = None) -> set[str]:
        """Return the names of all topics."""
        bound_ms = self._bound_ms(timeout_ms)
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
        bound_ms = self._bound_ms(timeout_ms)
        return partitions_of(self._io, self._fetching.cluster, topic, bound_ms)

    def bootstrap_connected(self) -> bool:
        """Say whether a broker has been reached so far."""
        return self._fetching.cluster.has_contact

    def metrics(self) -> dict[str, int]:
        """Return counters since the start, and the bytes that are buffered now."""
        total = self._fetching.fetcher.total
        return {
            **self._fetching.counters,
            "records_skipped": self._decoding.skipped,
            "records_handed_on": self._bad_records.handed_on,
            "buffer_bytes": total.buffered,
        }

    # -- life --------------------------------------------------------------------------------------

    def close(self, autocommit: bool = True, timeout_ms: int | None = None) -> None:
        """Stop reading, and leave the group. Bounded by ``timeout_ms`` (None: ``close_timeout_ms``).

        With ``enable_auto_commit`` (and ``autocommit``) what the application is done with is committed first; the
        listener hears that its partitions go. Harmless when repeated.
        """
        bound_s = (self.config.close_timeout_ms if timeout_ms is None else self._bound_ms(timeout_ms)) / 1000
        until_ms = self._io.clock.monotonic_ms() + bound_s * 1000
        try:
            if self._ended is None and self._io.is_alive and not self._io.is_own_thread:
                self._leave_group(bound_s * 1000, autocommit=autocommit)
        finally:
            try:
                self._end(max(0.1, (until_ms - self._io.clock.monotonic_ms()) / 1000) if bound_s else 0.0)
            finally:
                if self._application is not None:
                    self._application.run_last_callbacks()

    def _end(self, bound_s: float) -> None:
        with self._lock:
            if self._ended is not None:
                return
            self._ended = IllegalStateError(f"consumer {self.client_id} is closed")
        self._on_news()
        until_s = self._now_s() + bound_s
        try:
            if self._io.is_alive and not self._io.is_own_thread:
                if self._application is not None:
                    self._io.ask(self._fetching.leave, bound_s, "close")
                self._io.ask(self._fetching.shut_down, bound_s, "close")
        except CallboardTimeoutError:  # the thread is ended below all the same; nothing of ours is lost by that
            pass
        finally:
            self._bad_records.close(max(0.0, until_s - self._now_s()))
            self._io.stop(max(0.1, bound_s))

    def _close_at_exit(self) -> None:
        """The interpreter ends without ``close``: perhaps something has failed, so nothing is committed."""
        self._end(self.config.close_timeout_ms / 1000)

    def __enter__(self) -> Consumer[K, V]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; what was polled last is committed automatically only if the block has not raised."""
        self.close(autocommit=kind is None)
