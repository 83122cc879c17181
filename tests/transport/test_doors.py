"""What the kernel does at our listening sockets: it keeps the mute, and does not answer who knocks at a shut door."""

import contextlib
import logging
import socket
import sys
import time
from contextlib import ExitStack

import pytest

from callboard.testing.loop import SimClock, SimLoop
from callboard.transport import doors, messages
from callboard.transport.doorman import WASTED_AT_ONCE
from callboard.transport.turnstile import Turnstile

from .rig import rig
from .test_garbage import raw

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's kernel")
FLOOD, BURST = 40, 5


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


def accepted(door):
    try:
        return door.accept()[0]
    except BlockingIOError:
        return None


def test_a_flood_is_taken_as_far_as_the_turnstile_says_and_a_newcomer_gets_in_when_it_opens(door):
    """In virtual time: those whom the kernel does not answer knock again by themselves, in real time."""
    loop, shut = SimLoop(), []
    its = doors.Doors(loop, SimClock(loop), Turnstile(per_s=1, burst=BURST, now_ms=0), lambda: shut.append(1))
    its.listening(door.fileno())
    place = "tcp://{}:{}".format(*door.getsockname())
    with ExitStack() as stack:
        for _ in range(BURST):
            assert not shut
            stack.enter_context(socket.create_connection(door.getsockname())).sendall(b"\xff")
            while (inside := accepted(door)) is None:
                pass
            its.arrived(stack.enter_context(inside).fileno())
        assert shut
        with knocking(place, FLOOD) as others:
            speak(others)
            assert accepted(door) is None

            loop.advance(3_000)
            with socket.create_connection(door.getsockname(), timeout=30) as newcomer:
                newcomer.sendall(b"x")
                door.settimeout(30)
                door.accept()[0].close()
    assert len(shut) == 1
    its.close()


def test_who_is_connected_is_served_while_the_door_is_shut_and_newcomers_after(caplog):
    with rig() as it, caplog.at_level(logging.WARNING, "callboard"):
        server, _ = it.serve_echo(connections_wasted_per_second=50)
        client, states = it.ready(server.endpoints[0])
        with knocking(server.endpoints[0], 3 * WASTED_AT_ONCE) as streams:
            until = time.monotonic() + 60
            while not server.counters["doors_shut"] and time.monotonic() < until:
                speak(streams)
                assert it.ask(client, messages.MetadataRequest())[0].detail == "MetadataRequest"
            assert server.counters["doors_shut"]
            assert it.ask(client, messages.MetadataRequest())[0].detail == "MetadataRequest"
        it.ready(server.endpoints[0])
        assert len(states) == 1
    assert "connections a second come to nothing" in caplog.text


def test_a_silent_connection_costs_no_descriptor():
    with rig() as it:
        server, _ = it.serve_echo()
        it.ready(server.endpoints[0])
        if not doors._COOKIES.exists() or doors._COOKIES.read_text().strip() == "0":
            pytest.skip("without SYN cookies nobody is made to wait in the kernel")
        with ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(raw(server.endpoints[0], b""))
            with raw(server.endpoints[0], b"\xff"):
                it.until(lambda: server.counters["connections_seen"] == 2)
                assert server.connections == 2
