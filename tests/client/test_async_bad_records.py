"""Bad records on an event loop: a coroutine is awaited on it, a plain handler does not hold it up."""

from __future__ import annotations

import asyncio
import threading

import pytest
from test_async_groups import run
from test_bad_records import BAD, T0, have

import callboard
from callboard import AsyncConsumer, IllegalStateError, JsonSerializer


def a_consumer(cluster, handler, **settings) -> AsyncConsumer:
    given = {"bootstrap_servers": cluster.bootstrap_servers, "auto_offset_reset": "earliest"}
    return AsyncConsumer("t", value_deserializer=JsonSerializer(), on_bad_record=handler, **{**given, **settings})


async def read(consumer, count) -> list[object]:
    found = []
    while len(found) < count:
        found += [record.value for records in (await consumer.poll(10_000)).values() for record in records]
    return found


def test_a_coroutine_function_is_awaited_on_the_loop(cluster):
    have(cluster, BAD, b"2", BAD, b"4")
    handled, threads = [], set()

    async def handler(error):
        await asyncio.sleep(0)
        handled.append(error.record.offset)
        threads.add(threading.get_ident())

    async def main():
        async with a_consumer(cluster, handler) as consumer:
            return await read(consumer, 2)

    assert run(main()) == [2, 4]
    assert (handled, threads) == ([0, 2], {threading.get_ident()})


def test_a_lambda_that_returns_a_coroutine_is_awaited_too(cluster):
    have(cluster, BAD, b"2")

    async def main():
        queue = asyncio.Queue()
        async with a_consumer(cluster, lambda error: queue.put(error.record.value)) as consumer:
            return await read(consumer, 1), queue.get_nowait()

    assert run(main()) == ([2], BAD)


def test_a_plain_handler_that_blocks_does_not_hold_up_the_loop(cluster):
    have(cluster, BAD, b"2")
    may_go = threading.Event()

    async def main():
        async with a_consumer(cluster, lambda _: may_go.wait(20)) as consumer:
            reading = asyncio.ensure_future(read(consumer, 1))
            while not consumer.explain().waits_for.startswith("the handler"):
                await asyncio.sleep(0.001)
            may_go.set()  # the loop turns
            return await reading

    assert run(main()) == [2]


def test_an_iteration_is_not_over_while_bad_records_come(cluster):
    have(cluster, b"1", BAD, BAD, b"4", BAD, b"6")
    handled, late_s = [], 0

    def handler(error):
        nonlocal late_s
        handled.append(error.offset)
        late_s += 3  # longer than the iteration waits for a record

    async def main():
        loop = asyncio.get_running_loop()
        now_s = loop.time
        async with a_consumer(cluster, handler, consumer_timeout_ms=2_000) as consumer:
            loop.time = lambda: now_s() + late_s
            iteration = aiter(consumer)
            return [(await anext(iteration)).value for _ in range(3)]

    assert run(main()) == [1, 4, 6]
    assert handled == [1, 2, 4]


def test_what_a_handler_raises_reaches_the_caller_and_the_record_stays(cluster):
    have(cluster, BAD, b"2")
    fails = [ValueError("no room")]

    async def handler(_):
        if fails:
            raise fails.pop()

    async def main():
        async with a_consumer(cluster, handler) as consumer:
            with pytest.raises(ValueError, match="no room"):
                await consumer.poll(10_000)
            assert await consumer.position(T0) == 0
            return await read(consumer, 1)

    assert run(main()) == [2]


def test_a_poll_that_is_cancelled_leaves_the_handler_to_its_end_and_hands_nothing_on_twice(cluster):
    have(cluster, BAD, b"2")
    may_go, handled = threading.Event(), []

    def handler(error):
        handled.append(error.offset)
        assert may_go.wait(20)

    async def main():
        async with a_consumer(cluster, handler) as consumer:
            polling = asyncio.ensure_future(consumer.poll(10_000))
            while not handled:
                await asyncio.sleep(0.001)
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            assert await consumer.poll(0) == {}
            may_go.set()
            return await read(consumer, 1)

    assert run(main()) == [2]
    assert handled == [0]


def test_a_handler_that_polls_is_refused(cluster):
    have(cluster, BAD)

    async def main():
        async def handler(_):
            await consumer.poll(0)

        async with a_consumer(cluster, handler) as consumer:
            with pytest.raises(IllegalStateError, match="handler of bad records"):
                await consumer.poll(10_000)

    run(main())


def test_dead_letters_are_sent(cluster):
    cluster.create("dead")
    have(cluster, BAD, b"2")

    async def main():
        async with a_consumer(cluster, callboard.dlq("dead")) as consumer:
            return await read(consumer, 1)

    assert run(main()) == [2]
    assert cluster.log("dead").values() == [BAD]
