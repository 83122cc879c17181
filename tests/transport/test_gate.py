"""What a server lets in. No socket: frames in, a verdict out."""

import pytest

from callboard.config import Limits
from callboard.errors import ErrorCode
from callboard.transport import codec, messages
from callboard.transport.gate import COUNTERS, Gate
from callboard.transport.seam import Inbound, ServerIdentity

from .rig import produce

PEER = b"\0abcd"


def a_gate(greeted=(PEER,), **limits):
    gate = Gate(
        messages.ClientRequest,
        ServerIdentity(role="broker", name="broker-1", broker_id=1, cluster_id="c"),
        Limits(**limits),
        "callboard/test",
    )
    for peer in greeted:
        reply = admit(gate, messages.Hello(id=1, client_id="x"), peer=peer)
        assert reply.error == 0
    return gate


def admit(gate, message, payload=(), *, peer=PEER, now_ms=1_000):
    header = message if isinstance(message, bytes) else codec.encode(message)
    payload = list(payload)
    return gate.admit(peer, header, payload, len(header) + sum(map(len, payload)), now_ms)


def test_a_hello_is_answered_with_who_and_what_time():
    gate = a_gate(greeted=())

    reply = admit(gate, messages.Hello(id=9, client_id="billing", software="x/1"), now_ms=77)

    assert isinstance(reply, messages.HelloReply)
    assert (reply.id, reply.name, reply.broker_id, reply.clock_ms) == (9, "broker-1", 1, 77)
    assert reply.request_bytes_max == Limits().request_bytes
    assert gate.peers[PEER].client_id == "billing"


def test_a_greeted_peer_reaches_the_handler():
    gate = a_gate()

    inbound = admit(gate, produce(id=2), [b"p", b"rest"], now_ms=5)

    assert isinstance(inbound, Inbound)
    assert (inbound.peer, inbound.payload, inbound.received_ms) == (PEER, [b"p", b"rest"], 5)
    assert inbound.message == produce(id=2)
    assert gate.peers[PEER].requests == 2


def test_nothing_is_served_before_the_hello():
    gate = a_gate(greeted=())

    reply = admit(gate, messages.MetadataRequest(id=2))

    assert (reply.id, reply.error) == (2, ErrorCode.INVALID_REQUEST)
    assert "hello" in reply.detail
    assert gate.counters["ungreeted"] == 1


def test_a_peer_that_chose_its_routing_id_is_refused():
    gate = a_gate(greeted=())

    reply = admit(gate, messages.Hello(id=1), peer=b"me")

    assert reply.error == ErrorCode.INVALID_REQUEST
    assert gate.peers == {}
    assert gate.counters["chosen_identity"] == 1


def test_versions_that_do_not_overlap_are_refused_with_what_is_spoken():
    gate = a_gate(greeted=())

    reply = admit(gate, messages.Hello(id=1, version_min=7, version_max=9))

    assert reply.error == ErrorCode.UNSUPPORTED_VERSION
    assert (reply.version_min, reply.version_max) == (1, 1)
    assert "7 to 9" in reply.detail
    assert gate.peers == {}


def test_a_request_of_another_version_is_refused():
    reply = admit(a_gate(), b'{"t":"metadata","id":5,"v":2}')

    assert (reply.id, reply.error) == (5, ErrorCode.UNSUPPORTED_VERSION)


def test_a_request_past_its_deadline_is_answered_and_not_served():
    gate = a_gate()

    assert isinstance(admit(gate, messages.MetadataRequest(id=2, deadline_ms=1_000), now_ms=1_000), Inbound)
    reply = admit(gate, messages.MetadataRequest(id=2, deadline_ms=1_000), now_ms=1_001)
    assert (reply.id, reply.error) == (2, ErrorCode.REQUEST_TIMED_OUT)
    assert gate.counters["expired"] == 1


def test_an_expired_request_that_wants_no_reply_is_dropped():
    assert admit(a_gate(), produce(acks=0, deadline_ms=5), [b"a", b"b"], now_ms=6) is None


def test_a_deadline_of_zero_means_none():
    assert isinstance(admit(a_gate(), messages.MetadataRequest(id=2), now_ms=10**12), Inbound)


def test_the_header_and_the_payload_must_agree():
    gate = a_gate()

    for request, payload in (
        (produce(3, id=2), [b"a", b"b"]),
        (produce(2, id=2), []),
        (produce(1, id=2), [b"a"]),
        (produce(-1, id=2), []),
        (messages.MetadataRequest(id=2), [b"what is this"]),
    ):
        reply = admit(gate, request, payload)
        assert (reply.id, reply.error) == (2, ErrorCode.INVALID_REQUEST)
        assert "frames" in reply.detail
    assert gate.counters["invalid"] == 5


def test_a_request_above_the_limit_is_refused_with_its_id():
    reply = admit(a_gate(request_bytes=65_536), produce(id=8), [b"a", b"b" * 70_000])

    assert (reply.id, reply.error) == (8, ErrorCode.MESSAGE_SIZE_TOO_LARGE)


def test_connections_are_bounded():
    gate = a_gate(greeted=(b"\0one.",), connections=1)

    reply = admit(gate, messages.Hello(id=1), peer=b"\0two.")

    assert reply.error == ErrorCode.OVERLOADED
    assert admit(gate, messages.Hello(id=1), peer=b"\0one.").error == 0  # a second hello is not a second connection
    gate.gone(b"\0one.")
    assert admit(gate, messages.Hello(id=1), peer=b"\0two.").error == 0


def test_names_that_peers_give_themselves_are_bounded():
    gate = a_gate(greeted=())
    admit(gate, messages.Hello(id=1, client_id="x" * 10_000, software="y" * 10_000))

    assert len(gate.peers[PEER].client_id) == 255
    assert len(gate.peers[PEER].software) == 255


@pytest.mark.parametrize("header", [b"", b"garbage", b"\0" * 100, b'{"t":1}', b'{"t":"nonsense","id":3}'])
def test_garbage_is_answered_counted_and_goes_no_further(header):
    gate = a_gate()

    reply = admit(gate, header)

    assert reply.error == ErrorCode.INVALID_REQUEST
    assert gate.counters["garbage"] + gate.counters["invalid"] == 1


def test_every_counter_is_there_from_the_start():
    assert set(a_gate(greeted=()).counters) == set(COUNTERS)


@pytest.mark.parametrize(
    "request_",
    [
        messages.MetadataRequest(id=5, topics=["a"] * 11),
        messages.DeleteTopicsRequest(id=5, names=[""] * 11),
        messages.DescribeReplicasRequest(id=5, topic_ids=[""] * 11),
        messages.FetchRequest(id=5, entries=[messages.FetchEntry(topic_id="", partition=0, fetch_offset=0)] * 11),
        messages.CreateTopicsRequest(id=5, topics=[messages.NewTopic(name="")] * 11),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_request_that_names_too_much_is_refused(request_):
    gate = a_gate(request_entries=10)

    refused = admit(gate, request_)

    assert (refused.id, refused.error) == (5, ErrorCode.INVALID_REQUEST)
    assert "limits.request_entries is 10" in refused.detail
    assert gate.counters["invalid"] == 1


def test_all_topics_may_be_asked_for_without_naming_them():
    assert isinstance(admit(a_gate(request_entries=1), messages.MetadataRequest(id=5)), Inbound)
