"""Who is alive: the rules of sessions. Pure; the time is handed in.

A session is a promise to be heard of again within ``timeout_ms``. It is of one *incarnation*, one life of a
process; the next life opens another session. Rules:

1. Only a heartbeat (or the opening) of the session's own incarnation keeps it.
2. An incarnation whose session has ended never has one again: whatever was decided about its end stands. A
   process that lives on opens one of a *later life* of itself (``later_life``); its death ends that one, too.
3. A newer incarnation of the same machine replaces the older at once (it must have died: it is the same
   process's name); from another machine it is refused until the older has ended, or two brokers that were
   given one id would take turns. A life that lost its session asks only for a vacant one (``if_vacant``).
4. Times are of one monotonic clock, in memory only; nothing that is stored says when a session ends (a wall
   clock may jump, another boot's clock means nothing). After a restart of the metadata process every stored
   session is *provisional*: it has its whole timeout to be heard of (B27).
5. Whoever slept cannot judge silence: when this process itself was not running for a while, that while does
   not count (``slept``).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from ...errors import ErrorCode

TIMEOUT_MS_MIN, TIMEOUT_MS_MAX = 100, 600_000
SESSIONS_MAX = 1_000
LIFE_MARK = "+"
ENDED_MAX = 10_000  # incarnations remembered for rule 2; brokers' last ones are remembered by their registration


@dataclass(slots=True)
class Session:
    """One session. ``deadline_ms`` > now while it lasts; moved by heartbeats and ``slept``."""

    name: str
    incarnation: str
    timeout_ms: int
    deadline_ms: int
    machine: str = ""
    is_provisional: bool = False  # not heard of since the metadata process started


@dataclass(frozen=True, slots=True)
class Opened:
    """``replaced``: the session of an earlier life that ended by this."""

    session: Session
    replaced: Session | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """It was open already; it counts as a heartbeat."""

    session: Session


@dataclass(frozen=True, slots=True)
class Refused:
    error: ErrorCode
    detail: str


def later_life(first: str, number: int) -> str:
    """Return the incarnation of a process whose session has ended ``number`` times. ``first``: as it was started."""
    return f"{first}{LIFE_MARK}{number}"


def first_life(incarnation: str) -> str:
    """Return the incarnation that the process of this one was started as."""
    return incarnation.partition(LIFE_MARK)[0]


class Sessions:
    """All sessions, by name."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}  # at most SESSIONS_MAX
        self._ended: OrderedDict[tuple[str, str], None] = OrderedDict()  # at most ENDED_MAX, oldest first

    def __len__(self) -> int:
        return len(self._open)

    def restore(self, name: str, incarnation: str, timeout_ms: int, machine: str, now_ms: int) -> None:
        """Take a session over from what is stored: provisional (rule 4)."""
        self._open[name] = Session(name, incarnation, timeout_ms, now_ms + timeout_ms, machine, is_provisional=True)

    def restore_ended(self, name: str, incarnation: str) -> None:
        """Take over from what is stored that this incarnation's session has ended (rule 2)."""
        self._remember_ended(name, incarnation)

    def open(
        self, name: str, incarnation: str, timeout_ms: int, machine: str, now_ms: int, *, if_vacant: bool = False
    ) -> Opened | Kept | Refused:
        """Begin a session, or keep it when it is open."""
        timeout_ms = min(max(timeout_ms, TIMEOUT_MS_MIN), TIMEOUT_MS_MAX)
        present = self._open.get(name)
        if present and present.incarnation == incarnation:
            present.timeout_ms = timeout_ms
            self._heard_of(present, now_ms)
            return Kept(present)
        if (name, incarnation) in self._ended:
            return Refused(ErrorCode.STALE_BROKER_EPOCH, f"the session of {name} ({incarnation}) has ended")
        if present and present.machine != machine and not present.is_provisional:
            detail = f"{name} is alive on another machine ({present.machine})"
            return Refused(ErrorCode.DUPLICATE_BROKER_REGISTRATION, detail)
        if present and if_vacant:
            detail = f"{name} is alive in another incarnation ({present.incarnation})"
            return Refused(ErrorCode.DUPLICATE_BROKER_REGISTRATION, detail)
        if not present and len(self._open) >= SESSIONS_MAX:
            return Refused(ErrorCode.LIMIT_EXCEEDED, f"there are {SESSIONS_MAX} sessions already")
        if present:
            self._remember_ended(name, present.incarnation)
        session = Session(name, incarnation, timeout_ms, now_ms + timeout_ms, machine)
        self._open[name] = session
        return Opened(session, present)

    def heartbeat(self, name: str, incarnation: str, now_ms: int) -> bool:
        """Keep a session. False: there is none of this incarnation."""
        session = self._open.get(name)
        if not session or session.incarnation != incarnation:
            return False
        self._heard_of(session, now_ms)
        return True

    def end(self, name: str, incarnation: str = "") -> Session | None:
        """End a session (``incarnation`` empty: whichever it is) and return it; None: there was none.

        ``incarnation`` may be the first one of a process: whoever saw the process end need not know the later ones.
        """
        session = self._open.get(name)
        if incarnation and (not session or incarnation not in (session.incarnation, first_life(session.incarnation))):
            self._remember_ended(name, incarnation)  # it may still try to open one
            return None
        if session:
            del self._open[name]
            self._remember_ended(name, session.incarnation)
        return session

    def is_open(self, name: str, incarnation: str) -> bool:
        session = self._open.get(name)
        return session is not None and session.incarnation == incarnation

    def expired(self, now_ms: int) -> list[Session]:
        """Return the sessions whose time is over; the caller ends them."""
        return [session for session in self._open.values() if session.deadline_ms <= now_ms]

    def next_deadline_ms(self) -> int | None:
        return min((session.deadline_ms for session in self._open.values()), default=None)

    def slept(self, for_ms: int) -> None:
        """This process was not running for a while: give everybody that much more (rule 5)."""
        for session in self._open.values():
            session.deadline_ms += for_ms

    @staticmethod
    def _heard_of(session: Session, now_ms: int) -> None:
        session.deadline_ms = max(session.deadline_ms, now_ms + session.timeout_ms)
        session.is_provisional = False

    def _remember_ended(self, name: str, incarnation: str) -> None:
        self._ended[name, incarnation] = None
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)
