"""What a consumer does with a record that its deserializers cannot read: raise, skip it, or hand it on.

Handing on calls the application, which may take long and may do what it likes: seek, pause, close, be interrupted. So
it is done outside the consumer's lock, and its partition stands still meanwhile (``PartitionReader.is_in_hand``):
another thread that polls gets the other partitions' records. When the handler has returned, and that record is still
the next one, the position moves behind it; so a record that was handed on is done with, and one whose handler raised
is not.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import CallboardError, IllegalStateError, SerializationError
from ..model import TopicPartition
from .config import ConsumerConfig
from .reading import Decoding, PartitionReader
from .turn import Calls

TELL_EVERY_S = 1.0  # of records that are skipped, at most

log = logging.getLogger("callboard.client")


class BadRecord(NamedTuple):
    """The next record of a partition cannot be read, and the handler is to have it."""

    reader: PartitionReader
    error: SerializationError


class BadRecords:
    """One consumer's. Under the consumer's lock, but ``call`` and where it says otherwise."""

    def __init__(self, config: ConsumerConfig, client_id: str, decoding: Decoding) -> None:
        given = config.on_bad_record
        self._client_id, self._decoding = client_id, decoding
        self.handler: Callable[[SerializationError], Any] | None = None if isinstance(given, str) else given
        self._letters: Any = None  # a dead-letter topic's, which are closed with the consumer
        if self.handler is not None:
            from .dead_letters import DeadLetters  # with a producer: only for those who want it

            if isinstance(self.handler, DeadLetters):
                self.handler = self._letters = self.handler.for_consumer(config, client_id)
        self.wait_for: Callable[[Awaitable[Any]], Any] = _refuse  # how the asyncio twin waits for a handler's coroutine
        self.handed_on = 0
        self._calls = Calls()  # of the handler
        self._failures: dict[TopicPartition, tuple[SerializationError, str]] = {}  # of each one's last record
        self._skipped_told, self._told_at_s = 0, -TELL_EVERY_S

    @property
    def skipped(self) -> int:
        return self._decoding.skipped

    def __str__(self) -> str:
        counts = {"skipped": self.skipped, "handed on": self.handed_on}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def next_of(self, error: SerializationError, readers: Mapping[TopicPartition, PartitionReader]) -> BadRecord | None:
        """Return whose next record it is, for the handler; None: there is no handler."""
        if self.handler is None or error.record is None:
            return None
        return BadRecord(readers[error.record.topic_partition], error)

    def begin(self, bad: BadRecord) -> bool:
        """This thread hands it on; False: another one does, or it is not the next one any more."""
        if bad.reader.bad is not bad.error or bad.reader.is_in_hand:
            return False
        bad.reader.is_in_hand = True
        return True

    def call(self, error: SerializationError) -> None:
        """Have the handler deal with it. Outside the lock; raises what the handler raises."""
        if self.handler is None:
            return
        with self._calls.calling():
            result = self.handler(error)
            if inspect.isawaitable(result):
                self.wait_for(result)

    def end(self, bad: BadRecord, is_done: bool, why: str) -> None:
        """The handler has returned, or raised. Whether the record is still the next one is looked at by others."""
        if bad.reader.bad is bad.error:
            bad.reader.is_in_hand = False
        if is_done:
            self.handed_on += 1
            self._failures.pop(bad.reader.key, None)
        else:
            self._failures[bad.reader.key] = bad.error, why

    def check_may_poll(self) -> None:
        """A handler that polled would get what comes behind its own record. From any thread."""
        if self._calls.is_ours:
            raise IllegalStateError("poll: a handler of bad records must not poll")

    def trouble(self, reader: PartitionReader) -> str:
        """Say why the partition stands still; "": it does not."""
        error = reader.bad
        if error is None or self.handler is None or not isinstance(error, SerializationError):
            return str(error or "")
        of, why = self._failures.get(reader.key, (None, ""))
        return f"{error}; handing it on failed: {why}" if of is error and not reader.is_in_hand else ""

    def tell_skipped(self, now_s: float) -> None:
        """Log what was skipped, now and then. Outside the lock."""
        decoding = self._decoding
        error, count = decoding.last_skipped, decoding.skipped - self._skipped_told
        if error is None or now_s < self._told_at_s + TELL_EVERY_S:
            return
        decoding.last_skipped = None
        self._skipped_told, self._told_at_s = self._skipped_told + count, now_s
        noun = "record was" if count == 1 else "records were"
        log.warning("%s: %d bad %s skipped, the last one: %s", self._client_id, count, noun, error)

    def close(self, timeout_s: float) -> None:
        """Nothing more is handed on. From any thread, outside the lock; bounded."""
        self.tell_skipped(float("inf"))
        if self._letters is not None:
            with suppress(CallboardError):  # who waits for a letter is told by it, and its record stays
                self._letters.close(timeout_s)


def _refuse(result: Awaitable[Any]) -> None:
    if inspect.iscoroutine(result):
        result.close()
    raise TypeError("on_bad_record: the handler is a coroutine function; use it with AsyncConsumer")
