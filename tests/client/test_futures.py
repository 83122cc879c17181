"""Futures: resolved once, observed or not, awaited, waited for, called back; also when their records move."""

from __future__ import annotations

import asyncio
import threading

import pytest

from callboard.client import futures
from callboard.client.futures import FutureBatchMetadata, FutureRecordMetadata
from callboard.client.producer_batch import ProducerBatch
from callboard.client.records import whole_batch
from callboard.errors import CallboardTimeoutError, MessageSizeTooLargeError, NotLeaderForPartitionError


def a_batch(*values: bytes, partition: int = 3) -> ProducerBatch:
    batch = ProducerBatch("t", partition, 1_000, created_ms=0)
    for at, value in enumerate(values or (b"a", b"bb", b"ccc")):
        batch.append(value, b"k", None, 100 + at, 20)
    batch.seal()
    return batch


def test_an_acknowledged_batch_tells_each_record_its_offset_timestamp_and_sizes():
    batch = a_batch()
    future = FutureRecordMetadata(batch, 2)

    assert not future.is_done
    assert future.value is None
    futures.settle(batch, 40, None)

    metadata = future.get(0)
    assert (metadata.topic, metadata.partition, metadata.offset, metadata.timestamp) == ("t", 3, 42, 102)
    assert (metadata.serialized_key_size, metadata.serialized_value_size, metadata.checksum) == (1, 3, None)
    assert future.succeeded()
    assert not future.failed()


def test_a_failed_batch_raises_for_each_record():
    batch = a_batch()
    futures.settle(batch, -1, MessageSizeTooLargeError("too much"))
    future = FutureRecordMetadata(batch, 0)

    with pytest.raises(MessageSizeTooLargeError):
        future.get(0)
    assert future.failed()
    assert not future.retriable()
    assert (future.key, future.record_value) == (b"k", b"a")


def test_a_batch_is_settled_once():
    batch = a_batch()

    assert futures.settle(batch, 1, None)
    assert not futures.settle(batch, 2, NotLeaderForPartitionError())

    assert FutureRecordMetadata(batch, 0).get(0).offset == 1


def test_get_gives_up_after_its_timeout():
    with pytest.raises(CallboardTimeoutError, match=r"within 0.01 s"):
        FutureRecordMetadata(a_batch(), 0).get(0.01)


def test_get_wakes_when_another_thread_settles():
    batch = a_batch()
    threading.Timer(0.01, futures.settle, (batch, 7, None)).start()

    assert FutureRecordMetadata(batch, 1).get(10).offset == 8


def test_callbacks_run_once_before_or_after():
    batch, calls = a_batch(), []
    future = FutureRecordMetadata(batch, 0)

    future.add_callback(calls.append).add_callback(lambda first, m: calls.append((first, m.offset)), "x")
    futures.settle(batch, 5, None)
    future.add_callback(lambda m: calls.append(m.offset))
    future.add_errback(calls.append)

    assert calls == [future.get(0), ("x", 5), 5]


def test_errbacks_run_and_count_as_having_seen_the_failure():
    batch, calls = a_batch(b"a", b"b"), []
    FutureRecordMetadata(batch, 0).add_errback(calls.append)
    FutureRecordMetadata(batch, 1).add_callback(calls.append)

    futures.settle(batch, -1, NotLeaderForPartitionError())

    assert [type(error) for error in calls] == [NotLeaderForPartitionError]
    assert [future._index for future in futures.unobserved(batch)] == [1]


def test_looking_at_a_failure_counts_as_having_seen_it():
    batch = a_batch(b"a", b"b", b"c")
    futures.settle(batch, -1, NotLeaderForPartitionError())

    assert FutureRecordMetadata(batch, 1).exception is not None

    assert [future._index for future in futures.unobserved(batch)] == [0, 2]


def test_a_callback_that_raises_disturbs_nobody(caplog):
    batch, calls = a_batch(), []
    FutureRecordMetadata(batch, 0).add_callback(lambda _: 1 / 0)
    FutureRecordMetadata(batch, 1).add_callback(calls.append)

    futures.settle(batch, 5, None)

    assert len(calls) == 1
    assert "callback" in caplog.text


def test_futures_follow_records_that_move_to_other_batches():
    unrouted, left, right, calls = a_batch(b"a", b"b", partition=-1), a_batch(b"a"), a_batch(b"b", partition=4), []
    first, second = FutureRecordMetadata(unrouted, 0), FutureRecordMetadata(unrouted, 1)
    second.add_callback(lambda m: calls.append(m.partition))

    futures.move(unrouted, [(left, 0), (right, 0)])
    assert not first.is_done
    futures.settle(left, 10, None)
    assert not second.is_done
    futures.settle(right, 20, None)

    assert (first.get(0).offset, second.get(0).offset, calls) == (10, 20, [4])


def test_a_callback_on_a_record_that_moves_to_a_batch_with_a_result_runs():
    unrouted, failed, calls = a_batch(b"a", partition=-1), a_batch(b"a"), []
    FutureRecordMetadata(unrouted, 0).add_errback(calls.append)
    futures.settle(failed, -1, NotLeaderForPartitionError())

    futures.move(unrouted, [(failed, 0)])

    assert len(calls) == 1
    assert futures.unobserved(failed) == []


def test_who_waits_for_moved_records_waits_for_where_they_went():
    unrouted, target = a_batch(b"a", partition=-1), a_batch(b"a")
    threading.Timer(0.01, futures.move, (unrouted, [(target, 0)])).start()
    threading.Timer(0.03, futures.settle, (target, 1, None)).start()

    assert FutureRecordMetadata(unrouted, 0).get(10).offset == 1


def test_futures_can_be_awaited():
    batch, failed = a_batch(), a_batch()

    async def main() -> int:
        threading.Timer(0.01, futures.settle, (batch, 5, None)).start()
        threading.Timer(0.01, futures.settle, (failed, -1, NotLeaderForPartitionError())).start()
        with pytest.raises(NotLeaderForPartitionError):
            await FutureRecordMetadata(failed, 0)
        await FutureRecordMetadata(batch, 0)
        return (await FutureRecordMetadata(batch, 1)).offset

    assert asyncio.run(main()) == 6


def test_the_future_of_columns_ends_when_all_batches_have():
    one, two, calls = a_batch(b"a"), a_batch(b"b", b"c", partition=4), []
    future = FutureBatchMetadata([one, two])
    future.add_both(calls.append)

    futures.settle(one, 1, None)
    assert not future.is_done
    futures.settle(two, 9, None)

    assert [(m.partition, m.base_offset, m.count) for m in future.get(0)] == [(3, 1, 1), (4, 9, 2)]
    assert calls == [future.get(0)]


def test_the_future_of_columns_follows_them_and_calls_back_when_the_last_has_ended():
    unrouted, one, two, calls = a_batch(b"a", b"b", partition=-1), a_batch(b"a"), a_batch(b"b", partition=4), []
    future = FutureBatchMetadata([unrouted])
    future.add_both(calls.append)

    futures.move(unrouted, [(one, 0), (two, 0)])
    futures.settle(one, 1, None)
    assert calls == []
    futures.settle(two, 2, None)

    assert [m.base_offset for m in calls[0]] == [1, 2]


def test_looking_at_the_future_of_columns_counts_for_all_its_records():
    batch = a_batch()
    futures.settle(batch, -1, NotLeaderForPartitionError())

    assert FutureBatchMetadata([batch]).failed()

    assert futures.unobserved(batch) == []


def test_acknowledged_columns_hold_no_record_any_more():
    batch = whole_batch("t", 0, [b"a", b"b"], [b"k", b"k"], 5, None, 0)
    future = FutureBatchMetadata([batch])

    futures.settle(batch, 7, None)

    assert (batch.values, batch.keys, batch.value_sizes) == ([], None, None)
    assert [(m.base_offset, m.count) for m in future.get(0)] == [(7, 2)]


def test_refused_columns_hold_their_records_for_sending_again():
    batch = whole_batch("t", 0, [b"a", b"b"], [b"k", b"l"], 5, None, 0)

    futures.settle(batch, -1, NotLeaderForPartitionError())

    assert [(each.key, each.record_value) for each in futures.unobserved(batch)] == [(b"k", b"a"), (b"l", b"b")]
