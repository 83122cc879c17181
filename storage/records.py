"""From fetched bytes to the records that a consumer sees. Speed matters here: this runs once a record.

Every field of every record comes out of a C loop (``map``, ``zip``, slices); the only Python code per record is
the deserializer, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Protocol

from ..errors import SerializationError
from ..model import TIMESTAMP_CREATE_TIME, AnyRecord, ConsumerRecord, Header
from .batch import Columns, decode_batch, iter_batches

NO_HEADERS: tuple[Header, ...] = ()


class DeserializesWithTopic(Protocol):
    def deserialize(self, topic: str, headers: Sequence[Header], data: bytes) -> Any: ...


Deserializer = Callable[[bytes], Any] | DeserializesWithTopic | None


def decode_records(
    topic: str,
    partition: int,
    data: bytes | memoryview,
    from_offset: int,
    key_deserializer: Deserializer = None,
    value_deserializer: Deserializer = None,
    *,
    verify: bool = True,
) -> list[AnyRecord]:
    """Return the records of contiguous batches, from ``from_offset`` on.

    A deserializer is a function of the bytes, or an object with ``deserialize(topic, headers, data)``; null stays
    ``None`` without asking it.

    Raises:
        SerializationError: a deserializer failed; ``offset`` says at which record, ``data`` what it was given.
        CorruptRecordError: the data is damaged.
    """
    records: list[AnyRecord] = []
    for header, at in iter_batches(data):
        if header.last_offset >= from_offset and header.count:
            columns = decode_batch(data, at, verify=verify)
            records += records_of(topic, partition, columns, key_deserializer, value_deserializer, from_offset)
    return records


def records_of(
    topic: str,
    partition: int,
    columns: Columns,
    key_deserializer: Deserializer = None,
    value_deserializer: Deserializer = None,
    from_offset: int = 0,
) -> list[AnyRecord]:
    """Return the records of one batch, from ``from_offset`` on; raises as ``decode_records`` does."""
    skip = columns.count_below(from_offset)
    keys: Sequence[Any] = columns.keys[skip:] if skip else columns.keys
    values: Sequence[Any] = columns.values[skip:] if skip else columns.values
    headers: Iterable[Sequence[Header]] = repeat(NO_HEADERS)
    if columns.has_headers:
        headers = columns.headers[skip:] if skip else columns.headers
    offsets = columns.offsets[skip:]
    key_sizes = _sizes(keys, columns.some_keys_null) if columns.has_keys else repeat(-1)
    value_sizes = _sizes(values, columns.some_values_null) if columns.has_values else repeat(-1)
    if key_deserializer is not None and columns.has_keys:
        keys = _deserialized("key", key_deserializer, topic, partition, offsets, headers, keys)
    if value_deserializer is not None and columns.has_values:
        values = _deserialized("value", value_deserializer, topic, partition, offsets, headers, values)
    fields: list[Iterable[Any]] = [
        repeat(topic),
        repeat(partition),
        repeat(columns.header.leader_epoch),
        offsets,
        columns.timestamps[skip:] if columns.has_timestamps else repeat(columns.header.base_timestamp),
        repeat(TIMESTAMP_CREATE_TIME),
        keys,
        values,
        headers,
        repeat(None),
        key_sizes,
        value_sizes,
    ]
    if columns.has_headers:  # else it is left to the default, which costs nothing
        fields.append(columns.header_sizes[skip:])
    make: Callable[..., AnyRecord] = ConsumerRecord
    return list(map(make, *fields))


def _sizes(items: Sequence[bytes | None], some_null: bool) -> Iterable[int]:
    if some_null:
        return [-1 if item is None else len(item) for item in items]
    return map(len, items)  # type: ignore[arg-type]


def _deserialized(
    what: str,
    deserializer: Deserializer,
    topic: str,
    partition: int,
    offsets: Sequence[int],
    headers: Iterable[Sequence[Header]],
    items: Sequence[bytes | None],
) -> list[Any]:
    done: list[Any] = []
    append = done.append
    deserialize = getattr(deserializer, "deserialize", None)
    try:
        if deserialize is not None:
            for item, of_record in zip(items, headers, strict=False):  # as many as items, or without end
                append(None if item is None else deserialize(topic, of_record, item))
        else:
            call: Any = deserializer
            for item in items:
                append(None if item is None else call(item))
    except Exception as error:  # whatever a user's function raises: it is told with its place, and chained
        offset = offsets[len(done)]
        raise SerializationError(
            f"the {what} deserializer failed on {topic}-{partition} offset {offset}: {type(error).__name__}: {error}",
            items[len(done)],
            offset=offset,
        ) from error
    return done
