"""What actors are told about each other's lives, and the ways to end one on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import CallboardError

if TYPE_CHECKING:
    from .runtime import LoopRef

Phase = Literal["start", "message", "drain", "timer", "stop"]


@dataclass(frozen=True, slots=True)
class ChildStarted:
    """The child serves: its ``on_start`` is through, or it has called ``started()``."""

    ref: LoopRef


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """The child has ended by an exception. Exactly one of ChildFailed and ChildStopped ends every life."""

    ref: LoopRef
    phase: Phase
    exception: BaseException


@dataclass(frozen=True, slots=True)
class ChildStopped:
    """The child has ended normally, asked or by itself."""

    ref: LoopRef


@dataclass(frozen=True, slots=True)
class Fail:
    """Chaos: whoever receives it fails. ``"raise"``: by an exception, ``"exit"``: by SystemExit."""

    how: BaseException | str = "raise"


class ChaosError(CallboardError):
    """An actor failed because somebody asked for it. Does not count against its restart intensity."""

    is_chaos = True


class ChaosExit(SystemExit):
    """The same, by ``SystemExit``: proves that nothing which an actor raises gets past it."""

    is_chaos = True


class ActorKilled(CallboardError):
    """The supervisor ended the actor without asking it: it did not stop in time, or the supervisor failed."""


def is_chaos(error: BaseException | None) -> bool:
    """Say whether a failure was made on purpose."""
    return bool(getattr(error, "is_chaos", False))


PROCESS_ADDRESS = "process"  # of the actor at the very top of a process (``actors.root``); not part of the tree


@dataclass(frozen=True, slots=True)
class KillProcess:
    """Chaos for a whole process: ``"kill"`` (SIGKILL) or ``"term"`` (SIGTERM, a clean stop)."""

    how: str = "kill"
    for_ms: int = 0  # it is not started again before so long


@dataclass(frozen=True, slots=True)
class PauseProcess:
    """Chaos for a whole process: SIGSTOP, and SIGCONT after ``for_ms``; 0: SIGCONT now."""

    for_ms: int
