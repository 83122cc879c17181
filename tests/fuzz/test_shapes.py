"""Hypothesis looks for the smallest input that breaks a decoder: any bytes, any numbers where a format has numbers."""

import contextlib
import struct

import google_crc32c
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard.errors import CallboardError
from callboard.storage import compression
from callboard.storage.batch import check_batch, encode_batch, part_end
from callboard.storage.checkpoint import decode_checkpoint, seal
from callboard.storage.columns import Directory, places_of
from callboard.storage.index import load_index
from callboard.storage.producers import ProducerStates
from callboard.transport import codec, messages

from .targets import look_at

INT32 = st.integers(-(1 << 31), (1 << 31) - 1) | st.sampled_from([0, 1, 2, 3])
INT64 = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([0, 1])
UINT32 = st.integers(0, (1 << 32) - 1) | st.sampled_from([0, 8, 16, 24, 64])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
DECODERS = [
    codec.decoder_for(union)
    for union in (messages.ClientRequest, messages.PeerRequest, messages.StoreRequest, messages.HostRequest)
]
TAGS = sorted(
    {message.cls.__struct_config__.tag for message in msgspec.inspect.type_info(codec.messages.ClientRequest).types}
)
FIELDS = ("id", "v", "deadline_ms", "entries", "topics", "names", "acks", "timeout_ms", "address")


def refused_or_done(call, *arguments):
    with contextlib.suppress(CallboardError, codec.HeaderRefused):
        call(*arguments)


@given(data=st.binary(max_size=300))
def test_any_bytes(data):
    for decoder in DECODERS:
        refused_or_done(codec.decode_request, decoder, data)
    refused_or_done(codec.decode_reply, data)
    refused_or_done(look_at, data)
    refused_or_done(check_batch, [data])
    part_end(data, 1, 1)
    load_index(data, 0, 1, 1)
    decode_checkpoint(seal(data))
    ProducerStates().restore(seal(data))
    for number in (1, 2, 3, 4):
        refused_or_done(compression.expand, number, data, 500)


@settings(suppress_health_check=[HealthCheck.too_slow])  # it measures the machine, which others share
@given(tag=st.sampled_from(TAGS), fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_any_values_in_the_fields_of_a_message(tag, fields):
    header = msgspec.json.encode({"t": tag, **fields})

    for decoder in DECODERS:
        refused_or_done(codec.decode_request, decoder, header)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    front=st.tuples(
        st.integers(0, 7), INT32, INT64, INT64, INT64, st.integers(-(1 << 15), (1 << 15) - 1), INT32, INT32
    ),
    directory=st.tuples(st.integers(0, 64), *[UINT32] * 5),
    block=st.binary(max_size=160),
)
def test_any_numbers_in_the_header_of_a_batch(front, directory, block):
    block += bytes(-len(block) % 8)
    body = struct.pack(">hiqqqhii3x", *front) + struct.pack("<8I", *directory, 0, 0) + block
    data = struct.pack(">qiibI", 0, 9 + len(body), 0, 0x43, google_crc32c.value(body)) + body

    refused_or_done(check_batch, [data])
    refused_or_done(look_at, data)


@given(count=st.integers(1, 5), flags=st.integers(0, 63), sizes=st.tuples(*[st.integers(0, 40)] * 3), block=st.binary())
def test_any_columns_behind_a_directory_that_adds_up(count, flags, sizes, block):
    """The harder half: all bounds hold, and what stands within them is anything."""
    present = [size if flags & bit else 0 for size, bit in zip(sizes, (2, 8, 32), strict=True)]
    end = places_of(Directory(flags, 0, 0, *present), count).end
    block = (block + bytes(end))[:end] + bytes(-end % 8)
    body = struct.pack(">hiqqqhii3x", 0, count - 1, 5, 5, -1, -1, -1, count)
    body += struct.pack("<8I", flags, end, end, *present, 0, 0) + block
    data = struct.pack(">qiibI", 0, 9 + len(body), 0, 0x43, google_crc32c.value(body)) + body

    refused_or_done(look_at, data)


def test_the_seeds_of_these_tests_are_sound():
    look_at(b"".join(encode_batch([b"k"], [None], [5], headers=[[("a", b"b")]])))
