"""When to restart, whom, after how long, and when to give up: the arithmetic of supervision. Pure.

The semantics are OTP's, with backoff added so that a failing disk or store is not hammered:

1. **Kind** says whether a child that ended comes back: permanent always, transient only after a failure,
   temporary never.
2. **Strategy** says who goes with it: nobody, those started after it, everybody.
3. **Intensity**: more than ``intensity`` failures within ``period_ms`` is one too many: the supervisor gives up.
   Failures made on purpose (chaos) are not counted. Counted per supervisor; or per child, where children are
   independent things (partitions, processes) and one that is past its limit must not take others along.
4. **Backoff**: the first failure waits ``min_ms``, each further one twice as long up to ``max_ms``, with
   jitter. A child that served for ``reset_after_ms`` begins again at ``min_ms``.

``on_end`` is the whole of it: (policies, tallies, what ended, now, chance) -> (tallies, decision); ``group_of``
says who is stopped and started with the child. Both look at one child or one group, never at all children of a
supervisor that has thousands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ..errors import IllegalArgumentError


class Restart(StrEnum):
    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class Strategy(StrEnum):
    ONE_FOR_ONE = "one_for_one"
    REST_FOR_ONE = "rest_for_one"
    ONE_FOR_ALL = "one_for_all"


class OnGiveUp(StrEnum):
    """What happens to a child past its limit."""

    ESCALATE = "escalate"  # its supervisor stops all children and fails: OTP
    LEAVE_OFFLINE = "leave offline"  # it alone is given up, its siblings live, the watcher is told


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a restart. ``0 <= min_ms <= max_ms``, ``0 <= jitter <= 1``."""

    min_ms: int = 10
    max_ms: int = 5_000
    jitter: float = 0.2
    reset_after_ms: int = 2_000

    def __post_init__(self) -> None:
        if not (0 <= self.min_ms <= self.max_ms and 0 <= self.jitter <= 1 and self.reset_after_ms >= 0):
            raise IllegalArgumentError(f"not a backoff: {self}")

    def delay_ms(self, attempt: int, chance: float) -> int:
        """Return the wait before restart number ``attempt`` (from 1) in a row; ``0 <= chance < 1``.

        Within ``min_ms..max_ms``; jitter only lengthens, so that the bounds hold and herds still spread.
        """
        doubled = self.min_ms * (1 << min(attempt - 1, 32))
        return min(self.max_ms, int(min(doubled, self.max_ms) * (1 + self.jitter * chance)))


@dataclass(frozen=True, slots=True)
class ChildPolicy:
    """What the arithmetic needs to know of one child."""

    restart: Restart = Restart.PERMANENT
    backoff: Backoff = field(default_factory=Backoff)
    on_give_up: OnGiveUp = OnGiveUp.ESCALATE


@dataclass(frozen=True, slots=True)
class Policy:
    """What it needs to know of the supervisor. ``intensity`` failures within ``period_ms`` are still borne."""

    strategy: Strategy = Strategy.ONE_FOR_ONE
    intensity: int = 3
    period_ms: int = 5_000
    intensity_per_child: bool = False

    def __post_init__(self) -> None:
        if self.intensity < 0 or self.period_ms < 1:
            raise IllegalArgumentError(f"intensity must be >= 0 and period_ms >= 1: {self}")


@dataclass(frozen=True, slots=True)
class Tally:
    """What has been borne so far, by a supervisor or by one child."""

    failures: tuple[int, ...] = ()  # monotonic ms, ascending, all within the last period
    attempts: int = 0  # of a child: restarts in a row without a good service between; of a supervisor: unused


@dataclass(frozen=True, slots=True)
class Ended:
    """One child has ended. ``served_ms``: how long it had served; 0 when it never started."""

    is_failure: bool
    is_chaos: bool = False
    served_ms: int = 0


@dataclass(frozen=True, slots=True)
class RestartAfter:
    """Start it again, and its group with it, after so long."""

    ms: int


@dataclass(frozen=True, slots=True)
class LetGo:
    """The child is done, as its kind says."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It failed once too often."""

    escalates: bool


Decision = RestartAfter | LetGo | GiveUp


@dataclass(frozen=True, slots=True)
class Outcome:
    """What ``on_end`` decided, and the tallies from now on."""

    decision: Decision
    shared: Tally
    own: Tally


def on_end(
    policy: Policy, child: ChildPolicy, ended: Ended, *, shared: Tally, own: Tally, now_ms: int, chance: float
) -> Outcome:
    """Decide what follows from the end of a child.

    Args:
        shared: the supervisor's tally.
        own: the child's tally.
        now_ms: monotonic; never before an earlier call's.
        chance: ``0 <= chance < 1``, for the jitter.
    """
    if child.restart is Restart.TEMPORARY or (child.restart is Restart.TRANSIENT and not ended.is_failure):
        return Outcome(LetGo(), shared, Tally())
    served_well = 0 < ended.served_ms >= child.backoff.reset_after_ms
    attempts = 0 if served_well else own.attempts
    if ended.is_chaos:
        return Outcome(RestartAfter(child.backoff.delay_ms(1, chance)), shared, Tally(own.failures, attempts))
    attempts += 1
    if policy.intensity_per_child or child.on_give_up is OnGiveUp.LEAVE_OFFLINE:
        own = Tally(_within_period(own.failures, policy, now_ms), attempts)
        borne = len(own.failures)
    else:
        own = Tally(own.failures, attempts)
        shared = Tally(_within_period(shared.failures, policy, now_ms))
        borne = len(shared.failures)
    if borne > policy.intensity:
        return Outcome(GiveUp(escalates=child.on_give_up is OnGiveUp.ESCALATE), shared, own)
    return Outcome(RestartAfter(child.backoff.delay_ms(attempts, chance)), shared, own)


def group_of(
    strategy: Strategy, children: Sequence[tuple[str, Restart]], ended: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return whom to stop, in that order, and whom to start, in that order, when ``ended`` is restarted.

    ``children`` in start order. Stops run backwards, starts forwards; a temporary sibling that is stopped does
    not come back.
    """
    if strategy is Strategy.ONE_FOR_ONE:
        return (), (ended,)
    names = [name for name, _ in children]
    group = children if strategy is Strategy.ONE_FOR_ALL else children[names.index(ended) :]
    stop = tuple(name for name, _ in reversed(group) if name != ended)
    start = tuple(name for name, restart in group if name == ended or restart is not Restart.TEMPORARY)
    return stop, start


def _within_period(failures: tuple[int, ...], policy: Policy, now_ms: int) -> tuple[int, ...]:
    """Return the failures that still count, this one included."""
    return (*(time for time in failures if time > now_ms - policy.period_ms), now_ms)
