"""Pairs, medians and spread: how a figure becomes a ratio that means something on a machine that is not idle.

The rules of this file:

1. Nothing is told alone. A figure is *ours* over a *reference* that was measured in the same run, alternating, the
   order turned round with every pair: what slows the machine slows both.
2. The ratio told is the median of the pairs' ratios; its spread (least and greatest) stands beside it.
3. The first pair warms up and is thrown away.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WRITTEN_MAX = 1 << 30  # bytes that one comparison may write: beyond, the disk is measured and not the program


class TooMuchWritten(Exception):
    """A comparison would write more than ``WRITTEN_MAX``: give it fewer or smaller records."""


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    figure: str  # "b"
    name: str
    ours: float
    reference: float
    unit: str
    against: str  # what the reference is
    ratio: float
    least: float
    greatest: float
    pairs: int
    target: str = ""  # as the table of aims has it; empty: told for orientation
    is_met: bool | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Options:
    """How a run is made. ``pairs`` are measured, one more warms up."""

    pairs: int = 7
    scale: float = 1.0  # of the numbers of records
    directory: str | None = None  # where the files go; None: the system's temporary directory
    only: str = ""  # lines whose name contains this

    def count(self, records: int) -> int:
        return max(1_000, int(records * self.scale))


def compare(
    figure: str,
    name: str,
    ours: Callable[[], float],
    reference: Callable[[], float],
    *,
    options: Options,
    unit: str,
    against: str,
    target: float | None = None,
    is_less_better: bool = False,
    written: int = 0,
    **settings: Any,
) -> Result | None:
    """Measure both, in alternation, and return the line; None when the options do not want it.

    Args:
        target: the least ratio that is aimed at; with ``is_less_better`` the greatest.
        written: bytes that one pair writes.

    Raises:
        TooMuchWritten: the pairs together would write more than ``WRITTEN_MAX``.
    """
    if options.only not in name:
        return None
    if written * (options.pairs + 1) > WRITTEN_MAX:
        raise TooMuchWritten(f"{figure} {name}: {written * (options.pairs + 1):,} bytes")
    pairs: list[tuple[float, float]] = []
    for number in range(options.pairs + 1):
        if number % 2:
            second = reference()
            first = ours()
        else:
            first = ours()
            second = reference()
        if number:
            pairs.append((first, second))
    ratios = [first / second for first, second in pairs]
    ratio = statistics.median(ratios)
    sign = "≤" if is_less_better else "≥"
    return Result(
        figure=figure,
        name=name,
        ours=statistics.median(first for first, _ in pairs),
        reference=statistics.median(second for _, second in pairs),
        unit=unit,
        against=against,
        ratio=ratio,
        least=min(ratios),
        greatest=max(ratios),
        pairs=len(pairs),
        target="" if target is None else f"{sign} {target:g}",
        is_met=None if target is None else (ratio <= target if is_less_better else ratio >= target),
        settings=settings,
    )


def absolute(
    figure: str, name: str, values: list[float], *, unit: str, against: str, target: float, **settings: Any
) -> Result:
    """Return a line whose reference is a number that the aims give: the ratio is to that bound, less is better."""
    value = statistics.median(values)
    return Result(
        figure=figure,
        name=name,
        ours=value,
        reference=target,
        unit=unit,
        against=against,
        ratio=value / target,
        least=min(values) / target,
        greatest=max(values) / target,
        pairs=len(values),
        target="≤ 1",
        is_met=value <= target,
        settings=settings,
    )


def machine() -> dict[str, Any]:
    """Say where and what was measured."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in ("callboard", "pyzmq", "uvloop", "msgspec", "confluent-kafka")},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "is_modified": bool(_git("status", "--porcelain")),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
