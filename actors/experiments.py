"""Experiments inside one process: an actor that hears nothing, one that is slow, a loop that stands still, a bad link.

    begin ── ... ── for_ms ── undone, by a timer of this process: whoever asked for it may be gone

Rules of this file:

1. Refused unless the cluster was started with ``experiments``: whoever can reach a port could do harm.
2. Each has an end, of an hour at most. One at a time of each kind and target: a second one takes the first one's
   place.
3. Nothing is done to an actor that it could not suffer by itself. A paused actor is not told that it is paused: its
   messages wait, ``kill`` and stop among them, and its supervisor kills it when a stop takes too long.
4. Nothing here costs anything while there is no experiment: an actor's drain is replaced, not asked. A drain that
   is on its way when the experiment begins is still made.
5. The end of the actor, or of the process, ends what was done to it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..config import nearest, nearest_address, shown
from ..errors import ErrorCode
from ..transport.faults import DIRECTIONS, Faults
from ..transport.loop import Timer
from ..transport.messages import ExperimentReply, ExperimentRequest
from .context import Context
from .lifecycle import PROCESS_ADDRESS
from .log import event
from .refs import LoopRef
from .runtime import LoopActor

logger = logging.getLogger(__name__)

FOR_MS_MAX = 3_600_000
DELAY_MS_MAX = 60_000
HANG_AFTER_MS = 20  # time for the answer to whoever asked to leave
ON_ACTORS = ("pause", "hang", "slow")
ON_LINKS = ("cut", "delay")
WHAT = (*ON_ACTORS, *ON_LINKS, "end")
NOT_ALLOWED = "this cluster allows no experiments: start it with `callboard up --experiments`"


@dataclass(slots=True)
class _Running:
    address: str
    undo: Callable[[], None]
    timer: Timer


def problem_with(request: ExperimentRequest) -> str:
    """Return what is wrong with a request, whoever it is for; empty: nothing."""
    if request.what not in WHAT:
        return f"there is no experiment {shown(request.what)}{nearest(request.what, WHAT)}"
    if request.what == "end":
        return ""
    if not 1 <= request.for_ms <= FOR_MS_MAX:
        return f"an experiment lasts 1 ms to an hour, not {request.for_ms:,} ms"
    if request.what in ("slow", "delay") and not 1 <= request.ms <= DELAY_MS_MAX:
        return f"a delay is 1 to {DELAY_MS_MAX:,} ms, not {request.ms:,} ms"
    if request.what in ON_LINKS and not request.peer:
        return f"say which process is to be at the other end of the link to {shown(request.address)}"
    if request.what in ON_LINKS and request.direction not in ("both", *DIRECTIONS):
        return f"a direction is both, to or from, not {shown(request.direction)}"
    return ""


class Experiments:
    """What is done to the actors and links of this process just now."""

    def __init__(self, context: Context, process: str) -> None:
        self._context, self._process = context, process
        self._running: dict[tuple[str, str], _Running] = {}  # by (what, target)

    def begin(self, request: ExperimentRequest, address: str) -> ExperimentReply:
        """Begin, or end, an experiment at an address inside this process, or refuse."""
        faults = self._context.faults
        if faults is None:
            return refusal(request, NOT_ALLOWED)
        if problem := problem_with(request):
            return refusal(request, problem)
        if request.what == "end":
            return ExperimentReply(address=request.address, what="end", count=self.end(address, "asked"))
        if request.what in ON_LINKS:
            return self._on_link(request, address, faults)
        return self._on_actors(request, address)

    def end(self, address: str, why: str) -> int:
        """End what was begun at, or below, an address; return how many that were."""
        keys = [key for key, one in self._running.items() if f"{one.address}/".startswith(f"{address}/")]
        for key in keys:
            self._end(key, why)
        return len(keys)

    # -- links ---------------------------------------------------------------------------------------

    def _on_link(self, request: ExperimentRequest, address: str, faults: Faults) -> ExperimentReply:
        if address != self._process:
            return refusal(request, f"a link is between processes: {self._process}, not {shown(request.address)}")
        peer = request.peer.strip("/").rpartition("/")[2]
        if peer == self._process:
            return refusal(request, "a link is between two processes, not one")
        directions = [one for one in DIRECTIONS if request.direction in ("both", one)]
        key = (request.what, f"{peer} {request.direction}")
        self._end(key, "another one takes its place")
        for direction in directions:
            if request.what == "cut":
                faults.cut(peer, direction)
            else:
                faults.delay(peer, direction, request.ms)

        def undo() -> None:
            for direction in directions:
                faults.heal(peer, direction, request.what)

        self._begin(key, address, request, undo, peer=peer, direction=request.direction)
        return ExperimentReply(address=address, what=request.what)

    # -- actors --------------------------------------------------------------------------------------

    def _on_actors(self, request: ExperimentRequest, address: str) -> ExperimentReply:
        directory = self._context.directory
        if address == self._process:
            refs = [ref for ref in directory.refs() if f"{ref.address}/".startswith(f"{address}/")]
        else:
            found = directory.find(address)
            refs = [found] if found is not None else []
        if not refs or address == PROCESS_ADDRESS:
            known = [ref.address for ref in directory.refs()]
            detail = f"nothing lives at {shown(request.address)}{nearest_address(address, known)}"
            return ExperimentReply(error=ErrorCode.UNKNOWN_ADDRESS, detail=detail, address=address)
        if request.what == "hang":
            self._hang(request, address)
        else:
            self._disturb(request, address, refs)
        return ExperimentReply(address=address, what=request.what, count=len(refs))

    def _hang(self, request: ExperimentRequest, address: str) -> None:
        """Have the loop stand still, as it does when a handler waits for something."""

        def stand_still() -> None:
            threading.Event().wait(request.for_ms / 1_000)
            event(logger, "experiment.ended", what="hang", address=address, why="over")

        _tell_of(request, address)
        self._context.loop.call_later(HANG_AFTER_MS / 1_000, stand_still)

    def _disturb(self, request: ExperimentRequest, address: str, refs: list[LoopRef]) -> None:
        for what in ("pause", "slow"):  # both replace the drain: one would undo the other
            self._end((what, address), "another one takes its place")
        for ref in refs:
            actor = ref.actor
            if actor is None:
                continue
            if request.what == "pause":
                actor.mailbox.replace_drain(partial(_hear_nothing, actor))
            else:
                step = partial(actor._actor_drain, 1)
                actor.mailbox.replace_drain(partial(self._context.loop.call_later, request.ms / 1_000, step))

        def undo() -> None:
            for ref in refs:
                actor = ref.actor
                if actor is not None and ref.is_alive():
                    actor.mailbox.replace_drain(actor._actor_drain)
                    actor.mailbox.schedule()

        self._begin((request.what, address), address, request, undo, actors=len(refs))

    # -- inside --------------------------------------------------------------------------------------

    def _begin(
        self, key: tuple[str, str], address: str, request: ExperimentRequest, undo: Callable[[], None], **more: object
    ) -> None:
        timer = self._context.loop.call_later(request.for_ms / 1_000, self._end, key, "over")
        self._running[key] = _Running(address, undo, timer)
        _tell_of(request, address, **more)

    def _end(self, key: tuple[str, str], why: str) -> None:
        running = self._running.pop(key, None)
        if running is None:
            return
        running.timer.cancel()
        running.undo()
        event(logger, "experiment.ended", what=key[0], address=running.address, target=key[1], why=why)


def refusal(request: ExperimentRequest, detail: str) -> ExperimentReply:
    return ExperimentReply(error=ErrorCode.INVALID_REQUEST, detail=detail, address=request.address, what=request.what)


def _tell_of(request: ExperimentRequest, address: str, **more: object) -> None:
    delay = {"ms": request.ms} if request.ms else {}
    event(logger, "experiment.begun", what=request.what, address=address, for_ms=request.for_ms, **delay, **more)


def _hear_nothing(_: LoopActor) -> None:
    """What a paused actor does with what it is told: it waits in the mailbox.

    The mailbox holds the actor by its drain, and nobody else does: so this one is given the actor, too.
    """
