"""A supervisor: starts its children in order, stops them in reverse, and restarts what fails.

What to do when a child ends is decided by the pure rules in ``restarts``; this file carries it out. The
difficulty is that everything takes time: a child may fail while its sibling is being stopped, be replaced while
it waits for its backoff, or never answer a stop. So nothing here is a procedure that waits for its next step.
Each child has a state and two wishes (``wants_stop``, ``wants_start``), events change those, and ``_advance``
does whatever is next.

Rules of this file:

1. Stops run last child first, starts first child first. A child that ``waits`` is stopped alone and holds up
   those after it until it serves; neighbours that do not wait are started, and stopped, together. After the
   first start the children of a ``one_for_one`` supervisor are independent: each is started when its own
   backoff is over.
2. Children added by ``StartChild`` come after the static ones, do not wait for each other, and are stopped
   together, first.
3. A child that has not stopped after ``shutdown_ms`` is killed. A supervisor that fails kills its children: no
   actor outlives its supervisor.
4. Between the end of a child and the start of its successor under the same name there is always nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from ..errors import CallboardError, IllegalArgumentError
from ..transport.messages import ActorDescription
from .child import Child
from .context import Context
from .lifecycle import ActorKilled, ChildFailed, ChildStarted, ChildStopped, is_chaos
from .log import error_text, event
from .restarts import (
    Backoff,
    Ended,
    GiveUp,
    LetGo,
    OnGiveUp,
    Restart,
    RestartAfter,
    Strategy,
    Tally,
    group_of,
    on_end,
)
from .runtime import LoopActor, LoopRef
from .specs import ChildRemoved, ChildSpec, GaveUp, StartChild, StopChild, SupervisorSpec

__all__ = [
    "Backoff",
    "ChildRemoved",
    "ChildSpec",
    "GaveUp",
    "OnGiveUp",
    "Restart",
    "RestartLimitReached",
    "StartChild",
    "StopChild",
    "Strategy",
    "Supervisor",
    "SupervisorSpec",
    "supervisor",
]

logger = logging.getLogger(__name__)


class RestartLimitReached(CallboardError):
    """A supervisor gave up: its children failed more often than its intensity allows."""


@dataclass(frozen=True, slots=True)
class _Resume:
    """A backoff is over."""

    name: str


@dataclass(frozen=True, slots=True)
class _StopOverdue:
    ref: LoopRef


@dataclass(frozen=True, slots=True)
class _StartRaised:
    """The child's constructor failed: it never lived, so nobody else can tell us."""

    name: str
    exception: BaseException


class Supervisor(LoopActor):
    """Keeps its children as its spec says. Serves when all static children serve."""

    handlers: ClassVar[Mapping[type, str]] = {
        ChildStarted: "on_child_started",
        ChildFailed: "on_child_failed",
        ChildStopped: "on_child_stopped",
        StartChild: "on_start_child",
        StopChild: "on_stop_child",
        GaveUp: "on_gave_up",
        _Resume: "on_resume",
        _StopOverdue: "on_stop_overdue",
        _StartRaised: "on_start_raised",
    }
    starts_later: bool = True

    def __init__(self, context: Context, address: str, parent: LoopRef | None = None, *, spec: SupervisorSpec) -> None:
        super().__init__(context, address, parent)
        self.spec = spec
        self.children: dict[str, Child] = {}  # in start order
        self._live: dict[LoopRef, Child] = {}
        self._live_added = 0  # of those in _live, the ones that are not static
        self._shared = Tally()
        self._is_closing = False
        self._giving_up: RestartLimitReached | None = None  # raised when all children are down
        for child in spec.children:
            if child.name in self.children:
                raise IllegalArgumentError(f"{address}: two children named {child.name!r}")
            self.children[child.name] = Child(child, f"{address}/{child.name}", is_static=True)

    # -- life ---------------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._advance()

    def on_stop_request(self) -> None:
        self._close_all()

    def on_failure(self, *_failure: object) -> None:
        for child in reversed(list(self._live.values())):
            if child.ref is not None:
                child.ref.kill(ActorKilled(f"its supervisor {self.address} failed"))

    def describe(self) -> ActorDescription:
        children = [child.description() for child in self.children.values()]
        return msgspec.structs.replace(super().describe(), strategy=self.spec.strategy.value, children=children)

    # -- what children say --------------------------------------------------------------------------

    def on_child_started(self, message: ChildStarted) -> None:
        child = self._live.get(message.ref)
        if child is None:
            return
        child.serves_since_ms = max(1, self.context.clock.monotonic_ms())
        if child.state == "starting":
            child.state = "running"
        if self.state == "starting" or self.spec.strategy is not Strategy.ONE_FOR_ONE:
            self._advance()

    def on_child_stopped(self, message: ChildStopped) -> None:
        child = self._live.get(message.ref)
        if child is not None:
            self._child_gone(child, None)

    def on_child_failed(self, message: ChildFailed) -> None:
        child = self._live.get(message.ref)
        if child is not None:
            self._child_gone(child, message.exception)

    def on_start_raised(self, message: _StartRaised) -> None:
        child = self.children.get(message.name)
        if child is not None and child.ref is None and child.state in ("starting", "stopping"):
            self._child_gone(child, message.exception)

    def on_gave_up(self, message: GaveUp) -> None:
        self._tell_watcher(message)

    # -- what the owner wants -----------------------------------------------------------------------

    def on_start_child(self, message: StartChild) -> None:
        if self._is_closing:
            return
        spec = message.spec
        child = self.children.get(spec.name)
        if child is None:
            child = Child(spec, f"{self.address}/{spec.name}", is_static=False)
            self.children[spec.name] = child
            self._start_child(child)
        elif child.ref is None and child.state != "starting":
            self._begin_anew(child, spec)
        else:
            child.replacement, child.leaves_to = spec, None
            self._stop_child(child)

    def on_stop_child(self, message: StopChild) -> None:
        child = self.children.get(message.name)
        if child is None:
            self._tell_removed(message.name, [message.reply_to])
            return
        child.replacement = None
        child.leaves_to = [*(child.leaves_to or []), message.reply_to]
        if child.ref is None and child.state != "starting":
            self._remove(child)
            self._advance()
        else:
            self._stop_child(child)

    # -- what time brings ---------------------------------------------------------------------------

    def on_resume(self, message: _Resume) -> None:
        child = self.children.get(message.name)
        if child is None:
            return
        child.resume = None
        if not child.wants_start or self._is_closing:
            return
        if self._is_ordered(child):
            self._advance()
        else:
            self._start_child(child)

    def on_stop_overdue(self, message: _StopOverdue) -> None:
        child = self._live.get(message.ref)
        if child is not None and child.ref is not None:
            event(logger, "actor.stop_overdue", logging.WARNING, actor=child.address, after_ms=child.spec.shutdown_ms)
            child.ref.kill(ActorKilled(f"it did not stop within {child.spec.shutdown_ms} ms"))

    # -- the end of a child -------------------------------------------------------------------------

    def _child_gone(self, child: Child, error: BaseException | None) -> None:
        self._forget_ref(child)
        was_asked = child.state == "stopping"
        if error is not None and not (was_asked and isinstance(error, ActorKilled)):
            child.failure, child.failed_ms = error_text(error), self.context.clock.wall_ms()
        if self._is_closing:
            child.state = "stopped"
            self._advance()
        elif was_asked:
            self._stopped_as_asked(child)
        else:
            self._ended_by_itself(child, error)

    def _stopped_as_asked(self, child: Child) -> None:
        child.state, child.wants_stop = "restarting" if child.wants_start else "stopped", False
        if child.replacement is not None:
            self._begin_anew(child, child.replacement)
        elif child.leaves_to is not None or (child.spec.restart is Restart.TEMPORARY and not child.is_static):
            self._remove(child)
        self._advance()

    def _ended_by_itself(self, child: Child, error: BaseException | None) -> None:
        now_ms = self.context.clock.monotonic_ms()
        served_ms = now_ms - child.serves_since_ms if child.serves_since_ms else 0
        outcome = on_end(
            self.spec.policy,
            child.spec.policy,
            Ended(is_failure=error is not None, is_chaos=is_chaos(error), served_ms=served_ms),
            shared=self._shared,
            own=child.tally,
            now_ms=now_ms,
            chance=self.context.random.random(),
        )
        self._shared, child.tally = outcome.shared, outcome.own
        match outcome.decision:
            case RestartAfter(ms=ms):
                self._restart_after(child, ms)
            case LetGo():
                self._let_go(child)
            case GiveUp(escalates=escalates):
                self._give_up(child, error or CallboardError("it ended although it is permanent"), escalates=escalates)

    def _restart_after(self, child: Child, ms: int) -> None:
        event(logger, "actor.restarting", actor=child.address, after_ms=ms, restarts=child.restarts + 1)
        stop, start = self._group_of(child)
        for one in stop:
            one.wants_stop = True
        resume_ms = self.context.clock.monotonic_ms() + ms
        for one in start:
            if one.state in ("given up", "stopped") and one is not child:
                continue  # let go or left offline: not brought back by a sibling
            one.wants_start = True
            one.resume_ms = max(one.resume_ms, resume_ms)
            if one.ref is None:
                one.state = "restarting"
        if self._is_ordered(child):
            self._advance()
        else:
            self._resume_later(child)

    def _group_of(self, child: Child) -> tuple[list[Child], list[Child]]:
        if self.spec.strategy is Strategy.ONE_FOR_ONE:
            return [], [child]  # without a look at the others: they may be thousands
        siblings = [(one.spec.name, one.spec.restart) for one in self.children.values()]
        stop, start = group_of(self.spec.strategy, siblings, child.spec.name)
        return [self.children[name] for name in stop], [self.children[name] for name in start]

    def _let_go(self, child: Child) -> None:
        child.state, child.wants_start = "stopped", False
        if not child.is_static:
            self._remove(child)
        self._advance()

    def _give_up(self, child: Child, error: BaseException, *, escalates: bool) -> None:
        child.state, child.wants_start = "given up", False
        event(logger, "actor.given_up", logging.ERROR, actor=child.address, escalates=escalates, error=error)
        if not escalates:
            self._tell_watcher(GaveUp(child.spec.name, child.address, error))
            self._advance()
            return
        self._giving_up = RestartLimitReached(
            f"{child.address} failed more than {self.spec.intensity} times in {self.spec.period_ms} ms; "
            f"the last time: {error_text(error)}"
        )
        self._giving_up.__cause__ = error
        self._close_all()

    # -- doing what is next -------------------------------------------------------------------------

    def _advance(self) -> None:
        """Do the next stop, or else the next starts; called after every event that may have cleared the way."""
        if self.has_ended or self._advance_stops():
            return
        if self._is_closing:
            self._all_down()
        else:
            self._advance_starts()

    def _advance_stops(self) -> bool:
        """Stop the last child that is to be stopped, and neighbours that wait for nobody; True while any stops."""
        if self._is_closing and self._live_added:
            return True  # asked together, in _close_all
        if not self._is_closing and self._has_started and self.spec.strategy is Strategy.ONE_FOR_ONE:
            return False  # nobody waits for anybody: do not look at thousands of children
        is_stopping = False
        for child in reversed(self.children.values()):
            if not child.wants_stop:
                continue
            if child.ref is None and child.state not in ("starting", "stopping"):
                child.wants_stop = False
                continue
            if child.spec.waits and is_stopping:
                return True
            self._stop_child(child)
            is_stopping = True
            if child.spec.waits:
                return True
        return is_stopping

    def _advance_starts(self) -> None:
        if self._has_started and self.spec.strategy is Strategy.ONE_FOR_ONE:
            return
        now_ms = self.context.clock.monotonic_ms()
        for child in self.children.values():
            if child.wants_start and child.ref is None and child.state not in ("starting", "stopping"):
                if child.resume_ms > now_ms:
                    self._resume_later(child)
                else:
                    self._start_child(child)
            if child.spec.waits and child.is_static and child.state in ("starting", "restarting", "stopping"):
                return
        if not any(child.state in ("starting", "restarting", "stopping") for child in self.children.values()):
            self.started()

    @property
    def _has_started(self) -> bool:
        return self.state != "starting"

    def _is_ordered(self, child: Child) -> bool:
        """Say whether this child must keep its place in the order when it is started."""
        if self.spec.strategy is not Strategy.ONE_FOR_ONE:
            return True
        return child.is_static and not self._has_started

    def _start_child(self, child: Child) -> None:
        self._cancel_resume(child)
        child.state, child.wants_start, child.serves_since_ms = "starting", False, 0
        child.restarts += child.was_started
        child.was_started = True
        try:
            ref = child.spec.start(self.context, child.address, self.actor_ref)
        except BaseException as error:  # noqa: BLE001 - a constructor's failure is the child's, not the supervisor's
            self.tell_self(_StartRaised(child.spec.name, error))
            return
        child.ref = ref
        self._live[ref] = child
        self._live_added += not child.is_static

    def _stop_child(self, child: Child) -> None:
        """Ask a child to stop, once; set the time after which it is killed."""
        self._cancel_resume(child)
        if child.state == "stopping":
            return
        child.state = "stopping"
        if child.ref is None:
            return  # its constructor has failed, and the message that says so is on its way
        if child.spec.shutdown_ms <= 0:
            child.ref.kill(ActorKilled("it is stopped without being asked"))
            return
        child.ref.stop()
        child.stop_timer = self.set_timer(child.spec.shutdown_ms, _StopOverdue(child.ref))

    def _close_all(self) -> None:
        """Begin to stop everything: what was added together, then the static children in reverse."""
        self._is_closing = True
        for child in self.children.values():
            self._cancel_resume(child)
            child.wants_start, child.wants_stop, child.replacement = False, child.is_static, None
            if child.ref is None and child.state == "starting":
                child.state, child.wants_stop = "stopped", False
        for child in reversed(list(self._live.values())):
            if not child.is_static:
                self._stop_child(child)
        self._advance()

    def _all_down(self) -> None:
        if self._giving_up is not None:
            raise self._giving_up
        self.finish()

    # -- small changes ------------------------------------------------------------------------------

    def _begin_anew(self, child: Child, spec: ChildSpec) -> None:
        child.spec, child.replacement, child.leaves_to = spec, None, None
        child.tally, child.resume_ms, child.state = Tally(), 0, "stopped"
        child.was_started = False
        self._start_child(child)

    def _remove(self, child: Child) -> None:
        self._cancel_resume(child)
        del self.children[child.spec.name]
        self._tell_removed(child.spec.name, child.leaves_to or [])

    def _forget_ref(self, child: Child) -> None:
        if child.ref is not None:
            del self._live[child.ref]
            self._live_added -= not child.is_static
            child.ref = None
        if child.stop_timer is not None:
            child.stop_timer.cancel()
            child.stop_timer = None

    def _resume_later(self, child: Child) -> None:
        if child.resume is None:
            delay_ms = max(0, child.resume_ms - self.context.clock.monotonic_ms())
            child.resume = self.set_timer(delay_ms, _Resume(child.spec.name))

    def _cancel_resume(self, child: Child) -> None:
        if child.resume is not None:
            child.resume.cancel()
            child.resume = None

    def _tell_removed(self, name: str, whom: list[LoopRef | None]) -> None:
        for ref in whom:
            if ref is not None:
                ref.post(ChildRemoved(name, f"{self.address}/{name}"))

    def _tell_watcher(self, message: GaveUp) -> None:
        watcher = self.spec.watcher
        ref = self.context.directory.find(watcher) if isinstance(watcher, str) else watcher
        ref = ref or self.parent
        if ref is not None:
            ref.post(message)


def supervisor(name: str, spec: SupervisorSpec, **child: object) -> ChildSpec:
    """Return the child spec of a supervisor; ``child`` are further fields of ``ChildSpec``."""
    make: Callable[..., ChildSpec] = ChildSpec
    return make(name=name, start=Supervisor.starter(spec=spec), **{"shutdown_ms": 30_000, **child})
