"""A cluster of scripted brokers in one thread, on the real transport: logs in memory, and switches for faults.

It answers Hello (by the transport), Metadata, Produce, Fetch, ListOffsets, InitProducerId, the administration of
topics, and what members say to a group's coordinator (``fake_groups``). Sequences are checked by the rules of a leader:
the next one, one of the last five again, or refused.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fake_groups import REPLIES, REQUESTS, FakeGroups

from callboard.errors import ErrorCode
from callboard.storage.batch import check_batch, decode_batch, parse_header, restamp
from callboard.transport import group_messages as g
from callboard.transport import messages as m
from callboard.transport.endpoint import ZmqTransport
from callboard.transport.loop import SystemClock
from callboard.transport.seam import Inbound, ServerIdentity
from callboard.transport.selector_loop import SelectorLoop

Fault = Callable[[Inbound], "ErrorCode | str | None"]
"""Of a request: an error code to answer with; "drop" (no answer, not handled); "lose" (handled, no answer); None:
nothing."""


class FakeLog:
    """One partition: batches, and the producers' sequences."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, bytes]] = []  # (base offset, next offset, contiguous bytes)
        self.start = 0
        self.end = 0
        self.producers: dict[
            int, tuple[int, deque[tuple[int, int, int]]]
        ] = {}  # id -> (epoch, last (seq, last, offset))

    def append(self, frames: list[bytes]) -> tuple[ErrorCode, int]:
        header = check_batch(frames)
        if header.producer_id >= 0:
            epoch, last = self.producers.get(header.producer_id, (-1, deque(maxlen=5)))
            for sequence, end, offset in last:
                if epoch == header.producer_epoch and (sequence, end) == (header.base_sequence, header.last_sequence):
                    return ErrorCode.NONE, offset
            if header.producer_epoch < epoch:
                return ErrorCode.INVALID_PRODUCER_EPOCH, -1
            if header.producer_epoch > epoch:
                if header.base_sequence != 0:
                    return (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER if epoch >= 0 else ErrorCode.UNKNOWN_PRODUCER_ID), -1
                last = deque(maxlen=5)
            elif header.base_sequence != (last[-1][1] + 1) & 0x7FFFFFFF:
                return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1
            last.append((header.base_sequence, header.last_sequence, self.end))
            self.producers[header.producer_id] = (header.producer_epoch, last)
        base = self.end
        data = restamp(frames[0], base, 0) + b"".join(frames[1:])
        self.end = base + header.count
        self.batches.append((base, self.end, data))
        return ErrorCode.NONE, base

    def read(self, offset: int, max_bytes: int) -> list[bytes]:
        found: list[bytes] = []
        for _, end, data in self.batches:
            if end > offset and (not found or sum(map(len, found)) + len(data) <= max_bytes):
                found.append(data)
            elif found:
                break
        return found

    def records(self) -> list[tuple[int, bytes | None, bytes | None]]:
        """(offset, key, value) of all there is."""
        return [
            (base + i, key, value)
            for base, _, data in self.batches
            for i, (key, value) in enumerate(zip(decode_batch(data).keys, decode_batch(data).values, strict=True))
        ]

    def values(self) -> list[bytes | None]:
        return [value for _, _, value in self.records()]


class FakeTopic:
    def __init__(self, name: str, topic_id: str, partitions: int, brokers: int, configs: dict[str, Any]) -> None:
        self.name, self.topic_id, self.configs = name, topic_id, configs
        self.logs = [FakeLog() for _ in range(partitions)]
        self.leaders = [1 + i % brokers for i in range(partitions)]
        self.epochs = [0] * partitions


class FakeCluster:
    """Everything runs on one thread of its own; the public methods may be called from the test's."""

    def __init__(self, brokers: int = 1) -> None:
        self.clock = SystemClock()
        self.loop = SelectorLoop(on_failure=self._on_bug)
        self.transport = ZmqTransport(self.loop, self.clock)
        self.bugs: list[BaseException] = []
        self.topics: dict[str, FakeTopic] = {}
        self.version = 1
        self.cluster_id = "fake"
        self.controller_id = 1
        self.requests: list[m.Request] = []
        self.faults: list[Fault] = []
        self.deliver_after_s = 0.0
        self.created = 0
        self.next_producer_id = 100
        self.parked: list[tuple[int, Inbound, Any]] = []
        self.servers: dict[int, Any] = {}
        self.endpoints: dict[int, tuple[str, ...]] = {}
        self.brokers = brokers
        self.groups = FakeGroups(self)
        self._thread = threading.Thread(target=self._run, name="fake-cluster", daemon=True)
        self._thread.start()
        for broker in range(1, brokers + 1):
            self.call(self._serve, broker)

    # -- for tests ---------------------------------------------------------------------------------

    @property
    def bootstrap_servers(self) -> list[str]:
        return [endpoints[0] for endpoints in self.endpoints.values()]

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function on the cluster's thread; return its result."""
        done = threading.Event()
        result: list[Any] = []

        def run() -> None:
            try:
                result.append(function(*args))
            except BaseException as error:  # noqa: BLE001 - told to the test that waits
                result.append(error)
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(10), "the fake cluster hangs"
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def create(self, name: str, partitions: int = 1, **configs: Any) -> FakeTopic:
        return self.call(self._create, name, partitions, configs)

    def delete(self, name: str) -> None:
        def delete() -> None:
            del self.topics[name]
            self.version += 1
            self.groups.on_topics()

        self.call(delete)

    def move(self, name: str, partition: int, leader: int) -> None:
        """Another broker leads from now on, in a new epoch."""

        def move() -> None:
            topic = self.topics[name]
            topic.leaders[partition] = leader
            topic.epochs[partition] += 1
            self.version += 1
            self._answer_parked(force=True)

        self.call(move)

    def add_partition(self, name: str) -> None:
        """On the cluster's thread, see ``call``."""
        topic = self.topics[name]
        topic.logs.append(FakeLog())
        topic.leaders.append(1)
        topic.epochs.append(0)
        self.version += 1
        self.groups.on_topics()

    def stop_broker(self, broker: int) -> None:
        """Its port is closed, its connections end. Its partitions keep it as their leader."""
        self.call(lambda: self.servers.pop(broker).close())

    def start_broker(self, broker: int) -> None:
        """It is back on its port."""
        self.call(self._serve, broker)

    def log(self, name: str, partition: int = 0) -> FakeLog:
        return self.topics[name].logs[partition]

    def append(self, name: str, partition: int, frames: list[bytes]) -> None:
        def append() -> None:
            self.log(name, partition).append(frames)
            self._answer_parked()

        self.call(append)

    def add_fault(self, kind: type, error: ErrorCode | str, count: int = 1, skip: int = 0) -> None:
        """The next ``count`` requests of a kind, after ``skip`` of them, end this way."""
        left = [skip, count]

        def fault(inbound: Inbound) -> ErrorCode | str | None:
            if not isinstance(inbound.message, kind):
                return None
            if left[0] > 0:
                left[0] -= 1
                return None
            if left[1] > 0:
                left[1] -= 1
                return error
            return None

        self.call(self.faults.append, fault)

    def requests_of(self, kind: type) -> list[Any]:
        return self.call(lambda: [request for request in self.requests if isinstance(request, kind)])

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when a condition holds; looked at on the cluster's thread, every millisecond, for 10 s at most."""
        done = threading.Event()

        def look() -> None:
            if condition():
                done.set()
            else:
                self.loop.call_later(0.001, look)

        self.loop.call_soon_threadsafe(look)
        assert done.wait(10), "it did not happen"

    def close(self) -> None:
        self.loop.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert not self.bugs, self.bugs

    # -- on its thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        self.loop.run()
        self.transport.close()
        self.loop.close()

    def _on_bug(self, error: BaseException) -> None:
        self.bugs.append(error)

    def _serve(self, broker: int) -> None:
        binds = self.endpoints.get(broker, ("tcp://127.0.0.1:0",))
        self.servers[broker] = self.transport.serve(
            binds,
            m.ClientRequest,
            lambda inbounds: [self._on_request(broker, inbound) for inbound in inbounds] and None,
            identity=ServerIdentity(
                role="broker", name=f"broker-{broker}", cluster_id=self.cluster_id, broker_id=broker
            ),
        )
        self.endpoints[broker] = tuple(self.servers[broker].endpoints)

    def _create(self, name: str, partitions: int, configs: dict[str, Any]) -> FakeTopic:
        self.created += 1
        topic = FakeTopic(name, f"{self.created:032x}", partitions, self.brokers, configs)
        self.topics[name] = topic
        self.version += 1
        self.groups.on_topics()
        return topic

    def _on_request(self, broker: int, inbound: Inbound) -> None:
        self.requests.append(inbound.message)
        for fault in self.faults:
            outcome = fault(inbound)
            if outcome == "drop":
                return
            if outcome == "lose":
                self._handle(broker, inbound, lambda *_: None)
                return
            if outcome == "lost connection":  # handled, then the connection ends before the answer
                self._handle(broker, inbound, lambda *_: None)
                self.servers.pop(broker).close()
                self._serve(broker)
                return
            if outcome == "behind":  # a broker that has not heard of any topic
                known = m.MetadataReply(id=inbound.message.id, cluster_id=self.cluster_id, version=1)
                self._reply(broker, inbound, known)
                return
            if outcome is not None:
                self._refuse(broker, inbound, ErrorCode(outcome))
                return
        self._handle(broker, inbound, lambda reply, payload=(): self._reply(broker, inbound, reply, payload))

    def _reply(self, broker: int, inbound: Inbound, reply: m.Reply, payload: Any = ()) -> None:
        server = self.servers.get(broker)
        if server is not None:
            server.reply(inbound.peer, reply, payload)

    def _refuse(self, broker: int, inbound: Inbound, code: ErrorCode) -> None:
        request = inbound.message
        if isinstance(request, m.ProduceRequest):
            entries = [
                m.ProduceEntryReply(topic_id=entry.topic_id, partition=entry.partition, error=code)
                for entry in request.entries
            ]
            self._reply(broker, inbound, m.ProduceReply(id=request.id, entries=entries))
        elif isinstance(request, m.FetchRequest):
            found = [
                m.FetchEntryReply(topic_id=entry.topic_id, partition=entry.partition, error=code)
                for entry in request.entries
            ]
            self._reply(broker, inbound, m.FetchReply(id=request.id, entries=found))
        elif type(request) in REPLIES:
            self._reply(broker, inbound, REPLIES[type(request)](id=request.id, error=code, detail="scripted"))
        else:
            self._reply(broker, inbound, m.ErrorReply(id=request.id, error=code, detail="scripted"))

    def _handle(self, broker: int, inbound: Inbound, reply: Any) -> None:
        request = inbound.message
        handler = {
            m.MetadataRequest: self._metadata,
            m.ProduceRequest: self._produce,
            m.FetchRequest: self._fetch,
            m.ListOffsetsRequest: self._list_offsets,
            m.InitProducerIdRequest: self._init_producer_id,
            m.CreateTopicsRequest: self._create_topics,
            m.DeleteTopicsRequest: self._delete_topics,
            m.DescribeClusterRequest: self._describe_cluster,
            m.ElectLeadersRequest: self._elect_leaders,
            g.FindCoordinatorsRequest: self.groups.find,
            **dict.fromkeys(REQUESTS, self.groups.on_request),
        }[type(request)]
        handler(broker, inbound, reply)

    def _by_id(self, topic_id: str) -> FakeTopic | None:
        return next((topic for topic in self.topics.values() if topic.topic_id == topic_id), None)

    def _metadata(self, broker: int, inbound: Inbound, reply: Any) -> None:
        request = inbound.message
        names = sorted(self.topics) if request.topics is None else request.topics
        topics = []
        for name in names:
            topic = self.topics.get(name)
            if topic is None:
                topics.append(m.TopicMetadata(name=name, error=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
                continue
            parts = [
                m.PartitionMetadata(
                    partition=i, leader=leader, leader_epoch=topic.epochs[i], replicas=[leader], isr=[leader]
                )
                for i, leader in enumerate(topic.leaders)
            ]
            topics.append(m.TopicMetadata(name=name, topic_id=topic.topic_id, partitions=parts, configs=topic.configs))
        reply(
            m.MetadataReply(
                id=request.id,
                cluster_id=self.cluster_id,
                version=self.version,
                controller_id=self.controller_id,
                brokers=self._broker_list(),
                topics=topics,
            )
        )

    def _broker_list(self) -> list[m.BrokerMetadata]:
        return [m.BrokerMetadata(id=i, endpoints=list(self.endpoints[i])) for i in self.servers]

    def _error(self, broker: int, entry: Any) -> ErrorCode:
        topic = self._by_id(entry.topic_id)
        if topic is None:
            return ErrorCode.UNKNOWN_TOPIC_ID
        if topic.leaders[entry.partition] != broker:
            return ErrorCode.NOT_LEADER_FOR_PARTITION
        if entry.leader_epoch != topic.epochs[entry.partition]:
            return ErrorCode.FENCED_LEADER_EPOCH
        return ErrorCode.NONE

    def _produce(self, broker: int, inbound: Inbound, reply: Any) -> None:
        request, at, entries = inbound.message, 0, []
        for entry in request.entries:
            frames = inbound.payload[at : at + entry.frames]
            at += entry.frames
            code, offset = self._error(broker, entry), -1
            topic = self._by_id(entry.topic_id)
            if not code and topic is not None:
                limit = topic.configs.get("max_message_bytes", 1 << 20)
                if sum(map(len, frames)) > topic.configs.get("real_max", limit):
                    code = ErrorCode.MESSAGE_SIZE_TOO_LARGE
                else:
                    code, offset = topic.logs[entry.partition].append(frames)
            entries.append(
                m.ProduceEntryReply(topic_id=entry.topic_id, partition=entry.partition, error=code, base_offset=offset)
            )
        if request.acks:
            reply(m.ProduceReply(id=request.id, entries=entries))
        self._answer_parked()

    def _fetch(self, broker: int, inbound: Inbound, reply: Any) -> None:
        if not self._answer_fetch(broker, inbound, reply, force=False):
            self.parked.append((broker, inbound, reply))
            wait_s = inbound.message.max_wait_ms / 1000
            self.loop.call_later(wait_s, self._unpark, (broker, inbound, reply))

    def _unpark(self, parked: Any) -> None:
        if parked in self.parked:
            self.parked.remove(parked)
            self._answer_fetch(*parked, force=True)

    def _answer_parked(self, force: bool = False) -> None:
        parked, self.parked = self.parked, []
        self.parked += [each for each in parked if not self._answer_fetch(*each, force=force)]

    def _answer_fetch(self, broker: int, inbound: Inbound, reply: Any, force: bool) -> bool:
        request = inbound.message
        entries, payload, has_error = [], [], False
        for entry in request.entries:
            code, frames = self._error(broker, entry), []
            topic = self._by_id(entry.topic_id)
            log = topic.logs[entry.partition] if topic is not None else FakeLog()
            if not code and not log.start <= entry.fetch_offset <= log.end:
                code = ErrorCode.OFFSET_OUT_OF_RANGE
            if not code:
                frames = log.read(entry.fetch_offset, entry.max_bytes)
            has_error = has_error or bool(code)
            payload += frames
            entries.append(
                m.FetchEntryReply(
                    topic_id=entry.topic_id,
                    partition=entry.partition,
                    error=code,
                    high_watermark=log.end,
                    log_start_offset=log.start,
                    frames=len(frames),
                )
            )
        if not force and not has_error and sum(map(len, payload)) < request.min_bytes:
            return False
        reply(m.FetchReply(id=request.id, entries=entries), payload)
        return True

    def _list_offsets(self, broker: int, inbound: Inbound, reply: Any) -> None:
        entries = []
        for entry in inbound.message.entries:
            code, offset, timestamp = self._error(broker, entry), -1, -1
            topic = self._by_id(entry.topic_id)
            if not code and topic is not None:
                log = topic.logs[entry.partition]
                offset, timestamp = self._offset_for(log, entry.timestamp_ms)
            entries.append(
                m.ListOffsetsEntryReply(
                    topic_id=entry.topic_id,
                    partition=entry.partition,
                    error=code,
                    offset=offset,
                    timestamp_ms=timestamp,
                )
            )
        reply(m.ListOffsetsReply(id=inbound.message.id, entries=entries))

    def _offset_for(self, log: FakeLog, timestamp: int) -> tuple[int, int]:
        if timestamp == m.EARLIEST_TIMESTAMP:
            return log.start, -1
        if timestamp == m.LATEST_TIMESTAMP:
            return log.end, -1
        for base, _, data in log.batches:
            for i, at in enumerate(decode_batch(data).timestamps):
                if at >= timestamp:
                    return base + i, at
        return -1, -1

    def _init_producer_id(self, broker: int, inbound: Inbound, reply: Any) -> None:
        self.next_producer_id += 1
        reply(m.InitProducerIdReply(id=inbound.message.id, producer_id=self.next_producer_id, producer_epoch=0))

    def _create_topics(self, broker: int, inbound: Inbound, reply: Any) -> None:
        results = []
        for topic in inbound.message.topics:
            if topic.name in self.topics:
                results.append(m.TopicResult(name=topic.name, error=ErrorCode.TOPIC_ALREADY_EXISTS))
                continue
            if not inbound.message.validate_only:
                self._create(topic.name, max(1, topic.num_partitions), topic.configs)
            results.append(
                m.TopicResult(name=topic.name, num_partitions=max(1, topic.num_partitions), replication_factor=1)
            )
        reply(m.TopicsReply(id=inbound.message.id, version=self.version, topics=results))

    def _delete_topics(self, broker: int, inbound: Inbound, reply: Any) -> None:
        results = []
        for name in inbound.message.names:
            known = self.topics.pop(name, None)
            self.version += 1
            results.append(m.TopicResult(name=name, error=0 if known else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
        reply(m.TopicsReply(id=inbound.message.id, version=self.version, topics=results))

    def _elect_leaders(self, broker: int, inbound: Inbound, reply: Any) -> None:
        """Every preferred leader leads already, and there is nobody else to be elected unclean."""
        request = inbound.message
        every = [m.ElectLeadersEntry(topic=name, partition=0) for name in sorted(self.topics)]
        entries = []
        for entry in every if request.partitions is None else request.partitions:
            error = ErrorCode.ELECTION_NOT_NEEDED
            if request.election == "unclean":
                error = ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE
            if entry.topic not in self.topics:
                error = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            entries.append(
                m.ElectLeadersEntryReply(topic=entry.topic, partition=entry.partition, error=error, leader=1)
            )
        reply(m.ElectLeadersReply(id=request.id, version=self.version, entries=entries))

    def _describe_cluster(self, broker: int, inbound: Inbound, reply: Any) -> None:
        reply(
            m.DescribeClusterReply(
                id=inbound.message.id,
                cluster_id=self.cluster_id,
                version=self.version,
                controller_id=self.controller_id,
                brokers=self._broker_list(),
            )
        )


@contextmanager
def fake_cluster(brokers: int = 1) -> Iterator[FakeCluster]:
    cluster = FakeCluster(brokers)
    try:
        yield cluster
    finally:
        cluster.close()


def sequences(cluster: FakeCluster) -> dict[tuple[str, int], list[int]]:
    """Return the values of each partition as integers, for checks of order."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for name, topic in cluster.topics.items():
        for number, log in enumerate(topic.logs):
            found[name, number] = [int(value) for value in log.values() if value is not None]
    return found


__all__ = ["FakeCluster", "FakeLog", "fake_cluster", "parse_header", "sequences"]
