"""A consumer's poll taken apart into steps that do not wait: for the asyncio twin, which waits on its event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import IllegalArgumentError
from ..model import AnyRecord, OffsetAndMetadata, TopicPartition
from .consumer import Consumer


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

    def enter(self, wake: Callable[[], None]) -> None:
        """A poll begins; ``wake`` is called, on the I/O thread, whenever something has come."""
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

    def hand(self, record: AnyRecord, left: Mapping[TopicPartition, int]) -> None:
        """An iteration hands this out, and has polled more, from ``left`` on: not done with until the next poll."""
        if self._application is not None:
            self._application.handing, self._application.left = record, left

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
        """Return what there is; None: nothing. Raises what ``poll`` raises."""
        return self._consumer._look(look, is_reading=True)

    def is_joining(self) -> bool:
        """Say whether the first poll still waits for an assignment."""
        return self._application is not None and self._application.is_joining()

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata | int] | None, timeout_ms: int | None) -> None:
        """Commit and wait for it, without calling callbacks."""
        self._consumer._commit(offsets, timeout_ms)
