"""Headers to messages and back; refusals say what is wrong, where, and of which request."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.errors import ErrorCode
from callboard.transport import codec, messages

CLIENT_REQUESTS = codec.decoder_for(messages.ClientRequest)
STORE_REQUESTS = codec.decoder_for(messages.StoreRequest)


def refusal(header, decoder=CLIENT_REQUESTS):
    with pytest.raises(codec.HeaderRefused) as caught:
        codec.decode_request(decoder, header)
    return caught.value


def judged(decoder, header):
    """Return the request, or why there is none; whatever else is raised is a bug."""
    try:
        return codec.decode_request(decoder, header)
    except codec.HeaderRefused as refused:
        return refused.detail


def test_a_request_survives_the_journey():
    request = messages.FetchRequest(
        id=7, deadline_ms=99, entries=[messages.FetchEntry(topic_id="t", partition=3, fetch_offset=5, durable_offset=4)]
    )

    assert codec.decode_request(CLIENT_REQUESTS, codec.encode(request)) == request


def test_defaults_do_not_travel():
    assert json.loads(codec.encode(messages.MetadataRequest(id=1))) == {"t": "metadata", "id": 1}


def test_a_wrong_type_is_refused_with_its_path():
    refused = refusal(b'{"t":"fetch","id":4,"entries":[{"topic_id":"t","partition":"x","fetch_offset":0}]}')

    assert refused.code is ErrorCode.INVALID_REQUEST
    assert refused.request_id == 4
    assert "$.entries[0].partition" in refused.detail
    assert "fetch" in refused.detail


def test_a_missing_field_is_refused_by_name():
    assert "address" in refusal(b'{"t":"kill","id":1}').detail


def test_a_message_of_another_union_is_refused():
    refused = refusal(codec.encode(messages.StoreLoadRequest(id=3)))

    assert (refused.code, refused.request_id) == (ErrorCode.INVALID_REQUEST, 3)
    assert "store.load" in refused.detail


def test_another_version_is_refused_as_such_even_when_it_looks_wrong():
    for header in (b'{"t":"fetch","id":4,"v":9}', b'{"t":"fetch","id":4,"v":9,"entries":{"new":"shape"}}'):
        refused = refusal(header)
        assert (refused.code, refused.request_id) == (ErrorCode.UNSUPPORTED_VERSION, 4)
        assert "9" in refused.detail


def test_a_hello_is_read_in_any_version():
    hello = codec.decode_request(CLIENT_REQUESTS, b'{"t":"hello","id":1,"v":99,"new_field":[1]}')

    assert isinstance(hello, messages.Hello)


def test_a_newer_field_is_ignored():
    assert codec.decode_request(CLIENT_REQUESTS, b'{"t":"metadata","id":1,"from_the_future":{"a":1}}').id == 1


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"[]",
        b"null",
        b'{"t":"fetch"',
        b'{"t":"\xff"}',
        b"[" * 100_000,
        b'{"t":"store.commit","controller_epoch":1,"puts":[{"key":"k","if_version":0,"value":'
        + b'{"a":' * 50_000
        + b"1"
        + b"}" * 50_000
        + b"}]}",
        b'{"t":"fetch","id":1e400}',
        b'{"t":"fetch","id":99999999999999999999999999}',
    ],
    ids=lambda header: repr(bytes(header[:20])),
)
def test_garbage_is_refused_not_raised(header):
    for decoder in (CLIENT_REQUESTS, STORE_REQUESTS):
        refused = refusal(header, decoder)
        assert refused.code is ErrorCode.INVALID_REQUEST
        assert len(refused.detail) <= 2 * codec.DETAIL_CHARS_MAX
    with pytest.raises(codec.HeaderRefused):
        codec.decode_reply(header)
    assert isinstance(codec.request_id(header), int)


def test_an_endless_header_is_refused_unread():
    assert "bytes" in refusal(b" " * (codec.HEADER_BYTES_MAX + 1)).detail


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoder(header):
    assert judged(STORE_REQUESTS, header)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["t", "id", "v", "entries", "topics"]) | st.text(), inner)
        ),
        max_leaves=12,
    )
)
def test_no_json_crashes_the_decoder(value):
    header = json.dumps(value).encode("utf-8", "surrogatepass")
    assert judged(CLIENT_REQUESTS, header)


def test_every_message_of_a_union_has_a_tag_of_its_own():
    for union in (messages.ClientRequest, messages.PeerRequest, messages.StoreRequest, messages.HostRequest):
        tags = [member.__struct_config__.tag for member in union.__args__]
        assert len(set(tags)) == len(tags)


def test_every_request_and_reply_is_frozen():
    for member in (*messages.ClientRequest.__args__, *messages.StoreRequest.__args__, *messages.AnyReply.__args__):
        assert member.__struct_config__.frozen
        assert issubclass(member, msgspec.Struct)
