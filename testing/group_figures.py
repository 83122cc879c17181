"""What groups cost, beside what is aimed at: the rows of ``callboard bench groups``. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from . import group_costs, rebalance
from .aims import Aim, figures

TAKEOVER_MS = 200  # after the session has ended
CLOSED_MS = 100
PAUSE_MS = 50
FIRST_MS = 150
HEARTBEATS_PERCENT = 25
OFFSETS = 10_000
RATIO = 0.5


def rows(moved: rebalance.Measured, costs: group_costs.Measured | None) -> list[dict[str, Any]]:
    """Return what was done, how often, and each thing that was measured (``aims.figures``)."""
    found = []
    for how in ("killed", "closed"):
        if departures := [asdict(one) for one in moved.departures if one.how == how]:
            aims = _departure_aims(moved.plan, how)
            found.append(_row(f"a member is {how}", aims, departures))
    if moved.first_records_ms:
        aim = Aim("first", "first member of a group: records after", FIRST_MS)
        found.append(_row("a member joins", (aim,), [{"first": one} for one in moved.first_records_ms]))
    if costs:
        found.append(_row(f"{costs.plan.groups} groups", _COSTS, _runs_of(costs)))
    return found


def summary(moved: rebalance.Measured, costs: group_costs.Measured | None) -> dict[str, Any]:
    """Return everything that was measured, as JSON has it."""
    told: dict[str, Any] = {
        "plan": asdict(moved.plan),
        "rows": rows(moved, costs),
        "departures": [asdict(one) for one in moved.departures],
        "first_records_ms": moved.first_records_ms,
    }
    if costs:
        told["costs"] = asdict(costs)
    return told


def _row(what: str, aims: tuple[Aim, ...], runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"what": what, "runs": len(runs), "measured": figures(aims, runs)}


def _departure_aims(plan: rebalance.Plan, how: str) -> tuple[Aim, ...]:
    within = plan.session_timeout_ms + TAKEOVER_MS if how == "killed" else CLOSED_MS
    return (
        Aim("moved_from_others", "partitions that moved and need not", 0, ""),
        Aim("assigned_ms", "until its partitions are others'", within),
        Aim("read_ms", "… and a record that waits there is read"),
        Aim("gap_above_ms", "others' longest pause, above their p99", PAUSE_MS),
        Aim("p99_before_ms", "… their p99 before"),
        Aim("acknowledged_p50_ms", "records acknowledged before, p50"),
        Aim("acknowledged_p99_ms", "… p99"),
        Aim("busy_percent", "the machine's processors busy before", unit="%"),
    )


_COSTS = (
    Aim("heartbeats_a_second", "heartbeats a second", unit=""),
    Aim("heartbeat_percent", "… cost the brokers, of one core", HEARTBEATS_PERCENT, "%"),
    Aim("offsets", "offsets committed a second", unit="", above=OFFSETS),
    Aim("ratio", "commits, to produces with acks=all", unit="x", above=RATIO),
    Aim("produces", "… which are, a second", unit=""),
)


def _runs_of(costs: group_costs.Measured) -> list[dict[str, float]]:
    pairs = zip(costs.commits_a_second, costs.produces_a_second, strict=True)
    beats = {"heartbeats_a_second": costs.heartbeats_a_second, "heartbeat_percent": costs.heartbeat_percent}
    rates = [
        {"offsets": commits * costs.plan.partitions, "produces": produces, "ratio": commits / produces}
        for commits, produces in pairs
    ]
    return [beats, *rates]
