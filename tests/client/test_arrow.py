"""Columns as Arrow, without a copy."""

import sys

import pyarrow as pa
import pytest

from callboard.client.reading import RecordColumns
from callboard.errors import ConfigurationError
from callboard.model import TopicPartition
from callboard.storage.batch import decode_batch, encode_batch, restamp

ORDERS = TopicPartition("orders", 0)


def columns_of(keys, values, timestamps=1_000, headers=None, *, base_offset=0, skip=0, compression="none"):
    frames = encode_batch(keys, values, timestamps, headers, compression=compression)
    data = restamp(frames[0], base_offset, 0) + b"".join(frames[1:])
    return RecordColumns(ORDERS, decode_batch(data), skip)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_every_column_has_the_records_values(compression):
    columns = columns_of(
        [b"a", None, b""],
        [b"1", b"", None],
        [1_000, 2_000, 3_000],
        [[("trace", b"x")], [], [("none", None)]],
        base_offset=7,
        compression=compression,
    )

    batch = columns.to_arrow()

    assert batch.column("offset").to_pylist() == [7, 8, 9]
    assert batch.column("key").to_pylist() == [b"a", None, b""]
    assert batch.column("value").to_pylist() == [b"1", b"", None]
    assert batch.column("timestamp").cast(pa.int64()).to_pylist() == [1_000, 2_000, 3_000]
    assert batch.column("headers").to_pylist() == [
        [{"key": "trace", "value": b"x"}],
        [],
        [{"key": "none", "value": None}],
    ]
    batch.validate(full=True)


def test_records_before_the_position_are_left_out():
    batch = columns_of(None, [b"0", b"1", b"2"], base_offset=5, skip=2).to_arrow()

    assert batch.column("offset").to_pylist() == [7]
    assert batch.column("value").to_pylist() == [b"2"]
    assert batch.column("key").to_pylist() == [None]


def test_values_are_the_fetched_bytes_themselves():
    frames = encode_batch(None, [b"v" * 100] * 10, 1_000)
    data = b"".join(frames)
    batch = RecordColumns(ORDERS, decode_batch(data), 0).to_arrow()

    values = batch.column("value").buffers()[2]

    begin = pa.py_buffer(data).address
    assert begin <= values.address < begin + len(data)


def test_without_pyarrow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(ConfigurationError, match=r"callboard\[arrow\]"):
        columns_of(None, [b"1"]).to_arrow()
