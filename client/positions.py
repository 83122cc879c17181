"""Where a consumer reads: positions, seeking, pausing, and questions about offsets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..errors import CallboardTimeoutError, IllegalArgumentError
from ..model import OffsetAndTimestamp, TopicPartition
from ..transport.messages import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP
from .consumer_core import ConsumerCore, as_partition
from .group_offsets import OFFSET_MAX


class Positions(ConsumerCore):
    """The part of a consumer that is about positions and offsets."""

    def position(self, partition: TopicPartition, timeout_ms: int | None = None) -> int:
        """Return the offset of the next record that will be handed out; waits while it is being looked up.

        Raises:
            IllegalStateError: the partition is not assigned.
            CallboardTimeoutError: not known within ``timeout_ms`` (None: ``request_timeout_ms``).
        """
        key = as_partition(partition)
        bound_ms = self._bound_ms(timeout_ms)

        def look() -> int | None:
            reader = self._reader(key, "position")
            if reader.error is not None:
                raise reader.error
            return reader.position

        found: int | None = self._wait_for(look, bound_ms, is_reading=False)
        if found is None:
            raise CallboardTimeoutError(f"position of {key}: not known within {bound_ms / 1000:g} s")
        return found

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read this partition from ``offset`` on. Takes effect with the next record.

        Raises:
            IllegalStateError: the partition is not assigned. IllegalArgumentError: the offset is negative, or none.
        """
        key = as_partition(partition)
        if type(offset) is not int:
            raise TypeError(f"offset: expected int, got {type(offset).__name__}")
        if offset < 0:
            raise IllegalArgumentError(f"offset: must not be below 0 (given: {offset})")
        if offset > OFFSET_MAX:
            raise IllegalArgumentError(f"offset: must be at most {OFFSET_MAX} (given: {offset})")
        with self._lock:
            self._check_open()
            self._reader(key, "seek")
            self._seek(key, offset, None)

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Read these partitions (none given: all assigned) from their first record."""
        self._seek_to(partitions, EARLIEST_TIMESTAMP, "seek_to_beginning")

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Read these partitions (none given: all assigned) from the next record that will be written."""
        self._seek_to(partitions, LATEST_TIMESTAMP, "seek_to_end")

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these partitions, and fetch no more of them, until ``resume``."""
        self._set_paused(partitions, True)

    def resume(self, *partitions: TopicPartition) -> None:
        self._set_paused(partitions, False)

    def paused(self) -> set[TopicPartition]:
        with self._lock:
            return {key for key, reader in self._inbox.readers.items() if reader.is_paused}

    def beginning_offsets(
        self, partitions: Iterable[TopicPartition], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """Return the offset of the first record there still is.

        Raises:
            UnknownTopicOrPartitionError, ConnectionFailedError, CallboardTimeoutError: …
        """
        return self._bounds(partitions, EARLIEST_TIMESTAMP, timeout_ms)

    def end_offsets(
        self, partitions: Iterable[TopicPartition], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """Return the high watermark: the offset behind the last record that can be read. Raises as
        ``beginning_offsets``."""
        return self._bounds(partitions, LATEST_TIMESTAMP, timeout_ms)

    def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int], timeout_ms: int | None = None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """Return the first record at or after a timestamp (ms since 1970), by partition; None: there is none.

        Raises:
            IllegalArgumentError: a negative timestamp. Else as ``beginning_offsets``.
        """
        if not isinstance(timestamps, Mapping):
            raise TypeError(f"expected a dict of timestamps by TopicPartition, got {type(timestamps).__name__}")
        for timestamp in timestamps.values():
            if timestamp < 0:
                raise IllegalArgumentError(f"timestamps are milliseconds since 1970 (given: {timestamp})")
        return self._look_up({as_partition(key): timestamp for key, timestamp in timestamps.items()}, timeout_ms)

    def highwater(self, partition: TopicPartition) -> int | None:
        """Return the high watermark as the last fetch told it; None: not known yet. Asks nobody."""
        with self._lock:
            self._inbox.sort()
            return self._reader(as_partition(partition), "highwater").high_watermark

    def lag(self, timeout_ms: int | None = None) -> dict[TopicPartition, int]:
        """Return how many records lie between the position and the end, by assigned partition.

        Asks nobody where a fetch waits at the leader: the high watermark is known then. Else one round trip.
        """
        until_ms = self._io.clock.monotonic_ms() + self._bound_ms(timeout_ms)
        with self._lock:
            self._check_open()
            self._inbox.sort()
            readers = dict(self._inbox.readers)
            states = self._fetching.fetcher.states
            ends = {
                key: reader.high_watermark
                for key, reader in readers.items()
                if reader.high_watermark is not None and key in states and states[key].is_waiting
            }
        unknown = [key for key in readers if key not in ends]
        if unknown:
            ends.update(self.end_offsets(unknown, timeout_ms))
        left_ms = max(0, until_ms - self._io.clock.monotonic_ms())
        return {key: max(0, ends[key] - self.position(key, left_ms)) for key in readers}

    # -- inside ------------------------------------------------------------------------------------

    def _seek_to(self, partitions: Sequence[TopicPartition], reset_to: int, what: str) -> None:
        keys = [as_partition(given) for given in partitions]
        with self._lock:
            self._check_open()
            self._inbox.sort()
            for key in keys or list(self._inbox.readers):
                self._reader(key, what)
                self._seek(key, None, reset_to)

    def _set_paused(self, partitions: Sequence[TopicPartition], is_paused: bool) -> None:
        keys = [as_partition(given) for given in partitions]
        with self._lock:
            self._check_open()
            self._inbox.sort()
            for key in keys:
                self._reader(key, "pause" if is_paused else "resume").is_paused = is_paused
            self._io.post(self._fetching.pause, keys, is_paused)
        self._on_news()

    def _bounds(
        self, partitions: Iterable[TopicPartition], timestamp: int, timeout_ms: int | None
    ) -> dict[TopicPartition, int]:
        found = self._look_up({as_partition(key): timestamp for key in partitions}, timeout_ms)
        return {key: answer.offset for key, answer in found.items() if answer is not None}

    def _look_up(
        self, wanted: Mapping[TopicPartition, int], timeout_ms: int | None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        bound_ms = self._bound_ms(timeout_ms)
        if not wanted:
            return {}
        return self._io.ask(lambda done: self._fetching.look_up(wanted, bound_ms, done), bound_ms / 1000 + 1, "offsets")
