"""A consumer group in a simulated cluster: its members come, close, die, are paused; and what is judged of it.

Members stand where the other clients of a run do: faults reach them by their names. When everything is healed, every
partition must have one owner, everything be dealt with, and the committed offsets reach the ends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..actors.controller.internal import CONFIGS
from ..actors.partition.replica import Replica
from ..model import OFFSETS_TOPIC, PartitionKey, TopicPartition
from .clients import ClientProcess
from .group_history import GroupHistory, group_anomalies
from .group_recording import GroupRecorder
from .growth import PATTERN
from .history import Anomaly
from .loop import SimLoop
from .members import SimMember, Watcher, habits_of
from .observing import Latest, Observer
from .recording import Recorder
from .simulated import SimulatedProcess

LIVES_MAX = 3  # of one place in the group
AT_ONCE = 2  # members that are there from the beginning
WATCHER = "watcher"
BESIDE = "beside"  # so the members of a second group are called
GROUPS = {"member": "billing", BESIDE: "shipping"}  # the names of groups, by those of their members' processes
CALM_MS = 300.0  # no application is slower when all is healed: less than any max_poll_interval_ms
PATTERN_LOOK_MS = 300  # how often members with a pattern look for new topics that match it


def member_names(count: int, called: str = "member") -> list[str]:
    return [f"{called}-{one + 1}" for one in range(count)]


@contextmanager
def offsets_topic_with(configs: Mapping[str, Any]) -> Iterator[None]:
    """Have the topic of offsets made with these settings."""
    before = dict(CONFIGS)
    CONFIGS.update(configs)
    try:
        yield
    finally:
        CONFIGS.clear()
        CONFIGS.update(before)


def differing_latest(
    replicas: Iterable[tuple[SimulatedProcess, Replica]], observer: Observer, ends: Mapping[PartitionKey, int]
) -> list[Anomaly]:
    """Compacted logs hold the same last record of each key below ``ends``, however far each was compacted."""
    seen: dict[PartitionKey, tuple[str, Latest]] = {}
    found = []
    for process, actor in replicas:
        latest = observer.latest(process, actor, ends.get(actor.key, 0))
        if latest is not None:
            name, first = seen.setdefault(actor.key, (process.options.name, latest))
            if first != latest:
                detail = f"{name} and {process.options.name} differ in the last records of keys"
                found.append(Anomaly("latest-of-key", TopicPartition(OFFSETS_TOPIC, actor.key.partition), detail))
    return found


class GroupRuns:
    """All groups of one run: what is done with each, and what is missing or wrong in any."""

    def __init__(self, runs: Iterable[GroupRun]) -> None:
        self.runs = tuple(runs)

    def present(self, name: str) -> str:
        """Return the process that is in that place now, "" if nobody is; the name of another client stays as it is."""
        for run in self.runs:
            name = run.present(name)
        return name

    def kill(self, name: str) -> None:
        """The process of a member was killed; another one comes in its place."""
        next(run for run in self.runs if name.startswith(run.called)).kill(name)

    def heal(self) -> None:
        """From here on nobody closes or comes; somebody is there."""
        for run in self.runs:
            run.heal()

    def end(self) -> None:
        """No thread of them is left."""
        for run in self.runs:
            run.end()

    def on_grown(self, keys: Sequence[TopicPartition]) -> None:
        """These partitions are there now, too."""
        for run in self.runs:
            run.on_grown(keys)

    @property
    def has_answer(self) -> bool:
        """Say whether the coordinators of all have answered once."""
        return all(run.has_answer for run in self.runs)

    @property
    def progress(self) -> object:
        return tuple(run.progress for run in self.runs)

    def missing(self, ends: Mapping[TopicPartition, int]) -> str:
        """Return what is not yet as it must be in the end; "": nothing."""
        found = [f"group {run.group_id}: {what}" for run in self.runs if (what := run.missing(ends))]
        return "; ".join(found)

    def judge(self) -> list[Anomaly]:
        return [anomaly for run in self.runs for anomaly in run.judge()]


class GroupRun:
    """A group of one run."""

    def __init__(
        self,
        seed: str,
        loop: SimLoop,
        recorder: Recorder,
        topic: str,
        partitions: int,
        client: Callable[[str], ClientProcess],
        settings: Mapping[str, Any],
        called: str = "member",
        pattern_share: float = 0.0,
    ) -> None:
        """``client`` makes a process with that name; ``settings``: of every client; ``called``: so its members are."""
        self._loop, self._client = loop, client
        self.called, self.group_id = called, GROUPS[called]
        self._chance = chance = random.Random(f"group/{seed}" if called == "member" else f"{called}/{seed}")
        self._static_chance = random.Random(f"static/{called}/{seed}")
        self._static: set[str] = set()  # places whose members have an instance id
        self._recorder = GroupRecorder(recorder, self.group_id)
        self._subscription: dict[str, Any] = {"topics": [topic]}
        if random.Random(f"pattern/{called}/{seed}").random() < pattern_share:
            self._subscription = {"pattern": PATTERN}
            settings = {**settings, "metadata_max_age_ms": PATTERN_LOOK_MS}
        self.keys = [TopicPartition(topic, number) for number in range(partitions)]  # sorted; grows
        self._members: dict[str, SimMember] = {}  # that run, by the name of their process
        self._lives: dict[str, int] = {}
        self._places: dict[str, str] = {}  # each with the process that came there last
        self._problems: list[str] = []
        self._watcher: Watcher | None = None
        self._is_over = False
        session_ms = chance.choice((400, 1_000))
        self._settings = {
            **settings,
            "group_id": self.group_id,
            "auto_offset_reset": "earliest",
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": session_ms // 4,
            "max_poll_interval_ms": chance.choice((700, 10_000)),
            "auto_commit_interval_ms": chance.choice((20, 100, 500)),
            "partition_assignment_strategy": chance.choice(("range", "round_robin", "sticky")),
            "max_partition_fetch_bytes": chance.choice((500, 1 << 20)),
        }

    # -- life ----------------------------------------------------------------------------------------

    def start(self, count: int, span_ms: float, static_share: float = 0.0) -> None:
        """Have ``count`` members, the later ones at some time within ``span_ms``, and somebody who looks on."""
        names = member_names(count, self.called)
        self._static = {name for name in names if self._static_chance.random() < static_share}
        watcher = WATCHER if self.called == "member" else f"{WATCHER}-{self.called}"
        self._watcher = Watcher(self._client(watcher), self._recorder, self.keys, self._settings)
        for at, name in enumerate(names):
            if at < AT_ONCE:
                self._start_member(name)
            else:
                self._loop.call_later(span_ms * self._chance.random() / 1000, self._start_member, name)

    def present(self, name: str) -> str:
        """Return the process that is in that place now, "" if nobody is; the name of another client stays as it is."""
        if name not in self._places:
            return name
        last = self._places[name]
        return last if last in self._members and not self._members[last].is_gone else ""

    def kill(self, name: str) -> None:
        """The process of a member was killed; another one comes in its place."""
        self._end(self._members[name])
        self._start_later(name.partition("+")[0])

    def on_grown(self, keys: Sequence[TopicPartition]) -> None:
        """These partitions are there now; they are ours if we are subscribed to their topic."""
        topics = {key.topic for key in self.keys}
        self.keys[:] = sorted([*self.keys, *(key for key in keys if self.has_pattern or key.topic in topics)])

    @property
    def has_pattern(self) -> bool:
        return "pattern" in self._subscription

    def heal(self) -> None:
        """From here on nobody closes or comes; somebody is there."""
        self._is_over = True
        if not any(not member.is_gone for member in self._members.values()):
            self._is_over = False
            self._start_member(f"{self.called}-1", stays=True)
            self._is_over = True
        for member in self._members.values():
            member.slow_ms_max = CALM_MS  # one that is put out each time it is slow may never get further

    def end(self) -> None:
        """No thread of it is left."""
        for member in self._members.values():
            member.kill()
        if self._watcher is not None:
            self._watcher.kill()

    def _start_member(self, place: str, *, stays: bool = False) -> None:
        if self._is_over:
            return
        life = self._lives[place] = self._lives.get(place, 0) + 1
        name = self._places[place] = place if life == 1 else f"{place}+{life}"
        habits = habits_of(self._chance, stays=stays or life == LIVES_MAX)
        settings = {**self._settings, "group_instance_id": place} if place in self._static else self._settings
        self._members[name] = SimMember(
            self._client(name), self._recorder, self._subscription, habits, settings, self._on_closed
        )

    def _on_closed(self, member: SimMember) -> None:
        if not self._is_over:
            self._start_later(member.process.name.partition("+")[0])
        else:
            self._loop.call_soon(self._replace_the_last)

    def _replace_the_last(self) -> None:
        self.heal()

    def _start_later(self, place: str) -> None:
        if self._lives[place] < LIVES_MAX:
            self._loop.call_later(self._chance.choice((0.0, 0.05, 0.5)), self._start_member, place)

    def _end(self, member: SimMember) -> None:
        self._problems += [f"{member.process.name}: {text}" for text in member.problems]
        del self._members[member.process.name]
        member.kill()

    # -- judging -------------------------------------------------------------------------------------

    @property
    def has_answer(self) -> bool:
        """Say whether a coordinator has answered once."""
        return self._watcher is not None and len(self._watcher.seen) == len(self.keys)

    @property
    def history(self) -> GroupHistory:
        return self._recorder.history

    @property
    def progress(self) -> object:
        """Return what differs whenever something was dealt with, or committed, that never was before.

        An application may be slow: a record each third of a second, all of a partition again when it is put out.
        """
        done = len({(one.partition, one.offset) for one in self.history.processed})
        return done, sum(self._watcher.seen.values()) if self._watcher is not None else 0

    def missing(self, ends: Mapping[TopicPartition, int]) -> str:
        """Return what is not yet as it must be in the end; "": nothing."""
        held = [key for member in self._members.values() for key in member.held]
        if sorted(held) != self.keys:
            return f"{', '.join(map(str, sorted(held))) or 'nothing'} is owned"
        done: dict[TopicPartition, set[int]] = {key: set() for key in self.keys}
        for processed in self.history.processed:
            done[processed.partition].add(processed.offset)
        for key in self.keys:
            end = ends.get(key, 0)
            if len(done[key]) < end:
                return f"{len(done[key])} of {end} records of {key} were dealt with"
            seen = self._watcher.seen.get(key, -1) if self._watcher is not None else -1
            if end and seen != end:
                return f"{key} is committed at {seen}, its end is {end}"
        return ""

    def judge(self) -> list[Anomaly]:
        problems = [*self._problems]
        problems += [f"{name}: {text}" for name, member in self._members.items() for text in member.problems]
        found = [Anomaly("internal", None, text) for text in problems]
        return found + group_anomalies(self.history)
