"""Where batches are in a segment, roughly: one entry for every few KiB, so that a read or a search starts near.

An entry is made for the first batch that begins at least ``interval_bytes`` behind the last entry. It holds the
batch's base offset, its position, and the greatest timestamp of all records *before* it. Offsets and positions grow
strictly, timestamps never fall; so all three are searched by bisection: the first two are the offset index, the
third is the time index.

The file beside a segment is written when the segment is full, and at a clean close. It is never believed on its
word: it bears a checksum and the segment's size, and whatever does not fit is rebuilt from the segment. After an
unclean stop the files at and above the recovery point are deleted unread.

    "CBIX" | int32 version 1 | int64 base offset | int64 segment bytes | int64 next offset | int64 max timestamp |
    int64 entries n | n int64 offsets | n int64 positions | n int64 timestamps | uint32 CRC-32C of all before

All numbers are little-endian.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

import google_crc32c

from .batch import NO_TIMESTAMP as NO_TIMESTAMP  # nothing lies before the first batch

_HEAD = struct.Struct("<4si5q")
_CRC = struct.Struct("<I")
_MAGIC, _VERSION = b"CBIX", 1


class IndexedSegment(NamedTuple):
    """What an index file says of its segment."""

    entries: SparseIndex
    next_offset: int
    max_timestamp: int


class SparseIndex:
    """The entries of one segment. All positions are where a batch begins."""

    __slots__ = ("_is_forced", "interval_bytes", "offsets", "positions", "timestamps")

    def __init__(self, interval_bytes: int) -> None:
        self.interval_bytes = interval_bytes
        self.offsets = array("q")
        self.positions = array("q")
        self.timestamps = array("q")
        self._is_forced = False

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, base_offset: int, position: int, max_timestamp_before: int) -> None:
        """Tell of one batch; batches are told in order. An entry is made if the last one is far enough."""
        if self.positions and position - self.positions[-1] < max(self.interval_bytes, 1) and not self._is_forced:
            return
        self._is_forced = False
        self.offsets.append(base_offset)
        self.positions.append(position)
        self.timestamps.append(max_timestamp_before)

    def force_next(self) -> None:
        """Make an entry of the next batch, however near: what lies before it cannot be walked over."""
        self._is_forced = True

    def entry_before(self, offset: int, base_offset: int) -> tuple[int, int]:
        """Return the last known batch at or before ``offset``: its offset and position; the segment's begin if none."""
        place = bisect_right(self.offsets, offset)
        return (self.offsets[place - 1], self.positions[place - 1]) if place else (base_offset, 0)

    def position_before(self, offset: int) -> int:
        """Return the greatest known position whose batch begins at or before ``offset``; 0 when none is known."""
        place = bisect_right(self.offsets, offset)
        return self.positions[place - 1] if place else 0

    def boundary_before(self, position: int) -> int:
        """Return the greatest known place where a batch begins that is not behind ``position``."""
        place = bisect_right(self.positions, position)
        return self.positions[place - 1] if place else 0

    def position_for_timestamp(self, timestamp: int) -> tuple[int, int]:
        """Return where to begin looking for the first record at or after ``timestamp``: position, and index place.

        Every record before that position is older.
        """
        place = bisect_left(self.timestamps, timestamp)
        return self.positions[place - 1] if place else 0, max(place - 1, 0)

    def truncate(self, size: int) -> None:
        """Forget the entries at or behind ``size``."""
        place = bisect_left(self.positions, size)
        del self.offsets[place:], self.positions[place:], self.timestamps[place:]

    def to_bytes(self, base_offset: int, size: int, next_offset: int, max_timestamp: int) -> bytes:
        head = _HEAD.pack(_MAGIC, _VERSION, base_offset, size, next_offset, max_timestamp, len(self))
        raw = head + b"".join(_little(column) for column in (self.offsets, self.positions, self.timestamps))
        return raw + _CRC.pack(google_crc32c.value(raw))


def load_index(data: bytes, base_offset: int, size: int, interval_bytes: int) -> IndexedSegment | None:
    """Return what an index file says of the segment of that base offset and size; None: rebuild it."""
    if len(data) < _HEAD.size + _CRC.size:
        return None
    magic, version, base, bytes_indexed, next_offset, max_timestamp, count = _HEAD.unpack_from(data)
    if (magic, version, base, bytes_indexed) != (_MAGIC, _VERSION, base_offset, size) or count < 0:
        return None
    if len(data) != _HEAD.size + 24 * count + _CRC.size:
        return None
    if google_crc32c.value(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        return None
    index = SparseIndex(interval_bytes)
    at = _HEAD.size
    for column in (index.offsets, index.positions, index.timestamps):
        column.frombytes(data[at : at + 8 * count])
        if sys.byteorder == "big":
            column.byteswap()
        at += 8 * count
    return IndexedSegment(index, next_offset, max_timestamp)


def _little(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = array("q", column)
        column.byteswap()
    return column.tobytes()
