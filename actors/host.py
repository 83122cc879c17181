"""The host: the process behind ``callboard up``. Its children are processes, under the rules of any supervisor.

    host            one_for_one, 10 in 30 s for each child
    ├── desk        Desk             told of every start and end; answers for all processes
    ├── metadata    process          past its limit the host ends
    ├── session     MetadataClient   the host's own session: brokers and the CLI find the desk by it
    ├── broker-1    process          past its limit it is offline, host and siblings live on
    └── broker-2 …  process          brokers start, and stop, together

A host that joins another one's cluster (``joining``) has no metadata process: its session and its brokers' are with
the first host's. ``host`` stands for whatever name the host has.

``run_host`` makes what only a real process has, runs the tree until a signal, and leaves nothing behind: no
process, no socket file, no lock.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..config import ClusterConfig, ProcessOptions
from ..errors import ConfigurationError
from ..storage.files import OsFiles
from ..transport.addresses import parse_address
from ..transport.endpoint import ZmqTransport
from ..transport.loop import SystemClock
from . import advertising
from .context import Context, ThreadPool
from .datadir import DataDir, HostError, open_data_dir
from .desk import Desk, Roster
from .entry import BRANCH, first_cause, keep_timeline, log_to, new_loop, real_context, run_process
from .joining import host_name, join
from .launcher import Entry, ProcessLauncher
from .log import event
from .logdirs import brokers_left_out, more_data_dirs, without_room
from .memory import watch_memory
from .metadata.client import MetadataClient
from .processes import Launcher, ProcessActor, ProcessPlan
from .refs import LoopRef
from .restarts import Backoff, OnGiveUp, Strategy
from .root import Root, StopProcess
from .specs import ChildSpec, SupervisorSpec
from .supervisor import supervisor

__all__ = ["HostError", "run_host"]

logger = logging.getLogger(__name__)

HOST_NAME = "host"  # of its log file; what it is called in the cluster is ``config.host_name``
INTENSITY, PERIOD_MS = 10, 30_000
BACKOFF = Backoff(min_ms=50, max_ms=5_000, jitter=0.2, reset_after_ms=2_000)
# A broker's partitions are led elsewhere within a tenth of a second, unless its restart takes the processor from that.
BROKER_BACKOFF = Backoff(min_ms=300, max_ms=5_000, jitter=0.2, reset_after_ms=2_000)
BROKER_SHUTDOWN_MS = 60_000  # it writes what is not on disk yet
METADATA_SHUTDOWN_MS = 10_000
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_host(
    config: ClusterConfig,
    *,
    ready_file: str | None = None,
    announce: Callable[[str], None] = print,
    branch: str = BRANCH,
) -> int:
    """Run a cluster on this host until SIGINT or SIGTERM, then stop it in order; returns 0.

    Args:
        ready_file: written when the cluster serves, kept up to date, removed at the end.
        announce: called with each line for the person who looks on.
        branch: ``package.module:function`` that makes the tree of each process (tests have their own).

    Raises:
        ConfigurationError, HostError: it cannot run, or could not go on; one line that says why.
        BrokerResponseError, ConnectionFailedError: the cluster that it should join refused it, or does not answer.
    """
    advertising.check(config)
    _check_ports(config)
    files, clock = OsFiles(), SystemClock()
    ready_file = os.path.abspath(ready_file) if ready_file is not None else None
    if ready_file is not None and not os.path.isdir(os.path.dirname(ready_file)):
        raise ConfigurationError(f"ready file {ready_file!r}: there is no such directory")
    new_id = os.urandom(16).hex()
    data = open_data_dir(
        files,
        config.data_dir,
        brokers=config.brokers,
        new_id=new_id,
        now_ms=clock.wall_ms(),
        joins=bool(config.join),
    )
    try:
        if ready_file is not None:
            Path(ready_file).unlink(missing_ok=True)  # of a host that was killed: it must not be believed
        config = msgspec.structs.replace(config, host_name=host_name(config, data))
        broker_ids: Sequence[int] = range(1, config.brokers + 1)
        if config.join:
            joined = join(config, data, new_id=new_id, announce=announce, stops=STOP_SIGNALS)
            if joined is None:
                return 0
            broker_ids = joined.broker_ids
            config = msgspec.structs.replace(config, join=joined.join)
            data.make_broker_dirs(broker_ids)
        more = more_data_dirs(files, data.path, config.data_dirs, broker_ids=broker_ids)
        config = msgspec.structs.replace(config, data_dir=data.path, data_dirs=more)
        entry = functools.partial(run_process, branch=branch)
        return _Host(config, data, broker_ids, ready_file, announce, entry).run()
    finally:
        data.close()


class _Host:
    """One run of a host."""

    def __init__(
        self,
        config: ClusterConfig,
        data: DataDir,
        broker_ids: Sequence[int],
        ready_file: str | None,
        announce: Callable[[str], None],
        entry: Entry,
    ) -> None:
        self._config, self._ready_file = config, ready_file
        self._error: BaseException | None = None
        self._stops = 0
        self._handlers: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        log_to(data.path, HOST_NAME, config.log_level)
        self._loop = new_loop()
        self._pool = ThreadPool(self._loop, 1, HOST_NAME)
        self._transport = ZmqTransport(self._loop, SystemClock())
        self._context = real_context(HOST_NAME, self._loop, self._transport, self._pool)
        keep_timeline(self._context)
        self._launcher = ProcessLauncher(entry, data.run_dir)
        plans = process_plans(config, data.run_dir, data.identity.cluster_id, broker_ids)
        self._roster = Roster(
            name=config.host_name,
            pid=os.getpid(),
            incarnation=self._context.new_id(),
            cluster_id=data.identity.cluster_id,
            data_dir=data.path,
            run_dir=data.run_dir,
            plans={plan.name: plan for plan in plans},
            announce=functools.partial(_to_whom_it_may_concern, announce),
            ready_file=ready_file,
            config=config,
            data_dirs=config.data_dirs,
            is_data_there=data.is_there,
            has_experiments=config.experiments,
            left_out=brokers_left_out(self._context.files, (data.path, *config.data_dirs), broker_ids),
        )
        minimum = config.broker.storage_min_free_bytes
        self._without_room = without_room(self._context.files, (data.path, *config.data_dirs), minimum)

    def run(self) -> int:
        event(logger, "host.begins", pid=self._roster.pid, cluster=self._roster.cluster_id, data=self._roster.data_dir)
        self._loop.call_soon(self._begin)
        limit = self._config.broker.memory_limit_bytes
        watch_memory(self._loop, limit, self._on_too_much_memory, on_half=self._transport.end_endless)
        try:
            self._loop.run_forever()
        finally:
            before = self._ignore_signals()
            self._kill_what_is_left()
            self._transport.close()
            self._pool.close()
            self._loop.close()
            self._launcher.close()
            if self._ready_file is not None:
                Path(self._ready_file).unlink(missing_ok=True)
            for number, handler in before.items():
                signal.signal(number, handler)
        event(logger, "host.ends", error=self._error)
        if self._error is not None:
            raise as_host_error(self._error, self._roster) from self._error
        return 0

    def _on_too_much_memory(self, held: int) -> None:
        limit = self._config.broker.memory_limit_bytes
        event(logger, "host.too_large", logging.ERROR, bytes=held, limit=limit)

    def _begin(self) -> None:
        """Start the tree, on the running loop: uvloop forgets a signal that comes before it runs."""
        root = Root.start(
            self._context,
            host_branch(self._roster, self._launcher),
            on_ready=lambda: event(logger, "host.ready"),
            on_end=self._on_end,
            on_kill=lambda how: os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGTERM),
        )
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._on_signal, root.post, signal.Signals(number).name)
        self._roster.announce(f"cluster {self._roster.cluster_id} in {self._roster.data_dir}")
        if left_out := self._roster.left_out:
            event(logger, "host.brokers_left_out", logging.WARNING, brokers=left_out)
            self._roster.announce(left_out_line(left_out, len(self._roster.brokers), joins=bool(self._config.join)))
        for directory in self._without_room:
            event(logger, "host.directory_full", logging.WARNING, directory=directory.path, why=directory.reason)
            self._roster.announce(f"no records are taken in {directory.path}: {directory.reason}")

    def _on_signal(self, tell: Callable[[object], bool], name: str) -> None:
        self._stops += 1
        if self._stops == 1:
            self._roster.announce("stopping")
            tell(StopProcess(name))
        elif self._stops == 2:
            self._roster.announce("still stopping: once more to kill what has not stopped yet")
        elif self._stops == 3:
            self._error = HostError("stopped by force: the next start recovers what was not closed cleanly")
            self._loop.stop()

    def _on_end(self, error: BaseException | None) -> None:
        self._error = self._error or error
        self._loop.stop()

    def _ignore_signals(self) -> dict[signal.Signals, Any]:
        """Let nothing interrupt the cleaning up; return what was in force before this host."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        for number in STOP_SIGNALS:
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self._handlers

    def _kill_what_is_left(self) -> None:
        """Nothing after an ordered stop; everything after a forced one."""
        for ref in reversed(self._context.directory.refs()):
            ref.kill(HostError("the host ends"))


def _to_whom_it_may_concern(announce: Callable[[str], None], line: str) -> None:
    """Announce a line; when whoever looked on is gone (a closed pipe), the cluster goes on and still obeys signals."""
    with contextlib.suppress(OSError, ValueError):
        announce(line)


def left_out_line(left_out: Sequence[int], brokers: int, *, joins: bool) -> str:
    """Return what a person is told of brokers that have data here and are not started."""
    who = f"broker {left_out[0]} has" if len(left_out) == 1 else f"brokers {', '.join(map(str, left_out))} have"
    wanted = brokers + len(left_out) if joins else max(left_out)
    return f"{who} data here and will not be started; `--brokers {wanted}` starts all"


def host_branch(roster: Roster, launcher: Launcher) -> ChildSpec:
    """Return the tree of the host."""
    desk = f"{roster.name}/desk"

    def session(context: Context, address: str, parent: LoopRef | None) -> LoopRef:
        return MetadataClient.start(
            context,
            address,
            parent,
            endpoint=metadata_endpoint(roster.config, roster.run_dir),
            session_name=roster.name,
            incarnation=roster.incarnation,
            document=roster.document or None,
            settings=roster.config.broker,
            cluster_id=roster.cluster_id,
        )

    metadata = [_process_spec(plan, launcher, desk) for plan in roster.plans.values() if plan.broker_id < 0]
    brokers = [_process_spec(plan, launcher, desk) for plan in roster.brokers]
    spec = SupervisorSpec(
        strategy=Strategy.ONE_FOR_ONE,
        intensity=INTENSITY,
        period_ms=PERIOD_MS,
        intensity_per_child=True,
        watcher=desk,
        children=(
            ChildSpec(name="desk", start=Desk.starter(roster=roster)),
            *metadata,
            ChildSpec(name="session", start=session),
            *brokers,
        ),
    )
    return supervisor(roster.name, spec)


def _process_spec(plan: ProcessPlan, launcher: Launcher, desk: str) -> ChildSpec:
    is_broker = plan.broker_id >= 0
    return ChildSpec(
        name=plan.name,
        start=ProcessActor.starter(plan=plan, launcher=launcher, owner=desk),
        backoff=BROKER_BACKOFF if is_broker else BACKOFF,
        shutdown_ms=BROKER_SHUTDOWN_MS if is_broker else METADATA_SHUTDOWN_MS,
        on_give_up=OnGiveUp.LEAVE_OFFLINE if is_broker else OnGiveUp.ESCALATE,
        waits=not is_broker,
    )


def process_plans(config: ClusterConfig, run_dir: str, cluster_id: str, broker_ids: Sequence[int]) -> list[ProcessPlan]:
    """Return the plans of the host's processes in start order: the metadata process if it has one, then the brokers."""

    def options(plan: ProcessPlan, incarnation: str) -> ProcessOptions:
        return ProcessOptions(
            name=plan.name,
            cluster=config,
            incarnation=incarnation,
            run_dir=run_dir,
            cluster_id=cluster_id,
            broker_id=plan.broker_id,
            port=_port_of(plan, config),
            peer_port=config.peer_port + plan.number if config.peer_port else 0,
            number=plan.number,
            host_name=config.host_name,
            metadata_endpoint=metadata_endpoint(config, run_dir) + _also_listens(plan, config),
            restarts=plan.starts,
        )

    metadata = [] if config.join else [ProcessPlan("metadata", options)]
    brokers = [
        ProcessPlan(f"broker-{broker_id}", options, broker_id=broker_id, number=number)
        for number, broker_id in enumerate(broker_ids)
    ]
    return metadata + brokers


def metadata_endpoint(config: ClusterConfig, run_dir: str) -> str:
    """Return where the metadata process answers the processes of this host."""
    return config.join or f"ipc://{run_dir}/metadata.sock"


def _also_listens(plan: ProcessPlan, config: ClusterConfig) -> str:
    """Return what the metadata process binds for other hosts; a free port is kept when it is started again."""
    if plan.broker_id >= 0 or not config.metadata_listen:
        return ""
    wanted = parse_address(config.metadata_listen, default_port=0, what="metadata_listen")
    bound = (parse_address(one).port for one in plan.endpoints if one.startswith("tcp://"))
    return "," + wanted._replace(port=wanted.port or next(bound, 0)).endpoint


def as_host_error(error: BaseException, roster: Roster) -> BaseException:
    """Return what ``run_host`` raises when its tree has ended by itself."""
    if isinstance(error, HostError | ConfigurationError):
        return error
    cause = first_cause(error)
    if isinstance(cause, HostError | ConfigurationError):
        return cause
    return HostError(f"the host gave up: {cause}; see {roster.data_dir}/log")


def _port_of(plan: ProcessPlan, config: ClusterConfig) -> int:
    """Return the port of a process's next start: the configured one, or the one it has had before."""
    if plan.broker_id < 0:
        return 0
    if config.port:
        return config.port + plan.number
    for endpoint in plan.endpoints:
        if endpoint.startswith("tcp://"):
            return int(endpoint.rpartition(":")[2])
    return 0


def _check_ports(config: ClusterConfig) -> None:
    for name, port in (("port", config.port), ("peer_port", config.peer_port)):
        last = port + config.brokers - 1
        if port and last > 65_535:
            raise ConfigurationError(
                f"{name} {port} with {config.brokers} brokers would need port {last}: choose one up to "
                f"{65_535 - config.brokers + 1}"
            )
