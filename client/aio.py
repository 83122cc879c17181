"""The asyncio twins: same names, same settings, same core and I/O thread; where the others block, these are awaited.

The I/O thread stays a thread of its own, so a busy event loop delays the application, not its heartbeats and retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..errors import DeliveryError
from ..model import (
    ConsumerRecord,
    Header,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    RecordMetadata,
    TopicPartition,
)
from ..transport import group_messages as g
from ..transport import messages as m
from .admin import AdminClient
from .admin_groups import Groups, MemberToRemove
from .admin_requests import Changes, Elections, Partitions, Topics
from .bad_records import BadRecord
from .consumer import Consumer, Records
from .consumer_core import JOIN_LOOK_S
from .experiments import Happened
from .futures import FutureBatchMetadata, FutureRecordMetadata
from .group_offsets import OffsetReset, PartitionLag, ResetTo
from .health import ConsumerExplanation, ConsumerHealth
from .on_loop import ListenerOnLoop, LoopSide
from .producer import Producer
from .reading import RecordColumns
from .stepping import Steps

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

SPACE_WAIT_S = 1.0  # then look again, whatever was told


async def _in_thread(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a call that blocks on a thread of the loop's own pool."""
    return await asyncio.to_thread(call, *args, **kwargs)


class AsyncProducer(Generic[K, V]):
    """``Producer`` for asyncio.

    async with AsyncProducer(bootstrap_servers="localhost:9192") as producer:
        await producer.send_and_wait("flights", b"…", key=b"N14228")
    """

    def __init__(self, **settings: Any) -> None:
        self._loop_side = LoopSide()
        self._producer: Producer[K, V] = Producer(**self._loop_side.with_hook(settings))
        self.config, self.client_id = self._producer.config, self._producer.client_id

    async def start(self) -> None:
        """There is nothing to start; here for those who come from aiokafka."""
        self._loop_side.see()

    async def stop(self) -> None:
        await self.close()

    async def send(
        self,
        topic: str,
        value: V | None = None,
        key: K | None = None,
        headers: Sequence[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> FutureRecordMetadata:
        """Queue a record; return its future, which can be awaited. Suspends only while ``buffer_memory`` is full."""
        return await self._when_space(
            lambda: self._producer.send_now(topic, value, key, headers, partition, timestamp_ms)
        )

    async def send_and_wait(
        self,
        topic: str,
        value: V | None = None,
        key: K | None = None,
        headers: Sequence[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata:
        """Send a record and return where it is, once it is acknowledged. Raises what its future raises."""
        return await (await self.send(topic, value, key, headers, partition, timestamp_ms))

    async def send_batch(
        self,
        topic: str,
        values: Sequence[V | None],
        keys: Sequence[K | None] | None = None,
        partition: int | None = None,
        timestamps: Sequence[int] | int | None = None,
        headers: Sequence[Sequence[Header]] | None = None,
    ) -> FutureBatchMetadata:
        """Queue columns; return one future for all. See ``Producer.send_batch``."""
        return await _in_thread(self._producer.send_batch, topic, values, keys, partition, timestamps, headers)

    async def flush(self, timeout: float | None = None) -> None:
        await _in_thread(self._producer.flush, timeout)

    async def close(self, timeout: float | None = None) -> None:
        await _in_thread(self._producer.close, timeout)

    async def partitions_for(self, topic: str) -> set[int]:
        return await _in_thread(self._producer.partitions_for, topic)

    def bootstrap_connected(self) -> bool:
        return self._producer.bootstrap_connected()

    def metrics(self) -> dict[str, int]:
        return self._producer.metrics()

    async def __aenter__(self) -> AsyncProducer[K, V]:
        self._loop_side.see()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except DeliveryError as undelivered:
            if error is None:
                raise
            error.add_note(f"callboard: {undelivered}")

    async def _when_space(self, attempt: Callable[[], T | None]) -> T:
        """Return what ``attempt`` returns once there is room for it, within ``max_block_ms``."""
        result = attempt()
        if result is not None:
            return result
        loop = self._loop_side.see()
        until = loop.time() + self.config.max_block_ms / 1000
        while True:
            left = until - loop.time()
            if self.config.on_full == "raise" or left <= 0:
                raise self._producer.exhausted_error()
            told = asyncio.Event()
            with self._producer.waiting_for_space(partial(loop.call_soon_threadsafe, told.set)):
                result = attempt()
                if result is not None:
                    return result
                try:
                    await asyncio.wait_for(told.wait(), min(left, SPACE_WAIT_S))
                except TimeoutError:
                    continue


class AsyncConsumer(Generic[K, V]):
    """``Consumer`` for asyncio.

    async with AsyncConsumer("flights", bootstrap_servers="localhost:9192") as consumer:
        async for record in consumer:
            …
    """

    def __init__(self, *topics: str, **settings: Any) -> None:
        self._loop_side = LoopSide()
        self._consumer: Consumer[K, V] = Consumer(*topics, **self._loop_side.with_hook(settings))
        self.config, self.client_id = self._consumer.config, self._consumer.client_id
        consumer = self._consumer
        consumer._is_on_loop = True
        self._steps = Steps(consumer)
        self._steps.wait_for_coroutines(self._loop_side.wait_for)
        self.assign, self.commit_async, self.group_metadata = (
            consumer.assign,
            consumer.commit_async,
            consumer.group_metadata,
        )
        self.assignment, self.subscription = consumer.assignment, consumer.subscription
        self.seek, self.seek_to_beginning, self.seek_to_end = (
            consumer.seek,
            consumer.seek_to_beginning,
            consumer.seek_to_end,
        )
        self.pause, self.resume, self.paused = consumer.pause, consumer.resume, consumer.paused
        self.highwater, self.metrics = consumer.highwater, consumer.metrics
        self.bootstrap_connected = consumer.bootstrap_connected

    async def start(self) -> None:
        """There is nothing to start; here for those who come from aiokafka."""
        self._loop_side.see()

    async def stop(self) -> None:
        await self.close()

    def subscribe(self, topics: Iterable[str] | str = (), pattern: str | None = None, listener: Any = None) -> None:
        """See ``Consumer.subscribe``. An ``AsyncConsumerRebalanceListener`` is awaited on the event loop that polls."""
        self._consumer.subscribe(
            topics, pattern, None if listener is None else ListenerOnLoop(listener, self._loop_side)
        )

    async def unsubscribe(self) -> None:
        self._loop_side.see()
        await _in_thread(self._consumer.unsubscribe)

    async def commit(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata | int] | None = None,
        timeout_ms: int | None = None,
    ) -> None:
        """See ``Consumer.commit``. Callbacks of earlier ``commit_async`` calls are called on the event loop."""
        try:
            await _in_thread(self._steps.commit, offsets, timeout_ms)
        finally:
            self._steps.run_callbacks()

    async def committed(
        self, partition: TopicPartition, metadata: bool = False, timeout_ms: int | None = None
    ) -> int | OffsetAndMetadata | None:
        return await _in_thread(self._consumer.committed, partition, metadata, timeout_ms)

    async def poll(self, timeout_ms: int | None = None, max_records: int | None = None) -> Records[K, V]:
        """Return records by partition; {} if none came in time. See ``Consumer.poll``."""
        wait_ms = self.config.default_poll_ms if timeout_ms is None else timeout_ms
        return await self._until_there(self._steps.taking(max_records), wait_ms) or {}

    async def poll_batches(
        self, timeout_ms: int | None = None, max_records: int | None = None
    ) -> dict[TopicPartition, list[RecordColumns]]:
        """Return whole batches as columns. See ``Consumer.poll_batches``."""
        wait_ms = self.config.default_poll_ms if timeout_ms is None else timeout_ms
        return await self._until_there(self._steps.taking_columns(max_records), wait_ms) or {}

    async def getmany(self, *, timeout_ms: int = 0, max_records: int | None = None) -> Records[K, V]:
        """``poll`` under aiokafka's name."""
        return await self.poll(timeout_ms, max_records)

    async def getone(self) -> ConsumerRecord[K, V]:
        """Return the next record, however long it takes."""
        while True:
            for records in (await self.poll(max_records=1)).values():
                return records[0]

    async def __aiter__(self) -> AsyncIterator[ConsumerRecord[K, V]]:
        """Yield records as they come; end when none has come for ``consumer_timeout_ms``.

        The position moves with each record: one that was not asked for is not lost when the loop is left, and
        ``commit`` in the loop commits what was handed out.
        """
        timeout = self.config.consumer_timeout_ms
        while True:
            wait_ms = 86_400_000 if timeout is None else min(timeout, 86_400_000)
            before = self._steps.handed_on
            reader = await self._until_there(self._steps.next_reader, wait_ms)
            if reader is not None:
                for record in self._steps.records_of(reader):
                    yield record
                await asyncio.sleep(0)  # others have their turn, though nothing was waited for
            elif timeout is not None and self._steps.handed_on == before:
                return

    async def position(self, partition: TopicPartition, timeout_ms: int | None = None) -> int:
        return await _in_thread(self._consumer.position, partition, timeout_ms)

    async def beginning_offsets(
        self, partitions: Iterable[TopicPartition], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        return await _in_thread(self._consumer.beginning_offsets, partitions, timeout_ms)

    async def end_offsets(
        self, partitions: Iterable[TopicPartition], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        return await _in_thread(self._consumer.end_offsets, partitions, timeout_ms)

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int], timeout_ms: int | None = None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        return await _in_thread(self._consumer.offsets_for_times, timestamps, timeout_ms)

    async def lag(self, timeout_ms: int | None = None) -> dict[TopicPartition, int]:
        return await _in_thread(self._consumer.lag, timeout_ms)

    async def topics(self, timeout_ms: int | None = None) -> set[str]:
        return await _in_thread(self._consumer.topics, timeout_ms)

    async def partitions_for_topic(self, topic: str, timeout_ms: int | None = None) -> set[int]:
        return await _in_thread(self._consumer.partitions_for_topic, topic, timeout_ms)

    def health(self) -> ConsumerHealth:
        return self._consumer.health()

    def explain(self) -> ConsumerExplanation:
        return self._consumer.explain()

    async def close(self, autocommit: bool = True, timeout_ms: int | None = None) -> None:
        self._loop_side.see()
        await _in_thread(self._consumer.close, autocommit, timeout_ms)

    async def __aenter__(self) -> AsyncConsumer[K, V]:
        self._loop_side.see()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(autocommit=kind is None)

    async def _until_there(self, look: Callable[[], Any], wait_ms: float) -> Any:
        """Call ``look`` until it returns something, or the time is over (then None); suspended in between."""
        loop = self._loop_side.see()
        until = loop.time() + wait_ms / 1000
        arrived = asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(arrived.set)
            except RuntimeError:  # the loop has been closed: nobody waits any more
                return

        self._steps.enter(wake)
        is_joining, has_handed_on = self._steps.is_joining(), False
        try:
            while True:
                arrived.clear()
                if self._steps.has_changes():
                    await _in_thread(self._steps.perform_changes)
                self._steps.run_callbacks()
                found = self._steps.look(look)
                if is_joining and not self._steps.is_joining():
                    is_joining = False  # its time does not count
                    until = loop.time() + wait_ms / 1000 if self._consumer.assignment() else until
                left = until - loop.time()
                if isinstance(found, BadRecord):
                    if has_handed_on and left <= 0:
                        return None
                    await _in_thread(self._steps.hand_on, found)  # goes on to its end also when this is cancelled
                    has_handed_on = True
                    continue
                if found is not None:
                    return found
                if left <= 0:
                    if not self._steps.is_joining():
                        return None
                    left = JOIN_LOOK_S
                try:
                    await asyncio.wait_for(arrived.wait(), min(left, 1.0))
                except TimeoutError:
                    continue
        finally:
            self._steps.leave()


class AsyncAdminClient:
    """``AdminClient`` for asyncio: the same calls, awaited."""

    def __init__(self, **settings: Any) -> None:
        self._loop_side = LoopSide()
        self._admin = AdminClient(**self._loop_side.with_hook(settings))
        self.config, self.client_id = self._admin.config, self._admin.client_id

    async def create_topics(
        self,
        topics: Topics,
        timeout_ms: int | None = None,
        validate_only: bool = False,
        raise_errors: bool = True,
        wait_for_metadata: bool = True,
    ) -> dict[str, m.TopicResult]:
        return await _in_thread(
            self._admin.create_topics, topics, timeout_ms, validate_only, raise_errors, wait_for_metadata
        )

    async def delete_topics(
        self, topics: Iterable[str], timeout_ms: int | None = None, raise_errors: bool = True
    ) -> dict[str, m.TopicResult]:
        return await _in_thread(self._admin.delete_topics, topics, timeout_ms, raise_errors)

    async def create_partitions(
        self, topics: Partitions, timeout_ms: int | None = None, validate_only: bool = False, raise_errors: bool = True
    ) -> dict[str, m.TopicResult]:
        return await _in_thread(self._admin.create_partitions, topics, timeout_ms, validate_only, raise_errors)

    async def alter_configs(
        self, configs: Changes, timeout_ms: int | None = None, validate_only: bool = False, raise_errors: bool = True
    ) -> dict[str, m.TopicResult]:
        return await _in_thread(self._admin.alter_configs, configs, timeout_ms, validate_only, raise_errors)

    async def list_topics(self, include_internal: bool = False, timeout_ms: int | None = None) -> list[str]:
        return await _in_thread(self._admin.list_topics, include_internal, timeout_ms)

    async def describe_topics(
        self, topics: Iterable[str] | None = None, timeout_ms: int | None = None
    ) -> list[m.TopicMetadata]:
        return await _in_thread(self._admin.describe_topics, topics, timeout_ms)

    async def describe_configs(
        self, topics: Iterable[str] | None = None, timeout_ms: int | None = None
    ) -> dict[str, dict[str, Any]]:
        return await _in_thread(self._admin.describe_configs, topics, timeout_ms)

    async def wait_for_topics(self, names: Iterable[str], timeout_ms: int = 10_000) -> None:
        await _in_thread(self._admin.wait_for_topics, names, timeout_ms)

    async def elect_leaders(
        self,
        election_type: str | int,
        partitions: Elections | None = None,
        timeout_ms: int | None = None,
        raise_errors: bool = True,
    ) -> dict[TopicPartition, m.ElectLeadersEntryReply]:
        return await _in_thread(self._admin.elect_leaders, election_type, partitions, timeout_ms, raise_errors)

    async def describe_cluster(self, timeout_ms: int | None = None) -> m.DescribeClusterReply:
        return await _in_thread(self._admin.describe_cluster, timeout_ms)

    async def describe_tree(self, timeout_ms: int | None = None) -> m.ActorDescription:
        return await _in_thread(self._admin.describe_tree, timeout_ms)

    async def kill(self, address: str, how: str = "", timeout_ms: int | None = None, *, for_ms: int = 0) -> m.KillReply:
        return await _in_thread(lambda: self._admin.kill(address, how, timeout_ms, for_ms=for_ms))

    async def events(self, after: Mapping[str, int] | None = None, max_wait_ms: int = 0) -> Happened:
        return await _in_thread(self._admin.events, after, max_wait_ms)

    async def describe_processes(self, timeout_ms: int | None = None) -> list[m.ProcessDescription]:
        return await _in_thread(self._admin.describe_processes, timeout_ms)

    async def describe_replicas(
        self, topics: Iterable[str] | None = None, timeout_ms: int | None = None
    ) -> dict[int, list[m.ReplicaDescription]]:
        return await _in_thread(self._admin.describe_replicas, topics, timeout_ms)

    async def delete_records(
        self, records_to_delete: Mapping[TopicPartition, int], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        return await _in_thread(self._admin.delete_records, records_to_delete, timeout_ms)

    async def describe_log_dirs(self, timeout_ms: int | None = None) -> dict[int, list[m.LogDirectoryDescription]]:
        return await _in_thread(self._admin.describe_log_dirs, timeout_ms)

    async def describe_clients(self, timeout_ms: int | None = None) -> list[m.ClientDescription]:
        return await _in_thread(self._admin.describe_clients, timeout_ms)

    # -- groups

    async def list_groups(
        self,
        broker_ids: Collection[int] | None = None,
        states_filter: Iterable[str] | None = None,
        timeout_ms: int | None = None,
    ) -> list[g.GroupListing]:
        return await _in_thread(self._admin.list_groups, broker_ids, states_filter, timeout_ms)

    async def describe_groups(
        self, group_ids: Iterable[str], timeout_ms: int | None = None, raise_errors: bool = True
    ) -> dict[str, g.GroupDescription]:
        return await _in_thread(self._admin.describe_groups, group_ids, timeout_ms, raise_errors)

    async def list_group_offsets(
        self, group_specs: Groups, timeout_ms: int | None = None
    ) -> dict[str, dict[TopicPartition, OffsetAndMetadata]]:
        return await _in_thread(self._admin.list_group_offsets, group_specs, timeout_ms)

    async def group_lag(self, group_id: str, timeout_ms: int | None = None) -> dict[TopicPartition, PartitionLag]:
        return await _in_thread(self._admin.group_lag, group_id, timeout_ms)

    async def alter_group_offsets(
        self,
        group_id: str,
        offsets: Mapping[TopicPartition, OffsetAndMetadata | int],
        timeout_ms: int | None = None,
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        return await _in_thread(self._admin.alter_group_offsets, group_id, offsets, timeout_ms)

    async def reset_group_offsets(
        self,
        group_id: str,
        offset_specs: Mapping[TopicPartition, ResetTo],
        timeout_ms: int | None = None,
        validate_only: bool = False,
    ) -> dict[TopicPartition, OffsetReset]:
        return await _in_thread(self._admin.reset_group_offsets, group_id, offset_specs, timeout_ms, validate_only)

    async def delete_group_offsets(
        self,
        group_id: str,
        partitions: Iterable[TopicPartition],
        timeout_ms: int | None = None,
        raise_errors: bool = True,
    ) -> dict[TopicPartition, g.AlterGroupResult]:
        return await _in_thread(self._admin.delete_group_offsets, group_id, partitions, timeout_ms, raise_errors)

    async def delete_groups(
        self, group_ids: Iterable[str], timeout_ms: int | None = None, raise_errors: bool = True
    ) -> dict[str, g.AlterGroupResult]:
        return await _in_thread(self._admin.delete_groups, group_ids, timeout_ms, raise_errors)

    async def remove_group_members(
        self,
        group_id: str,
        members: Iterable[MemberToRemove | str],
        timeout_ms: int | None = None,
        raise_errors: bool = True,
    ) -> dict[str, g.AlterGroupResult]:
        return await _in_thread(self._admin.remove_group_members, group_id, members, timeout_ms, raise_errors)

    async def close(self) -> None:
        await _in_thread(self._admin.close)

    async def __aenter__(self) -> AsyncAdminClient:
        self._loop_side.see()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
