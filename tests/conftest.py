"""What holds for the whole suite: nothing is left behind, and one real cluster is shared by those who only use it.

Leftovers are looked for when the last test has ended, by three marks that every process started by the suite
inherits: an environment variable with this session's id, and a temporary directory of its own (``TMPDIR``).
A process that still lives, a file or socket that still lies there, a port that is still open: the run fails and
says which. On the way tests need not care; they use ``tempfile`` and ``subprocess`` as everybody does. Where pytest
has processes of its own (``lanes.py``), they hand in their open ports; the rest is looked for when they have ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lanes

# How fast examples are made is the machine's affair, and machines are shared: no test fails for that.
hypothesis.settings.register_profile(
    "callboard", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("callboard")

MARK = "CALLBOARD_TEST_SESSION"
GRACE_S = 5.0  # for processes that are just ending
HELPERS_OF_MULTIPROCESSING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

_leftovers: list[str] = []
_state: dict[str, Any] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Give the session its mark and its temporary directory; pytest's own ``tmp_path`` stays where it was."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job: its children ignore it too
    config.pluginmanager.register(lanes)
    if MARK in os.environ:
        return  # pytest run by a test, or by xdist: the outer session looks
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ[MARK] = uuid.uuid4().hex
    os.environ["SPT_NOENV"] = "1"  # setproctitle would overwrite the environment that the mark stands in
    directory = Path(tempfile.mkdtemp(prefix="cbt-"))  # short: paths of unix sockets are bounded
    os.environ["TMPDIR"] = str(directory)
    tempfile.tempdir = None
    _state["directory"] = directory
    if sys.dont_write_bytecode:
        _state["bytecode"] = _keep_bytecode()


def _keep_bytecode() -> Path:
    """Let processes that begin from now on find each other's bytecode, in a directory that goes with the session.

    Where none may be written, hundreds of them would compile the whole package again: a third of a second each.
    """
    directory = Path(tempfile.mkdtemp(prefix="cbt-bytecode-", dir=os.environ["PYTEST_DEBUG_TEMPROOT"]))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or python -B
    os.environ["PYTHONPYCACHEPREFIX"] = str(directory)
    return directory


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Take what one of xdist's processes has handed in."""
    _leftovers.extend(getattr(node, "workeroutput", {}).get("ports left", []))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    directory = _state.get("directory")
    if directory is None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["ports left"] = _ports_left()
        return
    _leftovers.extend(_processes_left() + _ports_left())
    _leftovers.extend(_files_left(directory) + _sockets_left(session.config, directory))
    if _leftovers and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in _leftovers:
        terminalreporter.write_line(f"LEFT BEHIND: {line}", red=True)


def pytest_unconfigure() -> None:
    for name in ("directory", "bytecode"):
        if (directory := _state.pop(name, None)) is not None:
            shutil.rmtree(directory, ignore_errors=True)


# -- what may be left --------------------------------------------------------------------------------


def _processes_left() -> list[str]:
    """Return the processes of this session that still live after a moment of grace."""
    until = time.monotonic() + GRACE_S
    while (left := _marked_processes()) and time.monotonic() < until:
        time.sleep(0.05)
    lines = []
    for process in left:
        try:
            lines.append(f"process {process.pid}: {' '.join(process.cmdline())[:200]}")
            process.kill()
        except psutil.Error:
            continue
    return lines


def _marked_processes() -> list[psutil.Process]:
    mark, own = os.environ[MARK], os.getpid()
    found = {}
    for process in [*psutil.process_iter(), *psutil.Process().children(recursive=True)]:
        try:
            if process.pid == own or process.status() == psutil.STATUS_ZOMBIE or _is_helper(process, own):
                continue
            if own in {parent.pid for parent in process.parents()} or process.environ().get(MARK) == mark:
                found[process.pid] = process
        except psutil.Error:
            continue  # ended meanwhile, or another user's
    return list(found.values())


def _is_helper(process: psutil.Process, own: int) -> bool:
    """Say whether it is multiprocessing's own helper of this very process: it ends when we do."""
    command = " ".join(process.cmdline())
    return process.ppid() == own and any(helper in command for helper in HELPERS_OF_MULTIPROCESSING)


def _ports_left() -> list[str]:
    connections = psutil.Process().net_connections(kind="inet")
    return [f"port {each.laddr.port} is open" for each in connections if each.status == psutil.CONN_LISTEN]


def _files_left(directory: Path) -> list[str]:
    """Return what lies in the session's temporary directory; multiprocessing's helpers clean up when we end."""
    expected = ("pymp-", "gw")  # ``tmp_path`` of xdist's processes
    return [f"in TMPDIR: {path.name}" for path in directory.iterdir() if not path.name.startswith(expected)]


def _sockets_left(config: pytest.Config, directory: Path) -> list[str]:
    factory = getattr(config, "_tmp_path_factory", None)
    bases = [base for base in (getattr(factory, "_basetemp", None), *directory.glob("gw*")) if base is not None]
    found = []
    for folder, _, names in (walked for base in bases for walked in os.walk(base)):
        for name in names:
            path = Path(folder, name)
            try:
                if stat.S_ISSOCK(path.lstat().st_mode):
                    found.append(f"socket {path}")
            except FileNotFoundError:
                continue
    return found


# -- a cluster for those who only use it ----------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Any]:
    """A cluster of three brokers for tests that neither stop it nor kill its processes: topics are theirs alone."""
    from callboard.testing.clusters import cluster

    with cluster(brokers=3) as running:
        yield running


@pytest.fixture(scope="session")
def bootstrap_servers(shared_cluster: Any) -> str:
    """How to reach the shared cluster."""
    return ",".join(shared_cluster.bootstrap_servers)


@pytest.fixture
def topic_name() -> str:
    """A topic's name that no other test uses."""
    return f"topic-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as a person would, by default ``python -m callboard …``; with its output as text."""

    def run_command(
        arguments: Sequence[str], *, stdin: str = "", program: Sequence[str] = ("-m", "callboard"), timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *program, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=tempfile.gettempdir(),
        )

    return run_command
