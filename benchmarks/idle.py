"""Figure f: start-up, memory and idle CPU of a broker with 1,000 partitions; wakeups of idle clients."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from callboard import Consumer, Producer

from .clusters import Bench, bench
from .measure import ROOT, Options, Result, absolute, compare

PARTITIONS = 1_000
WATCH_S = 5.0
SETTLE_S = 12.0  # two rounds of checkpoints after the topics were made
BASE = "import asyncio, sqlite3, zmq, pykka, msgspec, orjson, psutil"


def figures(options: Options) -> Iterator[Result | None]:
    yield compare(
        "f",
        "start-up of one broker's cluster, until it serves",
        lambda: _start_up(options.directory),
        _bare_start,
        options=options,
        unit="s",
        against="a bare Python that imports the dependencies",
        is_less_better=True,
    )
    if options.only not in "1,000 idle partitions; idle clients":
        return
    with bench(options.directory) as running:
        pid = running.running.broker_pid(1)
        empty, idle = _memory(pid), _cpu(pid, WATCH_S)
        yield from _idle_clients(running, options)
        with running.topic(PARTITIONS):
            time.sleep(SETTLE_S)
            rounds = range(max(6, 2 * options.pairs))
            used = [_cpu(pid, WATCH_S) for _ in rounds]
            yield absolute(
                "f",
                "1,000 idle partitions: CPU of the broker",
                used,
                unit="% of a core",
                against=f"the bound of 2 %; with no partition {idle:.1f} %",
                target=2.0,
            )
            yield absolute(
                "f",
                "1,000 idle partitions: memory of the broker (RSS)",
                [_memory(pid)],
                unit="MB",
                against=f"the bound of 100 MB; with no partition {empty:.0f} MB",
                target=100.0,
            )


def _idle_clients(running: Bench, options: Options) -> Iterator[Result]:
    with (
        running.topic(6) as topic,
        Producer(bootstrap_servers=running.servers) as producer,
        Consumer(topic.name, bootstrap_servers=running.servers, auto_offset_reset="earliest") as consumer,
    ):
        producer.send(topic.name, b"one").get(30)
        while not consumer.poll(1_000):
            pass
        consumer.poll(100)
        time.sleep(1.0)
        for name in ("producer", "consumer"):
            thread = next(
                each for each in threading.enumerate() if each.name.startswith((f"{name} ", f"callboard {name}"))
            )
            woken = []
            for _ in range(max(2, options.pairs // 2)):
                before = _wakeups(thread.native_id)
                time.sleep(WATCH_S)
                woken.append((_wakeups(thread.native_id) - before) / WATCH_S)
            yield absolute(
                "f",
                f"idle {name}: wakeups of its thread",
                woken,
                unit="a second",
                against="one heartbeat a second",
                target=1.0,
            )


def _wakeups(native_id: int | None) -> int:
    """How often a thread has given up the processor of its own will: it slept, and was woken."""
    status = Path(f"/proc/self/task/{native_id}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("voluntary_ctxt")))


def _start_up(directory: str | None) -> float:
    begun = time.perf_counter()
    with bench(directory) as running:
        running.admin.list_topics()
        return time.perf_counter() - begun


def _bare_start() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", BASE], cwd=ROOT, check=True)
    return time.perf_counter() - begun


def _cpu(pid: int, seconds: float) -> float:
    begun = time.monotonic()
    before = _cpu_s(pid)
    time.sleep(seconds)
    return 100 * (_cpu_s(pid) - before) / (time.monotonic() - begun)


def _cpu_s(pid: int) -> float:
    """The processor time of a process so far; exact where the system tells nanoseconds, else in steps of 10 ms."""
    try:
        told = [path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(each.split()[0]) for each in told) / 1e9
    except OSError:
        used = psutil.Process(pid).cpu_times()
        return float(used.user + used.system)


def _memory(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1e6
