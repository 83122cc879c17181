"""Write down what clients do while they do it: a file of events, and the history to be judged.

One event is one line of JSON:

    {"i":12,"t":1500000,"p":"producer-1","type":"ok","f":"send","k":"orders-0","v":7,"off":41,"epoch":3}

``i`` counts, ``t`` is nanoseconds of one clock for all, ``p`` whose event it is, ``type`` invoke, ok, fail or info,
``f`` send, poll, assign, crash or fault, ``k`` a partition, ``v`` the value (of a poll: a list of [offset, value]).
Faults stand among the events, so that a plot shows them together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal

import msgspec

from ..model import TopicPartition
from .history import History, Moved, Outcome, Polled, Send

EventType = Literal["invoke", "ok", "fail", "info"]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. See the top of the file."""

    i: int
    t: int
    p: str
    type: EventType
    f: str
    k: str = ""
    v: Any = None
    off: int = -1
    epoch: int = -1
    err: str = ""


class Recorder:
    """Collects events; ``history`` is made of them at any time."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, t: int, p: str, type: EventType, f: str, **fields: Any) -> None:
        self.events.append(Event(i=len(self.events), t=t, p=p, type=type, f=f, **fields))

    def invoke_send(self, t: int, producer: str, partition: TopicPartition, value: Hashable) -> None:
        self.add(t, producer, "invoke", "send", k=_text(partition), v=value)

    def end_send(
        self,
        t: int,
        producer: str,
        partition: TopicPartition,
        value: Hashable,
        outcome: Outcome,
        *,
        offset: int = -1,
        epoch: int = -1,
        error: str = "",
    ) -> None:
        self.add(t, producer, outcome, "send", k=_text(partition), v=value, off=offset, epoch=epoch, err=error)

    def assign(self, t: int, consumer: str, partition: TopicPartition) -> None:
        self.add(t, consumer, "ok", "assign", k=_text(partition))

    def poll(self, t: int, consumer: str, partition: TopicPartition, records: Sequence[tuple[int, Hashable]]) -> None:
        self.add(t, consumer, "ok", "poll", k=_text(partition), v=[list(record) for record in records])

    def fault(self, t: int, what: str, type: EventType = "info") -> None:
        self.add(t, "nemesis", type, "fault", v=what)

    def history(self, finals: Iterable[str] = ()) -> History:
        return history_of(self.events, finals)

    def lines(self) -> list[bytes]:
        return [msgspec.json.encode(event) for event in self.events]


def read_lines(lines: Iterable[bytes]) -> list[Event]:
    """Return the events of a file.

    Raises:
        msgspec.DecodeError: a line is no event.
    """
    decoder = msgspec.json.Decoder(Event)
    return [decoder.decode(line) for line in lines if line.strip()]


def history_of(events: Iterable[Event], finals: Iterable[str] = ()) -> History:
    """Return what ``history.anomalies`` judges. A send that never ended is ``info``."""
    history = History(finals=set(finals))
    places: dict[Hashable, int] = {}
    for event in events:
        if event.f == "send" and event.type == "invoke":
            places[event.v] = len(history.sends)
            history.sends.append(Send(event.p, _partition(event.k), event.v, "info", invoked_ns=event.t))
        elif event.f == "send" and event.type != "invoke":
            place = places[event.v]
            history.sends[place] = history.sends[place]._replace(
                outcome=event.type, offset=event.off, completed_ns=event.t, epoch=event.epoch
            )
        elif event.f == "poll":
            partition = _partition(event.k)
            history.polls[event.p] += [Polled(partition, offset, value, event.i) for offset, value in event.v]
        elif event.f == "assign":
            history.polls[event.p].append(Moved(_partition(event.k)))
    return history


def _text(partition: TopicPartition) -> str:
    return f"{partition.topic}-{partition.partition}"


def _partition(text: str) -> TopicPartition:
    topic, _, number = text.rpartition("-")
    return TopicPartition(topic, int(number))
