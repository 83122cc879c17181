"""Members of groups on an event loop: the same names, the listener on the loop, a loop that is busy loses nothing."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from filling import fill
from group_members import committed

from callboard import (
    AsyncConsumer,
    AsyncConsumerRebalanceListener,
    ConsumerRebalanceListener,
    IllegalStateError,
    OffsetAndMetadata,
    TopicPartition,
)

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


def run(coroutine):
    async def bounded():
        return await asyncio.wait_for(coroutine, 30)

    return asyncio.run(bounded())


def a_member(cluster, *topics, **settings) -> AsyncConsumer:
    given = {"bootstrap_servers": cluster.bootstrap_servers, "group_id": "g", "auto_offset_reset": "earliest"}
    return AsyncConsumer(*topics, **{**given, "heartbeat_interval_ms": 100, **settings})


async def until(condition, *consumers):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        for consumer in consumers:
            await consumer.poll(5)


class Listener(AsyncConsumerRebalanceListener):
    def __init__(self):
        self.calls = []
        self.threads = set()

    async def on_partitions_revoked(self, revoked):
        await asyncio.sleep(0)
        self._note("revoked", revoked)

    async def on_partitions_assigned(self, assigned):
        await asyncio.sleep(0)
        self._note("assigned", assigned)

    def _note(self, kind, partitions):
        self.calls.append((kind, sorted(partitions)))
        self.threads.add(threading.get_ident())


def test_a_member_on_a_loop_joins_reads_commits_and_leaves(cluster):
    cluster.create("t")
    fill(cluster, 10)

    async def main() -> list[int]:
        async with a_member(cluster, "t", enable_auto_commit=False) as consumer:
            values = [int(r.value) for rs in (await consumer.poll(0)).values() for r in rs]
            assert consumer.assignment() == {T0}
            while len(values) < 10:
                values += [int(r.value) for rs in (await consumer.poll(1_000)).values() for r in rs]
            await consumer.commit()
            assert await consumer.committed(T0) == 10
            await consumer.commit({T0: OffsetAndMetadata(9, "x")})
            assert (await consumer.committed(T0, metadata=True)).metadata == "x"
            assert consumer.group_metadata().state == "STABLE"
            assert consumer.explain().state == "joined"
            return values

    assert run(main()) == list(range(10))


def test_the_listener_is_awaited_on_the_loop_that_polls(cluster):
    cluster.create("t", 2)
    listener = Listener()

    async def main() -> None:
        first, second = a_member(cluster), a_member(cluster, "t")
        first.subscribe("t", listener=listener)
        await first.poll(0)
        await until(lambda: len(second.assignment()) == 1, first, second)
        await first.close()
        await second.close()

    run(main())

    assert [kind for kind, _ in listener.calls] == ["assigned", "revoked", "revoked"]
    assert listener.calls[0] == ("assigned", [T0, T1])
    assert listener.threads == {threading.get_ident()}


def test_a_commit_in_an_awaited_listener_is_taken(cluster):
    cluster.create("t", 2)

    async def main() -> None:
        first, second = a_member(cluster, enable_auto_commit=False), a_member(cluster, "t")

        class Committing(AsyncConsumerRebalanceListener):
            async def on_partitions_revoked(self, revoked):
                await first.commit(dict.fromkeys(revoked, 0))

        first.subscribe("t", listener=Committing())
        await first.poll(0)
        await until(lambda: len(second.assignment()) == 1, first, second)
        assert committed(cluster, next(iter(second.assignment()))) == 0
        await first.close()
        await second.close()

    run(main())


@pytest.mark.parametrize("poll", ["poll", "poll_batches", "getone", "getmany", "__anext__"])
def test_a_listener_that_polls_its_own_consumer_is_refused_by_name(cluster, poll):
    cluster.create("t")
    later = []

    async def main() -> None:
        consumer, other, over = a_member(cluster), a_member(cluster, "t", group_id="other"), asyncio.Event()

        class Polling(AsyncConsumerRebalanceListener):
            async def on_partitions_assigned(self, assigned):
                await other.poll(0)  # another's will do
                later.append(asyncio.ensure_future(afterwards()))
                await (consumer.__aiter__().__anext__() if poll == "__anext__" else getattr(consumer, poll)())

        async def afterwards():
            await over.wait()
            await consumer.poll(0)

        consumer.subscribe("t", listener=Polling())
        with pytest.raises(IllegalStateError, match="a rebalance listener must not poll"):
            await consumer.poll(0)
        over.set()
        await later[0]  # what the listener has begun may poll when the listener is over
        await consumer.close()
        await other.close()

    run(main())


def test_an_awaited_listener_may_close_its_consumer(cluster):
    cluster.create("t")
    calls = []

    async def main() -> None:
        class Closing(AsyncConsumerRebalanceListener):
            async def on_partitions_assigned(self, assigned):
                await consumer.close()

            async def on_partitions_revoked(self, revoked):
                calls.append(revoked)

        consumer = a_member(cluster)
        consumer.subscribe("t", listener=Closing())
        begin = asyncio.get_running_loop().time()
        with pytest.raises(IllegalStateError, match="closed"):
            await consumer.poll(0)
        assert asyncio.get_running_loop().time() - begin < consumer.config.close_timeout_ms / 1_000

    run(main())

    assert calls == [{T0}]


def test_a_plain_listener_will_do_and_its_exception_reaches_poll(cluster):
    cluster.create("t")

    class Failing(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            raise ZeroDivisionError

    async def main() -> None:
        async with a_member(cluster) as consumer:
            consumer.subscribe("t", listener=Failing())
            with pytest.raises(ZeroDivisionError):
                await consumer.poll(1_000)
            assert await consumer.poll(5) == {}
            assert consumer.assignment() == {T0}

    run(main())


def test_a_loop_that_is_busy_keeps_its_partitions(cluster):
    cluster.create("t")
    fill(cluster, 10)

    async def main() -> None:
        async with a_member(cluster, "t", session_timeout_ms=600, heartbeat_interval_ms=20) as consumer:
            await consumer.poll(1_000)
            name = consumer.group_metadata().member_id
            cluster.wait_until(lambda: len(cluster.requests) > 60)  # blocks the loop for longer than a session
            await consumer.commit()
            assert consumer.group_metadata().member_id == name

    run(main())
    assert committed(cluster) == 10


def test_asynchronous_commits_call_back_on_the_loop(cluster):
    cluster.create("t")
    seen = []

    async def main() -> None:
        async with a_member(cluster, "t", enable_auto_commit=False) as consumer:
            await consumer.poll(0)
            consumer.commit_async({T0: 3}, lambda offsets, error: seen.append((error, threading.get_ident())))
            await consumer.commit({T0: 4})
            assert seen == [(None, threading.get_ident())]

    run(main())


def test_a_block_that_raises_commits_nothing_automatically(cluster):
    cluster.create("t")
    fill(cluster, 10)

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what the block raises is the point
            async with a_member(cluster, "t") as consumer:
                assert await consumer.poll(5_000)
                raise ZeroDivisionError
        assert committed(cluster) is None
        async with a_member(cluster, "t") as consumer:
            assert await consumer.poll(5_000)
        assert committed(cluster) == 10

    run(main())


def test_unsubscribing_leaves_the_group(cluster):
    cluster.create("t")

    async def main() -> None:
        async with a_member(cluster, "t") as consumer:
            await consumer.poll(0)
            await consumer.unsubscribe()
            assert consumer.assignment() == set()
            with pytest.raises(IllegalStateError):
                await consumer.poll(0)

    run(main())


def test_iterating_commits_records_whose_step_has_finished_and_none_that_was_not_handed_out(cluster):
    cluster.create("t", 2)
    fill(cluster, 10)
    fill(cluster, 10, partition=1)

    async def main() -> TopicPartition:
        async with a_member(cluster, "t", max_poll_records=100) as consumer:
            while len(await consumer.poll(10)) < 2:  # both partitions in one
                consumer.seek_to_beginning()
            consumer.seek_to_beginning()
            await asyncio.sleep(0.1)
            async for record in consumer:
                if record.offset == 4:
                    break
        return record.topic_partition

    there = run(main())
    (other,) = {T0, T1} - {there}
    assert committed(cluster, there) == 4
    assert committed(cluster, other) in (None, 0)


def test_a_commit_in_the_middle_of_an_iteration_is_of_what_was_handed_out_and_not_of_what_was_fetched(cluster):
    cluster.create("t")
    fill(cluster, 10)

    async def main() -> None:
        async with a_member(cluster, "t", enable_auto_commit=False) as consumer:
            async for record in consumer:
                if record.offset == 3:
                    await consumer.commit()
                    assert await consumer.position(T0) == 4
                    break

    run(main())

    assert committed(cluster, T0) == 4


def test_an_iteration_goes_on_where_the_last_one_was_left_and_heeds_seeks(cluster):
    cluster.create("t")
    fill(cluster, 10)
    seen = []

    async def main() -> None:
        async with a_member(cluster, "t") as consumer:
            for until in (2, 4):
                async for record in consumer:
                    seen.append(record.offset)
                    if record.offset == until:
                        break
            async for record in consumer:
                seen.append(record.offset)
                if record.offset == 5:
                    consumer.seek(T0, 8)
                if record.offset == 8:
                    break
            consumer.seek(T0, 1)
            seen.extend(record.offset for record in (await consumer.poll(5_000, max_records=1))[T0])
            assert await consumer.position(T0) == 2

    run(main())

    assert seen == [0, 1, 2, 3, 4, 5, 8, 1]
