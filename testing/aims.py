"""What was measured, beside what is aimed at. Pure.

An *aim* is reached if the longest of all runs is below it; of a few (``of="median"``) the median decides, and the table
says so. Rates have one to be above (``above``): the median decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

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
