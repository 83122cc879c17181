"""One file of a log: batches one behind the other, named by the offset of the first.

A segment answers two questions for a read: where does the batch lie that holds an offset, and where may the read
end. Three things answer them, the nearest first:

- the *tail*: offset and position of the last thousands of batches, in memory, exact. Consumers that keep up live here;
- the *index*: sparse, exact at its entries only; from an entry on, headers are walked;
- a *walk* over the headers, when the index is missing for a part (``gap``), which fills it.

Every position given out is where a batch begins. What is read is whole batches, so nothing is copied to trim it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..errors import CorruptRecordError, InvariantViolated, StorageCorruption
from .batch import HEADER_BYTES, BatchHeader, decode_batch, parse_header
from .files import Buffer, File, Files
from .index import NO_TIMESTAMP, SparseIndex, load_index
from .verification import Damage, Ranges, any_epoch, find_batch, scan

LOG_SUFFIX, INDEX_SUFFIX = ".log", ".index"
TAIL_BATCHES = 2_048  # kept exactly; twice as many at most
WALK_BYTES = 8 * 1024  # read at once when headers are walked: some fifty small batches


def segment_name(base_offset: int) -> str:
    return f"{base_offset:020d}"


def base_offset_of(name: str) -> int | None:
    """Return the base offset that a file name bears, or None when it is not a segment's."""
    stem = name.removesuffix(LOG_SUFFIX)
    return int(stem) if stem != name and len(stem) == 20 and stem.isdecimal() and stem.isascii() else None


class Mark(NamedTuple):
    """The end of a segment at some moment, to go back to."""

    size: int
    next_offset: int
    max_timestamp: int


class Segment:
    """One segment; the last one of a log is appended to, the others are sealed.

    ``gap``: bytes from the start of which the index knows nothing yet. ``size`` and ``next_offset`` are always true.
    """

    def __init__(
        self,
        files: Files,
        directory: str,
        base_offset: int,
        index_interval_bytes: int,
        *,
        size: int = 0,
        next_offset: int | None = None,
        gap: int = 0,
        may_load_index: bool = False,
        created_ms: int = 0,
    ) -> None:
        self.base_offset = base_offset
        self.path = f"{directory}/{segment_name(base_offset)}{LOG_SUFFIX}"
        self.index_path = f"{directory}/{segment_name(base_offset)}{INDEX_SUFFIX}"
        self.size = size  # bytes of whole batches
        self.next_offset = base_offset if next_offset is None else next_offset  # >= base_offset
        self.created_ms = created_ms  # wall clock of the first append; read by rolling
        self.gap = gap  # <= size
        self.unverified = gap  # <= size; bytes from the start that this process neither wrote nor scanned
        self.damage: dict[int, Damage] = {}  # found so far, by position; never served, never cut
        self._verified = Ranges()  # of the unverified part: what a read has checked
        self._is_index_rebuilt = False
        self._may_load_index = may_load_index
        self._files = files
        self._file: File | None = None
        self._index = SparseIndex(index_interval_bytes)
        self._max_timestamp = NO_TIMESTAMP  # of what is behind the gap
        self._tail_offsets: list[int] = []
        self._tail_positions: list[int] = []

    # -- the file ------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._file is not None

    def file(self) -> File:
        """Return the file, opened when it is first needed."""
        if self._file is None:
            self._file = self._files.open(self.path)
        return self._file

    def create(self) -> None:
        self.create_as(self.path)

    def create_as(self, path: str) -> None:
        """Create it under another name, which it bears until somebody renames it; meanwhile it must stay open."""
        self._file = self._files.open(path, create=True)
        if self._file.size:
            self._file.truncate(0)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def remove(self) -> None:
        """Remove the files; the caller syncs the directory."""
        self.close()
        self._files.remove(self.path)
        if self._files.exists(self.index_path):
            self._files.remove(self.index_path)

    # -- growing and shrinking -------------------------------------------------------------------------

    def append(self, frames: Sequence[Buffer], headers: Sequence[BatchHeader]) -> None:
        """Write whole batches at the end. After an ``OSError`` nothing is noted: ``cut_to`` a mark."""
        if self.gap and self._may_load_index:
            self._may_load_index = self._load_index()  # while the file still fits it
        file = self.file()
        if file.size != self.size:
            raise InvariantViolated(f"{self.path} has {file.size} bytes, its log knows {self.size}")
        file.append(frames)
        for header in headers:
            self.note(header)
        if file.size != self.size:
            raise InvariantViolated(f"{self.path} has {file.size} bytes, its batches {self.size}")

    def note(self, header: BatchHeader) -> None:
        """Know one more batch, which is in the file behind those known so far."""
        position = self.size
        self._index.add(header.base_offset, position, self._max_timestamp)
        self._tail_offsets.append(header.base_offset)
        self._tail_positions.append(position)
        if len(self._tail_offsets) > 2 * TAIL_BATCHES:
            del self._tail_offsets[:-TAIL_BATCHES], self._tail_positions[:-TAIL_BATCHES]
        self.size = position + header.length
        self.next_offset = header.next_offset
        if header.max_timestamp > self._max_timestamp:
            self._max_timestamp = header.max_timestamp

    @property
    def mark(self) -> Mark:
        return Mark(self.size, self.next_offset, self._max_timestamp)

    def cut_to(self, mark: Mark) -> None:
        """Cut the file and everything known about it back to ``mark``."""
        self.file().truncate(mark.size)
        self._index.truncate(mark.size)
        while self._tail_positions and self._tail_positions[-1] >= mark.size:
            self._tail_positions.pop()
            self._tail_offsets.pop()
        self.size, self.next_offset, self._max_timestamp = mark
        self.gap = min(self.gap, self.size)
        self.unverified = min(self.unverified, self.size)
        self._verified.truncate(self.size)
        self.damage = {at: damage for at, damage in self.damage.items() if at < self.size}

    def mark_before(self, offset: int) -> Mark:
        """Return the mark at the batch that holds ``offset``, or that follows it; reads the headers before it."""
        size, next_offset, greatest = 0, self.base_offset, NO_TIMESTAMP
        for header, position in walk(self.file(), 0, self.size):
            if header.next_offset > offset:
                break
            size, next_offset = position + header.length, header.next_offset
            greatest = max(greatest, header.max_timestamp)
        return Mark(size, next_offset, greatest)

    # -- looking up ------------------------------------------------------------------------------------

    @property
    def max_timestamp(self) -> int:
        """The greatest timestamp in the segment; ``NO_TIMESTAMP`` when it is empty."""
        self._close_gap()
        return self._max_timestamp

    def position_of(self, offset: int) -> int:
        """Return where the batch begins that holds ``offset``.

        Raises:
            StorageCorruption: headers on the way are damaged.
        """
        if self._tail_offsets and offset >= self._tail_offsets[0]:
            return self._tail_positions[bisect_right(self._tail_offsets, offset) - 1]
        self._close_gap()
        try:
            return self._walk_to(offset)
        except StorageCorruption:
            if not self.distrust_index():  # the index may have led to the middle of a batch, or into damage
                raise
            return self._walk_to(offset)

    def read_end(self, begin: int, max_bytes: int, up_to_offset: int) -> int:
        """Return where a read from ``begin`` ends: behind whole batches, at least one if it may be read at all.

        Nothing at or behind ``up_to_offset`` lies before the returned position.
        """
        is_all_visible = up_to_offset >= self.next_offset
        limit = begin + max_bytes
        if is_all_visible and limit >= self.size:
            return self.size
        if self._tail_positions and begin >= self._tail_positions[0]:
            return self._read_end_in_tail(begin, limit, up_to_offset)
        self._close_gap()
        by_size = self.size if limit >= self.size else self._index.boundary_before(limit)
        by_offset = self.size if is_all_visible else self._index.position_before(up_to_offset)
        end = min(by_size, by_offset)
        return end if end > begin else self._walk_end(begin, limit, up_to_offset)

    def read(self, begin: int, end: int) -> bytes:
        """Return the bytes of whole batches.

        Raises:
            StorageCorruption: the file is shorter than it was.
        """
        data = self.file().pread(end - begin, begin)
        if len(data) != end - begin:
            raise StorageCorruption(f"{self.path} ends before byte {end}", self.path, begin + len(data))
        return data

    def is_verified(self, begin: int, end: int) -> bool:
        """Whether this process wrote or checked these bytes; true for all of them in the long run."""
        return begin >= self.unverified or self._verified.covers(begin, min(end, self.unverified))

    def note_verified(self, begin: int, end: int) -> None:
        if begin < self.unverified:
            self._verified.add(begin, min(end, self.unverified))

    def note_damage(self, position: int, offset: int, problem: str) -> Damage:
        """Remember that the batch of ``offset``, at ``position``, is damaged; find out how far that reaches."""
        known = self.damage.get(position)
        if known is None:
            found, next_offset = find_batch(self.file(), position + 1, self.size, offset + 1, self.next_offset)
            if found < 0:
                found, next_offset = self.size, max(self.next_offset, offset + 1)
            known = self.damage[position] = Damage(self.path, position, found, offset, next_offset, problem)
        return known

    def greatest_timestamp_from(self, offset: int) -> int:
        """Return the greatest timestamp of the records from ``offset`` on; ``NO_TIMESTAMP`` if there are none."""
        if offset <= self.base_offset:
            return self.max_timestamp
        greatest = NO_TIMESTAMP
        if offset < self.next_offset:
            for header, at in walk(self.file(), self.position_of(offset), self.size):
                if header.base_offset >= offset:
                    greatest = max(greatest, header.max_timestamp)
                else:
                    batch = decode_batch(self.read(at, at + header.length))
                    greatest = max([greatest, *batch.timestamps[batch.count_below(offset) :]])
        return greatest

    def find_timestamp(self, timestamp: int, from_offset: int = 0) -> tuple[int, int] | None:
        """Return offset and timestamp of the first record at or after ``timestamp`` and ``from_offset``."""
        self._close_gap()
        position, _ = self._index.position_for_timestamp(timestamp)
        for header, at in walk(self.file(), position, self.size):
            if header.max_timestamp >= timestamp and header.last_offset >= from_offset:
                batch = decode_batch(self.read(at, at + header.length))
                for offset, found in zip(batch.offsets, batch.timestamps, strict=True):
                    if found >= timestamp and offset >= from_offset:
                        return offset, found
        return None

    def headers(self, from_offset: int) -> Iterator[BatchHeader]:
        """Yield the headers of all batches that hold or follow ``from_offset``."""
        begin = self.position_of(from_offset) if self.base_offset < from_offset < self.next_offset else 0
        if from_offset < self.next_offset:
            for header, _ in walk(self.file(), begin, self.size):
                yield header

    def index_bytes(self) -> bytes | None:
        """Return the index file's content; None while the index has a gap."""
        if self.gap:
            return None
        return self._index.to_bytes(self.base_offset, self.size, self.next_offset, self._max_timestamp)

    def distrust_index(self) -> bool:
        """Throw the index away and make it again from the segment; once: False if that has been done."""
        if self._is_index_rebuilt:
            return False
        self._index = SparseIndex(self._index.interval_bytes)
        self._may_load_index = False
        self._is_index_rebuilt = True
        self.gap = self.size
        self._close_gap()
        return True

    # -- inside ----------------------------------------------------------------------------------------

    def _read_end_in_tail(self, begin: int, limit: int, up_to_offset: int) -> int:
        positions, offsets = self._tail_positions, self._tail_offsets
        by_size = self.size if limit >= self.size else positions[bisect_right(positions, limit) - 1]
        if up_to_offset >= self.next_offset:
            by_offset = self.size
        else:
            place = bisect_right(offsets, up_to_offset) - 1
            by_offset = positions[place] if place >= 0 else begin
        end = min(by_size, by_offset)
        if end > begin:
            return end
        following = bisect_right(positions, begin)  # the one batch that is larger than asked for, if it is visible
        is_last = following == len(positions)
        if (self.next_offset if is_last else offsets[following]) > up_to_offset:
            return begin
        return self.size if is_last else positions[following]

    def _walk_to(self, offset: int) -> int:
        """Walk from the nearest place that the index knows; every batch must begin where the one before it ended."""
        expected, position = self._index.entry_before(offset, self.base_offset)
        while position < self.size:
            if (damage := self.damage.get(position)) is not None:
                if offset < damage.next_offset:
                    raise StorageCorruption(str(damage), self.path, position)
                expected, position = damage.next_offset, max(damage.end_position, position + 1)
                continue
            for header, at in walk(self.file(), position, self.size):
                if header.base_offset != expected:
                    problem = f"base offset {header.base_offset}, expected {expected}"
                    raise StorageCorruption(f"{self.path} at {at}: {problem}", self.path, at)
                if header.next_offset > offset:
                    return at
                expected, position = header.next_offset, at + header.length
                if position in self.damage:
                    break
        if (damage := self.damage.get(position)) is not None:
            raise StorageCorruption(str(damage), self.path, position)
        raise StorageCorruption(f"{self.path}: no batch holds offset {offset}", self.path, position)

    def _walk_end(self, begin: int, limit: int, up_to_offset: int) -> int:
        end = begin
        try:
            for header, position in walk(self.file(), begin, self.size):
                following = position + header.length
                if header.next_offset > up_to_offset or (end > begin and following > limit):
                    break
                end = following
        except StorageCorruption:
            if end == begin:
                raise
        return end

    def _close_gap(self) -> None:
        """Fill the part of the index that is not known: from its file if that is whole, else from the headers."""
        if not self.gap:
            return
        if self._may_load_index and self._load_index():
            return
        behind, index, greatest = self._index, SparseIndex(self._index.interval_bytes), NO_TIMESTAMP
        ends_at = behind.offsets[0] if behind.offsets else self.next_offset
        try:
            found = list(_followed(walk(self.file(), 0, self.gap), self.base_offset, ends_at, self.path))
        except StorageCorruption:
            found = list(self._scan_over_damage(ends_at))
        ended_at = 0
        for header, position in found:
            if position != ended_at:
                index.force_next()
            ended_at = position + header.length
            index.add(header.base_offset, position, greatest)
            greatest = max(greatest, header.max_timestamp)
        if ended_at != self.gap:
            index.force_next()
        for offset, position, before in zip(behind.offsets, behind.positions, behind.timestamps, strict=True):
            index.add(offset, position, max(before, greatest))
        self._index, self.gap = index, 0
        self._max_timestamp = max(self._max_timestamp, greatest)

    def _scan_over_damage(self, ends_at: int) -> Iterator[tuple[BatchHeader, int]]:
        """Yield the headers of the sound batches in the gap, checked in all their bytes; note what is damaged."""
        for found in scan(self.file(), 0, self.gap, self.base_offset, ends_at, any_epoch):
            if isinstance(found, Damage):
                self.damage.setdefault(found.position, found)
            else:
                self.note_verified(found[1], found[1] + found[0].length)
                yield found

    def _load_index(self) -> bool:
        if self.gap != self.size:
            return False
        try:
            data = self._files.read_bytes(self.index_path)
        except OSError:
            return False
        found = load_index(data, self.base_offset, self.size, self._index.interval_bytes)
        if found is None or found.next_offset != self.next_offset:
            return False
        self._index, self._max_timestamp, self.gap = found.entries, found.max_timestamp, 0
        return True


def _followed(
    batches: Iterable[tuple[BatchHeader, int]], expected: int, ends_at: int, path: str
) -> Iterator[tuple[BatchHeader, int]]:
    """Yield what it is given, as long as every batch begins where the one before it ended.

    Raises:
        StorageCorruption: one does not, or the last one does not end at ``ends_at``.
    """
    for header, position in batches:
        if header.base_offset != expected:
            raise StorageCorruption(f"{path} at {position}: base offset {header.base_offset}", path, position)
        expected = header.next_offset
        yield header, position
    if expected != ends_at:
        raise StorageCorruption(f"{path} ends at offset {expected}, not at {ends_at}", path)


def walk(file: File, begin: int, end: int) -> Iterator[tuple[BatchHeader, int]]:
    """Yield header and position of each batch between two positions; reads headers, not records.

    Raises:
        StorageCorruption: a header is damaged, or a batch reaches past ``end``.
    """
    data, data_at = b"", begin
    position = begin
    while position < end:
        if position + HEADER_BYTES > data_at + len(data):
            data, data_at = file.pread(min(WALK_BYTES, end - position), position), position
        try:
            header = parse_header(data, position - data_at)
        except CorruptRecordError as error:
            raise StorageCorruption(f"{file.path} at {position}: {error.detail}", file.path, position) from None
        if position + header.length > end:
            problem = f"a batch of {header.length} bytes, {end - position} are left"
            raise StorageCorruption(f"{file.path} at {position}: {problem}", file.path, position)
        yield header, position
        position += header.length
