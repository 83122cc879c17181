"""Record batches: the unit that producers send, logs store, and consumers fetch, always as the same bytes.

    byte  0  base offset         int64    ┐ frame 0, 21 bytes: outside the checksum, so that the leader can say
          8  batch length        int32    │ where a batch lies and in which epoch without touching the rest
         12  leader epoch        int32    │ (length counts from byte 12 on)
         16  magic               int8     │ 0x43 "C": columns; 2: Kafka's rows (refused until there is a listener)
         17  checksum            uint32   ┘ CRC-32C of everything from byte 21 to the end
         21  attributes          int16      bits 0-2: compression; the others are 0
         23  last offset delta   int32      count - 1; more where records were compacted away
         27  base timestamp      int64      of the first record, ms since 1970
         35  max timestamp       int64
         43  producer id         int64      -1: not idempotent
         51  producer epoch      int16
         53  base sequence       int32
         57  record count        int32
         61  zeros               3 bytes
         64  column directory    32 bytes   little-endian, see columns.py
         96  columns             padded to a multiple of 8, compressed as one block if the attributes say so

A batch covers the offsets from its base offset to base offset + last offset delta; the next batch of a log begins
right behind. Compaction (compaction.py) takes records out of that range and leaves the range, down to a batch of none.

The first 61 bytes are Kafka's v2 batch header, big-endian. A batch travels as a list of frames that are never
joined when they are large: the first is the 21-byte prefix, the others are cut wherever the sender likes. On disk and
in a fetch reply a batch is contiguous.

Rules of this file:

1. Nothing but ``check_batch``, ``decode_batch``, ``encode_batch`` and sparse.py knows the columns. Whoever only moves
   or stores batches uses the header, which is the same for every layout.
2. What is checked: ``parse_header`` that the fields are possible, ``check_envelope`` also length and checksum,
   ``check_batch`` also that every column lies inside the batch. None of them reads a record.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property

import google_crc32c
import msgspec

from ..errors import CorruptRecordError, IllegalArgumentError, UnsupportedVersionError
from ..model import Header
from . import columns, compression
from .columns import Directory, Place, Places

PREFIX_BYTES = 21
HEADER_BYTES = 61
COLUMNS_AT = 96  # header, three zeros, directory
LENGTH_COUNTS_FROM = 12

MAGIC_ROWS = 2
MAGIC_COLUMNS = 0x43
KNOWN_MAGICS = (MAGIC_COLUMNS, MAGIC_ROWS)

KNOWN_ATTRIBUTES = compression.COMPRESSION_MASK
SEQUENCE_MODULUS = 1 << 31
BATCH_BYTES_MAX = (1 << 31) - 1
RECORDS_MAX = 1 << 20  # of one batch: records of nulls take no bytes at all, so their number needs a bound of its own

NO_TIMESTAMP = -(1 << 63)  # below every timestamp: of a batch without records

JOIN_BELOW_BYTES = 64 * 1024  # neighbouring frames smaller than this are joined: a frame costs more than a copy

_HEADER = struct.Struct(">qiibIhiqqqhii")
PREFIX = struct.Struct(">qiibI")
_PLACE = struct.Struct(">qii")
REST = struct.Struct(">hiqqqhii3x")

_LENGTH = struct.Struct(">i")

Frames = Sequence[bytes]


class BatchHeader(msgspec.Struct, frozen=True, gc=False):
    """What a batch says of itself. ``length`` is all of it, in bytes; offsets are of records."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record; sequences wrap at 2**31. -1 when the batch bears none."""
        if self.base_sequence < 0:
            return -1
        return (self.base_sequence + self.last_offset_delta) % SEQUENCE_MODULUS

    @property
    def compression(self) -> str:
        return compression.NAME_BY_CODEC.get(self.attributes & compression.COMPRESSION_MASK, "unknown")

    def at(self, base_offset: int, leader_epoch: int) -> BatchHeader:
        """Return the header as it is once the batch has its place in a log; see ``restamp``."""
        return BatchHeader(
            base_offset,
            self.length,
            leader_epoch,
            self.magic,
            self.crc,
            self.attributes,
            self.last_offset_delta,
            self.base_timestamp,
            self.max_timestamp,
            self.producer_id,
            self.producer_epoch,
            self.base_sequence,
            self.count,
        )


# -- encode ----------------------------------------------------------------------------------------


def encode_batch(
    keys: Sequence[bytes | None] | None,
    values: Sequence[bytes | None] | None,
    timestamps: Sequence[int] | int,
    headers: Sequence[Sequence[Header]] | None = None,
    *,
    compression: str = "none",
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    value_width: int = -1,
) -> list[bytes]:
    """Return a batch as frames, with base offset 0 and leader epoch -1 until a leader gives it a place.

    Args:
        keys, values: one item a record; ``None`` instead of the list: all null (at least one list is needed).
        timestamps: ms since 1970, one a record, or one for all.
        compression: "none", "gzip", "snappy", "lz4" or "zstd".
        value_width: the length of every value, from who knows it already; -1: it is looked at.

    Raises:
        IllegalArgumentError: no records, lists of different lengths, items of a wrong type, or more than 2 GiB.
        UnsupportedCompressionTypeError: there is no such codec.
    """
    count = _count_of(keys, values, timestamps, headers)
    first, greatest, timestamp_column = timestamps_of(timestamps)
    flags, sizes, block = block_of(timestamp_column, keys, values, headers, value_width)
    codec, block_bytes, stored_bytes, block = compressed(compression, block)
    try:
        rest = REST.pack(codec, count - 1, first, greatest, producer_id, producer_epoch, base_sequence, count)
    except struct.error:
        raise IllegalArgumentError(
            "a timestamp, producer id (64 bits), producer epoch (16) or sequence (32) does not fit"
        ) from None
    body = _join_small([rest + columns.DIRECTORY.pack(flags, block_bytes, stored_bytes, *sizes, 0, 0), *block])
    length = COLUMNS_AT - LENGTH_COUNTS_FROM + columns.padded(stored_bytes)
    return [PREFIX.pack(0, length, -1, MAGIC_COLUMNS, crc_of(body)), *body]


def block_of(
    timestamp_column: list[bytes],
    keys: Sequence[bytes | None] | None,
    values: Sequence[bytes | None] | None,
    headers: Sequence[Sequence[Header]] | None,
    value_width: int = -1,
) -> tuple[int, tuple[int, int, int], list[bytes]]:
    """Return the flags of the columns there are, the bytes of keys, values and headers, and the buffers."""
    flags = columns.HAS_TIMESTAMPS if timestamp_column else 0
    key_buffers, key_bytes, some_null = columns.encode_binary(keys, "key") if keys is not None else ([], 0, False)
    if key_buffers:
        flags |= columns.HAS_KEYS | (columns.SOME_KEYS_NULL if some_null else 0)
    value_buffers, value_bytes, some_null = (
        columns.encode_binary(values, "value", value_width) if values is not None else ([], 0, False)
    )
    if value_buffers:
        flags |= columns.HAS_VALUES | (columns.SOME_VALUES_NULL if some_null else 0)
    header_buffers, header_bytes = columns.encode_headers(headers) if headers is not None else ([], 0)
    if header_buffers:
        flags |= columns.HAS_HEADERS
    block = [*timestamp_column, *key_buffers, *value_buffers, *header_buffers]
    return flags, (key_bytes, value_bytes, header_bytes), block


def restamp(prefix: bytes, base_offset: int, leader_epoch: int) -> bytes:
    """Return the 21-byte prefix with a place in a log; checksum and everything behind it stay as they are."""
    (length,) = _LENGTH.unpack_from(prefix, 8)
    return _PLACE.pack(base_offset, length, leader_epoch) + prefix[16:PREFIX_BYTES]


def _count_of(
    keys: Sequence[bytes | None] | None,
    values: Sequence[bytes | None] | None,
    timestamps: Sequence[int] | int,
    headers: Sequence[Sequence[Header]] | None,
) -> int:
    if keys is None and values is None:
        raise IllegalArgumentError("a batch needs keys or values")
    count = len(values) if values is not None else len(keys or ())
    if count == 0:
        raise IllegalArgumentError("a batch needs at least one record")
    if count > RECORDS_MAX:
        raise IllegalArgumentError(f"{count:,} records in one batch; {RECORDS_MAX:,} are the limit")
    for name, items in (("keys", keys), ("headers", headers)):
        if items is not None and len(items) != count:
            raise IllegalArgumentError(f"{len(items)} {name} for {count} values")
    if not isinstance(timestamps, int) and len(timestamps) != count:
        raise IllegalArgumentError(f"{len(timestamps)} timestamps for {count} records")
    return count


def timestamps_of(timestamps: Sequence[int] | int) -> tuple[int, int, list[bytes]]:
    """Return the first, the greatest, and the column (none when all are equal)."""
    if isinstance(timestamps, int):
        return timestamps, timestamps, []
    first = timestamps[0]
    if timestamps.count(first) == len(timestamps):
        return first, first, []
    column = columns.encode_timestamps(timestamps)
    return first, max(timestamps), [column]


def compressed(name: str, block: list[bytes]) -> tuple[int, int, int, list[bytes]]:
    """Return codec, size expanded, size stored, and the buffers to send."""
    block_bytes = sum(map(len, block))
    if block_bytes > BATCH_BYTES_MAX - COLUMNS_AT - 8:
        raise IllegalArgumentError(f"a batch of {block_bytes} bytes; {BATCH_BYTES_MAX} are the limit")
    codec = compression.codec_of(name)
    if codec == compression.NONE:
        return codec, block_bytes, block_bytes, block
    if block_bytes > compression.EXPANDED_BYTES_MAX:
        raise IllegalArgumentError(
            f"{block_bytes} bytes to compress in one batch; {compression.EXPANDED_BYTES_MAX} are the limit"
        )
    stored = compression.compress(codec, b"".join(block))
    if compression.is_bomb(len(stored), block_bytes):  # so well compressed that nobody would dare to expand it
        return compression.NONE, block_bytes, block_bytes, block
    return codec, block_bytes, len(stored), [stored, columns.padding(len(stored))]


def _join_small(buffers: list[bytes]) -> list[bytes]:
    """Return the same bytes in fewer frames: runs of small buffers are joined, large ones are left alone."""
    frames: list[bytes] = []
    run: list[bytes] = []
    for buffer in buffers:
        if len(buffer) < JOIN_BELOW_BYTES:
            run.append(buffer)
            continue
        if run:
            frames.append(b"".join(run))
            run = []
        frames.append(buffer)
    if any(run):
        frames.append(b"".join(run))
    return frames


def crc_of(buffers: Sequence[bytes]) -> int:
    crc = 0
    for buffer in buffers:
        crc = google_crc32c.extend(crc, buffer)
    return crc


# -- parse and check -------------------------------------------------------------------------------


def parse_header(data: Frames | bytes | memoryview, at: int = 0) -> BatchHeader:
    """Return the header of the batch at ``at`` in contiguous bytes, or of a batch given as frames.

    Raises:
        CorruptRecordError: too few bytes, an unknown magic, or fields that no batch can have.
    """
    raw = data if isinstance(data, (bytes, memoryview, bytearray)) else first_bytes(data)
    if len(raw) - at < HEADER_BYTES:
        raise CorruptRecordError(f"{max(len(raw) - at, 0)} bytes are no batch header")
    base_offset, length, *rest = _HEADER.unpack_from(raw, at)
    header = BatchHeader(base_offset, length + LENGTH_COUNTS_FROM, *rest)
    problem = _impossible(header)
    if problem:
        raise CorruptRecordError(f"batch at offset {base_offset}: {problem}")
    return header


def check_envelope(frames: Frames) -> BatchHeader:
    """Return the header of a batch whose length and checksum hold, whatever its layout.

    ``frames`` begins with the 21-byte prefix, or is one frame with the whole batch.

    Raises:
        CorruptRecordError: it is not such a batch; the message says what is wrong.
    """
    header = parse_header(frames)
    size = sum(map(len, frames))
    if size != header.length:
        raise CorruptRecordError(f"batch of {size} bytes says that it has {header.length}")
    if len(frames[0]) == PREFIX_BYTES:
        crc = crc_of(frames[1:])
    elif len(frames) == 1:
        crc = crc_of([frames[0][PREFIX_BYTES:]])
    else:
        raise CorruptRecordError(f"the first frame of a batch has {PREFIX_BYTES} bytes, not {len(frames[0])}")
    if crc != header.crc:
        raise CorruptRecordError(
            f"batch at offset {header.base_offset}: checksum {crc:#010x}, stated {header.crc:#010x}"
        )
    return header


def check_batch(frames: Frames) -> BatchHeader:
    """Return the header of a batch that can be appended and served: one checksum a frame, no record is read.

    Raises:
        CorruptRecordError: length, checksum, counts or the bounds of its columns are wrong.
        UnsupportedVersionError: its layout is known but not supported yet.
        UnsupportedCompressionTypeError: its codec is unknown.
    """
    header = check_envelope(frames)
    if header.magic != MAGIC_COLUMNS:
        raise UnsupportedVersionError("batches of Kafka's row layout (magic 2) are not supported yet")
    directory, _ = _check_columns(header, first_bytes(frames, COLUMNS_AT), 0)
    if directory.flags & columns.HAS_DELTAS:
        raise CorruptRecordError("a batch with records compacted away, which only a log may do")
    return header


def iter_batches(data: bytes | memoryview) -> Iterator[tuple[BatchHeader, int]]:
    """Yield header and position of each batch in contiguous bytes.

    A base offset lies outside the checksum: what tells damage in it is that offsets are dense.

    Raises:
        CorruptRecordError: a header is impossible, does not follow the one before, or the last batch is cut short.
    """
    at, expected = 0, -1
    while at < len(data):
        header = parse_header(data, at)
        if at + header.length > len(data):
            raise CorruptRecordError(f"batch at offset {header.base_offset} is cut short")
        if header.base_offset != expected and at:
            raise CorruptRecordError(f"a batch at offset {header.base_offset} where {expected} should follow")
        yield header, at
        at += header.length
        expected = header.next_offset


def end_offset_of(data: bytes | memoryview) -> int:
    """Return the offset behind the last of contiguous batches that have been gone through before."""
    at = following = 0
    while following < len(data):
        at, following = following, following + LENGTH_COUNTS_FROM + _LENGTH.unpack_from(data, following + 8)[0]
    return parse_header(data, at).next_offset


def part_end(data: bytes | memoryview, records_max: int, bytes_max: int) -> int:
    """Return where to cut contiguous batches so that decoding what is before costs no more than that.

    Behind at least one batch; before one whose header is impossible, which whoever decodes it will tell.

    Args:
        bytes_max: of columns, expanded.
    """
    at = records = size = 0
    while at < len(data):
        try:
            header = parse_header(data, at)
        except CorruptRecordError:
            return at or len(data)
        block_bytes = header.length
        if header.attributes & compression.COMPRESSION_MASK and len(data) - at >= COLUMNS_AT:
            block_bytes = columns.DIRECTORY.unpack_from(data, at + COLUMNS_AT - columns.DIRECTORY.size)[1]
        records, size = records + header.count, size + block_bytes
        if at and (records > records_max or size > bytes_max):
            return at
        at += header.length
    return len(data)


def check_crc(data: bytes | memoryview, at: int, header: BatchHeader) -> None:
    """Check the checksum of the batch at ``at`` of contiguous bytes.

    Raises:
        CorruptRecordError: it does not hold.
    """
    crc = google_crc32c.extend(0, bytes(data[at + PREFIX_BYTES : at + header.length]))
    if crc != header.crc:
        raise CorruptRecordError(
            f"batch at offset {header.base_offset}: checksum {crc:#010x}, stated {header.crc:#010x}"
        )


def first_bytes(frames: Frames, wanted: int = HEADER_BYTES) -> bytes:
    first = b""
    for frame in frames:
        first = first + frame[: wanted - len(first)] if first else frame
        if len(first) >= wanted:
            break
    return first


def _impossible(header: BatchHeader) -> str:
    """Say what no batch can have; "" when all is well."""
    if header.magic not in KNOWN_MAGICS:
        return f"magic {header.magic} is not known"
    if header.length < HEADER_BYTES:
        return f"a length of {header.length} bytes"
    if header.base_offset < 0 or header.leader_epoch < -1:
        return f"leader epoch {header.leader_epoch}"
    if header.count < 0 or header.last_offset_delta < max(header.count - 1, 0):
        return f"{header.count} records over {header.last_offset_delta + 1} offsets"
    if header.producer_id < -1 or header.producer_epoch < -1 or header.base_sequence < -1:
        return "a producer id, epoch or sequence below -1"
    return ""


def _check_columns(header: BatchHeader, data: bytes | memoryview, at: int) -> tuple[Directory, Places]:
    if header.attributes & ~KNOWN_ATTRIBUTES:
        raise CorruptRecordError(f"batch attributes {header.attributes:#x} are not known")
    codec = header.attributes & compression.COMPRESSION_MASK
    if codec not in compression.NAME_BY_CODEC:
        compression.expand(codec, b"", 0)  # says so
    if header.count > RECORDS_MAX:
        raise CorruptRecordError(f"a batch of {header.count:,} records; {RECORDS_MAX:,} are the limit")
    if header.length < COLUMNS_AT:
        raise CorruptRecordError(f"a batch of {header.length} bytes has no room for columns")
    directory = Directory(*columns.DIRECTORY.unpack_from(data, at + COLUMNS_AT - columns.DIRECTORY.size))
    if header.last_offset_delta != header.count - 1 and not directory.flags & columns.HAS_DELTAS:
        raise CorruptRecordError(f"{header.count} records over {header.last_offset_delta + 1} offsets")
    if not directory.flags & columns.HAS_TIMESTAMPS and header.max_timestamp != header.base_timestamp:
        raise CorruptRecordError("a batch without timestamps has two of them")
    if codec and compression.is_bomb(directory.stored_bytes, directory.block_bytes):
        sizes = f"{header.length:,} bytes that would be {directory.block_bytes:,}"
        raise CorruptRecordError(f"a batch of {sizes} once expanded")
    room = header.length - COLUMNS_AT
    return directory, columns.check_directory(directory, header.count, room, is_compressed=codec != compression.NONE)


# -- decode ----------------------------------------------------------------------------------------


class Columns:
    """The records of one batch, column by column; each is decoded when it is first looked at.

    ``len(columns.values) == columns.count``; record ``i`` has offset ``columns.offsets[i]``. A batch of a log that is
    compacted by key may lack some offsets of its range, and have no record at all.
    """

    def __init__(self, header: BatchHeader, block: memoryview, places: Places) -> None:
        self.header = header
        self.base_offset = header.base_offset
        self.count = header.count
        self._block = block
        self._places = places

    @cached_property
    def offsets(self) -> Sequence[int]:
        """Ascending; a range unless records were compacted away."""
        if self._places.deltas < 0:
            return range(self.base_offset, self.base_offset + self.count)
        last = self.header.last_offset_delta
        return [
            self.base_offset + delta
            for delta in columns.decode_deltas(self._block, self._places.deltas, self.count, last)
        ]

    def count_below(self, offset: int) -> int:
        """Return how many of its records lie below ``offset``."""
        if self._places.deltas < 0:
            return min(max(offset - self.base_offset, 0), self.count)
        return bisect_left(self.offsets, offset)

    @cached_property
    def timestamps(self) -> list[int]:
        """ms since 1970."""
        if self._places.timestamps < 0:
            return [self.header.base_timestamp] * self.count
        return columns.decode_timestamps(self._block, self._places.timestamps, self.count)

    @cached_property
    def keys(self) -> list[bytes | None]:
        return self._binary(self._places.keys)

    @cached_property
    def values(self) -> list[bytes | None]:
        return self._binary(self._places.values)

    @cached_property
    def headers(self) -> list[list[Header]]:
        return self._headers_and_sizes[0]

    @cached_property
    def header_sizes(self) -> list[int]:
        """Bytes that the headers of each record take; -1: it has none."""
        return self._headers_and_sizes[1]

    @property
    def has_keys(self) -> bool:
        """Whether any key is not null."""
        return self._places.keys is not None

    @property
    def has_values(self) -> bool:
        """Whether any value is not null."""
        return self._places.values is not None

    @property
    def some_keys_null(self) -> bool:
        """Whether some keys are null and some are not."""
        return self._places.keys is not None and self._places.keys.validity >= 0

    @property
    def some_values_null(self) -> bool:
        """Whether some values are null and some are not."""
        return self._places.values is not None and self._places.values.validity >= 0

    @property
    def has_headers(self) -> bool:
        return self._places.headers is not None

    @property
    def has_timestamps(self) -> bool:
        """Whether the timestamps differ."""
        return self._places.timestamps >= 0

    def buffers(self, column: str) -> tuple[memoryview | None, memoryview, memoryview] | None:
        """Return (validity, int32 offsets, data) of "keys" or "values" as Arrow wants them; None: all null.

        The views keep the fetched bytes alive and copy nothing.
        """
        place = self._places.keys if column == "keys" else self._places.values
        if place is None:
            return None
        validity = None
        if place.validity >= 0:
            validity = self._block[place.validity : place.validity + columns.padded((self.count + 7) // 8)]
        offsets = self._block[place.offsets : place.offsets + 4 * (self.count + 1)]
        return validity, offsets, self._block[place.data : place.data + place.data_bytes]

    @cached_property
    def _headers_and_sizes(self) -> tuple[list[list[Header]], list[int]]:
        if self._places.headers is None:
            return [[] for _ in range(self.count)], [-1] * self.count
        return columns.decode_headers(self._block, self._places.headers, self.count)

    def _binary(self, place: Place | None) -> list[bytes | None]:
        if place is None:
            return [None] * self.count
        return columns.decode_binary(self._block, place, self.count)


def decode_batch(data: bytes | memoryview, at: int = 0, *, verify: bool = True) -> Columns:
    """Return the columns of the batch at ``at``; bounds are checked now, columns decoded when looked at.

    Args:
        verify: check the checksum too.

    Raises:
        CorruptRecordError: it is no batch, or a damaged one.
        UnsupportedVersionError: it is of the row layout.
    """
    header = parse_header(data, at)
    if at + header.length > len(data):
        raise CorruptRecordError(f"batch at offset {header.base_offset} is cut short")
    if verify:
        check_crc(data, at, header)
    if header.magic != MAGIC_COLUMNS:
        raise UnsupportedVersionError("batches of Kafka's row layout (magic 2) are not supported yet")
    directory, places = _check_columns(header, data, at)
    begin = at + COLUMNS_AT
    stored = memoryview(data)[begin : begin + directory.stored_bytes]
    codec = header.attributes & compression.COMPRESSION_MASK
    if codec != compression.NONE:
        stored = memoryview(compression.expand(codec, stored, directory.block_bytes))
    return Columns(header, stored, places)
