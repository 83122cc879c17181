"""The main job on real input: 27,004 flights through three brokers, of which the busiest leader is killed on the way.

    make demo                    or    python examples/demo.py [--rate 6000] [--kill 2]

Starts a cluster of its own in a temporary directory, streams the flights into it keyed by aircraft, each partition on
three replicas. When a third is sent it kills a broker that leads partitions, with SIGKILL: others lead them now. It
tells how long that took, reads everything back, and compares with the file. Ends with 0 only if nothing is lost,
nothing is there twice, and each aircraft's flights are in order. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from callboard import AdminClient, CallboardError, Consumer, Producer, RecordMetadata, TopicPartition
from callboard.examples.checking import Read, Verdict, compare
from callboard.examples.flights import Flight, airlines, load

TOPIC, PARTITIONS, BROKERS = "flights", 6, 3
START_S_MAX, DELIVERY_S_MAX, SILENCE_S_MAX, STOP_S_MAX = 60.0, 120.0, 30.0, 30.0
console = Console(highlight=False, soft_wrap=True)


class DemoFailed(Exception):
    """Something is not as promised; the message says what."""


# -- the cluster -------------------------------------------------------------------------------------


class Cluster:
    """One ``callboard up`` in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._ready_file = directory / "ready.json"
        self._log = directory / "up.log"
        command = [sys.executable, "-m", "callboard", "up", "--brokers", str(BROKERS), "--port", "0"]
        command += ["--data-dir", str(directory / "data"), "--ready-file", str(self._ready_file)]
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for us, and we stop the cluster when we are done with it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_until_ready(self) -> dict[str, Any]:
        """Return the ready file, once it is there."""
        until = time.monotonic() + START_S_MAX
        while not self._ready_file.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                raise DemoFailed(f"the cluster did not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.02)
        return self.ready()

    def ready(self) -> dict[str, Any]:
        content: dict[str, Any] = orjson.loads(self._ready_file.read_bytes())
        return content

    def broker_pid(self, broker_id: int) -> int:
        return next(int(broker["pid"]) for broker in self.ready()["brokers"] if broker["id"] == broker_id)

    def kill(self, broker_id: int) -> int:
        """SIGKILL a broker process; return the pid that it had."""
        pid = self.broker_pid(broker_id)
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self) -> int:
        """Stop it as Ctrl-C would; return its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise DemoFailed(f"the cluster did not stop within {STOP_S_MAX:.0f} s") from None
        return self._process.returncode


# -- there and back ----------------------------------------------------------------------------------


class Acknowledgements:
    """Counts them, and notes for each partition the longest silence between two. Called on the client's thread."""

    def __init__(self) -> None:
        self.count = 0
        self.failures: list[BaseException] = []
        self._last: dict[int, float] = {}
        self._silences: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        self._lock = threading.Lock()

    def on_acknowledged(self, metadata: RecordMetadata) -> None:
        now = time.monotonic()
        with self._lock:
            self.count += 1
            last = self._last.get(metadata.partition, now)
            self._last[metadata.partition] = now
            if now - last > 0.005:
                self._silences[metadata.partition].append((last, now))

    def on_failed(self, error: BaseException) -> None:
        with self._lock:
            self.failures.append(error)

    def away_s(self, partitions: list[int], killed_at: float) -> float:
        """Return the longest silence of these partitions that ended after the kill."""
        spans = [end - begin for partition in partitions for begin, end in self._silences[partition] if end > killed_at]
        return max(spans, default=0.0)


def send_all(
    cluster: Cluster,
    servers: list[str],
    flights: list[Flight],
    victim: int,
    partitions_of_victim: list[int],
    rate: float,
) -> None:
    """Send every flight and kill the victim when a third is sent; return when all are acknowledged."""
    acknowledged = Acknowledgements()
    killed_at, killed_pid = float("inf"), 0
    with progress() as bar, Producer(bootstrap_servers=servers, client_id="demo-producer") as producer:
        sending = bar.add_task("acknowledged", total=len(flights))
        begin = time.monotonic()
        for flight in flights:
            if flight.sequence == len(flights) // 3:
                killed_at, killed_pid = time.monotonic(), cluster.kill(victim)
                bar.console.print(
                    f"  [red]killed broker {victim}[/] (pid {killed_pid}, SIGKILL), the leader of partitions"
                    f" {', '.join(map(str, partitions_of_victim))}; the producer goes on"
                )
            if flight.sequence % 50 == 0:
                bar.update(sending, completed=acknowledged.count)
                time.sleep(max(0.0, begin + flight.sequence / rate - time.monotonic()))
            future = producer.send(TOPIC, value=flight.value, key=flight.key)
            future.add_callback(acknowledged.on_acknowledged).add_errback(acknowledged.on_failed)
        until = time.monotonic() + DELIVERY_S_MAX
        while acknowledged.count + len(acknowledged.failures) < len(flights) and time.monotonic() < until:
            bar.update(sending, completed=acknowledged.count)
            time.sleep(0.02)
        producer.flush(timeout=DELIVERY_S_MAX)
        bar.update(sending, completed=acknowledged.count)
    if acknowledged.failures:
        raise DemoFailed(
            f"{len(acknowledged.failures)} flights were not delivered; the first: {acknowledged.failures[0]}"
        )
    away_ms = 1_000 * acknowledged.away_s(partitions_of_victim, killed_at)
    console.print(
        f"  others lead them now: longest time without an acknowledgement [bold]{away_ms:.0f} ms[/];"
        f" broker {victim} is back as pid {cluster.broker_pid(victim)} and follows"
    )


def read_all(servers: list[str]) -> list[Read]:
    """Return every record of the topic, in the order of each partition."""
    records: list[Read] = []
    partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
    with progress() as bar, Consumer(bootstrap_servers=servers, client_id="demo-consumer") as consumer:
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        reading = bar.add_task("read back", total=sum(ends.values()))
        heard_at = time.monotonic()
        while len(records) < sum(ends.values()):
            for batch in consumer.poll(timeout_ms=500, max_records=2_000).values():
                records += [Read(each.partition, each.offset, each.key, each.value) for each in batch]
                heard_at = time.monotonic()
            bar.update(reading, completed=len(records))
            if time.monotonic() - heard_at > SILENCE_S_MAX:
                raise DemoFailed(f"read {len(records)} of {sum(ends.values())} records, then nothing came any more")
    return records


# -- what one sees -----------------------------------------------------------------------------------


def progress() -> Progress:
    return Progress(
        TextColumn("  {task.description:<14}"),
        BarColumn(40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def show(verdict: Verdict) -> None:
    """Draw the table of carriers, and one line for each promise."""
    names = airlines()
    table = Table("carrier", "airline", title="Flights by carrier", title_justify="left")
    for column in ("in the file", "in the log", "equal"):
        table.add_column(column, justify="right")
    for carrier in sorted(verdict.in_file | verdict.in_log, key=lambda each: (-verdict.in_file[each], each)):
        there, here = verdict.in_file[carrier], verdict.in_log[carrier]
        mark = "[green]yes[/]" if there == here else "[red]NO[/]"
        table.add_row(carrier, names.get(carrier, "?"), f"{there:,}", f"{here:,}", mark)
    table.add_section()
    total = verdict.in_file.total(), verdict.in_log.total()
    table.add_row(
        "", "all", *(f"{each:,}" for each in total), "[green]yes[/]" if total[0] == total[1] else "[red]NO[/]"
    )
    console.print(table)
    for claim, wrong in (
        ("nothing lost", verdict.lost),
        ("nothing twice", verdict.twice),
        ("nothing changed", verdict.changed),
        ("each aircraft's flights in order, in one partition", verdict.out_of_order),
        ("offsets dense in every partition", verdict.gaps),
    ):
        console.print(f"  [green]yes[/]  {claim}" if not wrong else f"  [red]NO[/]   {claim}: {wrong:,} are wrong")


def run(directory: Path, victim: int, rate: float) -> bool:
    """Do it all in ``directory``; return whether the log equals the file."""
    flights = load()
    console.print(
        f"[bold]{len(flights):,} flights[/] of January 2013, keyed by aircraft, go through {BROKERS} broker processes"
        f" into {PARTITIONS} partitions of {BROKERS} replicas; a leader is killed on the way; then everything is read"
        " back and compared."
    )
    begin = time.monotonic()
    cluster = Cluster(directory)
    try:
        ready = cluster.wait_until_ready()
        brokers = ", ".join(f"{each['id']} (pid {each['pid']}) at {each['endpoint']}" for each in ready["brokers"])
        console.print(f"  cluster ready after {time.monotonic() - begin:.1f} s: brokers {brokers}")
        servers = list(ready["bootstrap_servers"])
        send_all(cluster, servers, flights, victim, create_topic(servers, victim), rate)
        verdict = compare(flights, read_all(servers))
    finally:
        status = cluster.stop()
    show(verdict)
    if status != 0:
        raise DemoFailed(f"the cluster ended with status {status} when it was stopped")
    return verdict.is_good


def create_topic(servers: list[str], victim: int) -> list[int]:
    """Create the topic; return the partitions that the victim leads."""
    with AdminClient(bootstrap_servers=servers, client_id="demo-admin") as admin:
        admin.create_topics({TOPIC: {"num_partitions": PARTITIONS, "replication_factor": BROKERS}})
        (topic,) = admin.describe_topics([TOPIC])
        return [each.partition for each in topic.partitions if each.leader == victim]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kill", type=int, default=2, choices=range(1, BROKERS + 1), help="which broker (default: 2)")
    parser.add_argument("--rate", type=float, default=6_000, help="flights sent a second (default: 6000)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    directory = Path(tempfile.mkdtemp(prefix="callboard-demo-"))
    try:
        is_good = run(directory, options.kill, options.rate)
    except KeyboardInterrupt:
        console.print("demo: interrupted; the cluster is stopped and its data are removed")
        return 130
    except (DemoFailed, CallboardError) as error:
        console.print(f"demo: {error}", style="red", markup=False)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    console.print(
        "[bold green]The log equals the file.[/]" if is_good else "[bold red]The log differs from the file.[/]"
    )
    return 0 if is_good else 1


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
