"""Connections that are too many are shown out of real sockets; whoever has said hello stays."""

import logging
import os
import resource
import socket
from contextlib import ExitStack, contextmanager

import pytest

from callboard.transport import messages
from callboard.transport.arrivals import Remote
from callboard.transport.doorman import descriptors_in_use, hang_up, remote_of
from callboard.transport.seam import Stage

from .rig import rig
from .test_garbage import raw

WORD = b"\xff"  # of a greeting: who says nothing at all waits in the kernel


def is_ended(stream):
    stream.setblocking(False)
    try:
        return stream.recv(1, socket.MSG_PEEK) == b"" or is_ended_behind_a_greeting(stream)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def is_ended_behind_a_greeting(stream):
    stream.recv(4_096)
    return is_ended(stream)


@contextmanager
def silent_streams(endpoint, count):
    with ExitStack() as stack:
        yield [stack.enter_context(raw(endpoint, WORD)) for _ in range(count)]


def test_too_many_silent_connections_of_an_address_end_the_oldest_first(caplog):
    with rig(handshake_ivl=60_000) as it, caplog.at_level(logging.WARNING, "callboard"):
        server, _ = it.serve_echo(connections_silent_per_address=3)
        client, states = it.ready(server.endpoints[0])
        with silent_streams(server.endpoints[0], 10) as streams:
            it.until(lambda: server.counters["shown_out"] == 7 and server.connections == 4)
            it.until(lambda: all(map(is_ended, streams[:7])))

            assert not any(map(is_ended, streams[7:]))
            assert it.ask(client, messages.MetadataRequest())[0].detail == "MetadataRequest"
            it.ready(server.endpoints[0])  # and a newcomer gets in
        assert len(states) == 1
    assert "more than 3 connections of 127.0.0.1 have not said hello" in caplog.text


def test_a_connection_too_many_of_an_address_is_refused_and_told_why():
    with rig() as it:
        server, _ = it.serve_echo(connections_per_address=2)
        it.ready(server.endpoints[0])
        second, _ = it.ready(server.endpoints[0])
        _, states = it.connect(server.endpoints[0])
        it.until(lambda: states)

        assert states[0].stage is Stage.HANDSHAKE
        assert "too many connections" in str(states[0])
        second.close()
        it.until(lambda: states[-1].is_ready)


def test_unix_sockets_are_of_no_address(tmp_path):
    with rig() as it:
        server, _ = it.serve_echo([f"ipc://{tmp_path}/s", "tcp://127.0.0.1:0"], connections_per_address=1)
        for _ in range(3):
            it.ready(server.endpoints[0])
        it.ready(server.endpoints[1])


def test_with_few_descriptors_left_silent_connections_make_room(caplog):
    """In one process with its clients: each of their connections costs it two descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with rig(handshake_ivl=60_000) as it, caplog.at_level(logging.WARNING, "callboard"):
        server, _ = it.serve_echo()
        client, _ = it.ready(server.endpoints[0])
        used = len(os.listdir("/dev/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(2 * used, used + 60)), hard))
        try:
            with silent_streams(server.endpoints[0], 20):
                it.until(lambda: server.connections + server.counters["shown_out"] >= 21)
                it.until(lambda: server.counters["shown_out"] > 0)
                assert it.ask(client, messages.MetadataRequest())[0].detail == "MetadataRequest"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "file descriptors are in use" in caplog.text


def test_what_is_reported_once_is_counted_and_reported_again_later(caplog):
    with rig(handshake_ivl=60_000) as it, caplog.at_level(logging.WARNING, "callboard"):
        server, _ = it.serve_echo(connections_silent_per_address=1)
        with silent_streams(server.endpoints[0], 30):
            it.until(lambda: server.counters["shown_out"] == 29)
            it.until(lambda: len(caplog.records) == 2)

    assert [record.args[1] for record in caplog.records] == [1, 28]


def test_a_descriptor_that_is_somebody_else_s_is_left_alone(tmp_path):
    one, other = socket.socketpair()
    with one, other, (tmp_path / "a file").open("wb") as file:
        assert remote_of(one.fileno()) == Remote("", 0)
        assert remote_of(file.fileno()) is None
        assert not hang_up(one.fileno(), Remote("127.0.0.1", 7))
        assert not hang_up(file.fileno(), Remote("127.0.0.1", 7))

        one.sendall(b"x")
        assert other.recv(1) == b"x"
        assert hang_up(one.fileno(), Remote("", 0))
        assert other.recv(1) == b""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_descriptors_are_counted_without_one():
    before = descriptors_in_use(0)
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
    try:
        assert descriptors_in_use(max(taken)) >= before + 30
    finally:
        for descriptor in taken:
            os.close(descriptor)
