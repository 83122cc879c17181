"""The actor at the very top of a process: starts the root of its tree, and ends the process when that ends.

It is not shown in the tree. There is one in every process, host included; what differs is told by callbacks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .context import Context
from .lifecycle import PROCESS_ADDRESS, ChildFailed, ChildStarted, ChildStopped, KillProcess
from .log import event
from .runtime import LoopActor, LoopRef
from .specs import ChildSpec, GaveUp
from .stalls import ActorStalled, Seen, StallWatch

logger = logging.getLogger(__name__)

KILL_AFTER_MS = 20  # time for the answer to whoever asked for the kill to leave


@dataclass(frozen=True, slots=True)
class StopProcess:
    """Stop the tree in order, then end. A second one does nothing."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class AbortProcess:
    """Stop the tree in order, then end as a failure."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class _KillNow:
    how: str


@dataclass(frozen=True, slots=True)
class _LookForStalls:
    pass


class Root(LoopActor):
    """Owns the life of a process. ``on_end(error)`` is called once, when the tree is down; None: as asked."""

    handlers: ClassVar[Mapping[type, str]] = {
        ChildStarted: "on_child_started",
        ChildFailed: "on_child_failed",
        ChildStopped: "on_child_stopped",
        GaveUp: "on_gave_up",
        StopProcess: "on_stop_process",
        AbortProcess: "on_abort_process",
        KillProcess: "on_kill_process",
        _KillNow: "on_kill_now",
        _LookForStalls: "on_look_for_stalls",
    }

    def __init__(
        self,
        context: Context,
        branch: ChildSpec,
        *,
        on_ready: Callable[[], None],
        on_end: Callable[[BaseException | None], None],
        on_kill: Callable[[str], None],
        before_kill: Callable[[], None] = lambda: None,
        stall_ms: int = 0,
    ) -> None:
        """``stall_ms``: an actor that handles nothing for so long, although it was told something, fails; 0: never."""
        super().__init__(context, PROCESS_ADDRESS)
        self._stalls = StallWatch(stall_ms) if stall_ms else None
        self._branch = branch
        self._on_ready, self._on_end = on_ready, on_end
        self._on_kill, self._before_kill = on_kill, before_kill
        self._tree: LoopRef | None = None
        self._error: BaseException | None = None

    def on_start(self) -> None:
        self._tree = self._branch.start(self.context, self._branch.name, self.actor_ref)
        if self._stalls is not None:
            self.set_timer(self._stalls.period_ms, _LookForStalls())

    def on_failure(self, *failure: Any) -> None:
        """The root of the tree could not even be made."""
        self._on_end(failure[1])

    def on_child_started(self, _: ChildStarted) -> None:
        self._on_ready()

    def on_child_failed(self, message: ChildFailed) -> None:
        self._end(self._error or message.exception)

    def on_child_stopped(self, _: ChildStopped) -> None:
        self._end(self._error)

    def on_gave_up(self, message: GaveUp) -> None:
        event(logger, "actor.offline", logging.ERROR, actor=message.address, error=message.exception)

    def on_stop_process(self, message: StopProcess) -> None:
        event(logger, "process.stopping", reason=message.reason)
        self._stop_tree()

    def on_abort_process(self, message: AbortProcess) -> None:
        self._error = self._error or message.error
        self._stop_tree()

    def on_kill_process(self, message: KillProcess) -> None:
        self._before_kill()
        self.set_timer(KILL_AFTER_MS, _KillNow(message.how))

    def on_kill_now(self, message: _KillNow) -> None:
        self._on_kill(message.how)

    def on_look_for_stalls(self, look: _LookForStalls) -> None:
        if self._stalls is None:
            return
        directory = self.context.directory
        actors = [ref.actor for ref in directory if ref.address != PROCESS_ADDRESS]
        seen = [(Seen(one.address, len(one.mailbox.queue), one.handled), id(one)) for one in actors if one is not None]
        for address, stalled_ms in self._stalls.stalled(seen, self.context.clock.monotonic_ms()):
            ref = directory.find(address)
            actor = ref.actor if ref is not None else None
            if actor is not None:
                actor.fail(
                    "message", ActorStalled(f"it was told something and has handled nothing for {stalled_ms} ms")
                )
        self.set_timer(self._stalls.period_ms, look)

    def _stop_tree(self) -> None:
        if self._tree is None or not self._tree.is_alive():
            self._end(self._error)
        else:
            self._tree.stop()

    def _end(self, error: BaseException | None) -> None:
        self.finish()
        self._on_end(error)
