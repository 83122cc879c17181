"""How a child process is started, and how it is made to end with its parent.

``multiprocessing`` by forkserver with the package preloaded: 10 ms a process, where spawn imports for 115-270 ms.
The forkserver is itself a child of the host, so the chain is: host ends -> the forkserver sees the end of its
pipe and ends -> the kernel kills its children (PR_SET_PDEATHSIG; Linux). For that no child may hold the write end
of that pipe, as multiprocessing has it: each closes its copy. Where there is no such signal (macOS), a thread in
each child waits for the end of a pipe that only the host holds.

Rules of this file:

1. Processes are started from the main thread: PR_SET_PDEATHSIG fires when the starting *thread* ends.
2. A child never re-imports the parent's ``__main__`` (a script without a guard would start a second cluster).
3. Nothing is left behind: the forkserver's socket stands in the run directory, not in /tmp.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import orjson

from ..config import ProcessOptions
from ..errors import IllegalStateError

PR_SET_PDEATHSIG = 1
EXIT_ORPHANED = 71  # EX_OSERR: the parent has ended
PRELOAD = f"{__package__}.preload"

Entry = Callable[[ProcessOptions, "Channel"], None]


class Channel:
    """A child's line to its host: short JSON messages, one way. The host closes its end by ending."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, event: str, **values: Any) -> None:
        """Say something to the host; silently void when it has ended."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(orjson.dumps({"event": event, **values}))


class ChildProcess:
    """A started process. Its pipe and its sentinel are watched by the loop of the actor that owns it."""

    def __init__(self, process: Any, connection: Connection) -> None:
        self._process = process
        self._connection = connection
        self.is_read_out = False
        self.pid: int = process.pid
        self.sentinel: int = process.sentinel
        self.channel: int = connection.fileno()

    def read(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        try:
            while not self.is_read_out and self._connection.poll():
                messages.append(orjson.loads(self._connection.recv_bytes(1 << 20)))
        except (EOFError, OSError, orjson.JSONDecodeError):
            self.is_read_out = True  # its end; why it ended is told by the sentinel
        return messages

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def reap(self, timeout_s: float) -> int | None:
        self._process.join(timeout_s)
        exitcode: int | None = self._process.exitcode
        return exitcode

    def close(self) -> None:
        self._connection.close()
        with contextlib.suppress(ValueError):  # it still runs: it did not even obey SIGKILL
            self._process.close()


class ProcessLauncher:
    """Starts processes that run ``entry(options, channel)``. ``entry`` is importable by name."""

    def __init__(self, entry: Entry, run_dir: str) -> None:
        self._entry = entry
        self._context: Any = multiprocessing.get_context("forkserver" if _has_forkserver() else "spawn")
        if _has_forkserver():
            forkserver.set_forkserver_preload([PRELOAD])
            _put_sockets_into(run_dir)

    def launch(self, options: ProcessOptions) -> ChildProcess:
        """Start a process.

        Raises:
            IllegalStateError: not called on the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise IllegalStateError("processes are started from the main thread only: they end with the thread")
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_run, name=options.name, args=(self._entry, options, theirs), daemon=True
        )
        with _main_module_hidden():
            process.start()
        theirs.close()
        return ChildProcess(process, ours)

    def close(self) -> None:
        """End what serves the starting of processes; the processes themselves have ended before."""
        for server in (getattr(forkserver, "_forkserver", None), getattr(resource_tracker, "_resource_tracker", None)):
            stop = getattr(server, "_stop", None)
            if stop is not None:
                with contextlib.suppress(FileNotFoundError):  # its socket went with the run directory
                    stop()


def die_with_parent() -> None:
    """Arrange that this process ends when its parent does, whatever it is doing then."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def wait() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def _run(entry: Entry, options: ProcessOptions, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's; it stops us in order
    _let_go_of_forkserver()
    die_with_parent()
    entry(options, Channel(connection))


def _let_go_of_forkserver() -> None:
    """Close this process's copy of the pipe that keeps the forkserver alive: only the host shall."""
    server: Any = getattr(forkserver, "_forkserver", None)
    descriptor = getattr(server, "_forkserver_alive_fd", None)
    if descriptor is not None:
        os.close(descriptor)
        server._forkserver_alive_fd = None


def _has_forkserver() -> bool:
    return "forkserver" in multiprocessing.get_all_start_methods()


def _put_sockets_into(run_dir: str) -> None:
    """Have multiprocessing make its temporary files in ``run_dir``: a killed host leaves nothing in /tmp."""
    config: dict[str, Any] = getattr(multiprocessing.current_process(), "_config", {})
    if config.get("tempdir") is None:
        config["tempdir"] = run_dir


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep multiprocessing from handing the parent's ``__main__`` to the child (rule 2)."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
