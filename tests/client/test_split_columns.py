"""Columns are cut into batches by their exact sizes, whether the records are all of one size or not."""

from hypothesis import given
from hypothesis import strategies as st

from callboard.client import records
from callboard.client.accumulator import PartitionBuffer
from callboard.storage.batch import encode_batch

one_size = st.integers(0, 40).flatmap(lambda width: st.lists(st.just(b"v" * width), min_size=1, max_size=50))
any_size = st.lists(st.none() | st.binary(max_size=40), min_size=1, max_size=50)


def whole(values, keys=None):
    return records.whole_batch("t", -1, values, keys, 1_000, None, 0)


def encoded(part, width):
    return encode_batch(part.keys, part.values, part.timestamps, value_width=width)


@given(one_size | any_size, st.booleans(), st.integers(1, 300))
def test_parts_hold_every_record_in_order_and_know_their_sizes(values, has_keys, batch_size):
    batch = whole(values, [b"key"] * len(values) if has_keys else None)
    told = []

    parts = records.split_columns(
        batch,
        None if not has_keys else 3,
        lambda *_: 0,
        lambda size: told.append(size) or PartitionBuffer("t", 0, 1),
        batch_size,
    )

    assert [value for part in parts for value in part.values] == values
    assert [part.size for part in parts] == [records.columns_size(part.values, part.keys, None) for part in parts]
    assert all(part.size <= batch_size or part.count == 1 for part in parts)
    assert [encoded(part, part.width) for part in parts] == [encoded(part, -1) for part in parts]
    assert told == ([] if has_keys else [part.size for part in parts])


@given(one_size | any_size, st.booleans())
def test_the_largest_record_is_found(values, has_keys):
    batch = whole(values, [b"key"] * len(values) if has_keys else None)

    assert records.largest_row(batch) == max(records.row_sizes(batch, range(batch.count)))
