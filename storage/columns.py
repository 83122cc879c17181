"""The columns of a batch: what lies behind its header, as Arrow lays out variable-size binary data.

One batch holds up to five columns, in this order. Each *buffer* begins at a multiple of 8 bytes from the start of
the block and is padded with zeros to one. All numbers in columns are little-endian, as in Arrow (the header before
them is big-endian, as in Kafka).

    timestamps   int64 per record, ms since 1970               absent: all equal the header's base timestamp
    keys         validity bitmap | int32 offsets, count+1 | data    absent: all null; bitmap only if some are null
    values       the same
    headers      int32 offsets, count+1 | data                 absent: no record has headers
    deltas       int32 per record: its offset - base offset    absent: 0, 1, 2, … (nothing was compacted away)

A bit of the bitmap is 1 where there is a value, least significant bit first. Offsets begin at 0, never fall, and end
at the length of the data (without padding). The data of one record's headers is nothing at all when it has none, else

    uint32 count, then for each: uint32 name length, name (UTF-8), int32 value length (-1: null), value

Before the block stands the directory, 32 bytes that are never compressed: from it, and the record count in the
header, every buffer's place follows, so a reader checks all bounds before it touches a column.

    uint32 flags | uint32 block bytes | uint32 stored bytes | uint32 key bytes | uint32 value bytes |
    uint32 header bytes | uint32 0 | uint32 0

``block bytes`` is the size of the block as laid out above, ``stored bytes`` its size in the batch, which is smaller
when it is compressed. Flags that are not known are refused: they are room for later columns.

Speed: offsets come from ``accumulate(map(len, …))`` and data from one ``join``, both loops in C. The usual case (no
nulls) is tried first and the exception tells the other one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import countOf, lt
from typing import NamedTuple

from ..errors import CorruptRecordError, IllegalArgumentError
from ..model import Header

HAS_TIMESTAMPS, HAS_KEYS, SOME_KEYS_NULL, HAS_VALUES, SOME_VALUES_NULL, HAS_HEADERS, HAS_DELTAS = 1, 2, 4, 8, 16, 32, 64
KNOWN_FLAGS = 127

DIRECTORY = struct.Struct("<8I")
INT32_MAX = (1 << 31) - 1
MANY_BYTES = 1 << 16  # that are cut into items with one call

_PADDING = [b"\0" * n for n in range(8)]
_COUNT = struct.Struct("<I")
_LENGTH = struct.Struct("<i")

Buffers = list[bytes]


class Directory(NamedTuple):
    """Where the columns are. Sizes in bytes; ``block_bytes`` expanded, ``stored_bytes`` as in the batch."""

    flags: int
    block_bytes: int
    stored_bytes: int
    key_bytes: int
    value_bytes: int
    header_bytes: int
    reserved_1: int = 0
    reserved_2: int = 0


class Place(NamedTuple):
    """Where one column's buffers begin in the block; -1: there is no such buffer."""

    validity: int
    offsets: int
    data: int
    data_bytes: int


class Places(NamedTuple):
    """Where every column is, and where the block ends. ``None``/-1: absent."""

    timestamps: int
    keys: Place | None
    values: Place | None
    headers: Place | None
    deltas: int
    end: int


def padded(size: int) -> int:
    return (size + 7) & ~7


def padding(size: int) -> bytes:
    """Return the zeros that bring ``size`` to a multiple of 8."""
    return _PADDING[-size & 7]


# -- encode ----------------------------------------------------------------------------------------


def encode_timestamps(timestamps: Sequence[int]) -> bytes:
    try:
        return struct.pack(f"<{len(timestamps)}q", *timestamps)
    except struct.error:
        raise IllegalArgumentError("timestamps must be integers that fit 64 bits") from None


def encode_deltas(deltas: Sequence[int]) -> bytes:
    column = struct.pack(f"<{len(deltas)}i", *deltas)
    return column + padding(len(column))


def even_width(items: Sequence[bytes]) -> int:
    """Return the length that all items have; -1: some differ, or there are none. TypeError: some have no length."""
    if not items:
        return -1
    width = len(items[0])
    return width if countOf(map(len, items), width) == len(items) else -1


def encode_binary(items: Sequence[bytes | None], what: str, width: int = -1) -> tuple[Buffers, int, bool]:
    """Return the buffers of a keys or values column, its data length, and whether a bitmap is among them.

    No buffers at all when every item is null. ``width``: their ``even_width``, from who knows it already.

    Raises:
        IllegalArgumentError: an item is neither bytes nor None, or all together exceed 2 GiB.
    """
    try:
        return _encode_dense(items, what, width)  # type: ignore[arg-type]  # a null makes it raise TypeError
    except TypeError:
        nulls = list(items).count(None)
    if nulls == len(items):
        return [], 0, False
    strange: set[type] = {type(item) for item in items} - {bytes, type(None)}
    if strange:
        raise IllegalArgumentError(f"{what}s must be bytes or None, not {strange.pop().__name__}")
    buffers, data_bytes, _ = _encode_dense([b"" if item is None else item for item in items], what)
    bitmap = _encode_bitmap([item is not None for item in items])
    return [bitmap, *buffers], data_bytes, True


def encode_headers(headers: Sequence[Sequence[Header]]) -> tuple[Buffers, int]:
    """Return the buffers of the headers column and its data length; no buffers when no record has headers."""
    if not any(headers):
        return [], 0
    buffers, data_bytes, _ = _encode_dense([_encode_header_list(each) if each else b"" for each in headers], "header")
    return buffers, data_bytes


def _encode_dense(items: Sequence[bytes], what: str, width: int = -1) -> tuple[Buffers, int, bool]:
    if width < 0:
        width = even_width(items)
    try:
        if width >= 0:  # all of one size: the offsets are known, and were perhaps used before
            offsets = _even_offsets(len(items), width)
        else:
            offsets = struct.pack(f"<{len(items) + 1}i", *accumulate(map(len, items), initial=0))
    except struct.error:
        raise IllegalArgumentError(f"the {what}s of one batch exceed {INT32_MAX} bytes") from None
    data_bytes: int = _LENGTH.unpack_from(offsets, len(offsets) - 4)[0]
    data = b"".join([*items, padding(data_bytes)])
    if len(data) != padded(data_bytes):  # a memoryview of wide items: its len() counts items
        raise IllegalArgumentError(f"{what}s must be bytes or None")
    if len(offsets) & 7:
        offsets += padding(len(offsets))
    return [offsets, data], data_bytes, False


@lru_cache(maxsize=8)
def _even_offsets(count: int, width: int) -> bytes:
    if not width:
        return bytes(4 * (count + 1))
    return struct.pack(f"<{count + 1}i", *range(0, count * width + 1, width))


def _encode_bitmap(present: Sequence[bool]) -> bytes:
    # A number with one binary digit a record, first record last, is the bitmap when written little-endian.
    digits = "".join("1" if each else "0" for each in reversed(present))
    return int(digits, 2).to_bytes(padded((len(present) + 7) // 8), "little")


def _encode_header_list(headers: Sequence[Header]) -> bytes:
    parts = [_COUNT.pack(len(headers))]
    try:
        for name, value in headers:
            raw = name.encode()
            parts += (_COUNT.pack(len(raw)), raw)
            parts += (_LENGTH.pack(-1),) if value is None else (_LENGTH.pack(len(value)), value)
        return b"".join(parts)
    except (TypeError, ValueError, AttributeError):
        raise IllegalArgumentError("headers must be a list of (str, bytes or None) pairs") from None


# -- decode ----------------------------------------------------------------------------------------


def places_of(directory: Directory, count: int) -> Places:
    """Return where each buffer is in the block of ``count`` records; does the arithmetic only."""
    flags, at = directory.flags, 0
    timestamps = -1
    if flags & HAS_TIMESTAMPS:
        timestamps, at = at, at + 8 * count
    keys = values = headers = None
    if flags & HAS_KEYS:
        keys, at = _place(at, count, directory.key_bytes, bool(flags & SOME_KEYS_NULL))
    if flags & HAS_VALUES:
        values, at = _place(at, count, directory.value_bytes, bool(flags & SOME_VALUES_NULL))
    if flags & HAS_HEADERS:
        headers, at = _place(at, count, directory.header_bytes, has_validity=False)
    deltas = -1
    if flags & HAS_DELTAS:
        deltas, at = at, at + padded(4 * count)
    return Places(timestamps, keys, values, headers, deltas, at)


def check_directory(directory: Directory, count: int, room: int, is_compressed: bool) -> Places:
    """Return where each column is, having checked that all of it fits.

    Args:
        room: bytes between the directory and the end of the batch.

    Raises:
        CorruptRecordError: flags that are not known or contradict each other, or sizes that do not add up.
    """
    flags = directory.flags
    if flags & ~KNOWN_FLAGS or directory.reserved_1 or directory.reserved_2:
        raise CorruptRecordError(f"column flags {flags:#x} are not known")
    if (flags & SOME_KEYS_NULL and not flags & HAS_KEYS) or (flags & SOME_VALUES_NULL and not flags & HAS_VALUES):
        raise CorruptRecordError(f"column flags {flags:#x} name a bitmap of an absent column")
    absent_bytes = (0 if flags & HAS_KEYS else directory.key_bytes) or (
        (0 if flags & HAS_VALUES else directory.value_bytes) or (0 if flags & HAS_HEADERS else directory.header_bytes)
    )
    if absent_bytes:
        raise CorruptRecordError("the column directory gives bytes to an absent column")
    places = places_of(directory, count)
    if places.end != directory.block_bytes:
        raise CorruptRecordError(f"columns of {places.end} bytes in a block of {directory.block_bytes}")
    if not is_compressed and directory.stored_bytes != directory.block_bytes:
        raise CorruptRecordError("an uncompressed block has two sizes")
    if padded(directory.stored_bytes) != room:
        raise CorruptRecordError(f"a block of {directory.stored_bytes} bytes in a batch with room for {room}")
    return places


def decode_timestamps(block: memoryview, at: int, count: int) -> list[int]:
    return list(struct.unpack_from(f"<{count}q", block, at))


def decode_deltas(block: memoryview, at: int, count: int, last_delta: int) -> list[int]:
    """Return how far the offset of each record lies behind the batch's base offset, checked.

    Raises:
        CorruptRecordError: they do not grow from record to record, or leave the batch's range.
    """
    deltas = list(struct.unpack_from(f"<{count}i", block, at))
    if deltas and (deltas[0] < 0 or deltas[-1] > last_delta or not all(map(lt, deltas, deltas[1:]))):
        raise CorruptRecordError("the offsets of a batch's records are out of order")
    return deltas


def decode_offsets(block: memoryview, place: Place, count: int) -> list[int]:
    """Return the ``count + 1`` offsets into the column's data, checked.

    Raises:
        CorruptRecordError: they do not begin at 0, fall, or do not end at the data's length.
    """
    offsets = list(struct.unpack_from(f"<{count + 1}i", block, place.offsets))
    if offsets[0] != 0 or offsets[-1] != place.data_bytes or offsets != sorted(offsets):
        raise CorruptRecordError("the offsets of a column are out of order")
    return offsets


def decode_binary(block: memoryview, place: Place, count: int) -> list[bytes | None]:
    """Return one item a record; each is a copy of its own, so none keeps the batch alive."""
    offsets = decode_offsets(block, place, count)
    view = block[place.data : place.data + place.data_bytes]
    items: list[bytes | None]
    width = offsets[1]
    if width and offsets == list(range(0, width * count + 1, width)):  # all of one size: twice as fast
        items = _even_items(view, width)
    else:
        data = bytes(view)
        items = [data[a:b] for a, b in pairwise(offsets)]
    if place.validity >= 0:
        present = decode_bitmap(block, place.validity, count)
        items = [item if bit == "1" else None for item, bit in zip(items, present, strict=True)]
    return items


def _even_items(data: memoryview, width: int) -> list[bytes | None]:
    """Cut into items of one size, many with each call: a third of the time that a slice for each takes."""
    many = _many_of(width)
    whole = len(data) - len(data) % many.size
    items: list[bytes | None] = []
    for some in many.iter_unpack(data[:whole]):
        items += some
    items += [item for (item,) in struct.iter_unpack(f"{width}s", data[whole:])]
    return items


@lru_cache(maxsize=16)
def _many_of(width: int) -> struct.Struct:
    return struct.Struct(f"{width}s" * max(1, min(256, MANY_BYTES // width)))


def decode_bitmap(block: memoryview, at: int, count: int) -> str:
    """Return "1" or "0" for each record, first record first."""
    number = int.from_bytes(block[at : at + (count + 7) // 8], "little") & ((1 << count) - 1)
    return f"{number:0{count}b}"[::-1]


def decode_headers(block: memoryview, place: Place, count: int) -> tuple[list[list[Header]], list[int]]:
    """Return each record's headers, and the bytes that they take (-1: it has none)."""
    offsets = decode_offsets(block, place, count)
    data = bytes(block[place.data : place.data + place.data_bytes])
    lists = [_decode_header_list(data, a, b) for a, b in pairwise(offsets)]
    return lists, [b - a if b > a else -1 for a, b in pairwise(offsets)]


def _place(at: int, count: int, data_bytes: int, has_validity: bool) -> tuple[Place, int]:
    validity = -1
    if has_validity:
        validity, at = at, at + padded((count + 7) // 8)
    data = at + padded(4 * (count + 1))
    return Place(validity, at, data, data_bytes), data + padded(data_bytes)


def _decode_header_list(data: bytes, at: int, end: int) -> list[Header]:
    if at == end:
        return []
    try:
        return list(_header_pairs(data, at, end))
    except (struct.error, UnicodeDecodeError, CorruptRecordError):
        raise CorruptRecordError("the headers of a record do not add up") from None


def _header_pairs(data: bytes, at: int, end: int) -> Iterable[Header]:
    (count,) = _COUNT.unpack_from(data, at)
    at += 4
    for _ in range(count):
        name, at = _take(data, at + 4, _COUNT.unpack_from(data, at)[0], end)
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4
        if length == -1:
            yield name.decode(), None
        else:
            value, at = _take(data, at, length, end)
            yield name.decode(), value
    if at != end:
        raise CorruptRecordError("bytes behind the last header")


def _take(data: bytes, at: int, length: int, end: int) -> tuple[bytes, int]:
    if length < 0 or at + length > end:
        raise CorruptRecordError("a header reaches past its record")
    return data[at : at + length], at + length
