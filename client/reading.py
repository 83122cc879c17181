"""One partition on the consumer's side: fetched bytes in, records out, and the position between them.

The position moves only when a record is handed out, and over offsets that have none any more (compaction); it is what a
restart or a commit would go on from. What was fetched for an earlier position (before a seek) is dropped when it comes
up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import CallboardError, SerializationError
from ..model import AnyRecord, Header, TopicPartition
from ..storage.batch import Columns, decode_batch, end_offset_of, iter_batches, part_end
from ..storage.records import Deserializer, decode_records
from .fetch_state import Credit

if TYPE_CHECKING:
    import pyarrow as pa

RECORDS_AT_ONCE = 1 << 19  # decoded together; one batch is, whatever it holds (storage.batch.RECORDS_MAX)
BYTES_AT_ONCE = 64 << 20  # likewise, of columns once expanded


class RecordColumns:
    """The records of one batch as columns, for those who do not want an object a record.

    All lists have ``count`` items; keys and values are bytes, not deserialized. Each column is decoded when it is
    first looked at.
    """

    __slots__ = ("_columns", "_skip", "base_offset", "count", "leader_epoch", "partition", "topic")

    def __init__(self, key: TopicPartition, columns: Columns, skip: int) -> None:
        self.topic, self.partition = key
        self._columns, self._skip = columns, skip
        self.count = columns.count - skip
        self.base_offset = columns.offsets[skip] if self.count else columns.header.next_offset
        self.leader_epoch = columns.header.leader_epoch

    @property
    def offsets(self) -> Sequence[int]:
        """Ascending; a range, but for a batch that lost records to compaction."""
        return self._columns.offsets[self._skip :] if self._skip else self._columns.offsets

    @property
    def timestamps(self) -> list[int]:
        """Milliseconds since 1970."""
        return self._columns.timestamps[self._skip :] if self._skip else self._columns.timestamps

    @property
    def keys(self) -> list[bytes | None]:
        return self._columns.keys[self._skip :] if self._skip else self._columns.keys

    @property
    def values(self) -> list[bytes | None]:
        return self._columns.values[self._skip :] if self._skip else self._columns.values

    @property
    def headers(self) -> list[list[Header]]:
        return self._columns.headers[self._skip :] if self._skip else self._columns.headers

    def to_arrow(self) -> pa.RecordBatch:
        """Return the columns as a ``pyarrow.RecordBatch``: offset, timestamp, key, value, headers.

        Keys and values are not copied. Needs the extra ``callboard[arrow]``; without it: ConfigurationError.
        """
        from .arrow import to_arrow

        return to_arrow(self._columns, self._skip)

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        last = self.offsets[-1] if self.count else self.base_offset - 1
        return f"<RecordColumns {self.topic}-{self.partition} offsets {self.base_offset} to {last}>"


class Decoding:
    """How a consumer turns bytes into records."""

    __slots__ = ("is_verifying", "key_deserializer", "last_skipped", "skipped", "skips_bad", "value_deserializer")

    def __init__(self, key: Deserializer, value: Deserializer, *, is_verifying: bool, skips_bad: bool) -> None:
        self.key_deserializer, self.value_deserializer = key, value
        self.is_verifying = is_verifying
        self.skips_bad = skips_bad
        self.skipped = 0  # records whose deserializer failed, with on_bad_record="skip" …
        self.last_skipped: SerializationError | None = None  # … and why; until the log has been told


class PartitionReader:
    """One assigned partition. Everything under the consumer's lock, but ``credit.fetched`` and the watermarks."""

    __slots__ = (
        "_chunk_end",
        "at",
        "bad",
        "chunk",
        "chunks",
        "credit",
        "error",
        "generation",
        "high_watermark",
        "is_in_hand",
        "is_paused",
        "is_unsubscribed",
        "key",
        "log_start_offset",
        "owing",
        "position",
        "records",
        "rest",
    )

    def __init__(self, key: TopicPartition, generation: int, credit: Credit) -> None:
        self.key = key
        self.generation = generation
        self.credit = credit
        self.position: int | None = None  # of the next record to hand out
        self.chunks: deque[bytes] = deque()  # fetched, in order
        self.chunk: bytes | None = None  # the one that ``records`` are of
        self._chunk_end = 0  # the offset behind it
        self.records: list[AnyRecord] = []
        self.at = 0  # of the next record in ``records``
        self.bad: CallboardError | None = None  # why the record behind them cannot be handed out
        self.is_in_hand = False  # that record is being handed on: nothing is handed out meanwhile
        self.owing = 0  # bytes that were used up and not told, because something was raised
        self.rest: list[AnyRecord] = []  # what the chunk holds behind it, backwards and not deserialized
        self.error: CallboardError | None = None  # what the brokers say against reading on
        self.is_paused = False
        self.is_unsubscribed = False  # its topic is not read any more: it will be asked back
        self.high_watermark: int | None = None
        self.log_start_offset: int | None = None

    def on_data(self, from_offset: int, data: bytes) -> None:
        if self.position is None:
            self.position = from_offset
        self.error = None
        self.chunks.append(data)

    def move_to(self, generation: int, position: int | None) -> int:
        """The position is another one: drop what is buffered; return its bytes."""
        self.generation = generation
        self.position = position
        dropped = sum(map(len, self.chunks)) + (len(self.chunk) if self.chunk is not None else 0) + self.owing
        self.chunks.clear()
        self.owing = 0
        self._drop_records()
        self.chunk = self.error = None
        return dropped

    def _drop_records(self) -> None:
        self.records, self.at, self.rest = [], 0, []
        self.bad, self.is_in_hand = None, False

    @property
    def has_data(self) -> bool:
        return self.at < len(self.records) or bool(self.chunks) or self.bad is not None or bool(self.rest)

    @property
    def is_held(self) -> bool:
        """Whether nothing may be handed out, whatever there is."""
        return self.is_paused or self.is_in_hand or self.is_unsubscribed

    @property
    def holds(self) -> bool:
        """Whether fetched data is here that is not given back yet: also what the last record handed out is of."""
        return self.chunk is not None or self.has_data

    def take(self, limit: int, decoding: Decoding) -> tuple[list[AnyRecord], int]:
        """Return up to ``limit`` records, and the bytes of fetched data that are used up. Moves the position.

        Raises:
            SerializationError: the very next record cannot be deserialized; the position stays at it.
            CorruptRecordError: the data is damaged; likewise.
        """
        taken: list[AnyRecord] = []
        freed, self.owing = self.owing, 0
        while limit > 0:
            if self.at >= len(self.records):
                if self.bad is not None:
                    if taken:
                        break
                    self.owing = freed
                    raise self.bad.with_traceback(None)  # it may be raised often
                if self.rest:
                    self._decode_rest(decoding)
                    continue
                freed += self.release()
                if not self.chunks:
                    break
                self._decode_next(decoding)
                continue
            part = self.records[self.at : self.at + limit] if self.at or limit < len(self.records) else self.records
            self.at += len(part)
            limit -= len(part)
            self.position = part[-1].offset + 1
            taken = taken + part if taken else part
        if self.is_used_up:
            freed += self.release()
        return taken, freed

    @property
    def is_used_up(self) -> bool:
        """Whether the present chunk has nothing more."""
        return self.at >= len(self.records) and self.bad is None and not self.rest

    def pass_over(self, error: SerializationError) -> bool:
        """The record that was not to be read has been dealt with: go on behind it.

        False: it is not the next one any more. The position was moved, or the partition went, and may have come again.
        """
        if self.bad is not error:
            return False
        self.bad, self.is_in_hand = None, False
        self.records, self.at = [], 0
        self.position = error.offset + 1
        return True

    def prepare(self, decoding: Decoding) -> int:
        """Decode until there is a record to hand out, or nothing left; return the bytes that are used up."""
        freed = 0
        while self.at >= len(self.records) and self.bad is None:
            if self.rest:
                self._decode_rest(decoding)
                continue
            freed += self.release()
            if not self.chunks:
                break
            self._decode_next(decoding)
        return freed

    def release(self) -> int:
        """The records of the present chunk are all handed out: let go of it, return its bytes."""
        chunk, self.chunk = self.chunk, None
        self.records, self.at = [], 0
        if chunk is None:
            return 0
        self.position = max(self.position or 0, self._chunk_end)
        return len(chunk)

    def take_columns(self, decoding: Decoding) -> tuple[list[RecordColumns], int]:
        """Return the batches of the next chunk from the position on, and the bytes that are used up. Moves the
        position."""
        data = self.chunk if self.chunk is not None else self._next_part()
        self._drop_records()
        self.chunk = None
        found = []
        position = self.position or 0
        for header, at in iter_batches(data):
            if header.next_offset > position:
                columns = decode_batch(data, at, verify=decoding.is_verifying)
                skip = columns.count_below(position)
                if skip < columns.count:
                    found.append(RecordColumns(self.key, columns, skip))
                self.position = header.next_offset
        freed, self.owing = len(data) + self.owing, 0
        return found, freed

    def _next_part(self) -> bytes:
        """Take out the next chunk, or as much of it as may be decoded at once: small batches can hold a great deal."""
        data = self.chunks.popleft()
        end = part_end(data, RECORDS_AT_ONCE, BYTES_AT_ONCE)
        if end < len(data):
            self.chunks.appendleft(data[end:])
            data = data[:end]
        return data

    def _decode_next(self, decoding: Decoding) -> None:
        data = self.chunk = self._next_part()
        position = self.position or 0
        self.at = 0
        try:
            self.records = decode_records(
                self.key.topic,
                self.key.partition,
                data,
                position,
                decoding.key_deserializer,
                decoding.value_deserializer,
                verify=decoding.is_verifying,
            )
        except SerializationError:
            self.rest = decode_records(*self.key, data, position, verify=False)[::-1]
            self._decode_rest(decoding)
        except CallboardError as error:
            self.bad, self._chunk_end = error, position
            return
        self._chunk_end = end_offset_of(data)

    def _decode_rest(self, decoding: Decoding) -> None:
        """Some record is bad: keep the good ones before it; skip it, or remember why reading stops there."""
        good: list[AnyRecord] = []
        while self.rest and self.bad is None:
            record = self.rest.pop()
            try:
                good.append(_deserialized(record, decoding))
            except SerializationError as error:
                if not decoding.skips_bad:
                    self.bad = error
                else:
                    decoding.skipped += 1
                    decoding.last_skipped = error
        self.records, self.at = good, 0


def _deserialized(record: AnyRecord, decoding: Decoding) -> AnyRecord:
    import msgspec

    key, value = record.key, record.value
    for what, item, deserializer in (
        ("key", key, decoding.key_deserializer),
        ("value", value, decoding.value_deserializer),
    ):
        if item is None or deserializer is None:
            continue
        try:
            done = _call(deserializer, record, item)
        except Exception as error:  # whatever the application's function raises: told with its place, and chained
            raise SerializationError(
                f"the {what} deserializer failed on {record.topic}-{record.partition} offset {record.offset}: "
                f"{type(error).__name__}: {error}",
                item,
                offset=record.offset,
                record=record,
            ) from error
        key, value = (done, value) if what == "key" else (key, done)
    return msgspec.structs.replace(record, key=key, value=value)


def _call(deserializer: Any, record: AnyRecord, item: bytes) -> Any:
    method = getattr(deserializer, "deserialize", None)
    return method(record.topic, record.headers, item) if method is not None else deserializer(item)
