"""Real processes, really killed and really paused."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from callboard.errors import ConnectionLostError
from callboard.transport import messages
from callboard.transport.seam import Stage

from .rig import rig

pytestmark = pytest.mark.processes
SCRIPT = Path(__file__).with_name("server_process.py")


@contextmanager
def server_process(bind="127.0.0.1:0"):
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), bind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_a_killed_server_is_known_within_milliseconds(kind, tmp_path):
    bind = "127.0.0.1:0" if kind == "tcp" else f"ipc://{tmp_path}/s"
    with server_process(bind) as (process, endpoint), rig() as it:
        connection, states = it.ready(endpoint)
        answers = []
        connection.request(messages.MetadataRequest(topics=["no answer"]), lambda *answer: answers.append(answer))
        it.ask(connection, messages.MetadataRequest())

        before_ms = it.clock.monotonic_ms()
        os.kill(process.pid, signal.SIGKILL)
        it.until(lambda: answers)

        assert it.clock.monotonic_ms() - before_ms < 1_000  # 1 to 5 ms; the machine may be busy
        assert isinstance(answers[0][0], ConnectionLostError)
        assert [state.stage for state in states[:2]] == [Stage.READY, Stage.LOST]
    (tmp_path / "s").unlink(missing_ok=True)


def test_a_paused_server_is_known_by_its_silence_and_found_again():
    with server_process() as (process, endpoint), rig(heartbeat_ivl=50, heartbeat_timeout=200) as it:
        connection, states = it.ready(endpoint)
        answers = []
        os.kill(process.pid, signal.SIGSTOP)
        connection.request(messages.MetadataRequest(), lambda *answer: answers.append(answer), timeout_ms=60_000)

        it.until(lambda: answers)
        assert isinstance(answers[0][0], ConnectionLostError)
        assert states[1].stage is Stage.LOST

        os.kill(process.pid, signal.SIGCONT)
        assert isinstance(it.ask(connection, messages.MetadataRequest())[0], messages.MetadataReply)


def test_a_killed_server_that_comes_back_on_its_port_is_found_again():
    with rig() as it:
        with server_process() as (_, endpoint):
            connection, states = it.ready(endpoint)
        with server_process(endpoint):
            it.until(lambda: states[-1].is_ready and len(states) > 2)
            assert isinstance(it.ask(connection, messages.MetadataRequest())[0], messages.MetadataReply)


def test_a_socket_file_of_a_killed_server_does_not_stand_in_the_way(tmp_path):
    bind = f"ipc://{tmp_path}/s"
    with server_process(bind) as (process, endpoint):
        process.kill()
        process.wait()
        assert os.path.exists(tmp_path / "s")
        with server_process(bind) as (_, again), rig() as it:
            assert again == endpoint
            it.ready(endpoint)
    (tmp_path / "s").unlink()


def test_a_server_that_ends_cleanly_leaves_no_socket_file(tmp_path):
    with server_process(f"ipc://{tmp_path}/s") as (process, _):
        process.stdin.close()
        assert process.wait(10) == 0

    assert os.listdir(tmp_path) == []


def test_the_server_forgets_a_killed_client():
    script = (
        "import sys\n"
        "from callboard.transport.endpoint import ZmqTransport\n"
        "from callboard.transport.loop import SystemClock\n"
        "from callboard.transport.selector_loop import SelectorLoop\n"
        "loop = SelectorLoop()\n"
        "transport = ZmqTransport(loop, SystemClock())\n"
        "transport.connect(sys.argv[1], client_id='doomed', on_state=lambda state: print(state, flush=True))\n"
        "loop.run()\n"
    )
    with rig() as it:
        server, _ = it.serve_echo()
        client = subprocess.Popen([sys.executable, "-c", script, server.endpoints[0]], stdout=subprocess.DEVNULL)
        try:
            it.until(lambda: [peer.client_id for peer in server.peers()] == ["doomed"])
        finally:
            client.kill()
            client.wait()

        it.until(lambda: not server.peers())
        assert server.counters["connections"] == 0
