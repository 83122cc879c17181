"""A consumer's poll taken apart into steps that do not wait: for the asyncio twin, which waits on its event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from ..errors import IllegalArgumentError
from ..model import ConsumerRecord, OffsetAndMetadata, TopicPartition
from .bad_records import BadRecord
from .consumer import Consumer
from .reading import PartitionReader


class Steps:
    """The steps of one consumer. It is a part of the consumer in a file of its own: it uses what is inside."""

    def __init__(self, consumer: Consumer[Any, Any]) -> None:
        self._consumer = consumer
        self._application = consumer._application

    def taking(self, max_records: int | None) -> Callable[[], Any]:
        """Return what a ``poll`` looks with."""
        limit = self._consumer.config.max_poll_records if max_records is None else max_records
        if limit < 1:
            raise IllegalArgumentError(f"max_records: must be at least 1 (given: {limit})")
        return lambda: self._consumer._inbox.take(limit)

    def taking_columns(self, max_records: int | None) -> Callable[[], Any]:
        limit = 1 << 62 if max_records is None else max_records
        return lambda: self._consumer._inbox.take_columns(limit)

    def next_reader(self) -> PartitionReader | None:
        """What an iteration looks with."""
        return self._consumer._inbox.next_reader()

    def records_of(self, reader: PartitionReader) -> Iterator[ConsumerRecord[Any, Any]]:
        """Hand out what the partition has; the position moves with each record."""
        return self._consumer._records_of(reader)

    def enter(self, wake: Callable[[], None]) -> None:
        """A poll begins; ``wake`` is called, on the I/O thread, whenever something has come."""
        self._consumer._bad_records.check_may_poll()
        if self._application is not None:
            self._application.enter()
        self._consumer._on_arrival = wake
        if self._application is not None:
            try:
                self._consumer._before_reading(self._application)
            except BaseException:
                self.leave()
                raise

    def leave(self) -> None:
        self._consumer._on_arrival = None
        if self._application is not None:
            self._application.leave()

    def has_changes(self) -> bool:
        """Say whether the listener may have to be called."""
        return self._application is not None and bool(self._application.changes)

    def perform_changes(self) -> None:
        """Perform them. This one waits: for commits, and for the listener."""
        if self._application is not None:
            self._consumer._perform_changes(self._application)

    def run_callbacks(self) -> None:
        if self._application is not None:
            self._application.run_callbacks()

    def look(self, look: Callable[[], Any]) -> Any:
        """Return what there is, or a ``BadRecord`` for ``hand_on``; None: nothing. Raises what ``poll`` raises."""
        return self._consumer._look(look, is_reading=True)

    def hand_on(self, bad: BadRecord) -> None:
        """Have the handler deal with what ``look`` returned. This one waits."""
        self._consumer._hand_on(bad)

    @property
    def handed_on(self) -> int:
        return self._consumer._bad_records.handed_on

    def wait_for_coroutines(self, wait_for: Callable[[Awaitable[Any]], Any]) -> None:
        """Say how a thread waits for what a handler that is a coroutine function returns."""
        self._consumer._bad_records.wait_for = wait_for

    def is_joining(self) -> bool:
        """Say whether the first poll still waits for an assignment."""
        return self._application is not None and self._application.is_joining()

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata | int] | None, timeout_ms: int | None) -> None:
        """Commit and wait for it, without calling callbacks."""
        self._consumer._commit(offsets, timeout_ms)
