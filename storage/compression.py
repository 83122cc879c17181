"""Compress and expand the column block of a batch, with a bound on what comes out.

The formats are the plain ones of each codec, so that any library can read a log:

    1 gzip    one gzip member (RFC 1952)
    2 snappy  raw block format, no framing
    3 lz4     LZ4 frame format
    4 zstd    one Zstandard frame (RFC 8878)

The number is the codec's place in the low three bits of the batch attributes, as in Kafka. A batch states the
size of its expanded block, and expansion writes into a buffer of exactly that size: a bomb cannot grow past what
the header admits. The header is refused above ``EXPANDED_BYTES_MAX``, and above ``EXPANDED_FREELY_BYTES`` also when
it promises more than ``EXPANSION_RATIO_MAX`` times what is stored: before anything is allocated, and by the broker
before anything is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cramjam

from ..errors import CorruptRecordError, UnsupportedCompressionTypeError

EXPANDED_BYTES_MAX = 256 << 20  # of one batch; a batch is at most 64 MiB as stored
EXPANDED_FREELY_BYTES = 16 << 20  # up to here any ratio: a batch of zeros is no crime
EXPANSION_RATIO_MAX = 100

NONE = 0
COMPRESSION_MASK = 0x07

CODEC_BY_NAME = {"none": NONE, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
NAME_BY_CODEC = {codec: name for name, codec in CODEC_BY_NAME.items()}

_COMPRESS: dict[int, Callable[[bytes], Any]] = {
    1: cramjam.gzip.compress,
    2: cramjam.snappy.compress_raw,
    3: cramjam.lz4.compress,
    4: cramjam.zstd.compress,
}
_EXPAND_INTO: dict[int, Callable[[Any, bytearray], int]] = {
    1: cramjam.gzip.decompress_into,
    2: cramjam.snappy.decompress_raw_into,
    3: cramjam.lz4.decompress_into,
    4: cramjam.zstd.decompress_into,
}


def codec_of(name: str) -> int:
    """Return the codec's number.

    Raises:
        UnsupportedCompressionTypeError: there is no such codec.
    """
    try:
        return CODEC_BY_NAME[name]
    except KeyError:
        raise UnsupportedCompressionTypeError(f"compression {name!r} is not known") from None


def compress(codec: int, block: bytes) -> bytes:
    """Return ``block`` compressed; ``codec`` is one of 1 to 4."""
    return bytes(_COMPRESS[codec](block))


def is_bomb(stored_bytes: int, expanded_bytes: int) -> bool:
    """Say whether a block promises more than may be expanded: nobody is to allocate memory for it."""
    if expanded_bytes <= EXPANDED_FREELY_BYTES:
        return False
    return expanded_bytes > EXPANDED_BYTES_MAX or expanded_bytes > EXPANSION_RATIO_MAX * stored_bytes


def expand(codec: int, stored: bytes | memoryview, expanded_bytes: int) -> bytearray:
    """Return the ``expanded_bytes`` bytes that ``stored`` holds.

    Raises:
        CorruptRecordError: it is not of this codec, or does not hold exactly so many bytes.
        UnsupportedCompressionTypeError: the codec's number is unknown.
    """
    if is_bomb(len(stored), expanded_bytes):
        raise CorruptRecordError(f"a block of {len(stored):,} bytes that would be {expanded_bytes:,} once expanded")
    expand_into = _EXPAND_INTO.get(codec)
    if expand_into is None:
        raise UnsupportedCompressionTypeError(f"compression type {codec} is not known")
    block = bytearray(expanded_bytes)
    try:
        written = expand_into(stored, block)
    except cramjam.DecompressionError as error:
        raise CorruptRecordError(f"the {NAME_BY_CODEC[codec]} block cannot be expanded: {error}") from None
    if written != expanded_bytes:
        raise CorruptRecordError(f"the {NAME_BY_CODEC[codec]} block holds {written} bytes, not {expanded_bytes}")
    return block
