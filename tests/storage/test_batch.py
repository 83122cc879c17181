"""The bytes of a batch, golden and round; what is refused; what damage is found."""

from __future__ import annotations

import struct

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.errors import (
    CorruptRecordError,
    IllegalArgumentError,
    UnsupportedCompressionTypeError,
    UnsupportedVersionError,
)
from callboard.storage import batch as batches
from callboard.storage.batch import (
    COLUMNS_AT,
    PREFIX_BYTES,
    BatchHeader,
    check_batch,
    check_envelope,
    decode_batch,
    encode_batch,
    iter_batches,
    parse_header,
    restamp,
)
from callboard.storage.compression import CODEC_BY_NAME

CODECS = list(CODEC_BY_NAME)
COMPRESSED = [codec for codec in CODECS if codec != "none"]


def hexed(text: str) -> bytes:
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))


# -- golden bytes: what docs/storage-format.md promises ----------------------------------------------


def test_golden_one_record_without_key():
    frames = encode_batch(None, [b"abc"], 1_000)

    assert b"".join(frames) == hexed(
        """
        0000000000000000 # base offset
        00000064         # length from byte 12 on: 112 - 12
        ffffffff         # leader epoch: not stamped yet
        43               # magic C
        5d30fc32         # checksum
        0000 00000000    # attributes, last offset delta
        00000000000003e8 00000000000003e8 # base and max timestamp
        ffffffffffffffff ffff ffffffff    # producer id, epoch, base sequence
        00000001 000000  # count, zeros
        08000000 10000000 10000000 00000000 03000000 00000000 00000000 00000000 # directory: values, 16 bytes
        00000000 03000000 # offsets of the values
        6162630000000000  # values
        """
    )


def test_golden_everything_at_once():
    frames = encode_batch(
        [b"k", None, b""],
        [None, b"", b"v2"],
        [5, 7, 6],
        [[("h", b"x")], [], [("n", None)]],
        producer_id=258,
        producer_epoch=3,
        base_sequence=4,
    )
    frames[0] = restamp(frames[0], 10, 2)

    assert b"".join(frames) == hexed(
        """
        000000000000000a 000000dc 00000002 43 5ef6e76e
        0000 00000002 0000000000000005 0000000000000007 0000000000000102 0003 00000004 00000003 000000
        3f000000 88000000 88000000 01000000 02000000 1b000000 00000000 00000000
        0500000000000000 0700000000000000 0600000000000000 # timestamps
        0500000000000000                                   # keys: 1st and 3rd are there
        00000000 01000000 01000000 01000000                # their offsets
        6b00000000000000                                   # their data
        0600000000000000                                   # values: 2nd and 3rd are there
        00000000 00000000 00000000 02000000
        7632000000000000
        00000000 0e000000 0e000000 1b000000                # headers: offsets
        01000000 01000000 68 01000000 78                   # one header: h = x
        01000000 01000000 6e ffffffff                      # one header: n = null
        0000000000                                         # padding
        """
    )


def test_golden_snappy_is_the_raw_block_format():
    frames = encode_batch(None, [b"x" * 120], 0, compression="snappy")
    whole = b"".join(frames)

    (stored_bytes,) = struct.unpack_from("<I", whole, 64 + 8)
    block = whole[COLUMNS_AT : COLUMNS_AT + stored_bytes]
    assert block[:2] == b"\x80\x01", "raw snappy begins with the expanded size as a varint: 128"


@pytest.mark.parametrize(
    ("codec", "begins"), [("gzip", "1f8b08"), ("lz4", "04224d18"), ("zstd", "28b52ffd")], ids=["gzip", "lz4", "zstd"]
)
def test_golden_magic_of_the_framed_codecs(codec, begins):
    whole = b"".join(encode_batch(None, [b"x" * 120], 0, compression=codec))

    assert whole[COLUMNS_AT:].startswith(bytes.fromhex(begins))


def test_the_header_is_kafkas():
    whole = b"".join(encode_batch([b"k"], [b"v"], 77, producer_id=9, producer_epoch=1, base_sequence=5))

    # written out once more, field by field, as Kafka's documentation has it
    assert struct.unpack_from(">q", whole, 0) == (0,)
    assert struct.unpack_from(">i", whole, 8) == (len(whole) - 12,)
    assert struct.unpack_from(">i", whole, 12) == (-1,)
    assert whole[16] == 0x43
    assert struct.unpack_from(">I", whole, 17) == (google_crc32c.value(whole[21:]),)
    assert struct.unpack_from(">hiqqqhii", whole, 21) == (0, 0, 77, 77, 9, 1, 5, 1)


# -- round trips -----------------------------------------------------------------------------------

nullable = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=5), nullable), max_size=3)
records = st.lists(st.tuples(nullable, nullable, st.integers(-(2**63), 2**63 - 1), headers), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(records=records, codec=st.sampled_from(CODECS), base_offset=st.integers(0, 2**62))
def test_what_is_encoded_is_decoded(records, codec, base_offset):
    keys, values, timestamps, header_lists = map(list, zip(*records, strict=True))

    frames = encode_batch(keys, values, timestamps, header_lists, compression=codec)
    frames[0] = restamp(frames[0], base_offset, 3)
    header = check_batch(frames)
    columns = decode_batch(b"".join(frames))

    assert columns.keys == keys
    assert columns.values == values
    assert columns.timestamps == timestamps
    assert columns.headers == header_lists
    assert list(columns.offsets) == list(range(base_offset, base_offset + len(records)))
    assert header == columns.header
    assert (header.compression, header.count, header.leader_epoch) == (codec, len(records), 3)
    assert (header.base_timestamp, header.max_timestamp) == (timestamps[0], max(timestamps))
    assert header.length == sum(map(len, frames))
    assert header.length % 8 == 0
    assert header.next_offset == header.last_offset + 1 == base_offset + len(records)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 63, 64, 65])
def test_a_bitmap_has_one_bit_a_record(count):
    keys = [None if i % 3 == 0 else b"%d" % i for i in range(count)]

    columns = decode_batch(b"".join(encode_batch(keys, [b"v"] * count, 0)))

    assert columns.keys == keys


def test_a_column_of_nulls_takes_no_bytes():
    columns = decode_batch(b"".join(encode_batch([None] * 3, [b"v"] * 3, 0)))

    assert (columns.keys, columns.has_keys, columns.buffers("keys")) == ([None] * 3, False, None)
    assert encode_batch([None] * 3, [b"v"] * 3, 0) == encode_batch(None, [b"v"] * 3, 0)


def test_tombstones_need_no_values():
    columns = decode_batch(b"".join(encode_batch([b"a", b"b"], None, 0)))

    assert (columns.keys, columns.values) == ([b"a", b"b"], [None, None])


def test_equal_timestamps_take_no_bytes():
    assert encode_batch(None, [b"v"] * 3, [9, 9, 9]) == encode_batch(None, [b"v"] * 3, 9)
    assert decode_batch(b"".join(encode_batch(None, [b"v"] * 3, 9))).timestamps == [9, 9, 9]


def test_arrow_buffers_are_views_of_the_fetched_bytes():
    data = b"".join(encode_batch([b"a", None], [b"xy", b"z"], 0))

    columns = decode_batch(data)
    validity, offsets, keys = columns.buffers("keys")

    assert (validity[0], offsets.cast("i").tolist(), bytes(keys)) == (1, [0, 1, 1], b"a")
    assert columns.buffers("values")[0] is None
    assert columns.buffers("values")[2].obj is data


def test_large_columns_stay_frames_of_their_own_and_small_ones_are_joined():
    large = [b"x" * 1_000] * 200

    assert [len(frame) for frame in encode_batch(None, [b"v"], 0)] == [PREFIX_BYTES, COLUMNS_AT - PREFIX_BYTES + 16]
    frames = encode_batch(None, large, 0)
    assert [len(frame) for frame in frames] == [PREFIX_BYTES, COLUMNS_AT - PREFIX_BYTES + 808, 200_000]
    assert check_batch(frames) == check_batch([b"".join(frames)])


def test_restamp_changes_twelve_bytes_and_no_checksum():
    frames = encode_batch(None, [b"v"], 0)

    stamped = [restamp(frames[0], 2**40, 7), *frames[1:]]

    header = check_batch(stamped)
    assert (header.base_offset, header.leader_epoch) == (2**40, 7)
    assert header == check_batch(frames).at(2**40, 7)
    assert stamped[0][8:12] == frames[0][8:12]
    assert stamped[0][16:] == frames[0][16:]


def placed(*batches):
    """Return batches of so many records as they lie in a log: (offset, count)."""
    found = b""
    for offset, count in batches:
        prefix, *rest = encode_batch(None, [b"v"] * count, 0)
        found += b"".join([restamp(prefix, offset, 0), *rest])
    return found


def test_batches_one_behind_the_other_are_told_apart():
    data = placed((7, 1), (8, 3), (11, 2))

    assert [header.count for header, _ in iter_batches(data)] == [1, 3, 2]
    assert [len(decode_batch(data, at).values) for _, at in iter_batches(data)] == [1, 3, 2]


@pytest.mark.parametrize("second", [7, 9, 0, 2**62])
def test_a_batch_that_does_not_follow_the_one_before_is_damage(second):
    with pytest.raises(CorruptRecordError, match=f"offset {second} where 8 should follow"):
        list(iter_batches(placed((7, 1), (second, 1))))


def test_sequences_wrap_behind_2_to_the_31():
    header = check_batch(encode_batch(None, [b"v"] * 3, 0, producer_id=1, producer_epoch=0, base_sequence=2**31 - 2))

    assert header.last_sequence == 0


# -- refused by the encoder ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "values", "timestamps", "headers", "says"),
    [
        (None, [], 0, None, "at least one record"),
        (None, None, 0, None, "keys or values"),
        ([b"k"], [b"v", b"w"], 0, None, "1 keys for 2 values"),
        (None, [b"v"], [1, 2], None, "2 timestamps for 1 records"),
        (None, [b"v"], 0, [[], []], "2 headers for 1 values"),
        (None, ["text"], 0, None, "values must be bytes or None, not str"),
        ([None, 5], [b"v", b"v"], 0, None, "keys must be bytes or None, not int"),
        (None, [b"v", None, 1.5], 0, None, "values must be bytes or None, not float"),
        (None, [b"v"], 2**63, None, "does not fit"),
        (None, [b"v", b"w"], [0, 2**63], None, "fit 64 bits"),
        (None, [b"v"], 0, [[("name", "text")]], "headers must be"),
        (None, [b"v"], 0, [[(b"name", b"")]], "headers must be"),
        (None, [b"v"], 0, [[("name",)]], "headers must be"),
    ],
)
def test_what_cannot_be_a_batch_is_refused_in_one_line(keys, values, timestamps, headers, says):
    with pytest.raises(IllegalArgumentError, match=says):
        encode_batch(keys, values, timestamps, headers)


def test_a_batch_over_2_gib_is_refused_before_its_bytes_are_joined():
    mebibyte = bytes(1 << 20)

    with pytest.raises(IllegalArgumentError, match="the values of one batch exceed 2147483647 bytes"):
        encode_batch(None, [mebibyte] * 2_048, 0)


def test_an_unknown_codec_is_refused():
    with pytest.raises(UnsupportedCompressionTypeError, match="brotli"):
        encode_batch(None, [b"v"], 0, compression="brotli")


# -- refused by the checks -------------------------------------------------------------------------


def patched(at: int, layout: str, *values: int, **options) -> bytes:
    """Return a batch with other fields and a checksum that fits them."""
    raw = bytearray(b"".join(encode_batch([b"k", None], [b"v", b"w"], [1, 2], **options)))
    struct.pack_into(layout, raw, at, *values)
    struct.pack_into(">I", raw, 17, google_crc32c.value(bytes(raw[PREFIX_BYTES:])))
    return bytes(raw)


@pytest.mark.parametrize(
    ("at", "layout", "value", "says"),
    [
        (8, ">i", -20, "length of -8 bytes"),
        (8, ">i", 2**31 - 1, "says that it has"),
        (12, ">i", -2, "leader epoch"),
        (16, ">b", 1, "magic 1 is not known"),
        (21, ">h", 8, "attributes 0x8 are not known"),
        (23, ">i", -1, "records over"),
        (23, ">i", 5, "2 records over 6 offsets"),
        (43, ">q", -2, "below -1"),
        (57, ">i", 0, "0 records"),
        (57, ">i", -1, "-1 records"),
        (57, ">i", 3, "3 records over 2 offsets"),
        (64, "<I", 255, "column flags"),
        (64, "<I", 8 | 2 | 4 | 1 | 16, "columns of"),
        (64, "<I", 1 | 4 | 8, "bitmap of an absent column"),
        (64, "<I", 1 | 8, "absent column"),
        (68, "<I", 8, "in a block of 8"),
        (72, "<I", 8, "two sizes"),
        (76, "<I", 2**32 - 1, "columns of"),
        (80, "<I", 2**31, "columns of"),
        (88, "<I", 1, "column flags"),
        (64, "<I", 2 | 4 | 8, "two of them"),
    ],
)
def test_fields_that_no_batch_can_have_are_refused(at, layout, value, says):
    with pytest.raises(CorruptRecordError, match=says):
        check_batch([patched(at, layout, value)])


def test_a_compressed_batch_that_would_grow_too_large_is_refused_unread():
    with pytest.raises(CorruptRecordError, match="once expanded"):
        check_batch([patched(68, "<I", 2**32 - 8, compression="zstd")])


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_codecs_that_are_not_known_are_refused_by_name(codec):
    with pytest.raises(UnsupportedCompressionTypeError, match=f"type {codec}"):
        check_batch([patched(21, ">h", codec)])


def test_kafkas_rows_are_refused_by_name_but_their_envelope_can_be_checked():
    rows = patched(16, ">b", 2)

    assert check_envelope([rows]).magic == 2
    with pytest.raises(UnsupportedVersionError, match="row layout"):
        check_batch([rows])
    with pytest.raises(UnsupportedVersionError, match="row layout"):
        decode_batch(rows)


@pytest.mark.parametrize("codec", COMPRESSED)
def test_a_block_that_does_not_expand_to_its_size_is_refused(codec):
    for more in (-8, 8, 1_024):  # both sizes agree with each other, but not with what the block holds
        raw = bytearray(patched(0, ">q", 0, compression=codec))
        block_bytes, value_bytes = struct.unpack_from("<I", raw, 68)[0] + more, 2 + more
        if value_bytes < 0:
            struct.pack_into("<I", raw, 76, 0)  # take the keys' byte instead
            value_bytes = 2
        struct.pack_into("<I", raw, 68, block_bytes)
        struct.pack_into("<I", raw, 80, value_bytes)
        struct.pack_into(">I", raw, 17, google_crc32c.value(bytes(raw[PREFIX_BYTES:])))
        check_batch([bytes(raw)])
        with pytest.raises(CorruptRecordError, match="block"):
            decode_batch(bytes(raw))


@pytest.mark.parametrize("codec", CODECS)
def test_every_flipped_bit_is_found(codec):
    whole = b"".join(encode_batch([b"k", None], [b"v", b"w" * 9], [1, 2], [[("h", b"1")], []], compression=codec))

    for at in range(len(whole)):
        for bit in (1, 0x80):
            damaged = bytearray(whole)
            damaged[at] ^= bit
            if at < 8 or 12 <= at < 16:  # base offset and epoch lie outside the checksum: the log checks them
                continue
            with pytest.raises(CorruptRecordError):
                check_batch([bytes(damaged)])


@pytest.mark.parametrize("codec", CODECS)
def test_every_cut_is_found(codec):
    whole = b"".join(encode_batch([b"k", None], [b"v", b"w" * 9], [1, 2], compression=codec))

    for size in range(len(whole)):
        with pytest.raises(CorruptRecordError):
            check_batch([whole[:size]])
        with pytest.raises(CorruptRecordError):
            decode_batch(whole[:size])
        if size:
            with pytest.raises(CorruptRecordError):
                list(iter_batches(whole[:size]))


@pytest.mark.parametrize(
    "frames",
    [[], [b""], [b"x" * 20], [b"x" * 21], [b"", b""]],
    ids=["no frames", "an empty one", "short", "prefix only", "two empty ones"],
)
def test_frames_that_are_no_batch_are_refused(frames):
    with pytest.raises(CorruptRecordError):
        check_batch(frames)


def test_only_the_first_cut_between_frames_matters():
    whole = b"".join(encode_batch(None, [b"v"], 0))

    with pytest.raises(CorruptRecordError, match="the first frame"):
        check_batch([whole[:30], whole[30:]])
    assert check_batch([whole[:21], whole[21:80], b"", whole[80:]]) == check_batch([whole])
    assert check_batch([whole[:21], *(whole[at : at + 1] for at in range(21, len(whole)))]) == check_batch([whole])


@settings(max_examples=300, deadline=None)
@given(data=st.data(), codec=st.sampled_from(CODECS))
def test_damage_behind_a_right_checksum_ends_in_a_refusal_or_in_records(data, codec):
    raw = bytearray(
        b"".join(
            encode_batch([b"k", None, b"l"], [b"v", b"w", None], [1, 2, 3], [[("h", b"")], [], []], compression=codec)
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(PREFIX_BYTES, len(raw) - 1))] = data.draw(st.integers(0, 255))
    struct.pack_into(">I", raw, 17, google_crc32c.value(bytes(raw[PREFIX_BYTES:])))

    try:
        columns = decode_batch(bytes(raw))
        sizes = {len(columns.keys), len(columns.values), len(columns.timestamps), len(columns.headers)}
    except (CorruptRecordError, UnsupportedCompressionTypeError, UnsupportedVersionError):
        return
    assert sizes == {columns.count}


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_garbage_is_never_a_batch(data):
    with pytest.raises(CorruptRecordError):
        check_batch([data])
    assert not data or isinstance(_first(data), CorruptRecordError)


def _first(data: bytes) -> object:
    try:
        return next(iter_batches(data))
    except CorruptRecordError as error:
        return error


def test_a_header_can_be_read_from_frames_and_from_bytes():
    frames = encode_batch(None, [b"v"], 0)

    assert (
        parse_header(frames) == parse_header(b"".join(frames)) == parse_header(memoryview(b"xx" + b"".join(frames)), 2)
    )
    assert isinstance(parse_header(frames), BatchHeader)
    assert batches.HEADER_BYTES == 61
