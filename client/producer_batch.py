"""The batch that user threads fill and the I/O thread sends.

A batch holds columns (lists of values, keys, …), never record objects. It is filled under the accumulator's lock,
*sealed* under the same lock, and from then on belongs to the I/O thread: nobody appends to a sealed batch
(``limit`` is -1, so the one comparison that ``send`` makes anyway keeps late appenders out).

Its result is written once, by ``futures.settle``, and read by any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import CallboardError
from ..model import Header, TopicPartition
from .latch import Latch
from .partitioners import Unserialized

RECORD_OVERHEAD = 16  # bytes a record takes in a batch beside key, value and headers: timestamp, offsets; rounded up
HEADER_OVERHEAD = 8  # likewise for each record header

UNROUTED = -1  # the "partition" of records that wait for the topic's metadata


class ProducerBatch:
    """Records of one partition. See the module's docstring for who may touch what, when."""

    __slots__ = (
        "attempt_id",
        "attempts",
        "base_offset",
        "base_sequence",
        "callbacks",
        "count",
        "created_ms",
        "error",
        "event",
        "frames",
        "headers",
        "is_columns",
        "is_done",
        "is_unknown",
        "keys",
        "last_error",
        "limit",
        "lost_until_ms",
        "moved",
        "observed",
        "partition",
        "producer_epoch",
        "producer_id",
        "requested",
        "reserved",
        "size",
        "timestamps",
        "topic",
        "topic_partition",
        "value_sizes",
        "values",
        "was_next",
        "width",
    )

    def __init__(self, topic: str, partition: int, limit: int, created_ms: int) -> None:
        self.topic = topic
        self.partition = partition
        self.topic_partition = TopicPartition(topic, partition)
        # -- the columns: appended to under the accumulator's lock while limit >= 0
        self.values: list[bytes | None] = []
        self.keys: list[bytes | None] | None = None  # None: no record has a key
        self.timestamps: list[int] | int = []  # ms since 1970; an int: the same for all
        self.headers: list[list[Header]] | None = None  # None: no record has headers
        self.requested: list[int | Unserialized | None] | None = None  # unrouted only: what each record asked for
        self.is_columns = False  # made by send_batch: sealed from the start
        self.width = -1  # columns only: the length of every value; -1: some differ
        self.count = 0  # of records; set when sealed
        self.size = 0  # bytes so far, overhead included; never below what encoding makes of it
        self.limit = limit  # size up to which records may be appended without asking; -1: sealed
        self.reserved = 0  # of buffer_memory
        self.created_ms = created_ms  # monotonic; delivery_timeout_ms and linger_ms count from here
        # -- the result: written once by futures.settle
        self.is_done = False
        self.base_offset = -1
        self.error: CallboardError | None = None
        self.moved: list[tuple[ProducerBatch, int]] | None = None  # unrouted only: where each record went
        self.value_sizes: list[int] | None = None  # once done, when values are dropped
        self.callbacks: list[tuple[int, Callable[[FutureOutcome], None]]] | None = None
        self.event: Latch | None = None
        self.observed: set[int] | None = None  # records whose failure somebody has seen
        # -- the sender's
        self.producer_id = -1
        self.producer_epoch = -1
        self.base_sequence = -1  # -1: none assigned
        self.attempt_id = 0  # of the request under way that holds it; 0: none
        self.attempts = 0
        self.was_next = False  # at its last sending everything before it had been acknowledged
        self.is_unknown = False  # an earlier attempt may have been appended, and no answer since has told
        self.lost_until_ms = 0  # until when a lost attempt may still reach the broker (its deadline)
        self.last_error: CallboardError | None = None  # of the last attempt that failed
        self.frames: list[bytes] | None = None  # encoded; None: not yet, or its sequence has changed

    def may_be_stored(self, now_ms: int) -> bool:
        """Whether an attempt at it may have been appended, or may yet be, although it is given up now."""
        return bool(self.attempt_id) or self.is_unknown or now_ms < self.lost_until_ms

    def append(
        self, value: bytes | None, key: bytes | None, headers: list[Header] | None, timestamp_ms: int, size: int
    ) -> int:
        """Add a record of ``size`` bytes (overhead included); return its index. The caller holds the lock."""
        index = len(self.values)
        if self.keys is None and key is not None:
            self.keys = [None] * index
        if self.headers is None and headers:
            self.headers = [[] for _ in range(index)]
        try:
            self.values.append(value)
            self.timestamps.append(timestamp_ms)  # type: ignore[union-attr]
            if self.keys is not None:
                self.keys.append(key)
            if self.headers is not None:
                self.headers.append(headers or [])
        except BaseException:  # Ctrl-C in the middle: no column may be longer than another
            self.even_out()
            raise
        self.size += size
        return index

    def even_out(self) -> None:
        """Take back a record of which only some columns were appended. The caller holds the lock."""
        columns = [each for each in (self.values, self.timestamps, self.keys, self.headers) if isinstance(each, list)]
        count = min(map(len, columns))
        for column in columns:
            del column[count:]

    def seal(self) -> None:
        """Nobody appends from now on. The caller holds the lock."""
        self.limit = -1
        self.count = len(self.values)

    @property
    def is_sealed(self) -> bool:
        return self.limit < 0

    def timestamp_at(self, index: int) -> int:
        timestamps = self.timestamps
        return timestamps if isinstance(timestamps, int) else timestamps[index]

    def forget_data(self) -> None:
        """Free the records of a failed batch: only how many they were is still known."""
        self.values, self.keys, self.headers, self.frames = [], None, None, None

    def drop_columns(self) -> None:
        """Free what is not needed once it is acknowledged; what ``send`` has given futures for keeps sizes and
        timestamps."""
        if self.is_columns:  # one future for all: it tells offsets only
            self.values, self.keys, self.headers, self.frames = [], None, None, None
            return
        try:
            self.value_sizes = list(map(len, self.values))  # type: ignore[arg-type]
        except TypeError:  # some are None
            self.value_sizes = [-1 if value is None else len(value) for value in self.values]
        self.values = []
        self.frames = None

    def __repr__(self) -> str:
        sequence = f" {self.producer_id}/{self.producer_epoch}/{self.base_sequence}" if self.base_sequence >= 0 else ""
        return f"<batch {self.topic_partition} {len(self.values)} records{sequence}>"


FutureOutcome = tuple[Any, "CallboardError | None"]  # (value, None) or (None, error)


def record_size(value: bytes | None, key: bytes | None, headers: list[Header] | None) -> int:
    """Return the bytes that a record takes in a batch at most, before compression."""
    size = RECORD_OVERHEAD
    if value is not None:
        size += len(value)
    if key is not None:
        size += len(key)
    if headers:
        for name, data in headers:
            size += HEADER_OVERHEAD + 4 * len(name) + (len(data) if data is not None else 0)
    return size
