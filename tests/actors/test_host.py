"""The host with real processes: a tree of small actors, real signals, real sockets."""

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from callboard.transport import messages as m

pytestmark = pytest.mark.processes

DEADLINE_S = 30
UP = """
import json, sys
from callboard.actors.host import run_host
from callboard.config import ClusterConfig, configure
from callboard.errors import CallboardError
try:
    config = configure(ClusterConfig, json.loads(sys.argv[1]), "test")
    status = run_host(config, ready_file=sys.argv[2], announce=lambda line: print(line, flush=True), branch=sys.argv[3])
except CallboardError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    status = 2
sys.exit(status)
"""


class Host:
    """A host in a process of its own, with what it prints."""

    def __init__(self, directory, *, brokers=2, branch="talker_branch", **settings):
        self.data_dir, self.ready_file = directory / "data", directory / "ready.json"
        self.run_dir = self.data_dir / "run"
        config = {"brokers": brokers, "data_dir": str(self.data_dir), "port": 0, **settings}
        command = [sys.executable, "-c", UP, json.dumps(config), str(self.ready_file)]
        command.append(f"callboard.testing.branches:{branch}")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.pid = self.process.pid
        self.printed, self.pids, self._lines = [], set(), queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def until(self, text):
        """Wait for a line that holds ``text`` and return it."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            line = self._lines.get(timeout=max(0.001, deadline - time.monotonic()))
            assert line is not None, f"{text!r} was never printed: {self.printed}\n{self.logs()}"
            self.printed.append(line)
            if text in line:
                return line

    def ready(self):
        self.until("ready")
        self.pids |= {one.pid for one in psutil.Process(self.pid).children(recursive=True)}
        return self

    def brokers(self):
        return {one["id"]: one for one in json.loads(self.ready_file.read_text())["brokers"]}

    def ask(self, endpoint, message):
        return ask(endpoint, message)

    def desk(self):
        return f"ipc://{self.run_dir}/host.sock"

    def end(self, number=signal.SIGTERM):
        """Send a signal, wait for the end, and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        try:
            status = self.process.wait(DEADLINE_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self._reader.join()
            self.process.stdout.close()
        while (line := self._lines.get_nowait()) is not None:
            self.printed.append(line)
        return status

    def logs(self):
        return "\n".join(path.read_text() for path in sorted((self.data_dir / "log").glob("*.log")))

    def leftovers(self, within_s=2.0):
        """Return the processes of this host that still run after a while."""
        deadline = time.monotonic() + within_s
        while alive := [pid for pid in self.pids if runs(pid)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        return alive


def runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def wait_for(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return value


def ask(endpoint, message):
    """Ask a process something and return its reply."""
    import asyncio

    from callboard.transport.endpoint import ZmqTransport
    from callboard.transport.loop import SystemClock

    async def main():
        loop = asyncio.get_running_loop()
        transport = ZmqTransport(loop, SystemClock())
        answer = loop.create_future()
        connection = transport.connect(endpoint, client_id="test", on_state=lambda _: None)
        connection.request(message, lambda reply, _: answer.set_result(reply), timeout_ms=DEADLINE_S * 1000)
        try:
            return await answer
        finally:
            transport.close()

    return asyncio.run(main())


@contextlib.contextmanager
def short_path():
    """A short path instead of pytest's: with a long one, or a three-digit number in it, the sockets stand elsewhere."""
    with tempfile.TemporaryDirectory(prefix="h-") as directory:
        yield Path(directory)


@pytest.fixture
def tmp_path():
    with short_path() as path:
        yield path


@pytest.fixture
def start(tmp_path):
    """Start hosts that are ended with the test, however it ends."""
    with starting(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def standing():
    """A host for tests that only ask it something."""
    with short_path() as path, starting(path) as start:
        yield start().ready()


@contextlib.contextmanager
def starting(directory):
    hosts = []

    def start(**how):
        hosts.append(Host(directory, **how))
        return hosts[-1]

    yield start
    for host in hosts:
        if host.process.poll() is None:
            assert host.end() == 0
        elif not host.process.stdout.closed:
            host.wait()
        assert host.leftovers() == []
        if host.process.returncode < 0:  # it was killed: its successor would have removed this
            shutil.rmtree(host.run_dir, ignore_errors=True)


def test_it_starts_serves_and_stops_and_leaves_nothing_behind(start):
    host = start().ready()
    brokers = host.brokers()
    assert sorted(brokers) == [1, 2]
    assert json.loads(host.ready_file.read_text())["pid"] == host.pid
    for one in brokers.values():
        address, port = one["endpoint"].split(":")
        socket.create_connection((address, int(port)), timeout=5).close()
        assert psutil.Process(one["pid"]).cmdline()[0].startswith(f"callboard: broker-{one['id']}")

    assert host.end() == 0
    assert host.leftovers() == []
    assert os.listdir(host.run_dir) == []
    assert not host.ready_file.exists()
    assert "Traceback" not in "\n".join(host.printed) + host.logs()


def test_ctrl_c_stops_it_in_order(start):
    host = start().ready()
    os.killpg(host.pid, signal.SIGINT)  # as a terminal does: to the whole group

    assert host.wait() == 0
    assert "process.ends name=broker-1 status=0" in host.logs()


def test_a_second_host_on_the_same_directory_is_refused(start):
    first = start().ready()
    second = start()

    assert second.wait() == 2
    assert f"in use by the cluster of process {first.pid}" in second.printed[-1]
    assert first.end() == 0


def test_a_killed_broker_comes_back_on_its_port_and_the_ready_file_says_so(start):
    host = start().ready()
    before = host.brokers()[1]
    metadata_log = host.data_dir / "log" / "ended"
    os.kill(before["pid"], signal.SIGKILL)
    host.until("broker-1 is back")
    after = host.brokers()[1]

    assert after["pid"] != before["pid"]
    assert after["endpoint"] == before["endpoint"]
    wait_for(metadata_log.exists, "the death was not reported to the metadata process")
    assert metadata_log.read_text().startswith("broker-1 ")
    assert "was ended by SIGKILL" in "\n".join(host.printed)
    assert host.brokers()[2]["pid"] in host.pids  # its sibling was not touched
    host.ready_file.unlink()
    assert host.end() == 0


def test_a_killed_metadata_process_comes_back_and_the_brokers_stay(start):
    host = start().ready()
    before = json.loads(host.ready_file.read_text())
    os.kill(before["metadata"]["pid"], signal.SIGKILL)
    host.until("metadata is back")
    after = json.loads(host.ready_file.read_text())

    assert after["metadata"]["pid"] != before["metadata"]["pid"]
    assert after["brokers"] == before["brokers"]


def test_killing_the_host_ends_all_its_processes(start):
    host = start(brokers=3).ready()
    assert len(host.pids) >= 4
    host.end(signal.SIGKILL)

    assert host.leftovers(within_s=2.0) == []


def test_after_everything_was_killed_it_starts_again_as_the_same_cluster(start):
    host = start().ready()
    cluster_id = json.loads(host.ready_file.read_text())["cluster_id"]
    for pid in host.pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    host.end(signal.SIGKILL)
    assert host.leftovers() == []
    assert os.listdir(host.run_dir)

    again = start().ready()
    assert json.loads(again.ready_file.read_text())["cluster_id"] == cluster_id
    assert again.end() == 0
    assert os.listdir(again.run_dir) == []


def test_a_broker_that_makes_no_progress_is_ended_and_comes_back(start):
    host = start(broker={"stall_ms": 1_000}).ready()
    trouble = host.run_dir / "broker-2.trouble"
    trouble.write_text("stall")
    os.kill(host.brokers()[2]["pid"], signal.SIGKILL)  # its successor stalls as soon as it serves
    wait_for(lambda: "on_trouble" in host.logs(), "no stacks in the log")
    trouble.unlink()
    wait_for(lambda: host.logs().count("process.ready name=broker-2") >= 2, "it did not come back")

    assert "Timeout (0:00:01)!" in host.logs()
    host.end()


def test_what_no_restart_can_help_ends_the_start_with_one_line(start):
    host = start(branch="broken_branch")

    assert host.wait() == 2
    assert host.printed[-1] == "HostError: metadata cannot be made"
    assert "Traceback" not in "\n".join(host.printed)


def test_a_port_in_use_ends_the_start_with_one_line(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        host = start(brokers=1, port=port)
        assert host.wait() == 2

    assert str(port) in host.printed[-1]
    assert "in use" in host.printed[-1]


def test_too_many_brokers_for_the_ports_is_refused_before_anything_starts(start):
    host = start(brokers=10, port=65_530)

    assert host.wait() == 2
    assert "choose one up to 65526" in host.printed[-1]
    assert not host.data_dir.exists()


def test_an_existing_but_unusable_directory_is_refused(start, tmp_path):
    (tmp_path / "data").write_text("a file")
    host = start()

    assert host.wait() == 2
    assert "ConfigurationError: data_dir" in host.printed[-1]


def test_the_desk_shows_the_whole_tree(standing):
    tree = ask(standing.desk(), m.DescribeTreeRequest()).tree
    lines = {}

    def walk(line):
        lines[line.address] = line
        for child in line.children:
            walk(child)

    walk(tree)
    assert [child.address for child in tree.children] == [
        "host/desk",
        "host/metadata",
        "host/session",
        "host/broker-1",
        "host/broker-2",
    ]
    assert lines["host/broker-1/talker"].kind == "Talker"
    assert lines["host/broker-1"].kind == "process"
    assert lines["host/broker-1"].pid == standing.brokers()[1]["pid"]
    assert tree.pid == standing.pid


@pytest.mark.parametrize("address", ["host/broker-1", "broker-1"])
def test_the_desk_kills_a_process_and_it_does_not_count(start, address):
    host = start().ready()
    reply = ask(host.desk(), m.KillRequest(address=address, how="kill"))
    host.until("broker-1 is back")

    assert reply.error == 0
    assert "process" in reply.what


def test_the_desk_kills_an_actor_inside_a_process(start):
    host = start().ready()
    pid = host.brokers()[1]["pid"]
    reply = ask(host.desk(), m.KillRequest(address="host/broker-1/talker"))
    assert (reply.error, reply.what) == (0, "Talker: raise")

    def restarts():
        tree = ask(host.desk(), m.DescribeTreeRequest()).tree
        [broker] = [child for child in tree.children if child.address == "host/broker-1"]
        return broker.children and broker.children[0].restarts

    wait_for(lambda: restarts() == 1, "it was not restarted")
    assert runs(pid)


def test_a_process_that_is_told_to_kill_itself_says_that_it_was_chaos(start):
    host = start().ready()
    [endpoint] = [one for one in host.brokers()[2]["endpoints"] if one.startswith("ipc")]
    assert ask(endpoint, m.KillRequest(address="broker-2")).what == "process: kill"
    host.until("broker-2 is back")

    assert "actor.failed actor=host/broker-2" in host.logs()
    [line] = [line for line in host.logs().splitlines() if "actor.failed actor=host/broker-2" in line]
    assert " WARNING " in line  # an error would be a failure that nobody asked for


@pytest.mark.parametrize(("address", "how"), [("host/nobody", ""), ("broker-9", "kill"), ("broker-1", "gently")])
def test_the_desk_refuses_what_it_cannot_kill(standing, address, how):
    reply = ask(standing.desk(), m.KillRequest(address=address, how=how))

    assert reply.error != 0
    assert reply.detail


def test_the_desk_measures_its_processes(standing):
    reply = ask(standing.desk(), m.DescribeProcessesRequest())

    assert [one.name for one in reply.processes] == ["host", "metadata", "broker-1", "broker-2"]
    for one in reply.processes:
        assert one.memory_bytes > 1_000_000
        assert one.pid > 0
    assert reply.processes[2].disk_free_bytes > 0
    assert reply.processes[2].state == "running"


def test_a_directory_without_room_for_records_is_told_at_the_start(start, tmp_path):
    host = start(broker={"storage_min_free_bytes": 1 << 60}).ready()

    assert [line for line in host.printed if line.startswith("no records")] == [
        f"no records are taken in {tmp_path}/data: less than storage_min_free_bytes (1,152,921,504,606,846,976)"
        " is free; it goes on when there is room"
    ]
    assert "host.directory_full" in host.logs()


def test_a_broker_that_has_data_here_and_is_not_started_is_told_at_the_start_and_described(start, tmp_path):
    start(brokers=3).ready().end()
    for number in (1, 3):  # as brokers do; these here are none
        (tmp_path / "data" / f"broker-{number}" / "broker.json").write_text("{}")

    host = start().ready()

    assert [line for line in host.printed if "not be started" in line] == [
        "broker 3 has data here and will not be started; `--brokers 3` starts all"
    ]
    reply = ask(host.desk(), m.DescribeProcessesRequest())
    assert [(one.name, one.state) for one in reply.processes[2:]] == [
        ("broker-1", "running"),
        ("broker-2", "running"),
        ("broker-3", "not started"),
    ]
    assert reply.processes[-1].disk_bytes > 0


def test_a_broken_desk_is_restarted_and_finds_its_processes_again(start):
    host = start().ready()
    assert ask(host.desk(), m.KillRequest(address="host/desk")).what == "Desk: raise"
    tree = wait_for(lambda: getattr(ask(host.desk(), m.DescribeTreeRequest()), "tree", None), "no desk")

    assert any(child.children for child in tree.children if child.address == "host/broker-1")
    assert Path(host.ready_file).exists()


def test_a_third_signal_ends_what_does_not_stop(start):
    host = start().ready()
    os.kill(host.brokers()[2]["pid"], signal.SIGSTOP)  # SIGTERM does not reach it
    host.process.send_signal(signal.SIGTERM)
    host.until("stopping")
    host.process.send_signal(signal.SIGTERM)
    host.until("once more")
    host.process.send_signal(signal.SIGTERM)

    assert host.wait() == 2
    assert "stopped by force" in host.printed[-1]
    assert host.leftovers() == []


def test_a_stop_during_the_start_ends_it_cleanly(start):
    host = start()
    host.until("cluster")

    assert host.end() == 0
    assert host.leftovers() == []
