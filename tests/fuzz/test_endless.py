"""A message without an end: nothing of it can be seen until it ends, so its connection is found by what it receives.

Where the system does not tell that (a unix socket, which only the same user can reach), the process is bounded.
"""

import contextlib
import threading
import time

import psutil
import pytest

from .inner import doors_of
from .live import HealthyClient, fuzzed_cluster, healthy_beside, rss, zmtp_stream_to

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

LIMIT = 480 << 20
SETTINGS = f"""
metadata_listen = "tcp://127.0.0.1:0"
[broker]
memory_limit_bytes = {LIMIT}
[limits]
request_bytes = 4_194_304
"""
FRAME = b"\x03" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)  # long, and more will come


@pytest.fixture
def running(tmp_path):
    with fuzzed_cluster(tmp_path, SETTINGS) as running:
        yield running


class Endless:
    """Sends one frame after the other of the same message until the connection ends or it is told to stop."""

    def __init__(self, endpoint):
        self.sent = 0
        self._stop = threading.Event()
        self._stream = zmtp_stream_to(endpoint)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def is_ended(self):
        return not self._thread.is_alive()

    def _run(self):
        with contextlib.suppress(OSError):
            while not self._stop.is_set():
                self._stream.sendall(FRAME)
                self.sent += len(FRAME)

    def close(self):
        self._stop.set()
        self._stream.close()
        self._thread.join()


def greatest_while(pid, goes_on):
    """Return the most memory that a process had while ``goes_on()``."""
    greatest, until = 0, time.monotonic() + 60
    while goes_on() and time.monotonic() < until:
        with contextlib.suppress(psutil.Error):
            greatest = max(greatest, rss(pid))
        time.sleep(0.002)
    return greatest


@pytest.mark.parametrize("door", ["clients", "peers", "metadata", "host"])
def test_an_endless_message_ends_its_connection_and_nothing_else(running, door):
    doors = doors_of(running)
    with healthy_beside(running) as healthy:
        healthy.wait_for(20)
        for _ in range(3):  # what the first one held must be free for the second
            attacker = Endless(getattr(doors, door))
            try:
                greatest = greatest_while(doors.pids[door], lambda: not attacker.is_ended)  # noqa: B023
                assert attacker.is_ended
                assert greatest < LIMIT
                assert attacker.sent < 2 * LIMIT
            finally:
                attacker.close()
        healthy.wait_for(20)
    log = (
        running.data_dir / "log" / f"{ {'clients': 'broker-1', 'peers': 'broker-1'}.get(door, door) }.log"
    ).read_text()
    assert "a message of more than 4,194,304 bytes does not end" in log


def test_an_endless_message_on_a_unix_socket_costs_one_restart_and_no_record(running):
    healthy = HealthyClient(running.bootstrap_servers)
    healthy.wait_for(20)
    pid = running.broker_pid(1)
    (endpoint,) = (one for one in running.ready()["brokers"][0]["endpoints"] if one.startswith("ipc:"))

    attacker = Endless(endpoint)
    greatest = greatest_while(pid, lambda: running.broker_pid(1) in (pid, 0))
    attacker.close()
    first = len(healthy.times_ms)
    healthy.wait_for(20)
    healthy.stop()

    assert running.broker_pid(1) not in (pid, 0)
    assert greatest < 4 * LIMIT  # it ended above LIMIT, whether or not it was looked at just then: its log says so
    assert healthy.failures == []
    assert len(healthy.times_ms) > first
    log = (running.data_dir / "log" / "broker-1.log").read_text()
    assert f"limit={LIMIT}" in next(line for line in log.splitlines() if "process.too_large" in line)
    print(f"greatest {greatest >> 20} MiB, longest produce {max(healthy.times_ms):.0f} ms")
