"""An OS process as an actor: its supervisor restarts it like any other child.

The actor's life is the process's life: starting it starts the process, the process's death fails it, stopping
it sends SIGTERM and waits, failing it sends SIGKILL. What must survive a restart (the port, how often it was
started) stands in a ``ProcessPlan`` that belongs to whoever made the tree.

Rules of this file:

1. A death is reported to the owner at the sentinel, before anything else: that is what failover waits for.
   The restart comes after the reap, because until then the port and the files are busy.
2. A process serves when it says so (``ready``), not when it runs; one that does not say so in time is killed.
3. A death that was asked for (chaos, by the host or by the process itself) does not count against its limit, nor
   does a SIGKILL while it served: nobody does that to himself, so it tells nothing about the process (ADR 8).
4. What an experiment does to a process is undone by its actor: one that was paused goes on when its time is over,
   whoever asked for it; one that was killed for a while is started again then.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import msgspec

from ..config import ProcessOptions
from ..errors import CallboardError
from ..transport.messages import ActorDescription
from .context import Context
from .lifecycle import KillProcess, PauseProcess
from .log import event
from .runtime import LoopActor, LoopRef

logger = logging.getLogger(__name__)

READY_MS_MAX = 60_000
REAP_S_MAX = 5.0
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}


class ProcessDied(CallboardError):
    """A process has ended although nobody stopped it. ``reason`` is what it had to say, if anything."""

    def __init__(self, name: str, pid: int, exitcode: int, reason: str = "", *, is_chaos: bool = False) -> None:
        super().__init__(f"{name} (pid {pid}) {exit_text(exitcode)}" + (f": {reason}" if reason else ""))
        self.pid, self.exitcode, self.reason, self.is_chaos = pid, exitcode, reason, is_chaos


class Process(Protocol):
    """A child process as the actor needs it."""

    pid: int
    sentinel: int  # readable when it has ended
    channel: int  # readable when it has said something
    is_read_out: bool  # it will say no more

    def read(self) -> list[dict[str, Any]]:
        """Return what it has said since; never blocks."""

    def send_signal(self, number: int) -> None:
        """Harmless when it has ended."""

    def reap(self, timeout_s: float) -> int | None:
        """Return its exit code (negative: the signal that ended it), None when it still runs after the wait."""

    def close(self) -> None: ...


class Launcher(Protocol):
    def launch(self, options: ProcessOptions) -> Process: ...


@dataclass
class ProcessPlan:
    """What is known of one process across its restarts. Written by its ProcessActor only."""

    name: str
    options: Callable[[ProcessPlan, str], ProcessOptions]  # (plan, incarnation) -> options of the next start
    broker_id: int = -1
    number: int = 0  # of the broker among those of this host, from 0
    starts: int = 0
    pid: int = 0  # 0: none runs
    incarnation: str = ""
    endpoints: tuple[str, ...] = ()  # kept after a death: the next one comes back there
    is_ready: bool = False
    is_given_up: bool = False
    ready_ms: int = 0  # monotonic
    last_failure: str = ""
    held_until_ms: int = 0  # monotonic; an experiment wants it down until then


@dataclass(frozen=True, slots=True)
class ProcessReady:
    """It serves."""

    plan: ProcessPlan


@dataclass(frozen=True, slots=True)
class ProcessLost:
    """It has ended. ``incarnation`` is the one that is gone; ``is_configuration``: no restart will help."""

    plan: ProcessPlan
    pid: int
    incarnation: str
    exitcode: int
    reason: str = ""
    is_configuration: bool = False
    was_stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Said:
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Ended:
    exitcode: int


@dataclass(frozen=True, slots=True)
class _ReadyOverdue:
    pass


@dataclass(frozen=True, slots=True)
class _LaunchDue:
    pass


@dataclass(frozen=True, slots=True)
class _PauseOver:
    number: int


@dataclass
class _LastWords:
    """What the process told of its own end."""

    reason: str = ""
    is_configuration: bool = False
    is_chaos: bool = False


class ProcessActor(LoopActor):
    """One life of one process."""

    handlers: ClassVar[Mapping[type, str]] = {
        KillProcess: "on_kill_process",
        PauseProcess: "on_pause_process",
        _LaunchDue: "on_launch_due",
        _PauseOver: "on_pause_over",
        _Said: "on_said",
        _Ended: "on_ended",
        _ReadyOverdue: "on_ready_overdue",
    }
    starts_later: bool = True

    def __init__(
        self,
        context: Context,
        address: str,
        parent: LoopRef | None = None,
        *,
        plan: ProcessPlan,
        launcher: Launcher,
        owner: str,
    ) -> None:
        """``owner``: address of the actor that is told ProcessReady and ProcessLost."""
        super().__init__(context, address, parent)
        self.plan = plan
        self._launcher, self._owner = launcher, owner
        self._process: Process | None = None
        self._words = _LastWords()
        self._pauses = 0  # so many; the last one's end counts
        self._is_paused = False

    # -- life ---------------------------------------------------------------------------------------

    def on_start(self) -> None:
        plan = self.plan
        plan.is_given_up = plan.is_ready = False
        held_ms = plan.held_until_ms - self.context.clock.monotonic_ms()
        if held_ms > 0:
            self.set_timer(held_ms, _LaunchDue())
        else:
            self._launch()

    def on_launch_due(self, _: _LaunchDue) -> None:
        if self._process is None and self.state == "starting":
            event(logger, "experiment.ended", what="kill", address=self.address, why="over")
            self._launch()

    def _launch(self) -> None:
        plan = self.plan
        plan.incarnation = self.context.new_id()
        options = plan.options(plan, plan.incarnation)
        plan.starts += 1
        process = self._process = self._launcher.launch(options)
        plan.pid = process.pid
        self.context.loop.add_reader(process.channel, self._hear)
        self.context.loop.add_reader(process.sentinel, self._mourn)
        self.set_timer(READY_MS_MAX, _ReadyOverdue())
        event(logger, "process.started", name=plan.name, pid=process.pid, start=plan.starts)

    def on_stop_request(self) -> None:
        if self._process is None:
            self.finish()
        else:
            self._go_on("the process is stopped")
            self._process.send_signal(signal.SIGTERM)

    def on_failure(self, *_failure: object) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGKILL)
        exitcode = process.reap(REAP_S_MAX)
        self._let_go(exitcode if exitcode is not None else -signal.SIGKILL)

    def describe(self) -> ActorDescription:
        return msgspec.structs.replace(super().describe(), kind="process", pid=self.plan.pid)

    # -- what the process does ------------------------------------------------------------------------

    def on_said(self, said: _Said) -> None:
        message = said.message
        match message.get("event"):
            case "ready":
                self._serves(message.get("endpoints", ()))
            case "chaos":
                self._words.is_chaos = True
            case "failed":
                self._words.reason = str(message.get("error", ""))
                self._words.is_configuration = bool(message.get("is_configuration"))
            case other:
                event(logger, "process.said_nonsense", logging.WARNING, name=self.plan.name, event=other)

    def on_ended(self, ended: _Ended) -> None:
        pid = self.plan.pid
        was_stopped = self.state == "stopping"
        was_killed = self.plan.is_ready and ended.exitcode == -signal.SIGKILL
        self._let_go(ended.exitcode)
        if was_stopped:
            self.finish()
            return
        words = self._words
        raise ProcessDied(self.plan.name, pid, ended.exitcode, words.reason, is_chaos=words.is_chaos or was_killed)

    def on_kill_process(self, message: KillProcess) -> None:
        if self._process is not None:
            self._words.is_chaos = True
            now_ms = self.context.clock.monotonic_ms()
            self.plan.held_until_ms = now_ms + message.for_ms if message.for_ms else 0
            event(logger, "experiment.begun", what="kill", address=self.address, how=message.how, for_ms=message.for_ms)
            if message.how == "term":
                self._go_on("the process is killed")  # while stopped it would not hear it
            self._process.send_signal(SIGNALS[message.how])

    def on_pause_process(self, message: PauseProcess) -> None:
        process = self._process
        if process is None:
            return
        if message.for_ms <= 0:
            self._go_on("asked")
            return
        self._pauses += 1
        self._is_paused = True
        process.send_signal(signal.SIGSTOP)
        event(logger, "experiment.begun", what="pause", address=self.address, pid=process.pid, for_ms=message.for_ms)
        self.set_timer(message.for_ms, _PauseOver(self._pauses))

    def on_pause_over(self, message: _PauseOver) -> None:
        if message.number == self._pauses:
            self._go_on("over")

    def _go_on(self, why: str) -> None:
        """End a pause, if there is one."""
        if self._is_paused and self._process is not None:
            self._is_paused = False
            self._process.send_signal(signal.SIGCONT)
            event(logger, "experiment.ended", what="pause", address=self.address, why=why)

    def on_ready_overdue(self, _: _ReadyOverdue) -> None:
        if not self.plan.is_ready and self.state == "starting":
            raise CallboardError(f"{self.plan.name} (pid {self.plan.pid}) was not ready within {READY_MS_MAX} ms")

    # -- inside ---------------------------------------------------------------------------------------

    def _hear(self) -> None:
        process = self._process
        if process is None:
            return
        for message in process.read():
            self.tell_self(_Said(message))
        if process.is_read_out:
            self.context.loop.remove_reader(process.channel)

    def _mourn(self) -> None:
        """The sentinel has fired. What the process said before stands in the mailbox before its end."""
        process = self._process
        if process is None:
            return
        self._hear()
        self._stop_reading(process)
        exitcode = process.reap(REAP_S_MAX)
        self.tell_self(_Ended(exitcode if exitcode is not None else -signal.SIGKILL))

    def _serves(self, endpoints: Sequence[str]) -> None:
        plan = self.plan
        plan.endpoints, plan.is_ready = tuple(endpoints), True
        plan.ready_ms = self.context.clock.monotonic_ms()
        event(logger, "process.ready", name=plan.name, pid=plan.pid, endpoints=plan.endpoints)
        self._tell_owner(ProcessReady(plan))
        self.started()

    def _let_go(self, exitcode: int) -> None:
        """Close what is left of the process and tell the owner. Once."""
        process, self._process = self._process, None
        if process is None:
            return
        self._stop_reading(process)
        process.close()
        plan, words = self.plan, self._words
        plan.pid, plan.is_ready = 0, False
        plan.last_failure = words.reason or exit_text(exitcode)
        was_stopped = self.state == "stopping"
        level = logging.INFO if was_stopped else logging.WARNING
        event(
            logger,
            "process.ended",
            level,
            name=plan.name,
            pid=process.pid,
            exitcode=exitcode,
            why=words.reason,
            is_asked=was_stopped,
        )
        if self._is_paused:
            self._is_paused = False
            event(logger, "experiment.ended", what="pause", address=self.address, why="the process has ended")
        self._tell_owner(
            ProcessLost(
                plan, process.pid, plan.incarnation, exitcode, words.reason, words.is_configuration, was_stopped
            )
        )

    def _stop_reading(self, process: Process) -> None:
        self.context.loop.remove_reader(process.channel)
        self.context.loop.remove_reader(process.sentinel)

    def _tell_owner(self, message: ProcessReady | ProcessLost) -> None:
        owner = self.context.directory.find(self._owner)
        if owner is not None:
            owner.post(message)


def exit_text(exitcode: int) -> str:
    """Say how a process ended, in words."""
    if exitcode >= 0:
        return f"ended with status {exitcode}"
    try:
        return f"was ended by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was ended by signal {-exitcode}"
