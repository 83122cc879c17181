"""Batches as Arrow sees them, without a copy: the columns on disk are laid out as Arrow's own.

Needs the extra: ``pip install 'callboard[arrow]'``. pyarrow is imported when the first batch is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..storage.batch import Columns

if TYPE_CHECKING:
    import pyarrow as pa


def to_arrow(columns: Columns, skip: int) -> pa.RecordBatch:
    """Return offset (int64), timestamp (ms, UTC), key and value (binary), headers (list of key and value).

    Keys and values are the fetched bytes themselves, kept alive by the result. ``skip``: leave out so many records
    from the front, which copies nothing either.

    Raises:
        ConfigurationError: pyarrow is not installed.
    """
    pa = _pyarrow()
    timestamp = pa.timestamp("ms", tz="UTC")
    arrays = {
        "offset": pa.array(columns.offsets, pa.int64()),
        "timestamp": pa.array(columns.timestamps, pa.int64()).cast(timestamp),
        "key": _binary(pa, columns, "keys"),
        "value": _binary(pa, columns, "values"),
        "headers": _headers(pa, columns),
    }
    return pa.RecordBatch.from_pydict(arrays).slice(skip)


def _binary(pa: Any, columns: Columns, name: str) -> Any:
    buffers = columns.buffers(name)
    if buffers is None:
        return pa.nulls(columns.count, pa.binary())
    wrapped = [None if buffer is None else pa.py_buffer(buffer) for buffer in buffers]
    return pa.Array.from_buffers(pa.binary(), columns.count, wrapped)


def _headers(pa: Any, columns: Columns) -> Any:
    kind = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
    if not columns.has_headers:
        return pa.array([[]] * columns.count, kind)
    rows = [[{"key": key, "value": value} for key, value in headers] for headers in columns.headers]
    return pa.array(rows, kind)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ConfigurationError("Arrow columns need pyarrow: pip install 'callboard[arrow]'") from None
    return pyarrow
