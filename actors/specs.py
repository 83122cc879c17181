"""What a supervision tree is made of, and what one says to a supervisor. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import IllegalArgumentError
from .restarts import Backoff, ChildPolicy, OnGiveUp, Policy, Restart, Strategy
from .runtime import LoopRef, Starter


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """One line of a supervision tree. ``start(context, address, parent)`` makes the actor and returns its ref."""

    name: str  # unique among its siblings, no "/"; its address is ``<supervisor's address>/<name>``
    start: Starter
    restart: Restart = Restart.PERMANENT
    shutdown_ms: int = 5_000  # from the request to stop to the kill; 0: kill at once
    backoff: Backoff = field(default_factory=Backoff)
    on_give_up: OnGiveUp = OnGiveUp.ESCALATE
    waits: bool = True  # keeps its place in the order; False: started and stopped together with such neighbours

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise IllegalArgumentError(f"not a child's name: {self.name!r}")

    @property
    def policy(self) -> ChildPolicy:
        return ChildPolicy(self.restart, self.backoff, self.on_give_up)


@dataclass(frozen=True, kw_only=True)
class SupervisorSpec:
    """What a supervisor is: its children in start order, and how it treats them.

    ``watcher``: who is told ``GaveUp`` when a child is left offline, by ref or by address; else the parent.
    """

    strategy: Strategy = Strategy.ONE_FOR_ONE
    intensity: int = 3
    period_ms: int = 5_000
    children: tuple[ChildSpec, ...] = ()
    intensity_per_child: bool = False
    watcher: LoopRef | str | None = None

    @property
    def policy(self) -> Policy:
        return Policy(self.strategy, self.intensity, self.period_ms, self.intensity_per_child)


@dataclass(frozen=True, slots=True)
class StartChild:
    """Let this be what runs under the spec's name: started now, or when the one that runs there has stopped."""

    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class StopChild:
    """Stop and remove a child; ``reply_to`` is told ``ChildRemoved`` when it is gone, or was not there."""

    name: str
    reply_to: LoopRef | None = None


@dataclass(frozen=True, slots=True)
class ChildRemoved:
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class GaveUp:
    """A child is past its limit and stays offline; its siblings live on."""

    name: str
    address: str
    exception: BaseException
