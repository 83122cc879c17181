"""The rows of the fault matrix with a bound in time, measured on real clusters: ``callboard bench faults``.

    outcomes = measure(Plan(runs=5), ("F5", "F7"))
    print(summary(outcomes))

Each row breaks a real cluster under load some times, whole before each time, and reads everything at the end: what the
checker of histories says counts as much as the times do. Tests ask the same of each fault without any time
(tests/cluster/test_faults.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..errors import CallboardError, IllegalArgumentError
from .clusters import cluster
from .fault_figures import Outcome, summary
from .fault_hosts import HOST_ROWS
from .fault_rows import ROWS
from .fault_stage import Plan, Stage, finish


def number_of(row: str) -> int:
    """Return the place of a row in the matrix."""
    return int(row.removeprefix("F"))


NAMES: tuple[str, ...] = tuple(sorted({row.name for row in (*ROWS, *HOST_ROWS)}, key=number_of))

Tell = Callable[[str], object]


def measure(plan: Plan, names: Iterable[str] = (), tell: Tell = lambda _: None) -> list[Outcome]:
    """Measure these rows (none: all of them); ``tell`` is told of each when it begins.

    Raises:
        IllegalArgumentError: there is no such row.
        CallboardError: several hosts, or all brokers at once, did not heal within a minute. Where one broker did not,
            its row says so (``errors``) and the next one begins.
    """
    wanted = list(names) or list(NAMES)
    if unknown := sorted(set(wanted) - set(NAMES)):
        raise IllegalArgumentError(f"there is no row {unknown[0]!r}; there are {', '.join(NAMES)}")
    outcomes = _measure_rows(plan, wanted, tell)
    for host_row in HOST_ROWS:
        if host_row.name in wanted:
            tell(f"{host_row.name}: {host_row.what}")
            outcomes += host_row.measure(plan)
    return sorted(outcomes, key=lambda one: number_of(one.row))


def _measure_rows(plan: Plan, wanted: Sequence[str], tell: Tell) -> list[Outcome]:
    rows = [row for row in ROWS if row.name in wanted]
    outcomes: list[Outcome] = []
    if not rows:
        return outcomes
    with cluster(brokers=3) as running:
        for number, row in enumerate(rows):
            tell(f"{row.name}: {row.what}")
            outcome = Outcome(row.name, row.what, row.aims)
            topic = f"{row.name.lower()}-{number}"
            with Stage(running, topic, plan, partitions=row.partitions, rate=row.rate) as stage:
                try:
                    for _ in range(plan.runs):
                        outcome.runs.append(row.strike(stage))
                    finish(outcome, stage)
                except CallboardError as error:  # the other rows are still worth having; this one is not sound
                    outcome.errors.append(f"the row was broken off: {error}")
            outcomes.append(outcome)
    return outcomes


__all__ = ["NAMES", "Plan", "measure", "summary"]
