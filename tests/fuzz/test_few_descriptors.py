"""A cluster that may open 100 files a process, and more connections than that: nobody's log fails of it."""

import contextlib
import socket
import time

import psutil
import pytest

from callboard import AdminClient
from callboard.testing.clusters import RunningCluster

from .inner import doors_of
from .live import HEALTHY, SETTINGS, HealthyClient, restarts_of

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

ALLOWED = 100
FLOOD = 190


@pytest.fixture
def poor(tmp_path):
    """One broker whose processes may have ``ALLOWED`` descriptors each."""
    settings = tmp_path / "cluster.toml"
    settings.write_text(SETTINGS)
    limit = ("prlimit", f"--nofile={ALLOWED}:{ALLOWED}")
    running = RunningCluster(tmp_path, brokers=1, options=("--config", str(settings)), prefix=limit)
    try:
        running.start()
        running.create_topic(HEALTHY, segment_bytes=4_096)  # so that files are opened all the time
        yield running
    finally:
        running.stop()


class Flood:
    """``FLOOD`` connections to one door that say one byte and no more, made again when they are ended."""

    def __init__(self, endpoint):
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._place = host, int(port)
        self.ended = 0
        self._spoken = set()
        self._streams = [self._one() for _ in range(FLOOD)]

    def _one(self):
        stream = socket.socket()
        stream.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            stream.connect(self._place)
        return stream

    def renew(self):
        for place, stream in enumerate(self._streams):
            try:
                is_over = not stream.recv(1_024)
            except BlockingIOError:
                is_over = False
                if stream not in self._spoken:
                    self._speak(stream)
            except OSError:
                is_over = True
            if is_over:
                self._spoken.discard(stream)
                stream.close()
                self.ended += 1
                self._streams[place] = self._one()

    def _speak(self, stream):
        with contextlib.suppress(OSError):  # not answered yet
            stream.send(b"\xff")
            self._spoken.add(stream)

    def close(self):
        for stream in self._streams:
            stream.close()


@contextlib.contextmanager
def flood_at(endpoint):
    flood = Flood(endpoint)
    try:
        yield flood
    finally:
        flood.close()


def names_of(running):
    with AdminClient(bootstrap_servers=running.bootstrap_servers, client_id="newcomer") as admin:
        return admin.list_topics()


@pytest.mark.parametrize(
    "door", ["clients", "metadata", *(pytest.param(door, marks=pytest.mark.long) for door in ("peers", "host"))]
)
def test_a_flood_of_connections_beyond_the_descriptors_costs_nobody_anything(poor, door):
    healthy = HealthyClient(poor.bootstrap_servers)
    try:
        healthy.wait_for(50)
        doors, restarts, pids = doors_of(poor), restarts_of(poor), sorted(poor.pids())
        with flood_at(getattr(doors, door)) as flood:
            done, until = len(healthy.times_ms), time.monotonic() + 60
            while (flood.ended < FLOOD or len(healthy.times_ms) < done + 300) and time.monotonic() < until:
                flood.renew()
                time.sleep(0.05)  # a flood that gives the processor back: the one here is shared
            assert flood.ended >= FLOOD, "nothing ends them"
            assert len(healthy.times_ms) >= done + 300, "who was connected does not go on"
        begin = time.monotonic()
        assert HEALTHY in names_of(poor)
        assert time.monotonic() - begin < 5

        for pid in {doors.pids[door], doors.pids["clients"]}:
            _until_few(pid)
        poor.create_topic("afterwards")
        poor.producer().send("afterwards", b"x").get(60)
        assert {address: restarts_of(poor).get(address) for address in restarts} == restarts
        assert sorted(poor.pids()) == pids
    finally:
        healthy.stop()
    assert healthy.failures == []
    log = (poor.data_dir / "log" / f"{_log_of(door)}.log").read_text()
    shown_out, kept_waiting = "file descriptors are in use: raise the limit (ulimit -n)", "come to nothing"
    assert shown_out in log or kept_waiting in log
    assert "ERROR" not in log


def test_newcomers_get_in_during_a_flood(poor):
    with flood_at(doors_of(poor).clients) as flood:
        until = time.monotonic() + 60
        while flood.ended < FLOOD // 2 and time.monotonic() < until:
            flood.renew()
            time.sleep(0.05)
        begin = time.monotonic()
        assert HEALTHY in names_of(poor)
        assert time.monotonic() - begin < 5
        with AdminClient(bootstrap_servers=poor.bootstrap_servers) as admin:
            counters = admin.describe_cluster().counters
            assert counters["shown_out"] + counters["doors_shut"] > 0


def _log_of(door):
    return {"clients": "broker-1", "peers": "broker-1"}.get(door, door)


def _until_few(pid):
    """Wait until the flood's descriptors are closed."""
    until = time.monotonic() + 30
    while psutil.Process(pid).num_fds() > ALLOWED - ALLOWED // 4 and time.monotonic() < until:
        time.sleep(0.02)
    assert psutil.Process(pid).num_fds() <= ALLOWED - ALLOWED // 4
