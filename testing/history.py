"""Judge what clients saw: histories of sends and polls in, named anomalies out.

The names are those of jepsen.tests.kafka where they exist there. Offsets give a total order per partition, so
no search is needed: one pass over the sends, one over what was polled.

A send's outcome is one of three, and the difference is the power of the test: ``ok`` (acknowledged, with its
offset), ``fail`` (definitely not done), ``info`` (unknown: time-out, connection lost, retriable refusal after
an append). Values are unique over the whole history.

| anomaly | what happened |
|---|---|
| lost-write | acknowledged, never polled, although something behind it was |
| unseen | acknowledged, never polled, and nothing behind it was |
| inconsistent-offsets | one offset, two values |
| duplicate | one value at two offsets |
| aborted-read | polled, although its send had definitely failed |
| phantom | polled, never sent |
| nonmonotonic-send | a producer's later send stands before an earlier one |
| realtime-order | a send that began after another was acknowledged stands before it |
| stale-epoch-ack | … and was acknowledged in an older leader epoch than that one |
| poll-skip, nonmonotonic-poll | a consumer's next poll jumps, or goes back, and nobody had moved it |
| int-poll-skip, int-nonmonotonic-poll | the same within one poll |
| above-hw-read | polled, and not there any more when the whole log was read at the end |
| stuck | no send was acknowledged for too long while nothing was wrong |
| replica-divergence | two replicas of a partition hold different logs below their high watermarks |
| internal | something was logged as an error, or an invariant was broken |
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from ..model import TopicPartition

Outcome = Literal["ok", "fail", "info"]

ONE_BY_ONE = -1  # ``Polled.poll``: it is not known which records came in one poll


class Send(NamedTuple):
    producer: str
    partition: TopicPartition
    value: Hashable
    outcome: Outcome
    offset: int = -1  # of an ok
    invoked_ns: int = 0
    completed_ns: int = 0
    epoch: int = -1  # the leader epoch in which it was acknowledged; -1: not known


class Polled(NamedTuple):
    partition: TopicPartition
    offset: int
    value: Hashable
    poll: int = ONE_BY_ONE  # the number of the call that returned it


class Moved(NamedTuple):
    """The consumer was given another position: what it polls next need not follow."""

    partition: TopicPartition


class Anomaly(NamedTuple):
    name: str
    partition: TopicPartition | None
    detail: str


@dataclass
class History:
    """What happened. ``sends`` per producer in the order of their calls; ``polls`` per consumer, in order.

    ``finals``: consumers that have read every partition from its beginning to its end after everything else was over.
    ``starts``: where each log began then; of one that is not named, where the first of them began to read.
    """

    sends: list[Send] = field(default_factory=list)
    polls: dict[str, list[Polled | Moved]] = field(default_factory=lambda: defaultdict(list))
    finals: set[str] = field(default_factory=set)
    starts: dict[TopicPartition, int] = field(default_factory=dict)


def anomalies(history: History) -> list[Anomaly]:
    """Return everything that must never happen and did; empty is the only good answer.

    The final polls must have read every partition to its end: an acknowledged value that nobody polled is lost.
    """
    places = _Places()
    for send in history.sends:
        if send.outcome == "ok" and send.offset >= 0:
            places.add(send.partition, send.offset, send.value, "acknowledged")
    found: list[Anomaly] = []
    sent = {send.value: send for send in history.sends}
    for consumer, polls in history.polls.items():
        found += _poll_anomalies(consumer, polls)
        for poll in polls:
            if isinstance(poll, Polled):
                places.add(poll.partition, poll.offset, poll.value, f"polled by {consumer}")
                places.polled[poll.partition][poll.value] = poll.offset
                found += _origin_anomalies(poll, sent.get(poll.value))
    found += places.anomalies()
    found += _lost(history.sends, places.polled)
    found += _vanished(history)
    return found + _order_anomalies(history, places.polled)


class _Places:
    """Which value stands where, as far as anybody was told."""

    def __init__(self) -> None:
        self.polled: dict[TopicPartition, dict[Hashable, int]] = defaultdict(dict)
        self._values: dict[tuple[TopicPartition, int], Hashable] = {}
        self._offsets: dict[tuple[TopicPartition, Hashable], set[int]] = defaultdict(set)
        self._conflicts: list[Anomaly] = []

    def add(self, partition: TopicPartition, offset: int, value: Hashable, where: str) -> None:
        known = self._values.setdefault((partition, offset), value)
        if known != value:
            detail = f"{offset}: {known!r} and, {where}, {value!r}"
            self._conflicts.append(Anomaly("inconsistent-offsets", partition, detail))
        self._offsets[partition, value].add(offset)

    def anomalies(self) -> list[Anomaly]:
        return self._conflicts + [
            Anomaly("duplicate", partition, f"{value!r} at {sorted(offsets)}")
            for (partition, value), offsets in self._offsets.items()
            if len(offsets) > 1
        ]


# -- what was polled -------------------------------------------------------------------------------


def _origin_anomalies(poll: Polled, origin: Send | None) -> list[Anomaly]:
    if origin is None or origin.partition != poll.partition:
        return [Anomaly("phantom", poll.partition, f"{poll.offset}: {poll.value!r} was never sent there")]
    if origin.outcome == "fail":
        return [Anomaly("aborted-read", poll.partition, f"{poll.offset}: {poll.value!r} had failed")]
    return []


def _poll_anomalies(consumer: str, polls: Sequence[Polled | Moved]) -> list[Anomaly]:
    """A consumer reads each partition offset by offset, unless it was moved."""
    found: list[Anomaly] = []
    last: dict[TopicPartition, Polled] = {}
    for poll in polls:
        before = last.pop(poll.partition, None)
        if isinstance(poll, Moved):
            continue
        last[poll.partition] = poll
        if before is None or poll.offset == before.offset + 1:
            continue
        name = "poll-skip" if poll.offset > before.offset else "nonmonotonic-poll"
        is_within = poll.poll == before.poll != ONE_BY_ONE
        jump = f"{consumer}: from {before.offset} to {poll.offset}"
        found.append(Anomaly(f"int-{name}" if is_within else name, poll.partition, jump))
    return found


def _lost(sends: Iterable[Send], polled: Mapping[TopicPartition, Mapping[Hashable, int]]) -> list[Anomaly]:
    ends = {partition: max(values.values(), default=-1) for partition, values in polled.items()}
    found = []
    for send in sends:
        if send.outcome == "ok" and send.value not in polled.get(send.partition, {}):
            name = "lost-write" if send.offset < ends.get(send.partition, -1) else "unseen"
            found.append(Anomaly(name, send.partition, f"{send.value!r} acknowledged at {send.offset}"))
    return found


def _vanished(history: History) -> list[Anomaly]:
    """What somebody has read is still there at the end. (Another value there is an inconsistent offset.)"""
    held: dict[TopicPartition, list[int]] = {}
    for consumer in sorted(history.finals):
        offsets: dict[TopicPartition, list[int]] = defaultdict(list)
        for poll in history.polls.get(consumer, ()):
            if isinstance(poll, Polled):
                offsets[poll.partition].append(poll.offset)
        held.update(offsets)
    for offsets_held in held.values():
        offsets_held.sort()
    seen: set[tuple[TopicPartition, int]] = set()
    found: list[Anomaly] = []
    for consumer, polls in history.polls.items():
        if consumer in history.finals or not history.finals:
            continue
        for poll in polls:
            if isinstance(poll, Moved) or (poll.partition, poll.offset) in seen:
                continue
            seen.add((poll.partition, poll.offset))
            there = held.get(poll.partition, [])
            if there and poll.offset < history.starts.get(poll.partition, there[0]):
                continue  # deleted from the front meanwhile
            place = bisect_left(there, poll.offset)
            if place == len(there) or there[place] != poll.offset:
                detail = f"{consumer} read {poll.value!r} at {poll.offset}"
                found.append(Anomaly("above-hw-read", poll.partition, detail))
    return found


# -- what was sent ---------------------------------------------------------------------------------


def _order_anomalies(history: History, polled: Mapping[TopicPartition, Mapping[Hashable, int]]) -> list[Anomaly]:
    """A producer's order, and real time's, are the log's order."""
    found: list[Anomaly] = []
    last: dict[tuple[str, TopicPartition], int] = {}
    by_partition: dict[TopicPartition, list[tuple[Send, int]]] = defaultdict(list)
    for send in history.sends:
        offset = send.offset if send.offset >= 0 else polled.get(send.partition, {}).get(send.value, -1)
        if send.outcome == "fail" or offset < 0:
            continue
        place = (send.producer, send.partition)
        if offset <= last.get(place, -1):
            found.append(
                Anomaly("nonmonotonic-send", send.partition, f"{send.value!r} at {offset} after {last[place]}")
            )
        last[place] = offset
        if send.completed_ns and send.outcome == "ok":
            by_partition[send.partition].append((send, offset))
    for partition, sends in by_partition.items():
        found += _realtime_anomalies(partition, sends)
    return found


def _realtime_anomalies(partition: TopicPartition, sends: list[tuple[Send, int]]) -> list[Anomaly]:
    """A send that began after another was acknowledged stands behind it, and not in an older epoch."""
    completions = sorted((send.completed_ns, offset, send.epoch) for send, offset in sends)
    found: list[Anomaly] = []
    done, highest, latest_epoch = 0, -1, -1
    for send, offset in sorted(sends, key=lambda item: item[0].invoked_ns):
        while done < len(completions) and completions[done][0] < send.invoked_ns:
            highest = max(highest, completions[done][1])
            latest_epoch = max(latest_epoch, completions[done][2])
            done += 1
        if offset <= highest:
            found.append(
                Anomaly("realtime-order", partition, f"{send.value!r} at {offset}, {highest} was there before")
            )
        if 0 <= send.epoch < latest_epoch:
            detail = f"{send.value!r} acknowledged in epoch {send.epoch}, one before it in {latest_epoch}"
            found.append(Anomaly("stale-epoch-ack", partition, detail))
    return found


# -- what is judged by itself ----------------------------------------------------------------------


def stalls(history: History, healthy: Iterable[tuple[int, int]], limit_ns: int) -> list[Anomaly]:
    """Return the times without progress: within a healthy span, a send waited and none was acknowledged.

    Args:
        healthy: spans (begin, end) in which nothing was wrong; the time that healing takes is in ``limit_ns``.
    """
    acked = sorted(send.completed_ns for send in history.sends if send.outcome == "ok")
    found: list[Anomaly] = []
    for begin, end in healthy:
        marks = [begin, *(time for time in acked if begin < time < end), end]
        for before, after in pairwise(marks):
            for send in history.sends if after - before > limit_ns else ():
                waited_ns = min(after, send.completed_ns or end) - max(before, send.invoked_ns)
                if waited_ns > limit_ns:
                    detail = f"nothing was acknowledged for {waited_ns / 1e9:.1f} s while {send.value!r} waited"
                    found.append(Anomaly("stuck", send.partition, detail))
                    break
    return found


def divergences(logs: Mapping[TopicPartition, Mapping[int, Sequence[Hashable]]]) -> list[Anomaly]:
    """Compare what replicas hold below their high watermarks, entry by entry (batches, or bytes)."""
    found: list[Anomaly] = []
    for partition, replicas in logs.items():
        held = sorted(replicas.items())
        for (one, left), (other, right) in pairwise(held):
            differing = next(
                (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
                min(len(left), len(right)) if len(left) != len(right) else None,
            )
            if differing is not None:
                ours, theirs = left[differing : differing + 1], right[differing : differing + 1]
                detail = f"at place {differing}: broker {one} holds {ours!r}, broker {other} {theirs!r}"
                found.append(Anomaly("replica-divergence", partition, detail))
    return found


def internals(lines: Iterable[str]) -> list[Anomaly]:
    """Return an anomaly for each line that should not have been logged."""
    return [Anomaly("internal", None, line) for line in lines]
