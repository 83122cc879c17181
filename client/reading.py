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

    __slots__ = ("is_verifying", "key_deserializer", "skipped", "skips_bad", "value_deserializer")

    def __init__(self, key: Deserializer, value: Deserializer, *, is_verifying: bool, skips_bad: bool) -> None:
        self.key_deserializer, self.value_deserializer = key, value
        self.is_verifying = is_verifying
        self.skips_bad = skips_bad
        self.skipped = 0  # records whose deserializer failed, with on_bad_record="skip"


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
        "is_paused",
        "key",
        "log_start_offset",
        "position",
        "records",
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
        self.bad: CallboardError | None = None  # why the next record cannot be handed out
        self.error: CallboardError | None = None  # what the brokers say against reading on
        self.is_paused = False
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
        dropped = sum(map(len, self.chunks)) + (len(self.chunk) if self.chunk is not None else 0)
        self.chunks.clear()
        self.chunk, self.records, self.at = None, [], 0
        self.bad = self.error = None
        return dropped

    @property
    def has_data(self) -> bool:
        return self.at < len(self.records) or bool(self.chunks) or self.bad is not None

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
        freed = 0
        while limit > 0:
            if self.at >= len(self.records):
                if self.bad is not None:
                    if taken:
                        break
                    raise self.bad
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
        if self.at >= len(self.records) and self.bad is None:
            freed += self.release()
        return taken, freed

    def prepare(self, decoding: Decoding) -> int:
        """Decode until there is a record to hand out, or nothing left; return the bytes that are used up."""
        freed = 0
        while self.at >= len(self.records) and self.bad is None:
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
        self.chunk, self.records, self.at, self.bad = None, [], 0, None
        found = []
        position = self.position or 0
        for header, at in iter_batches(data):
            if header.next_offset > position:
                columns = decode_batch(data, at, verify=decoding.is_verifying)
                skip = columns.count_below(position)
                if skip < columns.count:
                    found.append(RecordColumns(self.key, columns, skip))
                self.position = header.next_offset
        return found, len(data)

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
            self.records = self._decode_one_by_one(data, position, decoding)
        except CallboardError as error:
            self.bad = error
        self._chunk_end = end_offset_of(data) if self.bad is None else position
        self.at = 0

    def _decode_one_by_one(self, data: bytes, position: int, decoding: Decoding) -> list[AnyRecord]:
        """Some record is bad: keep the good ones before it; skip it, or remember why reading stops there."""
        good: list[AnyRecord] = []
        topic, partition = self.key
        raw = decode_records(topic, partition, data, position, verify=False)
        for record in raw:
            try:
                good.append(_deserialized(record, decoding))
            except SerializationError as error:
                if not decoding.skips_bad:
                    self.bad = error
                    return good
                decoding.skipped += 1
        return good


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
            ) from error
        key, value = (done, value) if what == "key" else (key, done)
    return msgspec.structs.replace(record, key=key, value=value)


def _call(deserializer: Any, record: AnyRecord, item: bytes) -> Any:
    method = getattr(deserializer, "deserialize", None)
    return method(record.topic, record.headers, item) if method is not None else deserializer(item)
