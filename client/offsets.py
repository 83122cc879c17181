"""One question about many partitions, asked of whoever leads them, until all have answered: looking offsets up by
timestamp, deleting records.

A shell on the I/O thread. Timestamps: -1 (latest) means the high watermark, -2 (earliest) the log start offset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import (
    CallboardError,
    CallboardTimeoutError,
    LeaderNotAvailableError,
    error_for_code,
    is_metadata_stale,
)
from ..model import OffsetAndTimestamp, TopicPartition
from ..transport.loop import Clock, Loop
from ..transport.messages import (
    DeleteRecordsEntry,
    DeleteRecordsReply,
    DeleteRecordsRequest,
    ListOffsetsEntry,
    ListOffsetsReply,
    ListOffsetsRequest,
    Reply,
    Request,
)
from .asking import partition_error
from .cluster import Cluster, error_of
from .io import Done
from .metadata import PartitionLeader

RETRY_MS = 20
ATTEMPT_MS = 5_000

Found = dict[TopicPartition, "OffsetAndTimestamp | None"]  # None: no record at or after the timestamp
FoundOrNot = dict[TopicPartition, "OffsetAndTimestamp | CallboardError | None"]


class LeadersQuestion:
    """Ask leaders once; ``done`` gets an entry for every partition, or the first error that will not pass.

    A question that changes something may be asked twice: asked again, it must change nothing more.
    """

    replies: type[Reply]  # what is taken for an answer; it has ``entries``, each of one partition
    what: str  # for people

    def _entry(self, leader: PartitionLeader, asked: int) -> Any:
        raise NotImplementedError

    def _request(self, entries: list[Any]) -> Request:
        raise NotImplementedError

    def _result(self, entry: Any) -> Any:
        raise NotImplementedError

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        cluster: Cluster,
        wanted: Mapping[TopicPartition, int],
        timeout_ms: int,
        done: Done[Any],
    ) -> None:
        self._loop, self._clock, self._cluster = loop, clock, cluster
        self._left = dict(wanted)  # partition -> what is asked, not answered yet
        self._found: dict[TopicPartition, Any] = {}
        self._begin_ms = clock.monotonic_ms()
        self._until_ms = self._begin_ms + timeout_ms
        self._timeout_ms = timeout_ms
        self._done = done
        self._is_over = False
        self._unanswered = 0  # requests under way
        self._last_error: CallboardError | None = None

    def ask(self) -> None:
        """Ask the leaders of what is left."""
        if self._is_over:
            return
        if not self._left:
            self._end(None)
            return
        now = self._clock.monotonic_ms()
        if now >= self._until_ms or self._is_out_of_reach(now):
            self._on_time_over()
            return
        topics = {key.topic for key in self._left}
        for topic in topics:
            self._cluster.metadata.doubt_unknown(topic, self._begin_ms)
        self._cluster.add_interest(topics)
        by_broker: dict[int, list[Any]] = {}
        for key, timestamp in list(self._left.items()):
            leader = self._cluster.metadata.leader(*key)
            if leader is None:
                error = partition_error(self._cluster, key, now)
                if error is not None and self._is_ended_by(key, error):
                    return
            elif leader.broker_id >= 0 and self._cluster.is_connected(leader.broker_id):
                by_broker.setdefault(leader.broker_id, []).append(self._entry(leader, timestamp))
        if not by_broker:
            if not self._is_everything_led():
                self._cluster.refresh()
            self._loop.call_later(RETRY_MS / 1000, self.ask)
            return
        self._unanswered = len(by_broker)
        for broker, entries in by_broker.items():
            connection = self._cluster.connection(broker)
            if connection is None:
                self._loop.call_soon(self._on_reply, CallboardTimeoutError("no connection"), [])
            else:
                left_ms = max(1, min(ATTEMPT_MS, self._until_ms - now))
                connection.request(self._request(entries), self._on_reply, timeout_ms=left_ms)

    def _on_reply(self, reply: Reply | CallboardError, _: list[bytes]) -> None:
        self._unanswered -= 1
        error = error_of(reply)
        if error is not None:
            self._last_error = error
            self._cluster.refresh()
            if not error.retriable:
                self._on_refused(error)
        elif isinstance(reply, self.replies):
            self._take(reply)
        if self._unanswered == 0 and not self._is_over:
            if self._left:
                self._loop.call_later(RETRY_MS / 1000, self.ask)
            else:
                self._end(None)

    def _take(self, reply: Any) -> None:
        keys = {}
        for key in self._left:
            leader = self._cluster.metadata.leader(*key)
            if leader is not None:
                keys[leader.topic_id, leader.partition] = key
        for entry in reply.entries:
            known = keys.get((entry.topic_id, entry.partition))
            if known is None:
                continue
            if not entry.error:
                del self._left[known]
                self._found[known] = self._result(entry)
                continue
            error = error_for_code(entry.error, entry.detail or str(known))
            self._last_error = error
            if not error.retriable:
                if self._is_ended_by(known, error):
                    return
            elif is_metadata_stale(error.errno):
                self._cluster.refresh()

    def _is_ended_by(self, key: TopicPartition, error: CallboardError) -> bool:
        """A partition has an error that will not pass: say whether that ends the question, and end it."""
        self._end(error)
        return True

    def _on_refused(self, error: CallboardError) -> None:
        """A broker refuses the whole request, and will do so again."""
        self._end(error)

    def _on_time_over(self) -> None:
        self._end(self._timeout_error())

    def _is_everything_led(self) -> bool:
        leaders = [self._cluster.metadata.leader(*key) for key in self._left]
        return all(leader is not None and leader.broker_id >= 0 for leader in leaders)

    def _is_out_of_reach(self, now_ms: int) -> bool:
        waited_ms = now_ms - self._begin_ms
        return not self._cluster.has_contact and waited_ms >= self._cluster.bootstrap_timeout_ms

    def _timeout_error(self) -> CallboardError:
        if not self._cluster.has_contact:
            return self._cluster.unreachable_error()
        names = ", ".join(map(str, list(self._left)[:3]))
        why = f"; last error: {self._last_error}" if self._last_error is not None else "; no leader"
        error = CallboardTimeoutError(f"{self.what} {names}: not within {self._timeout_ms / 1000:g} s{why}")
        error.__cause__ = self._last_error
        return error

    def _end(self, error: CallboardError | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._done(None if error is not None else self._found, error)


class OffsetsQuestion(LeadersQuestion):
    """Timestamps in, ``OffsetAndTimestamp`` or None out."""

    replies = ListOffsetsReply
    what = "offsets of"

    def _entry(self, leader: PartitionLeader, asked: int) -> ListOffsetsEntry:
        return ListOffsetsEntry(
            topic_id=leader.topic_id,
            partition=leader.partition,
            leader_epoch=leader.leader_epoch,
            timestamp_ms=asked,
        )

    def _request(self, entries: list[Any]) -> ListOffsetsRequest:
        return ListOffsetsRequest(entries=entries)

    def _result(self, entry: Any) -> OffsetAndTimestamp | None:
        found = OffsetAndTimestamp(entry.offset, entry.timestamp_ms, entry.leader_epoch)
        return found if entry.offset >= 0 else None


class DeleteRecordsQuestion(LeadersQuestion):
    """Offsets in (-1: the high watermark, as it is when the leader is asked), log start offsets out."""

    replies = DeleteRecordsReply
    what = "deleting records of"

    def _entry(self, leader: PartitionLeader, asked: int) -> DeleteRecordsEntry:
        return DeleteRecordsEntry(
            topic_id=leader.topic_id,
            partition=leader.partition,
            leader_epoch=leader.leader_epoch,
            before_offset=asked,
        )

    def _request(self, entries: list[Any]) -> DeleteRecordsRequest:
        return DeleteRecordsRequest(entries=entries)

    def _result(self, entry: Any) -> int:
        return int(entry.log_start_offset)


class AnyOffsetsQuestion(OffsetsQuestion):
    """Tells what it can: a partition that cannot be asked in time has its error for an answer."""

    def _is_ended_by(self, key: TopicPartition, error: CallboardError) -> bool:
        del self._left[key]
        self._found[key] = error
        return False

    def _on_refused(self, error: CallboardError) -> None:
        """Others may tell of their partitions; what this one has is told when the time is over."""

    def _on_time_over(self) -> None:
        if not self._cluster.has_contact:
            self._end(self._timeout_error())
            return
        for key in self._left:
            leader = self._cluster.metadata.leader(*key)
            is_led = leader is not None and leader.broker_id >= 0
            why = self._last_error if is_led else LeaderNotAvailableError(f"{key} has no leader")
            self._found[key] = why or CallboardTimeoutError(f"the leader of {key} does not answer")
        self._left = {}
        self._end(None)


class OffsetsAsTheyCome(AnyOffsetsQuestion):
    """Tells of each partition when its leader has answered: ``tell`` may be called often, once for each partition."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        cluster: Cluster,
        wanted: Mapping[TopicPartition, int],
        timeout_ms: int,
        tell: Callable[[FoundOrNot], None],
    ) -> None:
        super().__init__(loop, clock, cluster, wanted, timeout_ms, lambda *_: None)
        self._tell = tell

    def _take(self, reply: Any) -> None:
        super()._take(reply)
        if self._found:
            found, self._found = self._found, {}
            self._tell(found)

    def _end(self, error: CallboardError | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._tell({**self._found, **dict.fromkeys(self._left, error)})
