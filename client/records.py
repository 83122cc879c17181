"""From the arguments of ``send`` and ``send_batch`` to columns of bytes: types checked, serialized, split."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import add, countOf
from time import time_ns
from typing import Any

from ..errors import IllegalArgumentError, InvalidTopicError, MessageSizeTooLargeError
from ..model import TOPIC_NAME_MAX, Header, is_topic_name
from ..storage.columns import even_width
from .accumulator import PartitionBuffer
from .producer_batch import RECORD_OVERHEAD, ProducerBatch, record_size
from .serializers import Encode

TIMESTAMP_MS_MAX = 1 << 62

PartitionOf = Callable[["bytes | None", "bytes | None"], "int | None"]  # (key, value) -> partition; None: sticky
Sticky = Callable[[int], PartitionBuffer]  # where the next so many bytes without a key go


def check_topic(topic: object) -> None:
    """Raise TypeError when it is no str, IllegalArgumentError when empty, InvalidTopicError for other bad names."""
    if not isinstance(topic, str):
        raise TypeError(f"topic: expected str, got {type(topic).__name__}")
    if not topic:
        raise IllegalArgumentError("topic: must not be empty")
    if not is_topic_name(topic):
        raise InvalidTopicError(f"{topic[:TOPIC_NAME_MAX]!r} is not a topic name")


def check_bytes(data: object, name: str) -> bytes | None:
    """Return key or value as bytes.

    Raises:
        TypeError: it is something else; says which setting turns such things into bytes.
    """
    if data is None or type(data) is bytes:
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"{name}: expected bytes, got {type(data).__name__}; set {name}_serializer to turn it into bytes")


def check_headers(headers: Any) -> list[Header]:
    """Return a copy of a record's headers.

    Raises:
        TypeError: not a list of (str, bytes or None) pairs.
    """
    if isinstance(headers, dict):
        headers = headers.items()
    try:
        checked = [(name, data) for name, data in headers]
    except (TypeError, ValueError):
        raise TypeError("headers: expected a list of (str, bytes) pairs") from None
    for name, data in checked:
        if not isinstance(name, str) or not (data is None or isinstance(data, bytes)):
            raise TypeError(f"headers: expected (str, bytes) pairs, got ({type(name).__name__}, {type(data).__name__})")
    return checked


def check_partition(partition: object) -> None:
    if type(partition) is not int:
        raise TypeError(f"partition: expected int, got {type(partition).__name__}")
    if partition < 0:
        raise IllegalArgumentError(f"partition: must not be below 0 (given: {partition})")


def check_timestamp(timestamp_ms: object) -> None:
    if type(timestamp_ms) is not int:
        raise TypeError(f"timestamp_ms: expected int, got {type(timestamp_ms).__name__}")
    if not 0 <= timestamp_ms < TIMESTAMP_MS_MAX:
        raise IllegalArgumentError(f"timestamp_ms: must be milliseconds since 1970 (given: {timestamp_ms})")


def check_size(size: int, limit: int, topic: str) -> None:
    if size > limit:
        raise MessageSizeTooLargeError(
            f"a record of {size} bytes for topic {topic!r} is above the producer's max_request_size of {limit}"
        )


def column(items: Any, name: str, count: int | None) -> list[Any]:
    """Return a column as a list of ``count`` items (None: as many as there are)."""
    if isinstance(items, (str, bytes, bytearray)):
        raise TypeError(f"{name}: expected a list, got {type(items).__name__}")
    try:
        result = items if isinstance(items, list) else list(items)
    except TypeError:
        raise TypeError(f"{name}: expected a list, got {type(items).__name__}") from None
    if count is not None and len(result) != count:
        raise IllegalArgumentError(f"{name}: {len(result)} of them for {count} values")
    return result


def bytes_column(items: list[Any], name: str) -> list[bytes | None]:
    """Return a column of bytes and None; copied only when something in it must be converted."""
    if countOf(map(type, items), bytes) == len(items) or set(map(type, items)) <= {bytes, type(None)}:
        return items
    return [check_bytes(item, name) for item in items]


def columns(
    topic: str,
    values: list[Any],
    keys: Any,
    timestamps: Any,
    headers: Any,
    encode_key: Encode | None,
    encode_value: Encode | None,
) -> tuple[list[bytes | None], list[bytes | None] | None, list[int] | int, list[list[Header]] | None]:
    """Check and serialize the columns of ``send_batch``; return values, keys, timestamps, headers.

    Raises:
        TypeError, IllegalArgumentError: a column of a wrong type or length.
        SerializationError: a serializer failed.
    """
    count = len(values)
    checked: list[list[Header]] | None = None
    if headers is not None:
        checked = [check_headers(each) if each else [] for each in column(headers, "headers", count)]
    keys = None if keys is None else column(keys, "keys", count)
    of_row: list[Any] = checked if checked is not None else [None] * count
    if encode_value is not None:
        values = [encode_value(topic, each, value) for each, value in zip(of_row, values, strict=True)]
    if encode_key is not None and keys is not None:
        keys = [encode_key(topic, each, key) for each, key in zip(of_row, keys, strict=True)]
    return (
        bytes_column(values, "value"),
        None if keys is None else bytes_column(keys, "key"),
        _timestamps(timestamps, count),
        checked,
    )


def _timestamps(given: Any, count: int) -> list[int] | int:
    if given is None:
        return time_ns() // 1_000_000
    if isinstance(given, int):
        check_timestamp(given)
        return given
    listed = column(given, "timestamps", count)
    if set(map(type, listed)) != {int} or min(listed) < 0 or max(listed) >= TIMESTAMP_MS_MAX:
        raise TypeError("timestamps: expected milliseconds since 1970, int each")
    return listed


def columns_size(values: Sequence[bytes | None], keys: Sequence[bytes | None] | None, headers: Any) -> int:
    """Return the bytes that these records take in a batch at most, before compression."""
    size = len(values) * RECORD_OVERHEAD + _length(values)
    if keys is not None:
        size += _length(keys)
    if headers is not None:
        size += sum(record_size(None, None, each) - RECORD_OVERHEAD for each in headers)
    return size


def whole_batch(
    topic: str,
    partition: int,
    values: list[bytes | None],
    keys: list[bytes | None] | None,
    timestamps: list[int] | int,
    headers: list[list[Header]] | None,
    created_ms: int,
    size: int | None = None,
    width: int | None = None,
) -> ProducerBatch:
    """Return one sealed batch of columns. ``width`` of its values and ``size`` (``columns_size``) if they are known."""
    batch = ProducerBatch(topic, partition, 0, created_ms)
    batch.values, batch.keys, batch.timestamps, batch.headers = values, keys, timestamps, headers
    batch.width = _width(values) if width is None else width
    if size is None and batch.width >= 0 and keys is None and headers is None:
        size = len(values) * (batch.width + RECORD_OVERHEAD)
    batch.size = columns_size(values, keys, headers) if size is None else size
    batch.is_columns = True
    batch.seal()
    return batch


def split_columns(
    batch: ProducerBatch,
    partition: int | None,
    partition_of: PartitionOf,
    sticky: Sticky,
    batch_size: int,
) -> list[ProducerBatch]:
    """Return the records of a batch of columns as sealed batches, each for one partition and of at most ``batch_size``
    bytes (unless a single record is larger). Order is kept within each partition.
    """
    if partition is not None:
        return [_part(batch, partition, rows, size) for rows, size in _runs(batch, range(batch.count), batch_size)]
    if batch.keys is None:
        return [
            _part(batch, sticky(size).partition, rows, size)
            for rows, size in _runs(batch, range(batch.count), batch_size)
        ]
    by_partition: dict[int, list[int]] = {}
    keys, values = batch.keys, batch.values
    for row, (key, value) in enumerate(zip(keys, values, strict=True)):
        chosen = partition_of(key, value)
        if chosen is None:
            chosen = sticky(record_size(value, key, None)).partition
        by_partition.setdefault(chosen, []).append(row)
    return [
        _part(batch, chosen, run, size)
        for chosen, rows in by_partition.items()
        for run, size in _runs(batch, rows, batch_size)
    ]


def _runs(batch: ProducerBatch, rows: Sequence[int], batch_size: int) -> Iterable[tuple[Sequence[int], int]]:
    """Yield consecutive runs of rows that fit a batch, and the size of each."""
    if len(rows) == batch.count and batch.size <= batch_size:
        yield rows, batch.size
        return
    ends = _ends(batch, rows)
    begin, before = 0, 0
    while begin < len(rows):
        end = max(begin + 1, bisect_right(ends, before + batch_size, lo=begin))
        yield rows[begin:end], ends[end - 1] - before
        begin, before = end, ends[end - 1]


def _ends(batch: ProducerBatch, rows: Sequence[int]) -> Sequence[int]:
    """Return where each of these rows ends, in bytes from the first one's beginning: rising numbers."""
    width = batch.width if batch.keys is None and batch.headers is None else -1
    if width >= 0:  # all of one size, which is common and needs no list
        step = width + RECORD_OVERHEAD
        return range(step, step * len(rows) + 1, step)
    return list(accumulate(row_sizes(batch, rows)))


def _width(items: Sequence[bytes | None]) -> int:
    """Return the size that all items have; -1: some differ, or are None."""
    try:
        return even_width(items)  # type: ignore[arg-type]
    except TypeError:
        return -1


def row_sizes(batch: ProducerBatch, rows: Sequence[int]) -> list[int]:
    """Return the bytes that each of these rows takes in a batch at most."""
    keys, values, headers = batch.keys, batch.values, batch.headers
    if len(rows) < batch.count:
        values = [values[row] for row in rows]
        keys = [keys[row] for row in rows] if keys is not None else None
        headers = [headers[row] for row in rows] if headers is not None else None
    if headers is None:
        try:
            sizes = map(RECORD_OVERHEAD.__add__, map(len, values))  # type: ignore[arg-type]
            return list(sizes if keys is None else map(add, sizes, map(len, keys)))  # type: ignore[arg-type]
        except TypeError:  # some are None: one by one
            pass
    nothing: list[Any] = [None] * len(values)
    return list(map(record_size, values, keys or nothing, headers or nothing))


def largest_row(batch: ProducerBatch) -> int:
    """Return the bytes that the largest record takes in a batch at most."""
    width = batch.width if batch.keys is None and batch.headers is None else -1
    return width + RECORD_OVERHEAD if width >= 0 else max(row_sizes(batch, range(batch.count)))


def _part(batch: ProducerBatch, partition: int, rows: Sequence[int], size: int) -> ProducerBatch:
    def pick(items: Any) -> Any:
        if items is None or isinstance(items, int) or len(rows) == batch.count:
            return items
        return items[rows.start : rows.stop] if isinstance(rows, range) else [items[row] for row in rows]

    return whole_batch(
        batch.topic,
        partition,
        pick(batch.values),
        pick(batch.keys),
        pick(batch.timestamps),
        pick(batch.headers),
        batch.created_ms,
        size,
        batch.width,  # unless some differ that this part has not: then it is looked at when it is encoded
    )


def _length(items: Sequence[bytes | None]) -> int:
    try:
        return sum(map(len, items))  # type: ignore[arg-type]
    except TypeError:  # some are None
        return sum(len(item) for item in items if item is not None)
