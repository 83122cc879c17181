"""What comes in from anywhere: other protocols, broken frames, floods. Counted, and nobody else notices."""

import json
import random
import socket
from contextlib import suppress

import pytest
import zmq

from callboard.errors import ErrorCode
from callboard.transport import codec, messages

from .rig import rig

NOT_ZMTP = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),  # a TLS hello
    b"\x00\x00\x00\x2d\x00\x12\x00\x04\x00\x00\x00\x01",  # a Kafka client's ApiVersions
    b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01NULL",  # ZMTP, then nothing
    b"\xff" * 4_096,
    b"\x00",
]
GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00" + b"NULL" + bytes(16) + b"\x00" + bytes(31)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


def raw(endpoint, data):
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    stream = socket.create_connection((host, int(port)), timeout=5)
    stream.sendall(data)
    return stream


def raw_zmtp(it, endpoint):
    """Return a connection that has shaken hands: what is sent before that is no message."""
    stream, said = raw(endpoint, GREETING + READY), bytearray()
    stream.setblocking(False)

    def is_done():
        with suppress(BlockingIOError):
            said.extend(stream.recv(4_096))
        return b"READY" in said

    it.until(is_done)
    stream.settimeout(5)
    return stream


class RawDealer:
    """A ZeroMQ client of somebody else's."""

    def __init__(self, it, endpoint, **options):
        self.it = it
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        for option, value in options.items():
            self.socket.setsockopt(getattr(zmq, option), value)
        self.socket.connect(endpoint)

    def send(self, *frames):
        self.socket.send_multipart(frames)

    def receive(self):
        self.it.until(lambda: self.socket.poll(0))
        return json.loads(self.socket.recv_multipart()[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.destroy(linger=0)


@pytest.mark.parametrize("data", NOT_ZMTP, ids=lambda data: repr(data[:8]))
def test_another_protocol_never_reaches_a_handler(data):
    with rig(handshake_ivl=50) as it:
        server, seen = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        with raw(server.endpoints[0], data):
            it.until(lambda: server.counters["connections_seen"] == 2)

            assert isinstance(it.ask(connection, messages.MetadataRequest())[0], messages.ProduceReply)
            it.until(lambda: server.connections == 1)  # it was shown out while it still held on

        assert len(seen) == 1
        assert len(server.peers()) == 1


def test_a_connection_that_says_nothing_is_kept_waiting_by_the_kernel_or_shown_out():
    with rig(handshake_ivl=50) as it:
        server, seen = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        with raw(server.endpoints[0], b""):
            assert isinstance(it.ask(connection, messages.MetadataRequest())[0], messages.ProduceReply)
            it.until(lambda: server.connections == 1)  # of the two only the one that spoke

        assert len(seen) == 1
        assert len(server.peers()) == 1


def test_random_bytes_inside_the_protocol_are_survived():
    chance = random.Random(5)
    with rig(handshake_ivl=200) as it:
        server, seen = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        streams = [raw_zmtp(it, server.endpoints[0]) for _ in range(60)]
        try:
            for stream in streams:
                stream.sendall(chance.randbytes(chance.randrange(1, 400)))
            for _ in range(20):
                it.ask(connection, messages.MetadataRequest())
        finally:
            for stream in streams:
                stream.close()

        it.until(lambda: server.connections == 1)
        assert len(seen) == 20


def test_a_frame_above_the_limit_ends_that_connection_only():
    with rig() as it:
        server, _ = it.serve_echo(request_bytes=65_536)
        connection, states = it.ready(server.endpoints[0])
        with RawDealer(it, server.endpoints[0], RECONNECT_IVL=-1) as dealer:
            dealer.send(codec.encode(messages.Hello(id=1)))
            dealer.receive()
            dealer.send(codec.encode(messages.MetadataRequest(id=2)), b"x" * 70_000)
            it.until(lambda: len(server.peers()) == 1)

        assert isinstance(it.ask(connection, messages.MetadataRequest())[0], messages.ProduceReply)
        assert len(states) == 1


def test_many_frames_are_read_off_and_refused():
    with rig() as it:
        server, seen = it.serve_echo(request_frames=100)
        with RawDealer(it, server.endpoints[0]) as dealer:
            dealer.send(codec.encode(messages.Hello(id=1)))
            dealer.receive()
            dealer.send(codec.encode(messages.MetadataRequest(id=7)), *[b""] * 5_000)
            refused = dealer.receive()
            dealer.send(codec.encode(messages.MetadataRequest(id=8)))

            assert (refused["id"], refused["error"]) == (7, ErrorCode.INVALID_REQUEST)
            assert "5,001 frames" in refused["detail"]
            assert dealer.receive()["id"] == 8
        assert len(seen) == 1


def test_many_frames_that_are_large_only_together_are_refused():
    with rig() as it:
        server, seen = it.serve_echo(request_bytes=65_536)
        with RawDealer(it, server.endpoints[0]) as dealer:
            dealer.send(codec.encode(messages.Hello(id=1)))
            dealer.receive()
            dealer.send(codec.encode(messages.ProduceRequest(id=7)), *[b"x" * 10_000] * 50)

            assert dealer.receive()["error"] == ErrorCode.MESSAGE_SIZE_TOO_LARGE
        assert not seen


def test_a_client_of_somebody_else_is_told_what_is_wrong():
    with rig() as it:
        server, seen = it.serve_echo()
        with RawDealer(it, server.endpoints[0]) as dealer:
            for frames, error, says in [
                ([b"hello?"], ErrorCode.INVALID_REQUEST, "not a message"),
                ([b""], ErrorCode.INVALID_REQUEST, "not a message"),
                ([b'{"t":"metadata","id":3}'], ErrorCode.INVALID_REQUEST, "hello first"),
                ([b'{"t":"hello","id":"x"}'], ErrorCode.INVALID_REQUEST, "$.id"),
                ([b'{"t":"hello","id":4,"version_min":9,"version_max":9}'], ErrorCode.UNSUPPORTED_VERSION, "9 to 9"),
            ]:
                dealer.send(*frames)
                reply = dealer.receive()
                assert reply["error"] == error
                assert says in reply["detail"]
            dealer.send(b'{"t":"hello","id":5}')
            assert dealer.receive()["id"] == 5
        assert not seen


def test_a_client_that_chooses_its_routing_id_is_refused():
    with rig() as it:
        server, _ = it.serve_echo()
        with RawDealer(it, server.endpoints[0], ROUTING_ID=b"me") as dealer:
            dealer.send(codec.encode(messages.Hello(id=1)))

            assert "routing id" in dealer.receive()["detail"]
        assert server.peers() == []


def test_an_empty_message_is_dropped():
    with rig() as it:
        server, _ = it.serve_echo()
        # A REQ-like empty delimiter, as other libraries send it, is one frame more than there should be.
        with RawDealer(it, server.endpoints[0]) as dealer:
            dealer.send(b"", codec.encode(messages.Hello(id=1)))

            assert dealer.receive()["error"] == ErrorCode.INVALID_REQUEST


def test_a_flood_of_garbage_costs_no_memory_and_no_service():
    with rig() as it:
        server, _ = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        with RawDealer(it, server.endpoints[0], SNDHWM=0, RCVHWM=10) as dealer:
            for _ in range(20_000):  # and it never reads an answer
                dealer.send(b"garbage")
            it.until(lambda: server.counters["garbage"] == 20_000)

            assert isinstance(it.ask(connection, messages.MetadataRequest())[0], messages.ProduceReply)
        assert server._outbox.is_empty


def test_a_flood_of_connections_does_not_keep_others_out_for_long():
    with rig(handshake_ivl=100) as it:
        server, _ = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        streams = [raw(server.endpoints[0], b"") for _ in range(200)]
        try:
            assert isinstance(it.ask(connection, messages.MetadataRequest())[0], messages.ProduceReply)
            it.ready(server.endpoints[0])
            it.until(lambda: server.connections == 2)
        finally:
            for stream in streams:
                stream.close()
