"""Questions that user threads ask the cluster and wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import CallboardError, ErrorCode, UnknownTopicOrPartitionError, error_for_code
from ..model import TopicPartition
from .cluster import Cluster, timed_out
from .io import Done, IoThread

LOOK_MS = 25  # how often a condition on metadata is looked at

T = TypeVar("T")

Look = Callable[[], "T | None"]  # None: not yet; raises when it never will be


def partitions_of(io: IoThread, cluster: Cluster, topic: str, timeout_ms: int) -> set[int]:
    """Return the partitions of a topic.

    Raises:
        UnknownTopicOrPartitionError: there is no such topic.
        ConnectionFailedError, CallboardTimeoutError: nobody could be asked in time.
    """

    begin_ms = io.clock.monotonic_ms()

    def look() -> set[int] | None:
        cluster.metadata.doubt_unknown(topic, begin_ms)
        cluster.add_interest([topic])
        known = cluster.metadata.topics.get(topic)
        if known is not None:
            return set(known.partitions)
        error = topic_error(cluster, topic, io.clock.monotonic_ms())
        if error is not None:
            raise error
        return None

    return wait_until(io, cluster, look, timeout_ms, f"partitions of {topic!r}")


def wait_until(io: IoThread, cluster: Cluster, look: Look[T], timeout_ms: int, what: str) -> T:
    """Return what ``look`` returns, once that is not None; metadata is refreshed meanwhile. Blocks the caller only.

    ``look`` runs on the I/O thread.

    Raises:
        ConnectionFailedError: no broker has been reached, ever, within ``bootstrap_timeout_ms``.
        CallboardTimeoutError: not within ``timeout_ms``.
        CallboardError: whatever ``look`` raises.
    """
    clock = io.clock

    def start(done: Done[T]) -> None:
        begin_ms = clock.monotonic_ms()

        def step() -> None:
            try:
                result = look()
            except CallboardError as error:
                done(None, error)
                return
            waited_ms = clock.monotonic_ms() - begin_ms
            if result is not None:
                done(result, None)
            elif not cluster.has_contact and waited_ms >= min(timeout_ms, cluster.bootstrap_timeout_ms):
                done(None, cluster.unreachable_error())
            elif waited_ms >= timeout_ms:
                done(None, timed_out(what, timeout_ms))
            else:
                cluster.refresh()
                io.loop.call_later(LOOK_MS / 1000, step)

        step()

    return io.ask(start, timeout_ms / 1000 + 1, what)


def topic_error(cluster: Cluster, topic: str, now_ms: int) -> CallboardError | None:
    """Return why a topic cannot be used, if that is certain by now."""
    code, detail = cluster.metadata.topic_errors.get(topic, (0, ""))
    if cluster.metadata.is_gone(topic, now_ms):
        return error_for_code(code or ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, detail or f"there is no topic {topic!r}")
    if code:
        error = error_for_code(code, detail or topic)
        return None if error.retriable else error
    return None


def partition_error(cluster: Cluster, key: TopicPartition, now_ms: int) -> CallboardError | None:
    """Return why a partition is not there, if that is certain by now."""
    known = cluster.metadata.topics.get(key.topic)
    if known is None:
        return topic_error(cluster, key.topic, now_ms)
    if key.partition in known.partitions:
        return None
    last = max(known.partitions, default=-1)
    return UnknownTopicOrPartitionError(f"topic {key.topic!r} has partitions 0 to {last}, not {key.partition}")
