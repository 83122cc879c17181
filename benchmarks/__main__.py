"""``python -m benchmarks [FIGURES] [--quick] [--json FILE]``: measure, print a table, exit 0.

FIGURES are letters (``b``, ``de``); without any, all: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson

from .measure import Options, Result, machine

FIGURES = {
    "b": ("limits", "a, b: a broker alone, against a bare loop"),
    "c": ("sink", "c: a producer into a sink"),
    "d": ("ends", "d, g: end to end, against confluent-kafka and its mock cluster"),
    "e": ("latency", "e: latency at 1,000 records/s"),
    "f": ("idle", "f: start-up, memory, idle CPU with 1,000 partitions"),
    "h": ("replicas", "h: three replicas, against three bare processes that write and sync"),
}
SAME = {"a": "b", "g": "d"}  # measured together: one is the other's reference


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("figures", nargs="?", default="bcdefh", help="letters of a to h; default: all")
    parser.add_argument("--only", default="", help="of these figures only lines whose name contains this")
    parser.add_argument("--quick", action="store_true", help="3 pairs, a quarter of the records: to see that it runs")
    parser.add_argument("--pairs", type=int, help="measured pairs a line (7; with --quick 3)")
    parser.add_argument("--json", metavar="FILE", help="write results, machine, commit, settings, spread")
    parser.add_argument("--directory", help="where files are written (default: the temporary directory)")
    given = parser.parse_args(arguments)
    letters = sorted({SAME.get(letter, letter) for letter in given.figures})
    if unknown := set(letters) - FIGURES.keys():
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    options = Options(
        pairs=given.pairs or (3 if given.quick else 7),
        scale=0.25 if given.quick else 1.0,
        directory=given.directory,
        only=given.only,
    )
    about = machine()
    print(
        f"{about['cpu']}, {about['cores']} cores, {about['system']}, Python {about['python']}, {about['commit']}",
        flush=True,
    )
    begun = time.perf_counter()
    results: list[Result] = []
    for letter in letters:
        module, title = FIGURES[letter]
        print(f"\n{title}", flush=True)  # a run that is ended from outside has told how far it came
        figures: Callable[[Options], Iterator[Result | None]] = import_module(f"{__package__}.{module}").figures
        for result in figures(options):
            if result is not None:
                results.append(result)
                print(line(result), flush=True)
    seconds = time.perf_counter() - begun
    print(f"\n{len(results)} lines, {options.pairs} pairs each, {seconds:.0f} s")
    if given.json:
        content: dict[str, Any] = {"about": {**about, "seconds": seconds}, "options": vars(given)}
        content["results"] = [result.as_json() for result in results]
        Path(given.json).write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    return 0


def line(result: Result) -> str:
    spread = f"({result.least:.2f}–{result.greatest:.2f})"
    aim = f"{result.target} {'yes' if result.is_met else 'NO'}" if result.target else ""
    measured = f"{_short(result.ours)} : {_short(result.reference)} {result.unit}"
    return f"  {result.name:<52} {result.ratio:>6.2f} {spread:<14} {aim:<12} {measured:<32} {result.against}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


if __name__ == "__main__":
    sys.exit(main())
