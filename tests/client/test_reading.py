"""Records that cannot be read, as one partition's reader sees them: where it stands, and what is used up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import SerializationError, TopicPartition
from callboard.client.fetch_state import Credit
from callboard.client.inbox import Inbox
from callboard.client.reading import Decoding, PartitionReader
from callboard.storage.batch import encode_batch, restamp

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)
BAD = b"{"


def a_batch(base, *values, keys=None, headers=None):
    frames = encode_batch(keys, list(values), 5, headers)
    return restamp(frames[0], base, 0) + b"".join(frames[1:])


def decoding(*, skips_bad=False):
    return Decoding(None, json.loads, is_verifying=True, skips_bad=skips_bad)


def a_reader(*batches, key=T0):
    reader = PartitionReader(key, 1, Credit())
    for data in batches:
        reader.on_data(0, data)
    return reader


def values(records):
    return [record.value for record in records]


def the_bad_one(reader, how):
    with pytest.raises(SerializationError) as caught:
        reader.take(10, how)
    return caught.value


def test_the_error_carries_the_record_as_it_lies_in_the_log():
    reader = a_reader(a_batch(7, BAD, keys=[b"k"], headers=[[("h", b"1")]]))

    error = the_bad_one(reader, decoding())

    record = error.record
    assert (record.topic_partition, record.offset, record.timestamp) == (T0, 7, 5)
    assert (record.key, record.value, list(record.headers)) == (b"k", BAD, [("h", b"1")])
    assert (error.offset, error.data) == (7, BAD)


def test_passing_over_goes_on_behind_the_record_without_fetching_again():
    reader, how = a_reader(a_batch(0, b"1", BAD, b"3", BAD, b"5")), decoding()

    assert values(reader.take(10, how)[0]) == [1]
    assert reader.pass_over(the_bad_one(reader, how))
    assert reader.position == 2
    assert values(reader.take(10, how)[0]) == [3]
    assert reader.pass_over(the_bad_one(reader, how))
    taken, freed = reader.take(10, how)

    assert (values(taken), reader.position) == ([5], 5)
    assert freed > 0
    assert not reader.has_data


def test_what_is_not_the_next_record_any_more_is_not_passed_over():
    reader, how = a_reader(a_batch(0, BAD, b"2")), decoding()
    error = the_bad_one(reader, how)

    reader.move_to(2, 0)
    reader.on_data(0, a_batch(0, BAD, b"2"))
    again = the_bad_one(reader, how)

    assert not reader.pass_over(error)
    assert reader.position == 0
    assert reader.pass_over(again)
    assert not reader.pass_over(again)


def test_columns_go_on_behind_what_was_passed_over():
    reader, how = a_reader(a_batch(0, b"1", BAD, b"3")), decoding()
    reader.take(10, how)
    reader.pass_over(the_bad_one(reader, how))

    (columns,), _ = reader.take_columns(how)

    assert (columns.values, reader.position, reader.has_data) == ([b"3"], 3, False)


def test_columns_are_not_deserialized_so_no_record_is_bad():
    reader = a_reader(a_batch(0, b"1", BAD))

    (columns,), _ = reader.take_columns(decoding())

    assert columns.values == [b"1", BAD]


def take(reader, limit, how):
    try:
        return *reader.take(limit, how), None
    except SerializationError as error:
        return [], 0, error


@given(
    batches=st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=5),
    limit=st.integers(1, 4),
    iterates=st.booleans(),
)
def test_every_record_is_handed_out_or_on_once_in_order_and_all_bytes_are_given_back(batches, limit, iterates):
    base, data, expected = 0, [], []
    for batch in batches:
        data.append(a_batch(base, *(b"%d" % (base + i) if good else BAD for i, good in enumerate(batch))))
        expected += [(base + i, good) for i, good in enumerate(batch)]
        base += len(batch)
    reader, how, seen, given_back = a_reader(*data), decoding(), [], 0

    while reader.has_data:
        if iterates:
            given_back += reader.prepare(how)
        taken, freed, error = take(reader, limit, how)
        if error is not None:
            assert reader.position == error.offset
            assert reader.pass_over(error)
            seen.append((error.offset, False))
        given_back += freed
        seen += [(record.offset, True) for record in taken]
    given_back += reader.take(limit, how)[1]

    assert seen == expected
    assert (reader.position, given_back) == (base, sum(map(len, data)))


def an_inbox(how, *readers):
    inbox = Inbox(how)
    for reader in readers:
        inbox.readers[reader.key] = inbox.ready[reader.key] = reader
    return inbox


def test_a_partition_whose_record_is_in_hand_stands_still_and_the_others_do_not():
    how = decoding()
    first, second = a_reader(a_batch(0, BAD, b"2")), a_reader(a_batch(0, b"7"), key=T1)
    inbox = an_inbox(how, first, second)
    with pytest.raises(SerializationError) as caught:
        inbox.take(10)

    first.is_in_hand = True

    assert {key: values(records) for key, records in inbox.take(10).items()} == {T1: [7]}
    assert inbox.take(10) is inbox.take_columns(10) is inbox.next_reader() is None
    inbox.pass_over(first, caught.value)
    assert values(inbox.take(10)[T0]) == [2]


def test_after_a_bad_record_it_is_the_others_turn():
    how = decoding()
    inbox = an_inbox(how, a_reader(a_batch(0, BAD, BAD)), a_reader(a_batch(0, b"7"), key=T1))
    with pytest.raises(SerializationError) as caught:
        inbox.take(10)

    inbox.pass_over(inbox.readers[T0], caught.value)

    assert list(inbox.take(10)) == [T1]


def test_an_error_that_is_raised_again_and_again_does_not_grow():
    reader, how = a_reader(a_batch(0, BAD)), decoding()

    def depth():
        trace, length = the_bad_one(reader, how).__traceback__, 0
        while trace is not None:
            trace, length = trace.tb_next, length + 1
        return length

    assert depth() == depth()


def test_the_last_one_that_was_skipped_is_kept_for_the_log():
    reader, how = a_reader(a_batch(0, BAD, b"2", BAD)), decoding(skips_bad=True)

    assert values(reader.take(10, how)[0]) == [2]
    assert (how.skipped, how.last_skipped.offset) == (2, 2)
