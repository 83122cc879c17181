"""Futures of records: what ``send`` returns.

A future is two words, (batch, index): the batch is the shared result, so an acknowledgement of 10,000 records
settles 10,000 futures with one write. Nothing is registered for a future that nobody looks at.

Two orders of events are the whole difficulty, both with the I/O thread settling while a user thread asks:

- a waiter sets ``batch.event`` first and looks at ``is_done`` afterwards; the settler sets ``is_done`` first and
  looks at ``event`` afterwards. One of them sees the other.
- callbacks are added and taken under one lock, which is never held while anything of the application runs.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import CallboardError, CallboardTimeoutError, IllegalStateError
from ..model import RecordMetadata, TopicPartition
from .io import is_io_thread
from .latch import Latch

if TYPE_CHECKING:
    from .producer_batch import ProducerBatch

_lock = threading.Lock()  # guards callbacks, event creation and `observed` of all batches; held for nanoseconds


class FutureRecordMetadata(msgspec.Struct, gc=False, eq=False):
    """The future of one record. Also awaitable. All methods may be called from any thread.

    Every future ends: by an acknowledgement, a refusal, or after ``delivery_timeout_ms``. Looking at a failure
    (``get``, ``exception``, ``failed``, an errback) counts as having observed it: ``flush`` and ``close`` raise for
    those that nobody observed.
    """

    _batch: ProducerBatch
    _index: int

    def get(self, timeout: float | None = None) -> RecordMetadata:
        """Return where the record is, once it is acknowledged.

        Args:
            timeout: seconds; None: as long as it takes, which ``delivery_timeout_ms`` bounds.

        Raises:
            CallboardTimeoutError: ``timeout`` has passed; the record is still on its way.
            IllegalStateError: it would wait in a callback, which runs on the very thread that acknowledges.
            CallboardError: it was not delivered; ``.outcome_unknown`` tells whether it may be in the log all the same.
        """
        if not wait(self._batch, timeout):
            raise CallboardTimeoutError(
                f"{self._batch.topic}: no acknowledgement within {timeout:g} s; the record is still on its way"
            )
        error = self.exception
        if error is not None:
            raise error
        return self._metadata()

    @property
    def is_done(self) -> bool:
        """Whether it has ended, well or badly."""
        return self._settled().is_done

    def succeeded(self) -> bool:
        batch = self._settled()
        return batch.is_done and batch.error is None

    def failed(self) -> bool:
        return self.is_done and self.exception is not None

    def retriable(self) -> bool:
        """Whether it failed in a way that sending the record again might cure."""
        error = self.exception
        return error is not None and error.retriable

    @property
    def value(self) -> RecordMetadata | None:
        """Where the record is; None: not known yet, or it failed."""
        return self._metadata() if self.succeeded() else None

    @property
    def exception(self) -> CallboardError | None:
        """Why it failed; None: not known yet, or it did not."""
        batch = self._settled()
        if batch.is_done and batch.error is not None:
            _observe(batch, self._index)
            return batch.error
        return None

    def add_callback(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> FutureRecordMetadata:
        """Call ``f(*args, metadata, **kwargs)`` when it is acknowledged; at once if it is already.

        Callbacks run on the I/O thread: let them be short. What they raise is reported and otherwise ignored.
        """
        function = functools.partial(f, *args, **kwargs) if args or kwargs else f
        self._when_done(lambda outcome: function(outcome[0]) if outcome[1] is None else None, sees_errors=False)
        return self

    def add_errback(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> FutureRecordMetadata:
        """Call ``f(*args, error, **kwargs)`` when it has failed; at once if it has already."""
        function = functools.partial(f, *args, **kwargs) if args or kwargs else f
        self._when_done(lambda outcome: function(outcome[1]) if outcome[1] is not None else None, sees_errors=True)
        return self

    def add_both(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> FutureRecordMetadata:
        """Call ``f(*args, metadata_or_error, **kwargs)`` when it has ended; at once if it has already."""
        function = functools.partial(f, *args, **kwargs) if args or kwargs else f
        self._when_done(lambda outcome: function(outcome[0] if outcome[1] is None else outcome[1]), sees_errors=True)
        return self

    @property
    def key(self) -> bytes | None:
        """The key of a record that is on its way or has failed: for sending it again."""
        batch = self._settled()
        return batch.keys[self._index] if batch.keys else None

    @property
    def record_value(self) -> bytes | None:
        """The value of a record that is on its way or has failed; None once it is acknowledged."""
        batch = self._settled()
        return batch.values[self._index] if batch.values else None

    @property
    def topic_partition(self) -> TopicPartition:
        """Where it goes; the partition is -1 as long as the topic's metadata is not known."""
        return self._settled().topic_partition

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        if not self.is_done:
            yield from _wait_on_loop(self._when_done)
        return self.get(0)

    def __repr__(self) -> str:
        batch = self._settled()
        if not batch.is_done:
            return f"<FutureRecordMetadata {batch.topic_partition} on its way>"
        if batch.error is not None:
            return f"<FutureRecordMetadata {batch.topic_partition} failed: {batch.error}>"
        return f"<FutureRecordMetadata {batch.topic_partition} offset {self._metadata().offset}>"

    def _settled(self) -> ProducerBatch:
        """Return the batch that holds the record now (it may have waited for metadata in another)."""
        batch = self._batch
        while batch.moved is not None:
            batch, index = batch.moved[self._index]
            self._batch, self._index = batch, index
        return batch

    def _metadata(self) -> RecordMetadata:
        return metadata_at(self._settled(), self._index)

    def _when_done(
        self, call: Callable[[tuple[Any, CallboardError | None]], None], *, sees_errors: bool = True
    ) -> None:
        with _lock:
            batch, index = self._settled(), self._index
            if sees_errors:
                _mark_observed(batch, index)
            if not batch.is_done:
                if batch.callbacks is None:
                    batch.callbacks = []
                batch.callbacks.append((index, call))
                return
        _call(call, (None, batch.error) if batch.error is not None else (metadata_at(batch, index), None))


class BatchMetadata(msgspec.Struct, frozen=True, gc=False):
    """Where a run of records of one ``send_batch`` is: ``count`` offsets from ``base_offset`` on (-1 with
    ``acks=0``)."""

    topic: str
    partition: int
    base_offset: int
    count: int

    @property
    def topic_partition(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


class FutureBatchMetadata:
    """The future of one ``send_batch``: of all its records together. Also awaitable."""

    def __init__(self, batches: Sequence[ProducerBatch]) -> None:
        self._batches = list(batches)

    def get(self, timeout: float | None = None) -> list[BatchMetadata]:
        """Return where the records are: one entry for each batch they were split into.

        Args:
            timeout: seconds; None: as long as it takes, which ``delivery_timeout_ms`` bounds.

        Raises:
            CallboardTimeoutError: ``timeout`` has passed; records are still on their way.
            CallboardError: some were not delivered (the first error; others may have been).
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for batch in self._batches:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not wait(batch, left):
                raise CallboardTimeoutError(
                    f"{batch.topic}: not all acknowledged within {timeout:g} s; still on their way"
                )
        settled = self._settled()
        error = self.exception
        if error is not None:
            raise error
        return [BatchMetadata(b.topic, b.partition, b.base_offset, b.count) for b in settled]

    @property
    def is_done(self) -> bool:
        return all(batch.is_done for batch in self._settled())

    def succeeded(self) -> bool:
        return all(batch.is_done and batch.error is None for batch in self._settled())

    def failed(self) -> bool:
        return self.is_done and self.exception is not None

    def retriable(self) -> bool:
        error = self.exception
        return error is not None and error.retriable

    @property
    def exception(self) -> CallboardError | None:
        """The first error; None: none so far."""
        first: CallboardError | None = None
        for batch in self._settled():
            if batch.is_done and batch.error is not None:
                with _lock:
                    batch.observed = set(range(batch.count))
                first = first or batch.error
        return first

    def add_both(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> FutureBatchMetadata:
        """Call ``f(*args, metadata_list_or_error, **kwargs)`` when all have ended; at once if they have already."""
        function = functools.partial(f, *args, **kwargs) if args or kwargs else f

        def finish(_: Any = None) -> None:
            error = self.exception
            function(error if error is not None else self.get(0))

        self._when_done(finish)
        return self

    def __await__(self) -> Generator[Any, None, list[BatchMetadata]]:
        if not self.is_done:
            yield from _wait_on_loop(self._when_done)
        return self.get(0)

    def _settled(self) -> list[ProducerBatch]:
        """Return the batches that hold the records now (they may have waited for metadata in others)."""
        while any(batch.moved is not None for batch in self._batches):
            self._batches = list(
                dict.fromkeys(
                    target
                    for batch in self._batches
                    for target in ([batch] if batch.moved is None else [where for where, _ in batch.moved])
                )
            )
        return self._batches

    def _when_done(self, call: Callable[[Any], None]) -> None:
        with _lock:
            waiting = [batch for batch in self._settled() if not batch.is_done]
            left = len(waiting)

            def one_done(_: Any) -> None:  # runs on the I/O thread only: no race between two of them
                nonlocal left
                left -= 1
                if left == 0:
                    if self.is_done:
                        call(None)
                    else:  # they had waited for metadata and have moved to other batches, not done yet
                        self._when_done(call)

            for batch in waiting:
                if batch.callbacks is None:
                    batch.callbacks = []
                batch.callbacks.append((0, one_done))
        if not waiting:
            _call(call, None)


def metadata_at(batch: ProducerBatch, index: int) -> RecordMetadata:
    """Return the metadata of one record of an acknowledged batch."""
    key = batch.keys[index] if batch.keys is not None else None
    headers = batch.headers[index] if batch.headers is not None else None
    return RecordMetadata(
        topic=batch.topic,
        partition=batch.partition,
        topic_partition=batch.topic_partition,
        offset=batch.base_offset + index if batch.base_offset >= 0 else -1,
        timestamp=batch.timestamp_at(index),
        serialized_key_size=-1 if key is None else len(key),
        serialized_value_size=batch.value_sizes[index] if batch.value_sizes is not None else batch.width,
        serialized_header_size=sum(len(n.encode()) + len(v or b"") for n, v in headers) if headers else -1,
    )


def wait(batch: ProducerBatch, timeout: float | None) -> bool:
    """Block until the batch is done (and those its records moved to); False: not within ``timeout`` seconds.

    Interruptible by signals, as every lock of Python is on the main thread.

    Raises:
        IllegalStateError: it is not done, and this is an I/O thread.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if not _wait_one(batch, timeout):
        return False
    for target in {id(where): where for where, _ in batch.moved}.values() if batch.moved else ():
        if not wait(target, None if deadline is None else max(0.0, deadline - time.monotonic())):
            return False
    return True


def _wait_one(batch: ProducerBatch, timeout: float | None) -> bool:
    if batch.is_done:
        return True
    if timeout != 0 and is_io_thread():
        raise IllegalStateError(
            f"get: {batch.topic}: a callback runs on the I/O thread and must not wait for an acknowledgement; "
            "use add_callback, add_errback or add_both"
        )
    with _lock:
        event = batch.event = batch.event or Latch()
    if not batch.is_done:  # looked at after the event was put there: see the rules above
        event.wait(timeout)
    return batch.is_done


def settle(batch: ProducerBatch, base_offset: int, error: CallboardError | None) -> bool:
    """Write the result, wake waiters, run callbacks. False: it had a result already; nothing is changed."""
    if batch.is_done:
        return False
    batch.base_offset, batch.error = base_offset, error
    if error is None:
        batch.drop_columns()
    _finish(batch)
    return True


def move(batch: ProducerBatch, moved: list[tuple[ProducerBatch, int]]) -> None:
    """The records of an unrouted batch have found their partitions: its futures follow them."""
    with _lock:
        batch.moved = moved
        callbacks, batch.callbacks = batch.callbacks, None
        over: list[tuple[ProducerBatch, int, Callable[[Any], None]]] = []  # went where the result is known already
        for index, call in callbacks or ():
            target, at = moved[index]
            if target.is_done:
                over.append((target, at, call))
                continue
            if target.callbacks is None:
                target.callbacks = []
            target.callbacks.append((at, call))
        for index in batch.observed or ():
            _mark_observed(*moved[index])
    _finish(batch)
    for target, at, call in over:
        _call(call, (None, target.error) if target.error is not None else (metadata_at(target, at), None))


def unobserved(batch: ProducerBatch) -> list[FutureRecordMetadata]:
    """Return futures for the records of a failed batch whose failure nobody has seen."""
    with _lock:
        seen = batch.observed or ()
        return [FutureRecordMetadata(batch, index) for index in range(batch.count) if index not in seen]


def _finish(batch: ProducerBatch) -> None:
    with _lock:
        batch.is_done = True
        callbacks, batch.callbacks = batch.callbacks, None
        event = batch.event
    if event is not None:
        event.set()
    for index, call in callbacks or ():
        _call(call, (None, batch.error) if batch.error is not None else (metadata_at(batch, index), None))


def _observe(batch: ProducerBatch, index: int) -> None:
    with _lock:
        _mark_observed(batch, index)


def _mark_observed(batch: ProducerBatch, index: int) -> None:
    if batch.observed is None:
        batch.observed = set()
    batch.observed.add(index)


def _call(call: Callable[[Any], None], outcome: Any) -> None:
    try:
        call(outcome)
    except Exception:  # the application's callback: it must not end the thread that serves all others
        import logging

        logging.getLogger("callboard.client").exception("a callback of the application raised")


def _wait_on_loop(when_done: Callable[..., None]) -> Generator[Any, None, None]:
    """Suspend the running coroutine until ``when_done`` calls back from the I/O thread."""
    asyncio = sys.modules["asyncio"]  # somebody is awaiting: it has been imported
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def finish() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def wake(_: Any) -> None:
        try:
            loop.call_soon_threadsafe(finish)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
            return

    when_done(wake)
    yield from waiter


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held the old one at the fork


os.register_at_fork(after_in_child=_after_fork_in_child)
