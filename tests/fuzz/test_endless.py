"""A message without an end: nothing of it can be seen until it ends, so what is bounded is the damage."""

import contextlib
import socket
import threading
import time

import psutil
import pytest

from callboard import AdminClient
from callboard.testing.clusters import cluster

from .live import HEALTHY, HealthyClient, rss

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

LIMIT = 320 << 20
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
FRAME = b"\x03" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)  # long, and more will come


class Endless:
    """Sends one frame after the other of the same message until the connection ends or it is told to stop."""

    def __init__(self, host, port):
        self.sent = 0
        self._stop = threading.Event()
        self._stream = socket.create_connection((host, port), timeout=20)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        with contextlib.suppress(OSError):
            self._stream.sendall(GREETING + READY)
            said = b""
            while b"READY" not in said:  # what comes before the handshake's end is no message
                said += self._stream.recv(4_096)
            while not self._stop.is_set():
                self._stream.sendall(FRAME)
                self.sent += len(FRAME)

    def close(self):
        self._stop.set()
        self._stream.close()
        self._thread.join()


def test_an_endless_message_costs_one_restart_and_no_record(tmp_path):
    settings = tmp_path / "cluster.toml"
    settings.write_text(f"[broker]\nmemory_limit_bytes = {LIMIT}\n")
    with cluster(brokers=1, directory=tmp_path, options=("--config", str(settings))) as running:
        with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
            admin.create_topics({HEALTHY: {"num_partitions": 1}})
        healthy = HealthyClient(running.bootstrap_servers)
        healthy.wait_for(20)
        host, _, port = running.bootstrap_servers[0].rpartition(":")
        pid, greatest = running.broker_pid(1), 0

        attacker = Endless(host, int(port))
        until = time.monotonic() + 30
        while running.broker_pid(1) in (pid, 0) and time.monotonic() < until:
            with contextlib.suppress(psutil.Error):
                greatest = max(greatest, rss(pid))
            time.sleep(0.002)
        attacker.close()
        first = len(healthy.times_ms)
        healthy.wait_for(20)
        healthy.stop()

        assert running.broker_pid(1) not in (pid, 0)
        assert LIMIT <= greatest < 4 * LIMIT
        assert healthy.failures == []
        assert len(healthy.times_ms) > first
        log = (running.data_dir / "log" / "broker-1.log").read_text()
        assert "process.too_large" in log
        print(f"greatest {greatest >> 20} MiB, longest produce {max(healthy.times_ms):.0f} ms")
