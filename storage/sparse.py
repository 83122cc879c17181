"""Batches that lost records: what compaction by key leaves of a batch.

A batch covers a range of offsets, and so does what is left of it: base offset, last offset delta, epoch, producer and
sequence stay, so that offsets are dense in ranges, sequences can be told, and lineage can be compared as before. Which
offsets of the range have a record is said by one column more (``deltas``). Where nothing is left, neighbours of one
epoch become one batch of no records over the range of all.

Only a log makes such batches: no producer may send one (``check_batch``).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from . import columns
from .batch import (
    COLUMNS_AT,
    LENGTH_COUNTS_FROM,
    MAGIC_COLUMNS,
    NO_TIMESTAMP,
    PREFIX,
    PREFIX_BYTES,
    REST,
    BatchHeader,
    Columns,
    Frames,
    block_of,
    compressed,
    crc_of,
    first_bytes,
    timestamps_of,
)


def without(batch: Columns, kept: Sequence[int]) -> bytes:
    """Return the batch with only some of its records: same range of offsets, epoch and producer, a checksum anew.

    Args:
        kept: which records stay, by their place in the batch, ascending.
    """
    header, timestamps, flags = batch.header, [batch.timestamps[place] for place in kept], columns.HAS_DELTAS
    first, greatest, timestamp_column = timestamps_of(timestamps) if kept else (NO_TIMESTAMP, NO_TIMESTAMP, [])
    block_flags, sizes, block = block_of(
        timestamp_column,
        [batch.keys[place] for place in kept] if batch.has_keys else None,
        [batch.values[place] for place in kept] if batch.has_values else None,
        [batch.headers[place] for place in kept] if batch.has_headers else None,
    )
    offsets = batch.offsets
    block.append(columns.encode_deltas([offsets[place] - header.base_offset for place in kept]))
    codec, block_bytes, stored_bytes, block = compressed(header.compression if kept else "none", block)
    rest = REST.pack(
        codec,
        header.last_offset_delta,
        first,
        greatest,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        len(kept),
    )
    directory = columns.DIRECTORY.pack(flags | block_flags, block_bytes, stored_bytes, *sizes, 0, 0)
    return _placed(header.base_offset, header.leader_epoch, [rest, directory, *block])


def empty_batch(base_offset: int, next_offset: int, leader_epoch: int, producer: BatchHeader | None = None) -> bytes:
    """Return a batch of no records that covers [base_offset, next_offset): what compaction leaves of others.

    Args:
        producer: bears the producer id, epoch and sequence; None: none, as when several batches became one.
    """
    numbers = (producer.producer_id, producer.producer_epoch, producer.base_sequence) if producer else (-1, -1, -1)
    rest = REST.pack(0, next_offset - base_offset - 1, NO_TIMESTAMP, NO_TIMESTAMP, *numbers, 0)
    return _placed(base_offset, leader_epoch, [rest, columns.DIRECTORY.pack(columns.HAS_DELTAS, *[0] * 7)])


def has_all_keys(frames: Frames) -> bool:
    """Whether each record of a checked batch has a key (``check_batch``)."""
    (flags,) = struct.unpack_from("<I", first_bytes(frames, COLUMNS_AT), COLUMNS_AT - columns.DIRECTORY.size)
    return bool(flags & columns.HAS_KEYS) and not flags & columns.SOME_KEYS_NULL


def _placed(base_offset: int, leader_epoch: int, body: list[bytes]) -> bytes:
    length = PREFIX_BYTES + sum(map(len, body)) - LENGTH_COUNTS_FROM
    return b"".join([PREFIX.pack(base_offset, length, leader_epoch, MAGIC_COLUMNS, crc_of(body)), *body])
