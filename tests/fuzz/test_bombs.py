"""Batches that are small on the way and huge once opened: refused before anything is allocated for them.

The broker refuses them before they are stored; the consumer refuses them too, for it believes nobody.
"""

import struct
import subprocess
import sys

import google_crc32c
import pytest

from callboard.client.fetch_state import Credit
from callboard.client.reading import Decoding, PartitionReader
from callboard.errors import CorruptRecordError, IllegalArgumentError
from callboard.model import TopicPartition
from callboard.storage import columns, compression
from callboard.storage.batch import RECORDS_MAX, check_batch, decode_batch, encode_batch, part_end, restamp
from callboard.storage.compression import EXPANDED_FREELY_BYTES, EXPANSION_RATIO_MAX

CODECS = ["gzip", "snappy", "lz4", "zstd"]


def a_bomb(codec, expanded_bytes, *, promised_bytes=None, count=1):
    """Return one batch whose block expands to so many zeros."""
    number = compression.CODEC_BY_NAME[codec]
    stored = compression.compress(number, bytes(expanded_bytes))
    promised = expanded_bytes if promised_bytes is None else promised_bytes
    value_bytes = promised - columns.padded(4 * (count + 1))
    directory = columns.DIRECTORY.pack(columns.HAS_VALUES, promised, len(stored), 0, value_bytes, 0, 0, 0)
    rest = struct.pack(">hiqqqhii3x", number, count - 1, 0, 0, -1, -1, -1, count)
    body = rest + directory + stored + columns.padding(len(stored))
    return struct.pack(">qiibI", 0, 9 + len(body), 0, 0x43, google_crc32c.value(body)) + body


def an_empty_batch(count):
    """Return a batch of so many records that are all null: 96 bytes."""
    directory = columns.DIRECTORY.pack(0, 0, 0, 0, 0, 0, 0, 0)
    body = struct.pack(">hiqqqhii3x", 0, count - 1, 0, 0, -1, -1, -1, count) + directory
    return struct.pack(">qiibI", 0, 9 + len(body), 0, 0x43, google_crc32c.value(body)) + body


@pytest.mark.parametrize("codec", ["lz4", "zstd", "gzip"])
def test_a_bomb_is_refused_by_the_broker_and_by_the_consumer(codec):
    bomb = a_bomb(codec, 64 << 20)

    with pytest.raises(CorruptRecordError, match="once expanded"):
        check_batch([bomb])
    with pytest.raises(CorruptRecordError, match="once expanded"):
        decode_batch(bomb)


@pytest.mark.parametrize("codec", CODECS)
def test_a_block_that_holds_more_than_it_promises_stops_at_what_it_promises(codec):
    bomb = a_bomb(codec, 8 << 20, promised_bytes=4_096)

    with pytest.raises(CorruptRecordError):
        decode_batch(bomb)


@pytest.mark.parametrize("codec", CODECS)
def test_a_block_that_holds_less_than_it_promises_is_refused(codec):
    with pytest.raises(CorruptRecordError):
        decode_batch(a_bomb(codec, 4_096, promised_bytes=8 << 20))


def test_what_is_small_expands_at_any_ratio():
    frames = encode_batch(None, [bytes(4 << 20)], 0, compression="zstd")

    assert sum(map(len, frames)) < 4_096
    assert decode_batch(b"".join(frames)).values == [bytes(4 << 20)]


def test_what_compresses_too_well_is_sent_as_it_is():
    size = EXPANDED_FREELY_BYTES + 4_096
    frames = encode_batch(None, [bytes(size)], 0, compression="zstd")

    assert check_batch(frames).compression == "none"
    assert sum(map(len, frames)) > size


def test_a_ratio_above_the_free_size_must_be_likely():
    size = EXPANDED_FREELY_BYTES + 1

    assert compression.is_bomb(size // EXPANSION_RATIO_MAX, size)
    assert not compression.is_bomb(size // EXPANSION_RATIO_MAX + 1, size)


def test_two_billion_records_of_nothing_are_refused():
    bomb = an_empty_batch((1 << 31) - 1)

    with pytest.raises(CorruptRecordError, match="records"):
        check_batch([bomb])
    with pytest.raises(CorruptRecordError, match="records"):
        decode_batch(bomb)


def test_the_most_records_that_one_batch_may_have_are_taken():
    assert len(decode_batch(an_empty_batch(RECORDS_MAX)).values) == RECORDS_MAX
    with pytest.raises(IllegalArgumentError, match="limit"):
        encode_batch(None, [None] * (RECORDS_MAX + 1), 0)


HUNGRY = """
import resource, sys
from callboard.errors import CallboardError
from callboard.storage import compression
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for number, data, size in eval(sys.stdin.read()):
    try:
        compression.expand(number, data, size)
    except CallboardError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_bombs_of_every_codec_cost_no_memory():
    blocks = [(n, compression.compress(n, bytes(200 << 20)), 1 << 20) for n in (1, 3, 4)]
    blocks += [(n, compression.compress(n, bytes(1 << 20)), 250 << 20) for n in (1, 2, 3, 4)]

    hungry = subprocess.run(
        [sys.executable, "-c", HUNGRY], input=repr(blocks), capture_output=True, text=True, timeout=60, check=True
    )

    unit = 1 if sys.platform == "darwin" else 1_024  # what ru_maxrss counts in
    assert int(hungry.stdout) * unit < 64 << 20


def in_a_row(count, make):
    """Return ``count`` batches as they lie in a log, each made by ``make()``, and the offset behind them."""
    at, data = 0, b""
    for _ in range(count):
        raw = make()
        records = struct.unpack_from(">i", raw, 57)[0]
        data += restamp(raw[:21], at, 0) + raw[21:]
        at += records
    return data, at


def test_a_chunk_of_small_batches_that_hold_much_is_decoded_bit_by_bit():
    data, end = in_a_row(4, lambda: an_empty_batch(RECORDS_MAX // 4))
    reader = PartitionReader(TopicPartition("t", 0), 1, Credit())
    reader.on_data(0, data)
    decoding = Decoding(None, None, is_verifying=True, skips_bad=False)

    reader.prepare(decoding)
    assert len(reader.records) == RECORDS_MAX // 2

    taken, freed = reader.take(end, decoding)
    assert (len(taken), taken[-1].offset + 1, freed, reader.position) == (end, end, len(data), end)


def test_a_chunk_is_cut_by_what_its_batches_expand_to():
    data, _ = in_a_row(6, lambda: a_bomb("zstd", 16 << 20))
    one = len(data) // 6

    assert part_end(data, 1_000, 40 << 20) == 2 * one
    assert part_end(data, 1_000, 1) == one
    assert part_end(data, 3, 1 << 40) == 3 * one
    assert part_end(data, 1_000, 1 << 40) == len(data)


def test_a_chunk_is_cut_before_a_header_that_cannot_be():
    data, _ = in_a_row(2, lambda: an_empty_batch(3))

    assert part_end(data + b"\xff" * 61, 1_000, 1 << 30) == len(data)
    assert part_end(b"\xff" * 61, 1_000, 1 << 30) == 61
