"""What a fault costs those who write: arithmetic over what was sent and when it was acknowledged. Pure.

A fault has a moment (``since_ns``). What is measured around it are *waits*: from ``send`` to the acknowledgement of one
record, whichever way it took. A record that was never acknowledged waits until the end of all times: whoever measures
has seen to it that there is none, or wants to see it in the figures.

Each measured thing has an *aim*. It is reached if the longest of all runs is below it; of a few (``of="median"``) the
median decides, and the table says so. Rates have one to be above (``above``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from .failover import percentile
from .history import Anomaly, Send

MS = 1_000_000  # nanoseconds
STEP_MS = 25  # between the windows of ``back_to_normal_ms``
WINDOW_MS = 1_000  # of sends, whose 99th percentile is looked at
NEVER_MS = float("inf")

Unit = Literal["ms", "x", "", "s", "%"]


@dataclass(frozen=True)
class Aim:
    """``below`` and ``above`` None: nothing is aimed at, the figure tells how hard it was hit. ``below`` 0: nothing but
    0 will do."""

    key: str
    text: str  # what is measured, in words
    below: float | None = None
    unit: Unit = "ms"
    of: Literal["longest", "median"] = "longest"
    above: float | None = None  # instead of ``below``: the more the better; the median decides

    def is_reached(self, values: Sequence[float]) -> bool | None:
        """None: nothing is aimed at, or nothing was measured. An aim of 0 is reached by 0 only."""
        if not values:
            return None
        if self.above is not None:
            return median(values) > self.above
        if self.below is None:
            return None
        value = max(values) if self.of == "longest" else median(values)
        return value < self.below or value == self.below == 0

    @property
    def told(self) -> str:
        """The aim as the table has it."""
        if self.above is not None:
            return f"> {shown(self.above, self.unit)}"
        if self.below is None:
            return "-"
        if self.below == 0:
            return "0"
        return f"{'median ' if self.of == 'median' else ''}< {shown(self.below, self.unit)}"


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


def figures(aims: Iterable[Aim], runs: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return what was measured beside what is aimed at; what a run has not measured is left out."""
    return [_figure(aim, [run[aim.key] for run in runs if aim.key in run]) for aim in aims]


def _figure(aim: Aim, values: list[float]) -> dict[str, Any]:
    return {
        "text": aim.text,
        "unit": aim.unit,
        "values": [_rounded(value) for value in values],
        "median": _rounded(median(values)) if values else None,
        "longest": _rounded(max(values)) if values else None,
        "aim": aim.told,
        "is_reached": aim.is_reached(values),
    }


def _rounded(value: float) -> float | None:
    return None if value == NEVER_MS else round(value, 2)


def shown(value: float | None, unit: Unit) -> str:
    """Return a figure for people."""
    if value is None:
        return "never"
    if unit == "ms":
        return f"{value / 1000:.1f} s" if value >= 10_000 else f"{value:,.0f} ms"
    if unit:
        return f"{value:.{2 if unit == 'x' and value < 1 else 1}f} {unit}"
    return f"{value:,.0f}"


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
