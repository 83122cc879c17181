"""Whether stored bytes are still the batches they were: the checks of a read, and the way on behind damage.

A batch is guarded in all its bytes, by different things: the checksum covers everything from byte 21 on and, through
the number of bytes it is computed over, the length; the base offset must be where the batch before it ended; the
leader epoch must be the one that the log's history has for that offset.

Rules of this file:

1. Damage is told with segment, position and offsets. It is never cut here, and never skipped silently.
2. What this process has written, or has checked once, is not checked again: ``Ranges`` remembers it.
3. Behind damage a batch is believed only if its checksum holds and its offset fits (``find_batch``).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import CorruptRecordError, InvariantViolated
from .batch import HEADER_BYTES, KNOWN_MAGICS, BatchHeader, check_crc, parse_header
from .files import File

WINDOW_BYTES = 1 << 20  # read at once; a larger batch is read alone
MAGIC_AT = 16


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a segment that cannot be served. Positions and offsets are half-open."""

    path: str
    position: int
    end_position: int
    offset: int
    next_offset: int
    problem: str

    @property
    def is_loss(self) -> bool:
        """Whether records are missing; else there are only bytes behind the last batch of a segment."""
        return self.next_offset > self.offset

    def __str__(self) -> str:
        where = f"{self.path} at {self.position}: {self.problem}"
        if not self.is_loss:
            return f"{where}; bytes behind the segment's last batch, no offset is missing"
        return f"{where}; offsets {self.offset} to {self.next_offset - 1} cannot be read"


class Ranges:
    """Half-open ranges of positions, merged where they touch."""

    __slots__ = ("_begins", "_ends")

    def __init__(self) -> None:
        self._begins: list[int] = []  # ascending; as many as ends
        self._ends: list[int] = []  # ends[i] < begins[i + 1]

    def __len__(self) -> int:
        return len(self._begins)

    def add(self, begin: int, end: int) -> None:
        first = bisect_left(self._ends, begin)
        last = bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last] = [begin]
        self._ends[first:last] = [end]

    def covers(self, begin: int, end: int) -> bool:
        place = bisect_right(self._begins, begin) - 1
        return place >= 0 and end <= self._ends[place]

    def truncate(self, end: int) -> None:
        """Forget everything at or behind ``end``."""
        while self._begins and self._begins[-1] >= end:
            self._begins.pop()
            self._ends.pop()
        if self._ends and self._ends[-1] > end:
            self._ends[-1] = end


EpochOf = Callable[[int], int]  # the epoch that a log's history has for an offset; -1: it has none


def any_epoch(_offset: int) -> int:
    return -1


def check_batches(data: bytes, expected: int, epoch_of: EpochOf) -> tuple[int, int, str]:
    """Return how many bytes of ``data`` are whole sound batches, the offset behind them, and why not more ("": all).

    Args:
        expected: the offset that the first batch must bear; -1: whatever it says.
    """
    at = 0
    while at < len(data):
        try:
            header = parse_header(data, at)
            if at + header.length > len(data):
                return at, expected, f"a batch of {header.length} bytes, {len(data) - at} are there"
            if problem := misplaced(header, header.base_offset if expected < 0 else expected, epoch_of):
                return at, expected, problem
            check_crc(data, at, header)
        except CorruptRecordError as error:
            return at, expected, error.detail
        at, expected = at + header.length, header.next_offset
    return at, expected, ""


def misplaced(header: BatchHeader, expected: int, epoch_of: EpochOf) -> str:
    """Say why a batch does not belong where it is; "" if it does. What is checked lies outside the checksum."""
    if header.base_offset != expected:
        return f"base offset {header.base_offset}, expected {expected}"
    epoch = epoch_of(header.last_offset)
    if 0 <= epoch != header.leader_epoch:
        return f"leader epoch {header.leader_epoch}, the log's history says {epoch}"
    return ""


def require_next(
    where: str, batches: Sequence[object], headers: Sequence[BatchHeader], expected: int, epoch: int
) -> None:
    """Make sure that batches follow a log that ends at ``expected`` in ``epoch``.

    Raises:
        InvariantViolated: one does not.
    """
    if len(batches) != len(headers):
        raise InvariantViolated(f"{len(batches)} batches with {len(headers)} headers")
    for header in headers:
        if header.base_offset != expected or header.leader_epoch < epoch:
            raise InvariantViolated(
                f"{where}: batch at {header.base_offset} of epoch {header.leader_epoch} "
                f"cannot follow offset {expected} of epoch {epoch}"
            )
        expected, epoch = header.next_offset, header.leader_epoch


def find_batch(file: File, begin: int, end: int, expected: int, below: int | None = None) -> tuple[int, int]:
    """Return position and base offset of the next whole batch between two positions, or (-1, -1).

    Args:
        expected: it bears this offset or a later one.
        below: and it ends at or below this one, if that is known.
    """
    window_at = begin
    while window_at + HEADER_BYTES <= end:
        data = file.pread(min(WINDOW_BYTES + HEADER_BYTES, end - window_at), window_at)
        for at in _candidates(data):
            try:
                header = parse_header(data, at)
                if header.base_offset < expected or window_at + at + header.length > end:
                    continue
                if below is not None and header.next_offset > below:
                    continue
                whole = file.pread(header.length, window_at + at)
                if len(whole) == header.length:
                    check_crc(whole, 0, header)
                    return window_at + at, header.base_offset
            except CorruptRecordError:
                continue
        if len(data) <= HEADER_BYTES:
            break
        window_at += len(data) - HEADER_BYTES + 1
    return -1, -1


def scan(
    file: File, begin: int, end: int, expected: int, next_offset: int | None, epoch_of: EpochOf
) -> Iterator[tuple[BatchHeader, int] | Damage]:
    """Read every batch between two positions and check it: yield header and position, or the damage in between.

    Args:
        expected: the offset of the first one.
        next_offset: the offset behind the last one, if it is known.
    """
    position, data, data_at = begin, b"", begin
    while position < end:
        data, data_at = window(file, data, data_at, position, HEADER_BYTES, end)
        try:
            header = parse_header(data, position - data_at)
            problem = misplaced(header, expected, epoch_of)
            if not problem and position + header.length > end:
                problem = f"a batch of {header.length} bytes, {end - position} are there"
            if not problem:
                data, data_at = window(file, data, data_at, position, header.length, end)
                check_crc(data, position - data_at, header)
        except CorruptRecordError as error:
            problem = error.detail
        if not problem:
            yield header, position
            position, expected = position + header.length, header.next_offset
            continue
        found, offset = find_batch(file, position + 1, end, expected + 1, next_offset)
        if found < 0:
            found, offset = end, (expected + 1 if next_offset is None else max(next_offset, expected))
        yield Damage(file.path, position, found, expected, offset, problem)
        position, expected = found, offset
    if next_offset is not None and expected < next_offset:
        problem = f"it ends at offset {expected}, {next_offset} was expected"
        yield Damage(file.path, end, end, expected, next_offset, problem)


def window(file: File, data: bytes, data_at: int, position: int, wanted: int, end: int) -> tuple[bytes, int]:
    """Return bytes of the file, and where they begin, that hold ``wanted`` bytes from ``position`` on if there are."""
    if position + wanted <= data_at + len(data):
        return data, data_at
    return file.pread(min(max(wanted, WINDOW_BYTES), end - position), position), position


def _candidates(data: bytes) -> list[int]:
    """Return every place where a header could begin."""
    last = len(data) - HEADER_BYTES
    found = (at - MAGIC_AT for magic in KNOWN_MAGICS for at in _places(data, magic))
    return sorted(at for at in found if at <= last)


def _places(data: bytes, byte: int) -> Iterator[int]:
    at = data.find(byte, MAGIC_AT)
    while at >= 0:
        yield at
        at = data.find(byte, at + 1)
