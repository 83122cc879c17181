"""The asyncio twins: the same core, awaited."""

from __future__ import annotations

import asyncio
import inspect
import time

import pytest

from callboard import (
    AdminClient,
    AsyncAdminClient,
    AsyncConsumer,
    AsyncProducer,
    BufferExhaustedError,
    Consumer,
    DeliveryError,
    ErrorCode,
    Producer,
    TopicPartition,
)
from callboard.errors import InvalidRecordError
from callboard.transport.messages import ProduceRequest

T0 = TopicPartition("t", 0)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def test_records_are_sent_awaited_and_read(cluster):
    cluster.create("t")

    async def main() -> list[bytes]:
        async with AsyncProducer(bootstrap_servers=cluster.bootstrap_servers) as producer:
            assert (await producer.send_and_wait("t", b"0")).offset == 0
            futures = [await producer.send("t", b"%d" % i) for i in range(1, 100)]
            assert [(await future).offset for future in futures] == list(range(1, 100))
            (where,) = await (await producer.send_batch("t", [b"100", b"101"]))
            assert (where.base_offset, where.count) == (100, 2)
            await producer.flush()
        found = []
        async with AsyncConsumer(
            "t", bootstrap_servers=cluster.bootstrap_servers, auto_offset_reset="earliest", max_poll_records=7
        ) as consumer:
            async for record in consumer:
                found.append(record.value)
                if len(found) == 102:
                    break
        return found

    assert run(main()) == [b"%d" % i for i in range(102)]


def test_a_refusal_is_raised_where_the_record_is_awaited(cluster):
    cluster.create("t")
    cluster.add_fault(ProduceRequest, ErrorCode.INVALID_RECORD)

    async def main() -> None:
        async with AsyncProducer(bootstrap_servers=cluster.bootstrap_servers) as producer:
            with pytest.raises(InvalidRecordError):
                await producer.send_and_wait("t", b"x")

    run(main())


def test_a_full_buffer_suspends_and_goes_on_when_there_is_room(cluster):
    cluster.create("t")

    async def main() -> int:
        async with AsyncProducer(
            bootstrap_servers=cluster.bootstrap_servers, buffer_memory=5_000, batch_size=1_000
        ) as producer:
            for i in range(500):
                await producer.send("t", b"%d" % i + b" " * 100)
        return cluster.log("t").end

    assert run(main()) == 500


def test_a_full_buffer_raises_after_max_block_ms(cluster):
    async def main() -> float:
        producer = AsyncProducer(bootstrap_servers="127.0.0.1:1", buffer_memory=2_000, batch_size=500, max_block_ms=50)
        begin = time.monotonic()
        with pytest.raises(BufferExhaustedError):  # noqa: PT012 - which of them fills it does not matter
            for _ in range(100):
                await producer.send("t", b"x" * 100)
        waited = time.monotonic() - begin
        with pytest.raises(DeliveryError):
            await producer.close(timeout=0)
        return waited

    assert 0.05 <= run(main()) < 5


def test_poll_suspends_until_a_record_comes(cluster):
    cluster.create("t")

    async def main() -> list[bytes]:
        async with AsyncConsumer("t", bootstrap_servers=cluster.bootstrap_servers) as consumer:
            assert await consumer.poll(20) == {}
            while not consumer.assignment():
                await consumer.poll(5)
            await consumer.position(T0)
            waiting = asyncio.create_task(consumer.getone())
            async with AsyncProducer(bootstrap_servers=cluster.bootstrap_servers) as producer:
                await producer.send_and_wait("t", b"x")
            record = await waiting
            return [record.value]

    assert run(main()) == [b"x"]


def test_leaving_the_loop_in_the_middle_loses_no_record(cluster):
    cluster.create("t")
    with Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        producer.send_batch("t", [b"%d" % i for i in range(20)])

    async def main() -> tuple[int, list[bytes]]:
        async with AsyncConsumer(
            "t", bootstrap_servers=cluster.bootstrap_servers, auto_offset_reset="earliest"
        ) as consumer:
            stream = aiter(consumer)
            for _ in range(5):
                await anext(stream)
            await stream.aclose()
            position = await consumer.position(T0)
            rest = [record.value for records in (await consumer.poll(10_000)).values() for record in records]
            return position, rest

    assert run(main()) == (5, [b"%d" % i for i in range(5, 20)])


def test_topics_are_administered(cluster):
    async def main() -> list[str]:
        async with AsyncAdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
            await admin.create_topics({"t": {"num_partitions": 2}})
            assert len((await admin.describe_topics(["t"]))[0].partitions) == 2
            return await admin.list_topics()

    assert run(main()) == ["t"]


@pytest.mark.parametrize(
    ("twin", "original", "without"),
    [
        (AsyncProducer, Producer, {"send_now", "waiting_for_space", "exhausted_error"}),
        (AsyncConsumer, Consumer, set()),
        (AsyncAdminClient, AdminClient, {"experiments"}),  # which are for people and tests, and block
    ],
)
def test_the_twins_have_the_same_names_and_arguments(twin, original, without):
    names = {name for name in dir(original) if not name.startswith("_")} - without - {"on_fork"}
    made = twin(bootstrap_servers="127.0.0.1:1")
    try:
        for name in names:
            ours = inspect.signature(getattr(made, name))
            theirs = inspect.signature(getattr(original, name))
            assert list(ours.parameters) == [p for p in theirs.parameters if p != "self"], name
    finally:
        asyncio.run(made.close())
