"""What a fault costs those who write: arithmetic over what was sent and when it was acknowledged. Pure.

A fault has a moment (``since_ns``). What is measured around it are *waits*: from ``send`` to the acknowledgement of one
record, whichever way it took. A record that was never acknowledged waits until the end of all times: whoever measures
has seen to it that there is none, or wants to see it in the figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .aims import NEVER_MS, Aim, figures
from .failover import percentile
from .history import Anomaly, Send

MS = 1_000_000  # nanoseconds
STEP_MS = 25  # between the windows of ``back_to_normal_ms``
WINDOW_MS = 1_000  # of sends, whose 99th percentile is looked at


@dataclass
class Outcome:
    """What the runs of one row have measured, and what the checker found at the end."""

    row: str
    what: str  # was done
    aims: tuple[Aim, ...]
    runs: list[dict[str, float]] = field(default_factory=list)
    acknowledged: int = 0
    errors: list[str] = field(default_factory=list)  # that reached producers and consumers
    anomalies: list[Anomaly] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Nothing lost, nothing twice, no error in an application. Says nothing of aims."""
        return not self.anomalies and not self.errors


def summary(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return the rows as they are printed, for people and as JSON. Values that are no number of a run are left out."""
    return [
        {
            "row": one.row,
            "what": one.what,
            "runs": len(one.runs),
            "measured": figures(one.aims, one.runs),
            "acknowledged": one.acknowledged,
            "anomalies": len(one.anomalies),
            "first_anomalies": [f"{each.name} {each.partition}: {each.detail}" for each in one.anomalies[:5]],
            "errors_seen_by_clients": len(one.errors),
            "first_errors": one.errors[:5],
        }
        for one in outcomes
    ]


# -- waits -----------------------------------------------------------------------------------------


def waits_ms(sends: Iterable[Send], begin_ns: int, end_ns: int, partitions: Iterable[int] | None = None) -> list[float]:
    """Return how long each record waited that was sent in [begin_ns, end_ns), of these partitions or all."""
    wanted = None if partitions is None else frozenset(partitions)
    return [
        _wait_ms(send)
        for send in sends
        if begin_ns <= send.invoked_ns < end_ns and (wanted is None or send.partition.partition in wanted)
    ]


def longest_wait_ms(
    sends: Iterable[Send], begin_ns: int, end_ns: int, partitions: Iterable[int] | None = None
) -> float:
    """Return the longest wait of a record that was under way at ``begin_ns``, or sent before ``end_ns``; 0: none was.

    What a record had waited before ``begin_ns`` does not count.
    """
    wanted = None if partitions is None else frozenset(partitions)
    return max(
        (
            _wait_ms(send) - max(0, begin_ns - send.invoked_ns) / MS
            for send in sends
            if send.invoked_ns < end_ns
            and (not send.completed_ns or send.completed_ns > begin_ns)
            and (wanted is None or send.partition.partition in wanted)
        ),
        default=0.0,
    )


def under_way(sends: Iterable[Send], at_ns: int, partitions: Iterable[int] | None = None) -> int:
    """Return how many records had been sent, and not acknowledged, at a moment."""
    wanted = None if partitions is None else frozenset(partitions)
    return sum(
        1
        for send in sends
        if send.invoked_ns <= at_ns
        and (not send.completed_ns or send.completed_ns > at_ns)
        and (wanted is None or send.partition.partition in wanted)
    )


def back_to_normal_ms(
    sends: Iterable[Send],
    since_ns: int,
    until_ns: int,
    normal_ms: float,
    partitions: Iterable[int] | None = None,
) -> float:
    """Return how long after ``since_ns`` a second of sends begins whose 99th percentile is at most ``normal_ms``.

    Args:
        until_ns: when looking ended. No second that begins later, or ends behind it, is looked at: ``NEVER_MS``.
    """
    wanted = None if partitions is None else frozenset(partitions)
    chosen = sorted(
        (send.invoked_ns, _wait_ms(send))
        for send in sends
        if since_ns <= send.invoked_ns < until_ns and (wanted is None or send.partition.partition in wanted)
    )
    begin_ns = since_ns
    while begin_ns + WINDOW_MS * MS <= until_ns:
        waits = [wait for invoked_ns, wait in chosen if begin_ns <= invoked_ns < begin_ns + WINDOW_MS * MS]
        if waits and percentile(waits, 0.99) <= normal_ms:
            return (begin_ns - since_ns) / MS
        begin_ns += STEP_MS * MS
    return NEVER_MS


def _wait_ms(send: Send) -> float:
    if send.outcome != "ok" or not send.completed_ns:
        return NEVER_MS
    return (send.completed_ns - send.invoked_ns) / MS
