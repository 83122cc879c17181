"""Judge what clients saw: histories of sends and polls in, named anomalies out.

The names are those of jepsen.tests.kafka where they exist there. Offsets give a total order per partition, so
no search is needed: one pass over the sends, one over what was polled.

A send's outcome is one of three, and the difference is the power of the test: ``ok`` (acknowledged, with its
offset), ``fail`` (definitely not done), ``info`` (unknown: time-out, connection lost, retriable refusal after
an append). Values are unique over the whole history.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..model import TopicPartition

Outcome = Literal["ok", "fail", "info"]


class Send(NamedTuple):
    producer: str
    partition: TopicPartition
    value: Hashable
    outcome: Outcome
    offset: int = -1  # of an ok
    invoked_ns: int = 0
    completed_ns: int = 0


class Polled(NamedTuple):
    partition: TopicPartition
    offset: int
    value: Hashable


class Anomaly(NamedTuple):
    name: str
    partition: TopicPartition
    detail: str


@dataclass
class History:
    """What happened. ``sends`` per producer in the order of their calls; ``polls`` per consumer, in order."""

    sends: list[Send] = field(default_factory=list)
    polls: dict[str, list[Polled]] = field(default_factory=lambda: defaultdict(list))


def anomalies(history: History) -> list[Anomaly]:
    """Return everything that must never happen and did; empty is the only good answer.

    The final polls must have read every partition to its end: an acknowledged value that nobody polled is lost.
    """
    found: list[Anomaly] = []
    values: dict[tuple[TopicPartition, int], Hashable] = {}
    offsets: dict[tuple[TopicPartition, Hashable], set[int]] = defaultdict(set)

    def place(partition: TopicPartition, offset: int, value: Hashable, where: str) -> None:
        known = values.setdefault((partition, offset), value)
        if known != value:
            found.append(Anomaly("inconsistent-offset", partition, f"{offset}: {known!r} and, {where}, {value!r}"))
        offsets[partition, value].add(offset)

    sent = {send.value: send for send in history.sends}
    for send in history.sends:
        if send.outcome == "ok" and send.offset >= 0:
            place(send.partition, send.offset, send.value, "acknowledged")
    polled_values: dict[TopicPartition, dict[Hashable, int]] = defaultdict(dict)
    for consumer, polls in history.polls.items():
        last: dict[TopicPartition, int] = {}
        for poll in polls:
            place(poll.partition, poll.offset, poll.value, f"polled by {consumer}")
            polled_values[poll.partition][poll.value] = poll.offset
            if poll.offset != last.get(poll.partition, poll.offset - 1) + 1:
                jump = f"{consumer}: from {last[poll.partition]} to {poll.offset}"
                name = "poll-skip" if poll.offset > last[poll.partition] else "nonmonotonic-poll"
                found.append(Anomaly(name, poll.partition, jump))
            last[poll.partition] = poll.offset
            origin = sent.get(poll.value)
            if origin is None or origin.partition != poll.partition:
                found.append(Anomaly("phantom", poll.partition, f"{poll.offset}: {poll.value!r} was never sent there"))
            elif origin.outcome == "fail":
                found.append(Anomaly("aborted-read", poll.partition, f"{poll.offset}: {poll.value!r} had failed"))
    for (partition, value), places in offsets.items():
        if len(places) > 1:
            found.append(Anomaly("duplicate", partition, f"{value!r} at {sorted(places)}"))
    for send in history.sends:
        if send.outcome == "ok" and send.value not in polled_values[send.partition]:
            found.append(Anomaly("lost-write", send.partition, f"{send.value!r} acknowledged at {send.offset}"))
    return found + _order_anomalies(history, polled_values)


def _order_anomalies(history: History, polled: dict[TopicPartition, dict[Hashable, int]]) -> list[Anomaly]:
    """A producer's order, and real time's, are the log's order."""
    found: list[Anomaly] = []
    last: dict[tuple[str, TopicPartition], int] = {}
    by_partition: dict[TopicPartition, list[tuple[Send, int]]] = defaultdict(list)
    for send in history.sends:
        offset = send.offset if send.offset >= 0 else polled[send.partition].get(send.value, -1)
        if send.outcome != "ok" or offset < 0:
            continue
        place = (send.producer, send.partition)
        if offset <= last.get(place, -1):
            found.append(
                Anomaly("nonmonotonic-send", send.partition, f"{send.value!r} at {offset} after {last[place]}")
            )
        last[place] = offset
        if send.completed_ns:
            by_partition[send.partition].append((send, offset))
    for partition, sends in by_partition.items():
        found += _realtime_anomalies(partition, sends)
    return found


def _realtime_anomalies(partition: TopicPartition, sends: list[tuple[Send, int]]) -> list[Anomaly]:
    """A send that began after another was acknowledged stands behind it."""
    completions = sorted((send.completed_ns, offset) for send, offset in sends)
    found: list[Anomaly] = []
    done, highest = 0, -1
    for send, offset in sorted(sends, key=lambda item: item[0].invoked_ns):
        while done < len(completions) and completions[done][0] < send.invoked_ns:
            highest = max(highest, completions[done][1])
            done += 1
        if offset <= highest:
            found.append(
                Anomaly("realtime-order", partition, f"{send.value!r} at {offset}, {highest} was there before")
            )
    return found
