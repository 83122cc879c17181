"""What a cluster's timeline tells: who noticed a failure and how, how long a partition had no leader. Pure.

A *gap* begins with the first news that the partition's leader is gone, whoever has it first: the host (its process
ended), the metadata process (its session ended), the broker itself (the replica failed). It ends when a leader of a
later epoch says that it leads. In between the controller has elected; what it says of that may come after the new
leader's word, or (of an actor that failed) before anybody's word of the failure: then the election is put at the end or
at the beginning of the gap, where it must have been. All times are wall clocks of one machine;
between machines they are as good as their clocks.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..transport.messages import EventDescription

STALLED = "1"  # exit status of a process whose event loop made no turn for stall_ms
OUT_OF_MEMORY = "72"
SETTLE_MS = 300  # an event is on its way to the host for less than that, unless something is paused


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which a partition had no leader. Milliseconds of the wall clock; 0: not known."""

    partition: str
    old_leader: str  # "broker-2"
    cause: str
    begin_ms: int
    elected_ms: int = 0
    end_ms: int = 0
    new_leader: str = ""
    epoch: int = -1

    @property
    def is_over(self) -> bool:
        return self.end_ms > 0

    @property
    def ms(self) -> int:
        """How long it was; 0 while it lasts."""
        return max(0, self.end_ms - self.begin_ms) if self.is_over else 0


def merged(*streams: Sequence[EventDescription]) -> list[EventDescription]:
    """Return the events of several rings in the order of their wall clocks; each ring's own order is kept."""
    return list(heapq.merge(*(sorted(stream, key=_wall_ms) for stream in streams), key=_wall_ms))


class Settling:
    """Puts events that come by several ways in order, for whoever follows: each waits for those that may precede it.

    What comes later than ``SETTLE_MS`` (a process was paused, a host is far away) is told when it comes.
    """

    def __init__(self) -> None:
        self._waiting: list[EventDescription] = []

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def add(self, events: Iterable[EventDescription]) -> None:
        self._waiting = merged([*self._waiting, *events])

    def settled(self, now_ms: int) -> list[EventDescription]:
        """Return, once, what nothing can precede any more. ``now_ms``: the wall clock."""
        count = bisect_right(self._waiting, now_ms - SETTLE_MS, key=_wall_ms)
        settled, self._waiting = self._waiting[:count], self._waiting[count:]
        return settled

    def rest(self) -> list[EventDescription]:
        """Return all that waits."""
        rest, self._waiting = self._waiting, []
        return rest


def noticed_by(happened: EventDescription) -> str:
    """Return how a failure was noticed: "sentinel", "silence", "stall", "memory", "supervisor"; empty: it is none."""
    match happened.name:
        case "process.ended" if happened.values.get("is_asked") != "True":
            exitcode = happened.values.get("exitcode", "")
            return {STALLED: "stall", OUT_OF_MEMORY: "memory"}.get(exitcode, "sentinel")
        case "session.ended" if happened.values.get("reason") == "not heard of in time":
            return "silence"
        case "actor.failed":
            return "supervisor"
        case _:
            return ""


class Leaderships:
    """Follows the timeline and finds the gaps in each partition's leadership."""

    def __init__(self) -> None:
        self._leaders: dict[str, tuple[str, int]] = {}  # partition -> (process, epoch), as far as is known
        self._led_ms: dict[str, int] = {}  # since when
        self._open: dict[str, Gap] = {}
        self._elections: dict[str, tuple[int, int]] = {}  # partition -> (epoch, wall ms) of the last one told

    @property
    def open_gaps(self) -> list[Gap]:
        """Those that have not ended yet."""
        return list(self._open.values())

    def add(self, happened: EventDescription) -> list[Gap]:
        """Take the next event; return the gaps that it ends."""
        values, name = happened.values, happened.name
        if name == "partition.leads":
            return self._leads(happened, values.get("partition", ""), _number(values.get("epoch")))
        if name == "leader.elected":
            self._elected(happened, values.get("partition", ""), _number(values.get("leader")))
        elif name in ("process.ended", "session.ended"):
            self._process_lost(happened, values.get("name", ""))
        elif name in ("leader.lost", "partition.offline"):
            self._lost(happened, values.get("partition", ""), _process(values.get("leader", happened.process)))
        elif name == "actor.failed":
            process, _, rest = values.get("actor", "").partition("/partitions/")
            if rest and "/" not in rest:
                self._lost(happened, rest, process)
        return []

    # -- inside --------------------------------------------------------------------------------------

    def _leads(self, happened: EventDescription, partition: str, epoch: int) -> list[Gap]:
        known = self._leaders.get(partition, ("", -1))
        if epoch < known[1]:
            return []  # told late, by one who was deposed meanwhile
        self._leaders[partition], self._led_ms[partition] = (happened.process, epoch), happened.wall_ms
        gap = self._open.get(partition)
        if gap is None or epoch <= gap.epoch:
            return []
        del self._open[partition]
        end_ms = max(happened.wall_ms, gap.begin_ms)
        elected_ms = min(gap.elected_ms or end_ms, end_ms)
        return [replace(gap, elected_ms=elected_ms, end_ms=end_ms, new_leader=happened.process, epoch=epoch)]

    def _elected(self, happened: EventDescription, partition: str, leader: int) -> None:
        epoch = _number(happened.values.get("epoch"))
        if leader < 0:  # it was decided that there is none
            self._lost(happened, partition, _process(happened.values.get("was", "")))
            return
        self._elections[partition] = (epoch, happened.wall_ms)
        gap = self._open.get(partition)
        if gap is not None and epoch > gap.epoch:
            self._open[partition] = replace(gap, elected_ms=happened.wall_ms)
        elif partition not in self._leaders:
            self._leaders[partition] = (_process(str(leader)), epoch)

    def _process_lost(self, happened: EventDescription, process: str) -> None:
        for partition, (leader, _) in self._leaders.items():
            if leader == process:
                self._lost(happened, partition, process)

    def _lost(self, happened: EventDescription, partition: str, process: str) -> None:
        leader, epoch = self._leaders.get(partition, ("", -1))
        is_old = happened.wall_ms < self._led_ms.get(partition, 0)  # told late: it is over
        if leader == process and partition not in self._open and not is_old:
            cause = noticed_by(happened) or happened.name
            elected_epoch, elected_ms = self._elections.get(partition, (-1, 0))
            elected_ms = max(elected_ms, happened.wall_ms) if elected_epoch > epoch else 0
            self._open[partition] = Gap(partition, process, cause, happened.wall_ms, elected_ms, epoch=epoch)


def gaps(events: Iterable[EventDescription]) -> list[Gap]:
    """Return the times without a leader in a timeline, in the order in which they ended; those that last, last."""
    leaderships = Leaderships()
    found = [gap for happened in events for gap in leaderships.add(happened)]
    return found + leaderships.open_gaps


def _process(leader: str) -> str:
    return f"broker-{leader}" if leader.isdecimal() else leader


def _number(text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError:
        return -1


def _wall_ms(happened: EventDescription) -> int:
    return happened.wall_ms
