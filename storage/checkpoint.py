"""What a log directory remembers beside its records, so that opening it does not read them all.

    checkpoint       the recovery point (everything below it is on disk), the log start offset, the epoch history
    producers        the producers at a certain log end offset
    clean-shutdown   there was nothing above the recovery point when the log was closed
    cleaned          how far the log has been compacted, and when (see cleaned.py)
    gaps             offsets that an operator's repair gave up (see inspection.py)
    repairing        a repair has begun and not ended: the log is not opened; names the copies it can begin again from
    failed           a sync failed here: the page cache may show bytes that the disk never got

Rules:

1. Each is a hint. It is believed only if its checksum holds; whatever is missing is rebuilt from the segments.
2. The checkpoint is written after the records below it were synced, the producers before the checkpoint. So after
   any crash the recovery point is true, and the producers' offset is on disk.
3. ``clean-shutdown`` is removed, durably, before the first append after it.
4. ``failed`` is believed by its presence. A sync must not be tried again on a directory where one failed: it would
   succeed, and lie.

A file is one line: the CRC-32C of what follows in eight hex digits, a space, JSON, a newline.
"""

from __future__ import annotations

from typing import TypeVar

import google_crc32c
import msgspec

T = TypeVar("T")

CHECKPOINT_FILE = "checkpoint"
PRODUCERS_FILE = "producers"
CLEAN_FILE = "clean-shutdown"
FAILED_FILE = "failed"
GAPS_FILE = "gaps"
CLEANED_FILE = "cleaned"
REPAIR_FILE = "repairing"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known to be on disk. Everything below ``recovery_offset`` is, whole and synced."""

    log_start_offset: int
    recovery_offset: int  # >= log_start_offset; a batch begins there, or the log ends
    segment: int  # base offset of the segment that holds the recovery point
    position: int  # of the recovery point in it, bytes
    segment_created_ms: int  # wall clock of that segment's first append; 0: not known
    epochs: tuple[tuple[int, int], ...]  # (leader epoch, start offset), oldest first
    has_producers: bool  # whether the log knew any: then a missing snapshot must be rebuilt
    high_watermark: int = 0  # <= recovery_offset; committed then, as far as this replica knew


class CleanShutdown(msgspec.Struct, frozen=True, kw_only=True):
    log_end_offset: int


class Repairing(msgspec.Struct, frozen=True, kw_only=True):
    aside: str  # the directory in the log's own that holds the files as they were
    names: tuple[str, ...]  # of all files that the log had


def seal(raw: bytes) -> bytes:
    """Return ``raw`` with its checksum before it."""
    return b"%08x %s\n" % (google_crc32c.value(raw), raw)


def unseal(data: bytes) -> bytes | None:
    """Return what ``seal`` was given, or None when it is damaged."""
    raw = data[9:-1]
    return raw if data == seal(raw) else None


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    return seal(msgspec.json.encode(checkpoint))


def decode_checkpoint(data: bytes) -> Checkpoint | None:
    """Return the checkpoint, or None when the file is damaged."""
    return _decode(data, Checkpoint)


def encode_clean(log_end_offset: int) -> bytes:
    return seal(msgspec.json.encode(CleanShutdown(log_end_offset=log_end_offset)))


def decode_clean(data: bytes) -> CleanShutdown | None:
    return _decode(data, CleanShutdown)


def encode_gaps(gaps: list[tuple[int, int]]) -> bytes:
    return seal(msgspec.json.encode(gaps))


def decode_gaps(data: bytes) -> list[tuple[int, int]] | None:
    """Return the half-open ranges of offsets that the log does not have, or None when the file is damaged."""
    return _decode(data, list[tuple[int, int]])


def encode_repairing(repairing: Repairing) -> bytes:
    return seal(msgspec.json.encode(repairing))


def decode_repairing(data: bytes) -> Repairing | None:
    return _decode(data, Repairing)


def _decode(data: bytes, kind: type[T]) -> T | None:
    raw = unseal(data)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, ValueError):
        return None
