"""Batches that lost records: their bytes, what they give to readers, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.client.fetch_state import Credit
from callboard.client.reading import Decoding, PartitionReader
from callboard.errors import CorruptRecordError
from callboard.model import TopicPartition
from callboard.storage.batch import (
    NO_TIMESTAMP,
    check_batch,
    check_envelope,
    decode_batch,
    encode_batch,
    end_offset_of,
    parse_header,
    restamp,
)
from callboard.storage.records import decode_records
from callboard.storage.sparse import empty_batch, has_all_keys, without

from .test_batch import hexed

ORDERS = TopicPartition("orders", 0)


def stored(frames, at=10, epoch=2):
    return b"".join([restamp(frames[0], at, epoch), *frames[1:]])


def four(at=10, compression="none"):
    headers = [[], [("h", b"x")], [], []]
    frames = encode_batch(
        [b"a", b"b", b"a", b"c"], [b"1", None, b"3", b""], [5, 9, 7, 6], headers, compression=compression
    )
    return stored(frames, at)


def sparse(at=10, kept=(1, 3), compression="none"):
    return without(decode_batch(four(at, compression)), kept)


def test_golden_some_records_of_four():
    frames = encode_batch([b"a", b"b", b"a", b"c"], [b"1", b"2", b"3", b"4"], 5, producer_id=258, producer_epoch=3)

    assert without(decode_batch(stored(frames)), [2, 3]) == hexed(
        """
        000000000000000a 0000008c 00000002 43 5e306f8d # base offset, length, epoch, magic, checksum
        0000 00000003 0000000000000005 0000000000000005 # attributes, last offset delta: the range is what it was
        0000000000000102 0003 ffffffff 00000002 000000 # producer; two records
        4a000000 38000000 38000000 02000000 02000000 00000000 00000000 00000000 # flags: keys, values, deltas
        00000000 01000000 02000000 00000000 6163000000000000 # keys: a, c
        00000000 01000000 02000000 00000000 3334000000000000 # values: 3, 4
        02000000 03000000 # deltas: offsets 12 and 13
        """
    )


def test_golden_no_records():
    assert empty_batch(10, 14, 2) == hexed(
        """
        000000000000000a 00000054 00000002 43 07decd5e
        0000 00000003 8000000000000000 8000000000000000
        ffffffffffffffff ffff ffffffff 00000000 000000
        40000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
        """
    )


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_what_is_kept_is_what_it_was(compression):
    data = sparse(compression=compression)
    batch = decode_batch(data)

    assert check_envelope([data]).count == 2
    assert list(batch.offsets) == [11, 13]
    assert batch.keys == [b"b", b"c"]
    assert batch.values == [None, b""]
    assert batch.timestamps == [9, 6]
    assert batch.headers == [[("h", b"x")], []]
    assert (batch.header.base_offset, batch.header.next_offset, batch.header.leader_epoch) == (10, 14, 2)
    assert (batch.header.base_timestamp, batch.header.max_timestamp) == (9, 9)


@given(st.sets(st.integers(0, 3)), st.integers(8, 16))
def test_records_from_any_offset_are_those_that_are_left_behind_it(kept, from_offset):
    data = sparse(kept=sorted(kept))

    records = decode_records("orders", 0, data, from_offset)

    assert [record.offset for record in records] == [10 + place for place in sorted(kept) if 10 + place >= from_offset]
    assert decode_batch(data).count_below(from_offset) == sum(10 + place < from_offset for place in kept)


def test_records_go_again_from_what_is_left():
    again = decode_batch(without(decode_batch(sparse()), [1]))

    assert (list(again.offsets), again.keys) == ([13], [b"c"])


def test_a_batch_of_no_records_bears_its_producer_and_is_no_older_than_anything():
    frames = encode_batch(None, [b"1", b"2"], 5, producer_id=7, producer_epoch=1, base_sequence=40)
    header = parse_header(stored(frames))

    empty = parse_header(empty_batch(10, 12, 2, header))

    assert (empty.count, empty.base_offset, empty.next_offset) == (0, 10, 12)
    assert (empty.producer_id, empty.producer_epoch, empty.base_sequence, empty.last_sequence) == (7, 1, 40, 41)
    assert empty.max_timestamp == NO_TIMESTAMP


@pytest.mark.parametrize("data", [sparse(at=0), empty_batch(0, 3, -1)])
def test_no_producer_may_send_one(data):
    with pytest.raises(CorruptRecordError, match="compacted away"):
        check_batch([data])


def test_offsets_that_do_not_grow_within_the_range_are_refused():
    for deltas in ([3, 3], [3, 1], [-1, 2], [2, 4]):
        data = bytearray(sparse())
        data[-8:] = b"".join(delta.to_bytes(4, "little", signed=True) for delta in deltas)
        with pytest.raises(CorruptRecordError, match="out of order"):
            _ = decode_batch(bytes(data), verify=False).offsets


def test_a_dense_batch_says_nothing_of_its_offsets():
    assert decode_batch(four()).offsets == range(10, 14)


@pytest.mark.parametrize(
    ("keys", "all_there"), [([b"a", b""], True), ([b"a", None], False), ([None, None], False), (None, False)]
)
def test_whether_each_record_has_a_key_is_told_by_the_directory(keys, all_there):
    assert has_all_keys(encode_batch(keys, [b"1", b"2"], 5)) is all_there


# -- a consumer ----------------------------------------------------------------------------------------


def a_reader(data, position=10):
    reader = PartitionReader(ORDERS, 1, Credit())
    reader.on_data(position, data)
    return reader


DECODING = Decoding(None, None, is_verifying=True, skips_bad=False)


def test_a_consumers_position_moves_over_offsets_without_records():
    data = sparse() + empty_batch(14, 20, 2)
    reader = a_reader(data)

    records, freed = reader.take(1, DECODING)
    assert ([record.offset for record in records], freed, reader.position) == ([11], 0, 12)
    records, freed = reader.take(5, DECODING)

    assert [record.offset for record in records] == [13]
    assert (freed, reader.position, end_offset_of(data)) == (len(data), 20, 20)


def test_a_chunk_without_a_record_is_passed_over():
    reader = a_reader(empty_batch(10, 14, 2))
    reader.on_data(14, four(at=14))

    records, _ = reader.take(1, DECODING)

    assert [record.offset for record in records] == [14]


def test_columns_of_a_sparse_batch_begin_with_the_first_record_at_the_position():
    reader = a_reader(sparse() + empty_batch(14, 20, 2), position=12)

    (columns,), _ = reader.take_columns(DECODING)

    assert (columns.base_offset, columns.count, list(columns.offsets)) == (13, 1, [13])
    assert columns.keys == [b"c"]
    assert repr(columns) == "<RecordColumns orders-0 offsets 13 to 13>"
    assert reader.position == 20
