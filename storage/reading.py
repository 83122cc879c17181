"""Find and read batches in the segments of a log, and serve none that is damaged.

What was below the recovery point when the log was opened is checked when it is first read; what this process has
written, scanned, or checked once is not checked again. A damaged batch is refused, told and remembered; whatever
stands before and behind it goes on being served. Nothing here changes a file.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

from ..errors import CorruptRecordError, StorageCorruption
from .batch import HEADER_BYTES, parse_header
from .epochs import EpochHistory
from .flushing import storage_error
from .index import NO_TIMESTAMP
from .segment import Segment
from .verification import Damage, check_batches

SEALED_OPEN_MAX = 4  # handles of old segments kept open for readers that lag


class Reader:
    """Reads the segments of one log, which the log goes on changing."""

    def __init__(
        self,
        directory: str,
        segments: list[Segment],
        bases: list[int],
        epochs: EpochHistory,
        is_handle_needed: Callable[[Segment], bool],
    ) -> None:
        self._directory = directory
        self._segments = segments  # the log's own list, ascending, never empty
        self._bases = bases
        self._epochs = epochs
        self._is_handle_needed = is_handle_needed
        self._sealed_open: list[Segment] = []  # the one used longest ago first

    @property
    def damaged(self) -> list[Damage]:
        """What was found damaged so far, in the order of the log."""
        return [segment.damage[at] for segment in self._segments for at in sorted(segment.damage)]

    def read(self, fetch_offset: int, max_bytes: int, up_to_offset: int) -> list[bytes]:
        """Return whole sound batches from the one that holds ``fetch_offset`` on; see ``Log.read``.

        Raises:
            CorruptRecordError: that batch is damaged.
            StorageError: the read failed.
        """
        try:
            return self._read(fetch_offset, max_bytes, up_to_offset)
        except StorageCorruption as error:
            raise CorruptRecordError(str(error)) from error
        except OSError as error:
            raise storage_error(f"{self._directory}: read failed", error) from error

    def first_at(self, timestamp: int, log_start_offset: int) -> tuple[int, int] | None:
        """Return offset and timestamp of the first record at or after both; raises as ``read``."""
        with self._errors():
            return self._first_at(timestamp, log_start_offset)

    def first_of_greatest_timestamp(self, log_start_offset: int) -> tuple[int, int] | None:
        """Return offset and timestamp of the first record that has the greatest of all; raises as ``read``."""
        with self._errors():
            of_segments = [segment.greatest_timestamp_from(log_start_offset) for segment in self._segments]
            greatest = max(of_segments, default=NO_TIMESTAMP)
            return None if greatest == NO_TIMESTAMP else self._first_at(greatest, log_start_offset)

    # -- handles ---------------------------------------------------------------------------------------

    def keep_open(self, segment: Segment) -> None:
        """Let an old segment keep its handle for a while; the one that was used longest ago is closed."""
        if segment is self._segments[-1]:
            return
        if segment in self._sealed_open:
            self._sealed_open.remove(segment)
        self._sealed_open.append(segment)
        while len(self._sealed_open) > SEALED_OPEN_MAX:
            if self._is_handle_needed(self._sealed_open[0]):
                break
            self._sealed_open.pop(0).close()

    def forget(self, removed: Sequence[Segment]) -> None:
        """Close segments that are no longer the log's, or no longer old."""
        self._sealed_open = [segment for segment in self._sealed_open if segment not in removed]

    # -- inside ----------------------------------------------------------------------------------------

    def _read(self, fetch_offset: int, max_bytes: int, up_to_offset: int) -> list[bytes]:
        segment = self._holding(fetch_offset)
        if fetch_offset < segment.base_offset:  # in a gap that a repair has left: on with what follows it
            fetch_offset = segment.base_offset
            if fetch_offset >= up_to_offset:
                return []
        while True:
            begin = segment.position_of(fetch_offset)
            data = self._bytes(segment, begin, max_bytes, up_to_offset)
            if data and segment.is_verified(begin, begin + len(data)):
                return [data]
            if data:
                good, problem = self._check(segment, begin, data, fetch_offset, up_to_offset)
                if good:
                    segment.note_verified(begin, begin + good)
                    return [data if good == len(data) else data[:good]]
            else:  # it reaches past what may be seen; or only says so
                problem = self._problem_of(segment, begin)
                if not problem:
                    return []
            if not segment.distrust_index():  # it may have led to the middle of a batch; it is made again once
                damage = segment.note_damage(begin, _offset_at(data, fetch_offset), problem)
                raise StorageCorruption(str(damage), segment.path, begin)

    def _first_at(self, timestamp: int, log_start_offset: int) -> tuple[int, int] | None:
        for segment in self._segments:
            if segment.size and segment.next_offset > log_start_offset and segment.max_timestamp >= timestamp:
                self.keep_open(segment)
                found = segment.find_timestamp(timestamp, log_start_offset)
                if found is not None:
                    return found
        return None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except StorageCorruption as error:
            raise CorruptRecordError(str(error)) from error
        except OSError as error:
            raise storage_error(f"{self._directory}: read failed", error) from error

    def _holding(self, offset: int) -> Segment:
        place = max(bisect_right(self._bases, offset) - 1, 0)
        segment = self._segments[place]
        if offset >= segment.next_offset and place + 1 < len(self._segments):
            segment = self._segments[place + 1]
        self.keep_open(segment)
        return segment

    def _bytes(self, segment: Segment, begin: int, max_bytes: int, up_to_offset: int) -> bytes:
        end = segment.read_end(begin, max_bytes, up_to_offset)
        if end <= begin:
            return b""
        return segment.read(begin, end)

    def _problem_of(self, segment: Segment, begin: int) -> str:
        """Say what is wrong with the one batch at ``begin``; "" if nothing is."""
        if segment.is_verified(begin, begin + 1):
            return ""
        try:
            header = parse_header(segment.file().pread(HEADER_BYTES, begin))
        except CorruptRecordError as error:
            return error.detail
        return check_batches(segment.file().pread(header.length, begin), -1, self._epochs.epoch_at)[2]

    def _check(
        self, segment: Segment, begin: int, data: bytes, fetch_offset: int, up_to_offset: int
    ) -> tuple[int, str]:
        """Return how many bytes of ``data`` are sound, and why not more."""
        good, next_offset, problem = check_batches(data, -1, self._epochs.epoch_at)
        if not good:
            return 0, problem
        first = parse_header(data)
        if not first.base_offset <= fetch_offset < first.next_offset:
            return 0, f"base offset {first.base_offset}, a batch of {fetch_offset} was expected"
        if next_offset > min(up_to_offset, segment.next_offset):
            return 0, f"it ends at offset {next_offset}"
        if begin + good == segment.size and next_offset < segment.next_offset:
            problem = f"the segment ends at offset {next_offset}, the next one begins at {segment.next_offset}"
        if problem:
            segment.note_damage(begin + good, next_offset, problem)
        return good, problem


def _offset_at(data: bytes, fetch_offset: int) -> int:
    """Return the base offset that a damaged batch states, if it may be true."""
    try:
        header = parse_header(data)
    except CorruptRecordError:
        return fetch_offset
    return header.base_offset if header.base_offset <= fetch_offset < header.next_offset else fetch_offset
