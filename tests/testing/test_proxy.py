"""The proxy of tests: what a link does to what passes it."""

import contextlib
import select
import socket
import threading
import time

import pytest

from callboard.errors import IllegalArgumentError
from callboard.testing.proxy import WAITING_CHUNKS_MAX, Proxy

SILENCE_S = 0.15  # how long nothing must come; a slow machine makes it no less silent
DEADLINE_S = 20.0


@pytest.fixture
def echo():
    """A server that sends back whatever it gets; its port."""
    server = socket.create_server(("127.0.0.1", 0))
    threads, connections = [], []

    def answer(connection):
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65_536):
                connection.sendall(data)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                connections.append(connection)
                threads.append(threading.Thread(target=answer, args=(connection,), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    for thread in (accepting, *threads):
        thread.join(DEADLINE_S)


@pytest.fixture
def proxy():
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def link(proxy, echo):
    return proxy.link("127.0.0.1", echo)


@pytest.fixture
def connect(link):
    opened = []

    def connected():
        opened.append(socket.create_connection(("127.0.0.1", link.port), DEADLINE_S))
        return opened[-1]

    yield connected
    for each in opened:
        each.close()


def received(connection, size):
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            break
        data += chunk
    return data


def is_silent(connection):
    return not select.select([connection], [], [], SILENCE_S)[0]


def test_what_is_sent_arrives_and_is_counted(link, connect):
    one = connect()
    one.sendall(b"there")

    assert received(one, 5) == b"there"
    assert link.passed == (5, 5)


@pytest.mark.parametrize("direction", ["both", "there", "back"])
def test_nothing_passes_a_cut_and_all_of_it_comes_after_the_healing(link, connect, direction):
    one = connect()
    one.sendall(b"a")
    received(one, 1)

    link.cut(direction)
    one.sendall(b"b")
    assert is_silent(one)
    assert link.passed == ((2, 1) if direction == "back" else (1, 1))

    link.heal()
    assert received(one, 1) == b"b"


def test_a_new_connection_to_a_cut_link_hears_nothing_until_it_is_healed(link, connect):
    link.cut()
    one = connect()
    one.sendall(b"a")
    assert is_silent(one)

    link.heal()
    assert received(one, 1) == b"a"


def test_an_end_passes_no_cut_either(link, connect, proxy):
    one = connect()
    one.sendall(b"a")
    received(one, 1)
    link.cut()
    one.close()
    other = connect()

    assert is_silent(other)
    assert link.connections == 2
    link.heal()


def test_a_delay_is_kept(link, connect):
    one = connect()
    link.delay(100)
    begin = time.monotonic()
    one.sendall(b"a")

    assert received(one, 1) == b"a"
    assert time.monotonic() - begin >= 0.2  # there and back


def test_bandwidth_bounds_all_connections_together(link, connect):
    one, other = connect(), connect()
    link.bandwidth(1_000_000, "there")
    begin = time.monotonic()
    one.sendall(b"x" * 100_000)
    other.sendall(b"x" * 100_000)

    assert len(received(one, 100_000)) == len(received(other, 100_000)) == 100_000
    assert time.monotonic() - begin >= 0.2


def test_who_sends_into_a_cut_link_is_slowed_down(link, connect):
    one = connect()
    link.cut("there")
    one.setblocking(False)

    taken, until = 0, time.monotonic() + DEADLINE_S
    while select.select([], [one], [], SILENCE_S)[1]:
        with contextlib.suppress(BlockingIOError):
            taken += one.send(b"x" * 65_536)
        assert time.monotonic() < until, f"{taken} bytes were taken, and no end"

    assert taken < 65_536 * WAITING_CHUNKS_MAX * 8


def test_flapping_ends_healed(link, connect):
    one = connect()
    flapping = link.flap(3, down_ms=20, up_ms=1)
    for number in range(20):
        one.sendall(bytes([number]))
        assert received(one, 1) == bytes([number])

    flapping.result(DEADLINE_S)
    one.sendall(b"x")
    assert received(one, 1) == b"x"


def test_a_reset_ends_connections_and_new_ones_are_welcome(link, connect):
    one = connect()
    one.sendall(b"a")
    received(one, 1)

    link.reset()
    with contextlib.suppress(ConnectionResetError):
        assert received(one, 1) == b""

    two = connect()
    two.sendall(b"b")
    assert received(two, 1) == b"b"


def test_where_nobody_listens_the_connection_ends(proxy, connect, link):
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    link.retarget("127.0.0.1", port)

    with contextlib.suppress(ConnectionResetError):
        assert received(connect(), 1) == b""


def test_nonsense_is_refused(link):
    for wrong in (lambda: link.delay(-1), lambda: link.bandwidth(-1), lambda: link.cut("sideways")):
        with pytest.raises(IllegalArgumentError):
            wrong()
