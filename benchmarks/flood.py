"""What a flood of connections costs those who are connected: ``python -m benchmarks.flood``.

One client produces, one record after the other, and one consumes; then connections flood the clients' door. An
attacker on the same machine takes processor time from everybody, whatever the broker does: so beside each flood stands
the same attacker, at the pace that it reached, at a listener that only accepts and closes. Told are the rates of
both clients during the flood over those undisturbed, and over those beside the bare listener; medians of pairs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from callboard import AdminClient
from callboard.testing.clusters import RunningCluster

from .measure import ROOT, machine

SETTLE_S = 1.0  # after a flood has begun, before it is measured
QUIET_S = 1.0  # after one has ended
AIM = 0.8
NEWCOMER_S = 5.0
FLOOD_MAX = 1_000  # connections of a flood that comes and goes; what is more is to stay
FEW = 100  # descriptors of each process, where there are few


class Case(NamedTuple):
    """One flood. ``few``: the broker may have ``FEW`` descriptors."""

    connections: int
    says: str
    how: str
    few: bool = False


CASES = {
    "idle-nothing": Case(5_000, "nothing", "renewed"),
    "idle-greeting": Case(5_000, "greeting", "renewed"),
    "idle-ready": Case(5_000, "ready", "renewed"),
    "idle-hello": Case(5_000, "hello", "renewed"),
    "few-nothing": Case(190, "nothing", "renewed", few=True),
    "few-greeting": Case(190, "greeting", "renewed", few=True),
    "storm-nothing": Case(190, "nothing", "stormed", few=True),
    "storm-greeting": Case(190, "greeting", "stormed", few=True),
    "storm-hello": Case(190, "hello", "stormed", few=True),
}


class Child:
    """A process that answers a line with a line of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.first = self._read()

    def ask(self) -> dict[str, float]:
        pipe = self._process.stdin
        if pipe is not None:
            pipe.write("\n")
            pipe.flush()
        return dict(json.loads(self._read()))

    def _read(self) -> str:
        return self._process.stdout.readline().strip() if self._process.stdout is not None else ""


@contextmanager
def child(module: str, *arguments: object) -> Iterator[Child]:
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Child(process)
    finally:
        with suppress(BrokenPipeError):
            for pipe in filter(None, (process.stdin,)):
                pipe.close()
        process.wait(30)
        for pipe in filter(None, (process.stdout,)):
            pipe.close()


class Scene:
    """A broker, two clients that know it, and a bare listener."""

    def __init__(self, running: RunningCluster, clients: list[Child], bare: Child, seconds: float) -> None:
        self._running, self._clients, self._bare, self._seconds = running, clients, bare, seconds
        (broker,) = running.ready()["brokers"]
        self.pid = running.broker_pid(1)
        self.door = next(one for one in broker["endpoints"] if one.startswith("tcp://")).removeprefix("tcp://")

    def undisturbed(self) -> dict[str, Any]:
        return self._measured(None)

    def beside(self, case: Case, door: str, pace: float) -> dict[str, Any]:
        with child("attack", door, case.connections, case.says, case.how, pace) as attacker:
            time.sleep(SETTLE_S)
            found = self._measured(attacker)
        if door == self.door:
            found["newcomer_s"] = self._newcomer()
        time.sleep(QUIET_S)
        return found

    def flooded(self, case: Case, pace: float = 0.0) -> dict[str, Any]:
        return self.beside(case, self.door, pace)

    def control(self, case: Case, pace: float) -> dict[str, Any]:
        return self.beside(case, self._bare.first, pace)

    def _measured(self, attacker: Child | None) -> dict[str, Any]:
        watched = [*self._clients, *([attacker] if attacker else [])]
        threads = threads_of(self.pid)
        before = [each.ask() for each in watched]
        begun = time.monotonic()
        time.sleep(self._seconds)
        after = [each.ask() for each in watched]
        took = time.monotonic() - begun
        now = threads_of(self.pid)
        found: dict[str, Any] = {
            "produced": (after[0]["records"] - before[0]["records"]) / took,
            "consumed": (after[1]["records"] - before[1]["records"]) / took,
            "longest_ms": after[0]["longest_ms"],
            "failures": after[0]["failures"] - before[0]["failures"],
            "threads": {name: (now[name] - threads.get(name, 0.0)) / took for name in now},
        }
        if attacker:
            for what in ("knocks", "connects"):
                found[what] = (after[2][what] - before[2][what]) / took
            found["open"] = after[2]["open"]
            found["attacker"] = (after[2]["cpu"] - before[2]["cpu"]) / took
        return found

    def _newcomer(self) -> float:
        begun = time.monotonic()
        with AdminClient(bootstrap_servers=self._running.bootstrap_servers, client_id="newcomer") as admin:
            admin.list_topics()
        return time.monotonic() - begun


def threads_of(pid: int) -> dict[str, float]:
    """Return the seconds of CPU of each of a process's threads, by name; those of one name together."""
    found: dict[str, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            name = (task / "comm").read_text(encoding="ascii").strip()
            found[name] = found.get(name, 0.0) + int((task / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
    return found


@contextmanager
def scene(case: Case, options: argparse.Namespace) -> Iterator[Scene]:
    prefix = ("prlimit", f"--nofile={FEW}:{FEW}") if case.few else ()
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callboard-flood-", dir=options.directory)))
        running = RunningCluster(path, brokers=1, prefix=prefix)
        stack.callback(running.stop)
        running.start()
        running.create_topic("steady", flush="os")
        servers = ",".join(running.bootstrap_servers)
        clients = [
            stack.enter_context(child("bystanders", "produce", "steady", servers, options.rate)),
            stack.enter_context(child("bystanders", "consume", "steady", servers)),
        ]
        bare = stack.enter_context(
            child("attack", "listen", 0 if case.how == "stormed" or case.few else case.connections)
        )
        yield Scene(running, clients, bare, options.seconds)


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    rounds = []
    with scene(case, options) as stage:
        pace = 0.0
        for number in range(options.pairs + 1):
            steps = ["undisturbed", "flooded", "control"] if number % 2 == 0 else ["control", "flooded", "undisturbed"]
            found: dict[str, Any] = {}
            for step in steps:
                if step == "undisturbed":
                    found[step] = stage.undisturbed()
                elif step == "flooded":
                    found[step] = stage.flooded(case, options.pace)
                    pace = found[step]["knocks"]
                else:  # those who are to stay come as they like: what is compared is that they are there
                    found[step] = stage.control(case, pace if case.connections <= FLOOD_MAX else 0.0)
            if number:
                rounds.append(found)
    return summary(rounds)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    def ratios(what: str, against: str) -> list[float]:
        return [each["flooded"][what] / max(each[against][what], 1e-9) for each in rounds]

    def median(step: str, what: str) -> float:
        return float(statistics.median(each[step][what] for each in rounds))

    line: dict[str, Any] = {}
    for what in ("produced", "consumed"):
        for against in ("undisturbed", "control"):
            found = ratios(what, against)
            line[f"{what} / {against}"] = {"median": statistics.median(found), "least": min(found), "most": max(found)}
    for step in ("undisturbed", "flooded", "control"):
        line[step] = {what: median(step, what) for what in ("produced", "consumed", "longest_ms")}
        names = {name for each in rounds for name in each[step]["threads"]}
        spent = {n: statistics.median(each[step]["threads"].get(n, 0.0) for each in rounds) for n in sorted(names)}
        line[step]["threads"] = {name: share for name, share in spent.items() if share >= 0.005}
        if step != "undisturbed":
            line[step] |= {what: median(step, what) for what in ("knocks", "connects", "open", "attacker")}
    line["newcomer_s"] = max(each["flooded"]["newcomer_s"] for each in rounds)
    line["failures"] = sum(each[step]["failures"] for each in rounds for step in each)
    return line


def told(name: str, line: dict[str, Any]) -> str:
    parts = []
    for what in ("produced", "consumed"):
        for against in ("undisturbed", "control"):
            one = line[f"{what} / {against}"]
            parts.append(f"{one['median']:.2f} ({one['least']:.2f}–{one['most']:.2f})")
    flooded, control = line["flooded"], line["control"]
    threads = ", ".join(f"{thread} {100 * share:.0f} %" for thread, share in flooded["threads"].items())
    return (
        f"{name:<15} produced {parts[0]} of undisturbed, {parts[1]} of control; consumed {parts[2]}, {parts[3]}\n"
        f"{'':<15} {line['undisturbed']['produced']:,.0f} : {flooded['produced']:,.0f} : {control['produced']:,.0f}"
        " records/s;"
        f" knocks {flooded['knocks']:,.0f} : {control['knocks']:,.0f}/s,"
        f" connections {flooded['connects']:,.0f} : {control['connects']:,.0f}/s, open {flooded['open']:,.0f},"
        f" attacker {100 * flooded['attacker']:.0f} : {100 * control['attacker']:.0f} % of a core;"
        f" longest {flooded['longest_ms']:.0f} ms; newcomer {line['newcomer_s']:.2f} s;"
        f" failures {line['failures']:.0f}\n"
        f"{'':<15} broker: {threads}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--pairs", type=int, default=5, help="measured; one more warms up")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--rate", type=float, default=0.0, help="records a second; default: as fast as one by one goes")
    parser.add_argument("--pace", type=float, default=0.0, help="connections a second; default: as fast as it can")
    parser.add_argument("--directory", help="where the files go; default: the system's temporary directory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.cases) - CASES.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # of those whom this process starts
    lines: dict[str, Any] = {}
    for name in options.cases or CASES:
        lines[name] = measure(CASES[name], options)
        if not options.json:
            print(told(name, lines[name]), flush=True)
    if options.json:
        print(json.dumps({**machine(), "settings": vars(options), "flood": lines}, indent=2, default=str))
    kept = all(line["produced / control"]["median"] >= AIM for line in lines.values())
    return int(not kept or any(line["newcomer_s"] > NEWCOMER_S for line in lines.values()))


if __name__ == "__main__":
    sys.exit(main())
