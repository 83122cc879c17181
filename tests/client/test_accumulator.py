"""What send() has taken and the sender has not: nothing lost between threads, memory bounded and given back."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from callboard.client.accumulator import Accumulator, PartitionBuffer
from callboard.client.producer_batch import RECORD_OVERHEAD
from callboard.client.records import bytes_column, check_bytes


def an_accumulator(batch_size: int = 1_000, buffer_memory: int = 10_000, partitions: int = 3) -> Accumulator:
    accumulator = Accumulator(batch_size=batch_size, buffer_memory=buffer_memory)
    topic = accumulator.topic("t")
    accumulator.set_partitions(topic, partitions, range(partitions), 1 << 20)
    topic.is_routed = True
    return accumulator


def buffer_of(accumulator: Accumulator, partition: int = 0) -> PartitionBuffer:
    return accumulator.topics["t"].buffers[partition]


def append(accumulator: Accumulator, value: bytes, partition: int = 0, now_ms: int = 0):
    return accumulator.append(buffer_of(accumulator, partition), value, None, None, 0, now_ms)


def test_records_share_a_batch_until_it_is_full():
    accumulator = an_accumulator(batch_size=100)
    size = 50 - RECORD_OVERHEAD

    first, second, third = (append(accumulator, b"x" * size) for _ in range(3))

    assert first[0] is second[0]
    assert third[0] is not second[0]
    assert first[0].is_sealed
    assert [index for _, index in (first, second, third)] == [0, 1, 0]


def test_a_record_larger_than_a_batch_gets_one_of_its_own():
    accumulator = an_accumulator(batch_size=100)

    batch, _ = append(accumulator, b"x" * 500)
    other, _ = append(accumulator, b"y")

    assert other is not batch
    assert len(batch.values) == 1


def test_a_full_buffer_takes_no_more_until_memory_is_given_back():
    accumulator = an_accumulator(batch_size=1_000, buffer_memory=1_000)
    while append(accumulator, b"x" * 84) is not None:
        pass
    assert accumulator.used <= 1_000

    batch = accumulator.take(buffer_of(accumulator))
    assert append(accumulator, b"x" * 84) is None
    accumulator.release(batch)

    assert append(accumulator, b"x" * 84) is not None


def test_a_batch_leaves_when_it_has_lingered_or_somebody_waits_for_memory():
    accumulator = an_accumulator()
    append(accumulator, b"x", now_ms=100)
    buffer = buffer_of(accumulator)

    assert not accumulator.is_ready(buffer, 104, linger_ms=5)
    assert accumulator.is_ready(buffer, 105, linger_ms=5)
    accumulator.waiters = 1
    assert accumulator.is_ready(buffer, 100, linger_ms=5)


def test_a_thousand_idle_partitions_reserve_little():
    accumulator = an_accumulator(batch_size=1_000_000, buffer_memory=64 << 20, partitions=1_000)

    for partition in range(1_000):
        append(accumulator, b"x", partition)

    assert accumulator.used < 8 << 20


def test_the_sticky_partition_changes_after_a_batch_worth_of_records():
    accumulator = an_accumulator(batch_size=100)
    topic = accumulator.topics["t"]
    first = accumulator.choose_sticky(topic)
    assert accumulator.choose_sticky(topic) is first

    topic.sticky_bytes += 100

    assert accumulator.choose_sticky(topic) is not first


def test_the_sticky_partition_is_one_that_has_a_leader():
    accumulator = an_accumulator()
    topic = accumulator.topics["t"]
    accumulator.set_partitions(topic, 3, [2], 1 << 20)

    assert accumulator.choose_sticky(topic).partition == 2


def test_batches_stay_below_what_the_topic_takes():
    accumulator = an_accumulator(batch_size=1_000_000, buffer_memory=64 << 20)
    accumulator.set_partitions(accumulator.topics["t"], 3, range(3), 10_000)

    for _ in range(1_000):
        batch, _ = append(accumulator, b"x" * 100)
        assert batch.size <= 10_000


def test_records_of_an_unknown_topic_are_routed_in_their_order():
    accumulator = Accumulator(batch_size=1_000, buffer_memory=10_000)
    topic = accumulator.topic("t")
    for i in range(10):
        accumulator.append(topic.unrouted, b"%d" % i, None, None, 0, 0, requested=i % 2)
    accumulator.set_partitions(topic, 2, range(2), 1 << 20)

    (batch,) = accumulator.take_unrouted(topic)
    moved = accumulator.reroute(topic, batch, batch.requested)
    accumulator.release(batch)

    assert [target.values[at] for target, at in moved] == [b"%d" % i for i in range(10)]
    assert [target.partition for target, _ in moved] == [i % 2 for i in range(10)]
    assert accumulator.used == sum(target.reserved for target in {moved[0][0], moved[1][0]})


sizes = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400), st.booleans()), max_size=60)


@given(sizes, st.integers(1, 500), st.integers(200, 3_000))
def test_memory_is_bounded_and_all_given_back_and_no_record_is_lost(steps, batch_size, buffer_memory):
    accumulator = an_accumulator(batch_size, buffer_memory)
    taken, sent = [], []
    for number, (partition, size, takes) in enumerate(steps):
        value = b"%d." % number + b"x" * size
        if append(accumulator, value, partition) is not None:
            sent.append(value)
        oversize = max((batch.size for batch in accumulator.incomplete), default=0)
        assert accumulator.used <= max(buffer_memory, oversize)
        assert accumulator.used >= sum(batch.size for batch in accumulator.incomplete)
        buffer = buffer_of(accumulator, partition)
        if takes and accumulator.is_ready(buffer, 0, 0):
            taken.append(accumulator.take(buffer))
            accumulator.release(taken[-1])
    for partition in range(3):
        buffer = buffer_of(accumulator, partition)
        while buffer.waiting:
            taken.append(accumulator.take(buffer))
            accumulator.release(taken[-1])

    assert accumulator.used == 0
    assert not accumulator.incomplete
    assert sorted(value for batch in taken for value in batch.values) == sorted(sent)


def test_no_record_is_lost_between_threads_that_append_and_one_that_takes():
    """B34's neighbour: a record appended to a batch that was just handed over is gone. Real threads, a real lock."""
    accumulator = an_accumulator(batch_size=200, buffer_memory=1 << 30, partitions=1)
    buffer, per_thread, taken = buffer_of(accumulator), 3_000, []
    done = threading.Event()

    def fill(name: int) -> None:
        for i in range(per_thread):
            with accumulator.lock:
                batch, index = append(accumulator, b"%d-%d" % (name, i))
                assert batch.values[index] == b"%d-%d" % (name, i)

    def drain() -> None:
        while not done.is_set() or buffer.waiting:
            with accumulator.lock:
                if accumulator.is_ready(buffer, 0, 0):
                    taken.append(accumulator.take(buffer))

    threads = [threading.Thread(target=fill, args=(name,)) for name in range(3)]
    drainer = threading.Thread(target=drain)
    for thread in (*threads, drainer):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    drainer.join()

    assert all(batch.count == len(batch.values) for batch in taken)
    got = [value for batch in taken for value in batch.values]
    assert len(got) == 3 * per_thread
    for name in range(3):
        assert [v for v in got if v.startswith(b"%d-" % name)] == [b"%d-%d" % (name, i) for i in range(per_thread)]


def test_a_buffer_that_the_application_uses_again_is_copied_when_it_is_handed_over():  # B34
    """Large frames are lent to the socket: nothing that may change is ever among them."""
    buffer = bytearray(b"first")

    value, (row,) = check_bytes(buffer, "value"), bytes_column([memoryview(buffer)], "value")
    buffer[:] = b"other"

    assert (type(value), value, type(row), row) == (bytes, b"first", bytes, b"first")
