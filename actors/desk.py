"""The host's desk: knows its processes, reports their deaths, answers for all of them.

Rules of this file:

1. A broker's death is told to the metadata process at once, under the incarnation that died: failover begins
   there, not at a timeout. A repeated or late report does no harm, it names an incarnation that is over.
2. The host answers for its processes: their trees are asked for and grafted below it, kills are passed on. A
   process that does not answer in time is shown without what is below it.
3. The ready file says what is so now: written when the cluster first serves, rewritten when a process comes back.
4. What its processes tell of what happens to them is kept here, too, as it comes: so the timeline knows of a
   process that was killed since. Experiments on a whole process are the host's: it can stop it, and let it go on.
5. Before the cluster has served for the first time, what no restart can help (configuration) ends the host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
import orjson

from ..config import ClusterConfig, nearest, shown
from ..errors import CallboardError, ErrorCode
from ..transport import messages as m
from ..transport.addresses import choose_endpoint, machine_identity, parse_address
from ..transport.seam import Connection, Inbound, Server, ServerIdentity
from .advertising import advertised, for_desk
from .context import Context
from .datadir import HostError
from .experiments import NOT_ALLOWED, problem_with
from .experiments import refusal as experiment_refused
from .inspect import ACTOR_WAYS, PROCESS_WAYS, describe, kill, refusal
from .lifecycle import PROCESS_ADDRESS, KillProcess, PauseProcess
from .log import event
from .metadata.client import Reopen
from .processes import ProcessLost, ProcessPlan, ProcessReady, exit_text
from .readyfile import host_and_port, join_address, ready_document, told_endpoints
from .root import AbortProcess
from .runtime import LoopActor, LoopRef
from .specs import GaveUp
from .vitals import VitalSigns, disk_bytes

logger = logging.getLogger(__name__)

LOOK_MS = 1_000  # between two looks whether the data directory is there
ASK_MS = 1_000  # a process's answer about itself; one that is stuck must not hide the others
FOLLOW_MS = 20_000  # how long a process may wait for something to tell
FOLLOW_RETRY_MS = 250
DOWN_MS_MAX = 3_600_000  # a process is kept down by a kill no longer than that


@dataclass
class Roster:
    """What the host knows of itself and its processes; outlives its actors. One writer each: see the fields."""

    name: str  # of the host: "host", the first step of all its addresses
    pid: int
    incarnation: str
    cluster_id: str
    data_dir: str
    run_dir: str
    plans: dict[str, ProcessPlan]  # in start order; each written by its ProcessActor
    announce: Callable[[str], None]
    ready_file: str | None = None
    config: ClusterConfig = field(default_factory=ClusterConfig)
    data_dirs: tuple[str, ...] = ()  # further ones, for logs
    is_data_there: Callable[[], bool] = lambda: True  # whether data_dir still is the directory that was opened
    has_experiments: bool = False  # are allowed
    left_out: tuple[int, ...] = ()  # brokers that have data here and were not to be started
    heard: dict[str, dict[str, int]] = field(default_factory=dict)  # by process: ring -> last event; by the desk
    document: dict[str, Any] = field(default_factory=dict)  # what its session says; written by the desk
    has_served: bool = False  # written by the desk
    told_pids: dict[str, int] = field(default_factory=dict)  # by process: what the desk has last announced
    vitals: VitalSigns = field(default_factory=VitalSigns)

    @property
    def brokers(self) -> list[ProcessPlan]:
        return [plan for plan in self.plans.values() if plan.broker_id >= 0]


@dataclass(frozen=True, slots=True)
class _Look:
    """Time to look whether the data directory is still there."""


@dataclass(frozen=True, slots=True)
class _Requests:
    inbound: list[Inbound]


@dataclass(frozen=True, slots=True)
class _TreeAnswered:
    gathering: _Gathering
    process: str
    tree: m.ActorDescription | None


@dataclass(frozen=True, slots=True)
class _EventsTold:
    process: str
    connection: Connection
    reply: m.Reply | CallboardError


@dataclass(frozen=True, slots=True)
class _FollowAgain:
    process: str
    connection: Connection


@dataclass(frozen=True, slots=True)
class _Measured:
    inbound: Inbound
    disks: Mapping[str, tuple[int, int]]  # process -> (used, free)


@dataclass(slots=True)
class _Gathering:
    """The trees that one request still waits for."""

    inbound: Inbound
    missing: set[str]
    trees: dict[str, m.ActorDescription] = field(default_factory=dict)


class Desk(LoopActor):
    """Serves HostRequest; is told of every start and end of a process."""

    handlers: ClassVar[Mapping[type, str]] = {
        _Requests: "on_requests",
        _TreeAnswered: "on_tree_answered",
        _Measured: "on_measured",
        _Look: "on_look",
        _EventsTold: "on_events_told",
        _FollowAgain: "on_follow_again",
        ProcessReady: "on_process_ready",
        ProcessLost: "on_process_lost",
        GaveUp: "on_gave_up",
    }

    def __init__(self, context: Context, address: str, parent: LoopRef | None = None, *, roster: Roster) -> None:
        super().__init__(context, address, parent)
        self._roster = roster
        self._server: Server | None = None
        self._connections: dict[str, Connection] = {}  # by process
        self._metadata: Connection | None = None  # where the metadata process is another host's

    # -- life ---------------------------------------------------------------------------------------

    def on_start(self) -> None:
        roster = self._roster
        config = roster.config
        self._server = self.context.transport.serve(
            (
                parse_address(config.host)._replace(port=config.desk_port).endpoint,
                f"ipc://{roster.run_dir}/{roster.name}.sock",
            ),
            m.HostRequest,
            lambda inbound: self.tell_self(_Requests(inbound)),
            identity=ServerIdentity(
                role="host", name=roster.name, cluster_id=roster.cluster_id, incarnation=roster.incarnation
            ),
            limits=config.limits,
            insecure=config.insecure,
        )
        if config.join:
            self._metadata = self.context.transport.connect(config.join, client_id=roster.name, on_state=lambda _: None)
        endpoints = list(advertised(self._server.endpoints, for_desk(config)))
        roster.document = {"kind": "host", "endpoints": endpoints, "machine": machine_identity(), "host": roster.name}
        session = self.context.directory.find(f"{roster.name}/session")
        if session is not None:  # this actor was restarted: its port is another one
            session.post(Reopen(roster.incarnation, roster.document))
        for plan in roster.plans.values():
            if plan.is_ready:
                self._connect(plan)
        self.set_timer(LOOK_MS, _Look())

    def on_look(self, _: _Look) -> None:
        """Files that are open live on when their directory is removed: all would seem well, and nothing would last."""
        if self._roster.is_data_there():
            self.set_timer(LOOK_MS, _Look())
            return
        self._abort(
            HostError(
                f"{self._roster.data_dir} was removed or replaced while the cluster ran: stopped, for nothing that is "
                "written there any more would last; what it held is lost unless you have a copy. Start again"
            )
        )

    def on_stop(self) -> None:
        for connection in (*self._connections.values(), self._metadata):
            if connection is not None:
                connection.close()
        if self._server is not None:
            self._server.close()

    def on_failure(self, *_: object) -> None:
        self.on_stop()

    # -- what happens to processes --------------------------------------------------------------------

    def on_process_ready(self, message: ProcessReady) -> None:
        plan, roster = message.plan, self._roster
        self._connect(plan)
        if not roster.has_served:
            self._serves_perhaps()
        elif roster.told_pids.get(plan.name) != plan.pid:
            roster.told_pids[plan.name] = plan.pid
            self._write_ready_file()
            roster.announce(f"{plan.name} is back: pid {plan.pid}")

    def on_process_lost(self, message: ProcessLost) -> None:
        plan, roster = message.plan, self._roster
        connection = self._connections.pop(plan.name, None)
        if connection is not None:
            connection.close()
        if message.was_stopped:
            return
        if plan.broker_id >= 0:
            self._end_session(message)
        if message.is_configuration and not roster.has_served:
            self._abort(HostError(message.reason))
        elif roster.has_served:
            reason = f": {message.reason}" if message.reason else ""
            roster.announce(f"{plan.name} (pid {message.pid}) {exit_text(message.exitcode)}{reason}; restarting it")

    def on_gave_up(self, message: GaveUp) -> None:
        plan, roster = self._roster.plans.get(message.name), self._roster
        if plan is None:
            return
        plan.is_given_up = True
        if not roster.has_served:
            self._abort(HostError(f"{plan.name} does not start: {plan.last_failure}; see {self._log_of(plan)}"))
            return
        roster.announce(
            f"{plan.name} failed too often and stays offline: {plan.last_failure}; see {self._log_of(plan)}"
        )
        self._write_ready_file()

    def _serves_perhaps(self) -> None:
        roster = self._roster
        if not all(plan.is_ready or plan.is_given_up for plan in roster.plans.values()):
            return
        roster.has_served = True
        roster.told_pids.update({name: plan.pid for name, plan in roster.plans.items()})
        self._write_ready_file()
        for plan in roster.brokers:
            where = host_and_port(told_endpoints(plan, roster.config))
            roster.announce(f"broker {plan.broker_id}  {where}  pid {plan.pid}")
        if address := join_address(list(roster.plans.values()), roster.config):
            roster.announce(f"other hosts join with --join {address}")
        roster.announce("ready")

    def _write_ready_file(self) -> None:
        roster = self._roster
        if roster.ready_file is None:
            return
        document = ready_document(
            pid=roster.pid,
            cluster_id=roster.cluster_id,
            data_dir=roster.data_dir,
            plans=list(roster.plans.values()),
            config=roster.config,
        )
        try:
            self.context.files.write_atomic(roster.ready_file, orjson.dumps(document, option=orjson.OPT_INDENT_2))
        except OSError as error:
            self._abort(HostError(f"the ready file {roster.ready_file} cannot be written: {error.strerror or error}"))

    def _end_session(self, lost: ProcessLost) -> None:
        connection = self._metadata or self._connections.get("metadata")
        if connection is None:
            return  # the metadata process is away: it will find out by its timeout
        request = m.EndSessionRequest(
            name=lost.plan.name, incarnation=lost.incarnation, reason=f"its process {exit_text(lost.exitcode)}"
        )
        connection.request(request, lambda _reply, _payload: None)

    def _abort(self, error: HostError) -> None:
        event(logger, "host.aborts", logging.ERROR, error=error)
        root = self.context.directory.find(PROCESS_ADDRESS)
        if root is not None:
            root.post(AbortProcess(error))

    # -- requests -------------------------------------------------------------------------------------

    def on_requests(self, message: _Requests) -> None:
        for inbound in message.inbound:
            match inbound.message:
                case m.DescribeTreeRequest():
                    self._describe_tree(inbound)
                case m.KillRequest():
                    self._kill(inbound, inbound.message)
                case m.ExperimentRequest():
                    self._experiment(inbound, inbound.message)
                case m.EventsRequest():
                    self._tell_events(inbound, inbound.message)
                case m.DescribeProcessesRequest():
                    self._describe_processes(inbound)
                case other:
                    detail = f"a host does not answer {type(other).__name__}"
                    self._reply(inbound, m.ErrorReply(error=ErrorCode.INVALID_REQUEST, detail=detail))

    def _describe_tree(self, inbound: Inbound) -> None:
        ready = {name for name in self._connections if self._roster.plans[name].is_ready}
        gathering = _Gathering(inbound, missing=set(ready))
        for name in sorted(ready):

            def on_reply(reply: m.Reply | CallboardError, _payload: list[bytes], name: str = name) -> None:
                tree = reply.tree if isinstance(reply, m.DescribeTreeReply) else None
                self.tell_self(_TreeAnswered(gathering, name, tree))

            self._connections[name].request(m.DescribeTreeRequest(), on_reply, timeout_ms=ASK_MS)
        if not ready:
            self._answer_tree(gathering)

    def on_tree_answered(self, message: _TreeAnswered) -> None:
        gathering = message.gathering
        gathering.missing.discard(message.process)
        if message.tree is not None:
            gathering.trees[message.process] = message.tree
        if not gathering.missing:
            self._answer_tree(gathering)

    def _answer_tree(self, gathering: _Gathering) -> None:
        root = self.context.directory.find(self._roster.name)
        tree = describe(root) if root is not None else None
        if tree is not None:
            children = [self._grafted(line, gathering.trees) for line in tree.children]
            tree = msgspec.structs.replace(tree, pid=self._roster.pid, children=children)
        self._reply(gathering.inbound, m.DescribeTreeReply(tree=tree))

    def _grafted(self, line: m.ActorDescription, trees: Mapping[str, m.ActorDescription]) -> m.ActorDescription:
        """Put what a process said of itself below its line; its addresses get the host before them."""
        below = trees.get(line.address.rpartition("/")[2])
        if below is None:
            return line
        children = [_prefixed(child, self._roster.name) for child in below.children]
        return msgspec.structs.replace(line, strategy=below.strategy, children=children)

    def _plan_at(self, address: str) -> tuple[ProcessPlan | None, list[str]]:
        """Return the process that an address names, and the address's steps without the host's name before it."""
        steps = address.strip("/").split("/")
        if steps[0] == self._roster.name:
            steps = steps[1:]
        return (self._roster.plans.get(steps[0]) if steps else None), steps

    def _kill(self, inbound: Inbound, request: m.KillRequest) -> None:
        """Kill an actor of this host, a process, or pass the request on to the process that the address names."""
        roster = self._roster
        plan, steps = self._plan_at(request.address)
        if plan is None:
            address = "/".join((roster.name, *steps))
            reply = kill(self.context.directory, address, request.how)
            if reply.error == ErrorCode.UNKNOWN_ADDRESS and (near := nearest("/".join(steps), list(roster.plans))):
                reply = msgspec.structs.replace(reply, detail=f"nothing lives at {shown(request.address)}{near}")
            self._reply(inbound, reply)
        elif len(steps) == 1 and request.how not in ACTOR_WAYS:
            self._reply(inbound, self._kill_process(plan, request.how or PROCESS_WAYS[0], request.for_ms))
        else:
            self._pass_on(inbound, plan, msgspec.structs.replace(request, address="/".join(steps)))

    def _kill_process(self, plan: ProcessPlan, how: str, for_ms: int) -> m.KillReply:
        address = f"{self._roster.name}/{plan.name}"
        if how not in PROCESS_WAYS:
            return refusal(
                address, f"a process is killed by {', '.join(PROCESS_WAYS + ACTOR_WAYS)}, not by {shown(how)}"
            )
        if not 0 <= for_ms <= DOWN_MS_MAX:
            return refusal(address, f"it can be kept down for up to an hour, not for {for_ms:,} ms")
        if for_ms and not self._roster.has_experiments:
            return refusal(address, NOT_ALLOWED)
        actor = self.context.directory.find(address)
        if actor is None or not plan.pid or not actor.post(KillProcess(how, for_ms)):
            return m.KillReply(error=ErrorCode.BROKER_NOT_AVAILABLE, detail=f"{address} does not run just now")
        return m.KillReply(address=address, what=f"process {plan.pid}: {how}")

    def _experiment(self, inbound: Inbound, request: m.ExperimentRequest) -> None:
        """Pause a process, or let it go on; everything else is done by the process itself."""
        plan, steps = self._plan_at(request.address)
        problem = problem_with(request) if self._roster.has_experiments else NOT_ALLOWED
        if not problem and plan is None:
            near = nearest("/".join(steps), list(self._roster.plans))
            detail = f"no process for experiments at {shown(request.address)}{near}"
            self._reply(inbound, m.ExperimentReply(error=ErrorCode.UNKNOWN_ADDRESS, detail=detail))
        elif problem or plan is None:
            self._reply(inbound, experiment_refused(request, problem))
        elif len(steps) == 1 and request.what in ("pause", "end"):
            self._pause_process(inbound, plan, request)
        else:
            self._pass_on(inbound, plan, msgspec.structs.replace(request, address="/".join(steps)))

    def _pause_process(self, inbound: Inbound, plan: ProcessPlan, request: m.ExperimentRequest) -> None:
        address = f"{self._roster.name}/{plan.name}"
        actor, is_pause = self.context.directory.find(address), request.what == "pause"
        if actor is None or not plan.pid or not actor.post(PauseProcess(request.for_ms if is_pause else 0)):
            self._reply(inbound, not_serving(address))
        elif is_pause:
            self._reply(inbound, m.ExperimentReply(address=address, what=request.what, count=1))
        else:
            self._pass_on(inbound, plan, msgspec.structs.replace(request, address=plan.name))

    def _pass_on(self, inbound: Inbound, plan: ProcessPlan, request: m.Request) -> None:
        connection = self._connections.get(plan.name)
        if connection is None:
            self._reply(inbound, not_serving(plan.name))
            return

        def on_reply(reply: m.Reply | CallboardError, _payload: list[bytes]) -> None:
            if isinstance(reply, m.Reply):
                self._reply(inbound, reply)
            else:
                self._reply(inbound, m.ErrorReply(error=ErrorCode.REQUEST_TIMED_OUT, detail=f"{plan.name}: {reply}"))

        connection.request(request, on_reply, timeout_ms=ASK_MS)

    # -- events ---------------------------------------------------------------------------------------

    def _tell_events(self, inbound: Inbound, request: m.EventsRequest) -> None:
        timeline = self.context.timeline
        if timeline is None:
            self._reply(inbound, m.EventsReply())
        else:
            timeline.answer(request, lambda reply: self._reply(inbound, reply))

    def _follow(self, process: str) -> None:
        """Ask a process for what it has not told yet; it answers when there is something."""
        connection = self._connections.get(process)
        if connection is None or self.context.timeline is None:
            return
        request = m.EventsRequest(after=self._roster.heard.get(process, {}), max_wait_ms=FOLLOW_MS)
        connection.request(
            request,
            lambda reply, _payload: self.tell_self(_EventsTold(process, connection, reply)),
            timeout_ms=FOLLOW_MS + ASK_MS,
        )

    def on_events_told(self, message: _EventsTold) -> None:
        process, reply, timeline = message.process, message.reply, self.context.timeline
        is_current = message.connection is self._connections.get(process)
        if timeline is not None and isinstance(reply, m.EventsReply) and reply.ring:
            self._roster.heard[process] = {reply.ring: reply.last}
            if reply.missed:
                event(logger, "process.events_missed", logging.WARNING, name=process, events=reply.missed)
            if reply.events:
                timeline.extend(reply.events)
            if is_current:
                self._follow(process)
        elif is_current and isinstance(reply, CallboardError):
            self.set_timer(FOLLOW_RETRY_MS, _FollowAgain(process, message.connection))

    def on_follow_again(self, message: _FollowAgain) -> None:
        if message.connection is self._connections.get(message.process):
            self._follow(message.process)

    def _describe_processes(self, inbound: Inbound) -> None:
        """Answer with psutil's numbers; the sizes of directories come from the pool, they may be large."""
        roster, files = self._roster, self.context.files
        names = [*roster.plans, *(f"broker-{broker_id}" for broker_id in roster.left_out)]

        def measure() -> Mapping[str, tuple[int, int]]:
            free = files.free_bytes(roster.data_dir)
            data_dirs = (roster.data_dir, *roster.data_dirs)
            return {name: (sum(disk_bytes(f"{each}/{name}") for each in data_dirs), free) for name in names}

        self.in_pool(measure, lambda disks, _error: _Measured(inbound, disks or {}))

    def on_measured(self, message: _Measured) -> None:
        roster, now_ms = self._roster, self.context.clock.monotonic_ms()
        processes = [self._process_line(roster.name, roster.pid, (0, 0), uptime_ms=now_ms - self.started_ms)]
        for plan in roster.plans.values():
            line = self._process_line(
                plan.name,
                plan.pid,
                message.disks.get(plan.name, (0, 0)),
                endpoints=list(told_endpoints(plan, roster.config)),
                state=_state_of(plan),
                restarts=max(0, plan.starts - 1),
                uptime_ms=now_ms - plan.ready_ms if plan.is_ready else 0,
            )
            processes.append(line)
        for broker_id in roster.left_out:
            name = f"broker-{broker_id}"
            processes.append(self._process_line(name, 0, message.disks.get(name, (0, 0)), state="not started"))
        self._reply(message.inbound, m.DescribeProcessesReply(host=roster.name, processes=processes))

    def _process_line(self, name: str, pid: int, disk: tuple[int, int], **known: Any) -> m.ProcessDescription:
        vitals = self._roster.vitals.of(pid) if pid else None
        line = m.ProcessDescription(name=name, pid=pid, disk_bytes=disk[0], disk_free_bytes=disk[1], **known)
        if vitals is None:
            return line
        return msgspec.structs.replace(
            line,
            cpu_percent=vitals.cpu_percent,
            memory_bytes=vitals.memory_bytes,
            threads=vitals.threads,
            open_files=vitals.open_files,
        )

    # -- inside ---------------------------------------------------------------------------------------

    def _connect(self, plan: ProcessPlan) -> None:
        old = self._connections.pop(plan.name, None)
        if old is not None:
            old.close()
        if plan.endpoints:
            self._connections[plan.name] = self.context.transport.connect(
                choose_endpoint(plan.endpoints, machine_identity()),
                client_id=self._roster.name,
                on_state=lambda _: None,
            )
            self._follow(plan.name)

    def _reply(self, inbound: Inbound, reply: m.Reply) -> None:
        if self._server is not None:
            self._server.reply(inbound.peer, msgspec.structs.replace(reply, id=inbound.message.id))

    def _log_of(self, plan: ProcessPlan) -> str:
        return f"{self._roster.data_dir}/log/{plan.name}.log"


def _prefixed(line: m.ActorDescription, host: str) -> m.ActorDescription:
    children = [_prefixed(child, host) for child in line.children]
    return msgspec.structs.replace(line, address=f"{host}/{line.address}", children=children)


def _state_of(plan: ProcessPlan) -> str:
    if plan.is_given_up:
        return "given up"
    if plan.is_ready:
        return "running"
    return "starting" if plan.pid else "restarting"


def not_serving(address: str) -> m.ErrorReply:
    """The process that is meant is being started, or stays away: the request is right, and may succeed later."""
    return m.ErrorReply(error=ErrorCode.BROKER_NOT_AVAILABLE, detail=f"{address} does not run just now")
