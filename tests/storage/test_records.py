"""From bytes to the records a consumer sees."""

from __future__ import annotations

import pytest

from callboard.errors import CorruptRecordError, SerializationError
from callboard.model import ConsumerRecord
from callboard.storage.batch import encode_batch, restamp
from callboard.storage.records import decode_records


def stored(keys, values, timestamps, headers=None, *, at=0, epoch=0, **options) -> bytes:
    frames = encode_batch(keys, values, timestamps, headers, **options)
    return b"".join([restamp(frames[0], at, epoch), *frames[1:]])


def test_a_record_has_every_field():
    data = stored([b"key", None], [b"value", None], [5, 6], [[("h", b"12")], []], at=7, epoch=3)

    assert decode_records("t", 2, data, 0) == [
        ConsumerRecord("t", 2, 3, 7, 5, 0, b"key", b"value", [("h", b"12")], None, 3, 5, 15),
        ConsumerRecord("t", 2, 3, 8, 6, 0, None, None, [], None, -1, -1, -1),
    ]


def test_records_below_the_wanted_offset_are_left_out():
    data = stored(None, [b"a", b"b"], 0) + stored(None, [b"c", b"d", b"e"], 0, at=2) + stored(None, [b"f"], 0, at=5)

    for from_offset in range(7):
        offsets = [record.offset for record in decode_records("t", 0, data, from_offset)]
        assert offsets == list(range(from_offset, 6))


def test_functions_and_objects_deserialize_and_null_stays_none():
    class Upper:
        def deserialize(self, topic, headers, data):
            return f"{topic}:{data.decode().upper()}:{len(headers)}"

    data = stored([b"a", None], [b"1", b"22"], 0, [[("h", None)], []])

    records = decode_records("t", 0, data, 0, Upper(), int)

    assert [(record.key, record.value) for record in records] == [("t:A:1", 1), (None, 22)]
    assert [record.serialized_value_size for record in records] == [1, 2]


def test_a_failing_deserializer_names_the_record():
    data = stored(None, [b"1", b"x", b"3"], 0, at=40)

    with pytest.raises(SerializationError, match="value deserializer failed on t-3 offset 41: ValueError") as failure:
        decode_records("t", 3, data, 0, None, int)

    assert (failure.value.data, failure.value.offset) == (b"x", 41)
    assert isinstance(failure.value.__cause__, ValueError)


def test_damaged_bytes_are_not_served():
    data = bytearray(stored(None, [b"value"], 0))
    data[-8] ^= 1

    with pytest.raises(CorruptRecordError, match="checksum"):
        decode_records("t", 0, bytes(data), 0)


def test_records_without_headers_share_a_sequence_that_nobody_can_change():
    records = decode_records("t", 0, stored(None, [b"a", b"b"], 0), 0)

    assert [record.headers for record in records] == [(), ()]
    assert [record.serialized_header_size for record in records] == [-1, -1]


@pytest.mark.parametrize("width", [1, 7, 100, 70_000])
@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 700])
def test_records_of_one_size_are_cut_apart_whatever_their_number(width, count):
    values = [b"%0*d" % (width, number % 10) for number in range(min(count, 3) if width > 1_000 else count)]

    assert [record.value for record in decode_records("t", 0, stored(None, values, 0), 0)] == values
