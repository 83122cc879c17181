"""The life of a child process: from ``run_process`` to its exit status.

What only a real process has is made here, once: event loop, clocks, sockets, files, log file, title, signals. The
tree that runs on it comes from ``actors/tree.py``; everything in it lives by the context alone.

Exit statuses: 0 stopped as asked; 70 the tree gave up (the reason has been told to the host); 71 the parent ended;
1 no turn of the event loop for ``stall_ms`` (stacks are in the log); 72 more memory than ``memory_limit_bytes``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import logging
import os
import random
import resource
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import IO, Any, TextIO

from setproctitle import setproctitle

from ..config import ProcessOptions
from ..errors import ConfigurationError
from ..storage.files import DISK_FULL, OsFiles
from ..transport import messages
from ..transport.addresses import boot_identity
from ..transport.endpoint import ZmqTransport
from ..transport.faults import Faults
from ..transport.loop import Loop, SystemClock
from ..transport.seam import Server, Transport
from .context import Context, ThreadPool
from .launcher import Channel
from .log import error_text, event
from .memory import watch_memory
from .root import Root, StopProcess
from .specs import ChildSpec
from .timeline import Timeline, TimelineHandler
from .turns import Turns

logger = logging.getLogger(__name__)

PACKAGE = __package__.partition(".")[0]
BRANCH = f"{__package__}.tree:branch_for"
EXIT_GAVE_UP = 70  # EX_SOFTWARE
EXIT_MEMORY = 72
DESCRIPTORS_MAX = 1 << 20
DESCRIPTORS_SPARE = 1_024  # of these, for our own files only; an eighth where there are few
MALLOC_SWITCHES = {
    -1: 64 << 20,  # M_TRIM_THRESHOLD: free memory at the heap's end that is kept
    -2: 4 << 20,  # M_TOP_PAD: asked for at once when the heap grows
    -3: 32 << 20,  # M_MMAP_THRESHOLD: what is smaller comes from the heap; glibc's greatest
}
SWITCH_S = 0.0005  # how long a pool thread waits for the interpreter behind a busy loop; Python's 5 ms are a tail
COLLECT_AFTER = 20_000, 20, 50  # allocations, then generations; Python's 700, 10, 10
STALL_CHECKS = 4  # re-arms within stall_ms

Branch = Callable[[ProcessOptions, Context], ChildSpec]


def run_process(options: ProcessOptions, channel: Channel, branch: str = BRANCH) -> None:
    """Run one process of the cluster until it is stopped or gives up; ends by ``sys.exit``.

    Args:
        branch: ``package.module:function`` that returns the root of its tree.
    """
    setproctitle(f"callboard: {options.name} of {options.cluster.data_dir}")
    log_file = log_to(options.cluster.data_dir, options.name, options.cluster.log_level)
    os.dup2(log_file.fileno(), 1)  # whatever a library prints or dumps belongs into the log, not on the terminal
    os.dup2(log_file.fileno(), 2)
    faulthandler.enable(log_file)
    raise_descriptor_limit()
    keep_freed_memory()
    sys.setswitchinterval(SWITCH_S)
    event(logger, "process.begins", name=options.name, pid=os.getpid(), incarnation=options.incarnation)
    sys.exit(_Process(options, channel, log_file, branch).run())


class _Process:
    """One process: its loop, its context and its end."""

    def __init__(self, options: ProcessOptions, channel: Channel, log_file: IO[str], branch: str) -> None:
        self._options, self._channel, self._log_file, self._branch = options, channel, log_file, branch
        self._exit_status = EXIT_GAVE_UP
        self.loop = new_loop()
        turns = Turns(self.loop)
        self.pool = ThreadPool(self.loop, options.cluster.broker.flush_threads, options.name, turns)
        faults = Faults() if options.cluster.experiments else None
        sockets = ZmqTransport(self.loop, SystemClock(), faults=faults)
        self.transport, self._end_endless = Announced(sockets), sockets.end_endless
        self.context = real_context(options.name, self.loop, self.transport, self.pool, turns, faults)
        keep_timeline(self.context)

    def run(self) -> int:
        options, stall_s = self._options, self._options.cluster.broker.stall_ms / 1000
        try:
            spec = function_named(self._branch)(options, self.context)
        except Exception as error:  # noqa: BLE001 - whatever it is, the host must hear why there will be no process
            self._tell_failure(error)
            return EXIT_GAVE_UP
        self.loop.call_soon(self._begin, spec)
        watch_for_stalls(self.loop, stall_s, self._log_file)
        limit = options.cluster.broker.memory_limit_bytes
        watch_memory(self.loop, limit, self._on_too_much_memory, on_half=self._end_endless)
        try:
            self.loop.run_forever()
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.transport.close()
            self.pool.close()
            self.loop.close()
        event(logger, "process.ends", name=options.name, status=self._exit_status)
        return self._exit_status

    def _begin(self, spec: ChildSpec) -> None:
        """Start the tree, on the running loop: uvloop forgets a signal that comes before it runs."""
        root = Root.start(
            self.context,
            spec,
            on_ready=self._tell_ready,
            on_end=self._on_end,
            on_kill=lambda how: os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGTERM),
            before_kill=lambda: self._channel.tell("chaos"),
            stall_ms=self._options.cluster.broker.actor_stall_ms,
        )
        self.loop.add_signal_handler(signal.SIGTERM, root.post, StopProcess("SIGTERM"))

    def _tell_ready(self) -> None:
        collect_rarely()
        self._channel.tell("ready", pid=os.getpid(), endpoints=self.transport.endpoints)

    def _on_end(self, error: BaseException | None) -> None:
        if error is None:
            self._exit_status = 0
        else:
            self._tell_failure(error)
        self.loop.stop()

    def _on_too_much_memory(self, held: int) -> None:
        """End at once: see ``memory``."""
        limit = self._options.cluster.broker.memory_limit_bytes
        event(logger, "process.too_large", logging.ERROR, name=self._options.name, bytes=held, limit=limit)
        text = f"{held:,} bytes of memory, memory_limit_bytes is {limit:,}"
        self._channel.tell("failed", error=text, is_configuration=False)
        os._exit(EXIT_MEMORY)

    def _tell_failure(self, error: BaseException) -> None:
        cause = first_cause(error)
        event(logger, "process.gave_up", logging.ERROR, name=self._options.name, error=error)
        is_configuration = isinstance(cause, ConfigurationError)
        text = str(cause) if is_configuration else error_text(cause)
        self._channel.tell("failed", error=text, is_configuration=is_configuration)


class Announced:
    """A transport that remembers where this process serves, for whoever asks the host."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._servers: list[Server] = []

    @property
    def endpoints(self) -> list[str]:
        """Return the endpoints for others than the cluster's own brokers, of the newest server."""
        return list(self._servers[-1].endpoints) if self._servers else []

    def serve(self, binds: Any, union: Any, on_requests: Any, **how: Any) -> Server:
        server = self._transport.serve(binds, union, on_requests, **how)
        if union is not messages.PeerRequest:
            self._servers.append(server)
        return server

    def connect(self, endpoint: str, **how: Any) -> Any:
        return self._transport.connect(endpoint, **how)

    def close(self) -> None:
        self._transport.close()


def real_context(
    name: str,
    loop: asyncio.AbstractEventLoop,
    transport: Transport,
    pool: ThreadPool,
    turns: Turns | None = None,
    faults: Faults | None = None,
) -> Context:
    """Return the context of a real process. ``faults``: the transport's, where experiments are allowed."""
    return Context(
        name=name,
        loop=loop,
        clock=SystemClock(),
        random=random.Random(),
        new_id=lambda: uuid.uuid4().hex,
        transport=transport,
        files=OsFiles(),
        pool=pool,
        turns=turns,
        boot=boot_identity(),
        timeline=Timeline(name, uuid.uuid4().hex, loop, SystemClock()),
        faults=faults,
    )


def keep_timeline(context: Context) -> None:
    """Have the notable events of this process kept in its context's timeline, from now on."""
    if context.timeline is not None:
        logging.getLogger(PACKAGE).addHandler(TimelineHandler(context.timeline))


def keep_freed_memory() -> None:
    """Have the C library reuse the memory of one batch for the next, instead of giving it back and asking again.

    Memory that comes fresh from the kernel is zeroed page by page as it is touched, which costs more than copying
    a batch into it. Only glibc has these switches; without them all works, more slowly.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for switch, size in MALLOC_SWITCHES.items():
            mallopt(switch, size)


def collect_rarely() -> None:
    """Spare the garbage collector what lives as long as the process: modules, actors, the tree.

    It looks at all of it again and again otherwise, some 10 ms at a time in which no request is answered. What requests
    leave behind is freed by its reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may, but for some: they are for its logs (``storage/spare``)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    with contextlib.suppress(ValueError, OSError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most - min(DESCRIPTORS_SPARE, most // 8), hard))


def new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's event loop where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def watch_for_stalls(loop: Loop, stall_s: float, log_file: IO[str]) -> None:
    """End this process, stacks in the log, when its loop makes no turn for ``stall_s``.

    The watch is faulthandler's own thread, in C: it fires even while something holds the GIL. A process that was
    stopped (SIGSTOP) for longer may end by it when it goes on: it has lost its session anyway.
    """

    def arm() -> None:
        faulthandler.dump_traceback_later(stall_s, exit=True, file=log_file)
        loop.call_later(stall_s / STALL_CHECKS, arm)

    arm()


class LogFile(logging.StreamHandler[TextIO]):
    """Writes events to a file; while the disk is full they are lost, and nothing is said of that anywhere else."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        error = sys.exc_info()[1]
        if not (isinstance(error, OSError) and error.errno in DISK_FULL):
            super().handleError(record)


def log_to(data_dir: str, name: str, level: str) -> IO[str]:
    """Have this process's events appended to ``<data_dir>/log/<name>.log``; return the open file."""
    stream = open(f"{data_dir}/log/{name}.log", "a", encoding="utf-8")  # noqa: SIM115 - open as long as the process
    handler = LogFile(stream)
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(process)d %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.setLevel(level.upper())
    package = logging.getLogger(PACKAGE)
    for old in package.handlers[:]:
        package.removeHandler(old)
    package.addHandler(handler)
    package.setLevel(min(logging.INFO, handler.level))  # the timeline wants to know, whatever the file does not
    package.propagate = False
    threading.excepthook = _log_thread_failure
    return stream


def first_cause(error: BaseException) -> BaseException:
    """Return what an error goes back to: the failure under any number of supervisors that gave up."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def function_named(path: str) -> Callable[..., Any]:
    """Return the function called ``package.module:name``, imported now."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _log_thread_failure(args: threading.ExceptHookArgs) -> None:
    thread = args.thread.name if args.thread is not None else ""
    event(logger, "thread.failed", logging.ERROR, thread=thread, error=args.exc_value)
