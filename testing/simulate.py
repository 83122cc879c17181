"""Run seeds of the simulation from a terminal: ``python -m callboard.testing.simulate --seeds 100``.

A seed that fails is run again with fewer and fewer faults until only those are left that it needs; what is printed is
that, and how to run it again. ``--seed`` runs one; ``--events FILE`` keeps what its clients saw, one event a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files

from .profiles import PROFILES, USUAL_PROFILES
from .simulation import Outcome, run_seed, shrink

SEEDS_FILE = "regression_seeds.txt"
FAILURES_SHOWN = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return 1 if a seed failed."""
    options = _parser().parse_args(arguments)
    profiles = list(USUAL_PROFILES) if options.profile == "all" else [options.profile]
    if options.seed is not None:
        work = [(options.seed, profile) for profile in profiles]
    else:
        work = [*regression_seeds(profiles)] if options.first == 0 else []
        work += [(seed, profiles[seed % len(profiles)]) for seed in range(options.first, options.first + options.seeds)]
    failed = acked = steps = 0
    for seed, profile in work:
        outcome = run_seed(seed, profile)
        acked, steps = acked + outcome.acked, steps + outcome.steps
        if options.seed is not None:
            _tell(outcome, options.events)
        if not outcome.is_good:
            failed += 1
            if failed <= FAILURES_SHOWN:
                smaller = outcome if options.no_shrink else shrink(outcome, profile)
                sys.stdout.write(f"{smaller.report(len(outcome.faults))}\n")
    sys.stdout.write(f"{len(work)} runs, {failed} failed; {acked:,} records acknowledged, {steps:,} steps\n")
    return 1 if failed else 0


def regression_seeds(profiles: Sequence[str] = tuple(PROFILES)) -> list[tuple[int, str]]:
    """Return the seeds that failed once, each with its profile: run them first, always."""
    text = files(__package__).joinpath(SEEDS_FILE).read_text(encoding="utf-8")
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words and words[0] in profiles:
            found.append((int(words[1]), words[0]))
    return found


def _tell(outcome: Outcome, events_file: str) -> None:
    lines = [
        f"seed {outcome.seed}, profile {outcome.profile}: {'good' if outcome.is_good else 'FAILED'}",
        f"  digest {outcome.digest}, {outcome.steps:,} steps, {outcome.checks:,} checks of the laws, "
        f"{outcome.virtual_ms / 1000:.1f} s of virtual time",
        f"  {outcome.acked} records acknowledged, {outcome.failed} refused, {outcome.unknown} with unknown outcome",
        *(f"  {fault}" for fault in outcome.faults),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if events_file:
        with open(events_file, "wb") as file:
            file.writelines(line + b"\n" for line in outcome.events)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="callboard.testing.simulate", description="Run a simulated cluster with faults, by seeds."
    )
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds (default 100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--profile", default="all", choices=["all", *PROFILES], help="which cluster and faults")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for the faults that matter")
    parser.add_argument("--events", default="", metavar="FILE", help="with --seed: keep the clients' events")
    return parser


if __name__ == "__main__":
    sys.exit(main())
