"""Every limit of every socket, read back; what cannot be read is judged by what it does."""

import pytest
import zmq

from callboard.transport import sockets
from callboard.transport.sockets import SocketOptions

from .rig import rig

COMMON = {
    zmq.LINGER: 0,
    zmq.HEARTBEAT_IVL: 1_000,
    zmq.HEARTBEAT_TIMEOUT: 3_000,
    zmq.HEARTBEAT_TTL: 6_000,
    zmq.HANDSHAKE_IVL: 1_000,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 60,
    zmq.IPV6: 0,
}
EXPECTED = {
    "router": {
        **COMMON,
        zmq.MAXMSGSIZE: 64 << 20,
        zmq.SNDHWM: 100,
        zmq.RCVHWM: 250,
        zmq.BACKLOG: 4_096,
        zmq.ZAP_DOMAIN: b"callboard",
        zmq.ZAP_ENFORCE_DOMAIN: 1,
    },
    "dealer": {
        **COMMON,
        zmq.MAXMSGSIZE: 256 << 20,
        zmq.SNDHWM: 1_000,
        zmq.RCVHWM: 1_000,
        zmq.IMMEDIATE: 0,
        zmq.RECONNECT_IVL: 864_000_000,
        zmq.CONNECT_TIMEOUT: 3_000,
    },
}


@pytest.fixture
def context():
    made = zmq.Context()
    sockets_made = []
    make, made.socket = made.socket, lambda *args: sockets_made.append(make(*args)) or sockets_made[-1]
    yield made
    for socket in sockets_made:
        socket.close(linger=0)
    made.term()


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_option_is_set(context, kind):
    socket = getattr(sockets, kind)(context)

    found = {option: socket.getsockopt(option) for option in EXPECTED[kind]}

    assert {key: value.rstrip(b"\0") if isinstance(value, bytes) else value for key, value in found.items()} == (
        EXPECTED[kind]
    )


def test_the_sockets_in_use_come_from_the_factory():
    with rig() as it:
        server, _ = it.serve_echo(request_bytes=1 << 20)
        connection, _ = it.ready(server.endpoints[0])

        assert server._socket.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
        assert server._socket.getsockopt(zmq.MAXMSGSIZE) == 1 << 20
        assert connection._wire._socket.getsockopt(zmq.RECONNECT_IVL) == sockets.NEVER_MS


def test_a_router_says_that_a_peer_is_not_there(context):
    socket = sockets.router(context)

    with pytest.raises(zmq.ZMQError) as caught:
        socket.send_multipart([b"\0nobody", b"x"], zmq.DONTWAIT)

    assert caught.value.errno == zmq.EHOSTUNREACH


def test_a_second_peer_of_the_same_name_gets_nothing_of_the_first(context):
    socket = sockets.router(context)
    socket.bind("inproc://x")
    first, second = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    for peer in (first, second):
        peer.setsockopt(zmq.ROUTING_ID, b"me")
        peer.connect("inproc://x")
    first.send(b"hello")
    assert socket.recv_multipart() == [b"me", b"hello"]

    socket.send_multipart([b"me", b"secret"])

    assert first.recv() == b"secret"
    assert not second.poll(20)


def test_limits_can_be_changed_together():
    assert SocketOptions(heartbeat_ivl=7).heartbeat_ivl == 7
