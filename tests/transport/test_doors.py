"""What the kernel does at our listening sockets: it keeps the mute, and does not answer who knocks at a shut door."""

import contextlib
import socket
import sys
from contextlib import ExitStack

import pytest

from callboard.transport import doors, messages

from .rig import rig
from .test_garbage import raw

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's kernel")
FLOOD = 400


@pytest.fixture
def door():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@contextlib.contextmanager
def knocking(endpoint, count):
    """Connections on their way to an endpoint, which it may not answer."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with ExitStack() as stack:
        streams = [stack.enter_context(socket.socket()) for _ in range(count)]
        for stream in streams:
            stream.setblocking(False)
            stream.connect_ex((host, int(port)))
        yield streams


def speak(streams):
    for stream in streams:
        with contextlib.suppress(OSError):
            stream.send(b"\xff")


def test_nobody_is_answered_at_a_shut_door_until_it_opens(door):
    assert doors.turn_away(door.fileno())
    with socket.socket() as stream:
        stream.settimeout(0.2)
        with pytest.raises(TimeoutError):
            stream.connect(door.getsockname())

        assert doors.welcome(door.fileno())
        with socket.create_connection(door.getsockname(), timeout=30):
            door.settimeout(30)
            door.accept()[0].close()


def test_a_shut_door_disturbs_no_connection_that_is_open(door):
    with socket.create_connection(door.getsockname()) as stream:
        door.settimeout(30)
        inside, _ = door.accept()
        with inside:
            assert doors.turn_away(door.fileno())
            stream.sendall(b"x")
            assert inside.recv(1) == b"x"
            inside.sendall(b"y")
            assert stream.recv(1) == b"y"


def test_who_says_nothing_waits_in_the_kernel(door):
    if not doors.wait_for_a_word(door.fileno()):
        pytest.skip("without SYN cookies nobody is made to wait there")
    with socket.create_connection(door.getsockname()) as mute, socket.create_connection(door.getsockname()) as other:
        other.sendall(b"x")
        door.settimeout(30)
        inside, place = door.accept()
        with inside:
            assert place == other.getsockname()
            door.setblocking(False)
            with pytest.raises(BlockingIOError):
                door.accept()
            mute.sendall(b"x")
            door.settimeout(30)
            late, place = door.accept()
            late.close()
            assert place == mute.getsockname()


def test_a_file_and_a_unix_socket_are_left_alone(tmp_path):
    one, other = socket.socketpair()
    with one, other, (tmp_path / "a file").open("wb") as file:
        assert not doors.is_tcp(one.fileno())
        assert not doors.is_tcp(file.fileno())
        assert not doors.turn_away(file.fileno())


def test_of_a_flood_few_are_taken_while_who_is_connected_is_served():
    """The kernel asks again after 1 s: so within one, nobody is taken who knocked at the shut door."""
    with rig() as it:
        server, _ = it.serve_echo(connections_wasted_per_second=1)
        client, states = it.ready(server.endpoints[0])
        it.transport._servers[0]._doors._turnstile._burst = 5  # noqa: SLF001 - as with 40 descriptors
        it.transport._servers[0]._doors._turnstile._tokens = 5  # noqa: SLF001
        with knocking(server.endpoints[0], FLOOD) as first:
            speak(first)
            it.until(lambda: server.counters["doors_shut"])
            seen = server.counters["connections_seen"]
            with knocking(server.endpoints[0], FLOOD) as second:
                speak(second)
                assert it.ask(client, messages.MetadataRequest())[0].detail == "MetadataRequest"
                assert server.counters["connections_seen"] <= max(seen, FLOOD + 1)
        it.ready(server.endpoints[0])  # a newcomer gets in when it is over
        assert len(states) == 1


def test_a_silent_connection_costs_no_descriptor():
    with rig() as it:
        server, _ = it.serve_echo()
        it.ready(server.endpoints[0])
        if not doors._COOKIES.exists() or doors._COOKIES.read_text().strip() == "0":  # noqa: SLF001
            pytest.skip("without SYN cookies nobody is made to wait in the kernel")
        with ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(raw(server.endpoints[0], b""))
            with raw(server.endpoints[0], b"\xff"):
                it.until(lambda: server.counters["connections_seen"] == 2)
                assert server.connections == 2
