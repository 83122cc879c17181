"""A real cluster for a test: its own processes, its own directory, any free ports, nothing left behind.

    with cluster(brokers=3) as running:
        admin = AdminClient(bootstrap_servers=running.bootstrap_servers)
        running.kill_broker(2)
        running.wait_for_new_pid(2, old_pid)

The cluster is the one a person gets from ``callboard up``: it is started by that command.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from ..errors import CallboardError

DEADLINE_S = 60.0  # generous: a loaded machine is no bug of the cluster's


class ClusterDidNotStart(CallboardError):
    """``callboard up`` ended, or said nothing, before the cluster was ready. Holds what it printed."""


class RunningCluster:
    """One ``callboard up`` and its processes."""

    def __init__(
        self,
        directory: Path,
        *,
        brokers: int,
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        """``environment`` is added to this process's; ``prefix`` runs the command, as ``nice`` does."""
        self.directory = directory
        self.data_dir = directory / "data"
        self.ready_file = directory / "ready.json"
        self.brokers = brokers
        self._options = options
        self._environment, self._prefix = {**os.environ, **(environment or {})}, prefix
        self._process: subprocess.Popen[bytes] | None = None

    # -- life ----------------------------------------------------------------------------------------

    def start(self, deadline_s: float = DEADLINE_S) -> RunningCluster:
        """Run ``callboard up`` and return when it serves.

        Raises:
            ClusterDidNotStart: it ended or was silent; with its output.
        """
        self.ready_file.unlink(missing_ok=True)
        port = "0"
        command = [
            *self._prefix,
            sys.executable,
            "-m",
            "callboard",
            "up",
            "--brokers",
            str(self.brokers),
            "--port",
            port,
        ]
        command += ["--data-dir", str(self.data_dir), "--ready-file", str(self.ready_file), *self._options]
        with (self.directory / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env=self._environment
            )
        said = self._read_until(b"ready", deadline_s)
        if not self.ready_file.exists():
            self.stop()
            errors = (self.directory / "up.log").read_text(errors="replace")
            raise ClusterDidNotStart(f"`{' '.join(command)}` was not ready:\n{said.decode(errors='replace')}{errors}")
        return self

    def stop(self, deadline_s: float = DEADLINE_S) -> int | None:
        """Stop it as a person would, by SIGTERM; return its exit status. A second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def kill(self) -> None:
        """SIGKILL the host supervisor: its children end with it."""
        if self._process is not None:
            children = self.pids()
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
            self._wait_until(lambda: not any(is_alive(pid) for pid in children), "the children to end")

    # -- what a test wants to know ---------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the host supervisor."""
        return int(self.ready()["pid"])

    @property
    def bootstrap_servers(self) -> list[str]:
        return list(self.ready()["bootstrap_servers"])

    def ready(self) -> dict[str, Any]:
        """Return the ready file's content."""
        content: dict[str, Any] = orjson.loads(self.ready_file.read_bytes())
        return content

    def broker_pid(self, broker_id: int) -> int:
        return next(int(broker["pid"]) for broker in self.ready()["brokers"] if broker["id"] == broker_id)

    def pids(self) -> list[int]:
        """Return the pids of every process below the host supervisor."""
        import psutil

        if self._process is None:
            return []
        try:
            return [child.pid for child in psutil.Process(self._process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    # -- what a test wants to break ----------------------------------------------------------------------

    def kill_broker(self, broker_id: int) -> int:
        """SIGKILL a broker process; return the pid it had."""
        pid = self.broker_pid(broker_id)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_for_new_pid(self, broker_id: int, old_pid: int, deadline_s: float = DEADLINE_S) -> int:
        """Return the broker's new pid once the ready file has it."""
        self._wait_until(
            lambda: self.broker_pid(broker_id) not in (old_pid, 0), f"broker {broker_id} to come back", deadline_s
        )
        return self.broker_pid(broker_id)

    # -- inside ----------------------------------------------------------------------------------------

    def _read_until(self, word: bytes, deadline_s: float) -> bytes:
        """Read the command's output up to a line that holds ``word``, its end, or the deadline."""
        process, said = self._process, b""
        if process is None or process.stdout is None:
            return said
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            readable, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not readable:
                break
            chunk = os.read(process.stdout.fileno(), 65_536)
            said += chunk
            if not chunk or any(word in line for line in said.splitlines()):
                break
        return said

    def _wait_until(self, condition: Any, what: str, deadline_s: float = DEADLINE_S) -> None:
        until = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > until:
                raise CallboardError(f"waited {deadline_s:.0f} s for {what}")
            time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Say whether a process exists and is not a zombie."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def cluster(
    brokers: int = 3, *, directory: str | os.PathLike[str] | None = None, options: tuple[str, ...] = ()
) -> Iterator[RunningCluster]:
    """Run a cluster for the length of a ``with`` block.

    Args:
        directory: where its data go; kept afterwards. By default a temporary one, removed afterwards.
        options: more options of ``callboard up``.
    """
    path = Path(directory) if directory is not None else Path(tempfile.mkdtemp(prefix="callboard-"))
    running = RunningCluster(path, brokers=brokers, options=options)
    try:
        yield running.start()
    finally:
        running.stop()
        if directory is None:
            shutil.rmtree(path, ignore_errors=True)
