"""How long a broker with 1 GiB in 100 partitions is away after kill -9: ``python -m benchmarks.recovery``.

Three states at the moment of the kill: *settled* (the checkpoint that a quiet log gets had its time), *busy* (records
came in until the kill, checkpoints as by default), *never* (no checkpoint at all was written: all of it is
read again). Measured from the signal until every partition answers with its whole high watermark, and a record at
each end was fetched. The bound is 3 seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from callboard import AdminClient, Consumer, Producer, TopicPartition
from callboard.errors import CallboardError
from callboard.testing.clusters import RunningCluster, cluster

from .measure import machine

TOPIC = "recovery"
BOUND_S = 3.0
VALUE_BYTES = 1_000
CHECKPOINT_MS = 5_000
STATES = ("settled", "busy", "never")


def measure(state: str, options: argparse.Namespace) -> list[float]:
    """Return the seconds of each kill."""
    with tempfile.TemporaryDirectory(prefix="callboard-recovery-", dir=options.directory) as path:
        settings = Path(path, "settings.toml")
        settings.write_text(f"[broker]\ncheckpoint_ms = {3_600_000 if state == 'never' else CHECKPOINT_MS}\n")
        with cluster(1, directory=path, options=("--config", str(settings))) as running:
            ends = _fill(running, options)
            found = []
            for _ in range(options.rounds):
                if state == "settled":
                    time.sleep(2 * CHECKPOINT_MS / 1_000 + 1)
                found.append(_away(running, ends))
                if state == "busy":
                    ends = _write(running, ends, 500, options.batch_bytes)
            return found


def _fill(running: RunningCluster, options: argparse.Namespace) -> dict[TopicPartition, int]:
    with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
        admin.create_topics({TOPIC: {"num_partitions": options.partitions, "configs": {"flush": options.flush}}})
    records = options.mebibytes * 1024 * 1024 // options.partitions // VALUE_BYTES
    empty = {TopicPartition(TOPIC, number): 0 for number in range(options.partitions)}
    return _write(running, empty, records, options.batch_bytes)


def _write(
    running: RunningCluster, ends: dict[TopicPartition, int], records: int, batch_bytes: int
) -> dict[TopicPartition, int]:
    step = 250
    values = [b"v" * VALUE_BYTES] * step
    with Producer(bootstrap_servers=running.bootstrap_servers, batch_size=batch_bytes, acks=1) as producer:
        for begin in range(0, records, step):
            for place in ends:
                producer.send_batch(place.topic, values[: records - begin], partition=place.partition)
        producer.flush()
    return {place: end + records for place, end in ends.items()}


def _away(running: RunningCluster, ends: dict[TopicPartition, int]) -> float:
    with Consumer(bootstrap_servers=running.bootstrap_servers, group_id=None) as consumer:
        consumer.assign(list(ends))
        consumer.end_offsets(list(ends))
        begun = time.perf_counter()
        running.kill_broker(1)
        while True:
            try:
                if consumer.end_offsets(list(ends), timeout_ms=30_000) == ends:
                    break
            except CallboardError:
                pass
            time.sleep(0.01)
        for place, end in ends.items():
            consumer.seek(place, end - 1)
        missing = set(ends)
        while missing:
            missing -= set(consumer.poll(timeout_ms=1_000))
        return time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--state", choices=STATES, action="append", help="default: all")
    parser.add_argument("--partitions", type=int, default=100)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--batch-bytes", type=int, default=256 * 1024, help="small ones cost more to read again")
    parser.add_argument("--flush", choices=("ack", "os"), default="os")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", help="where the files go; default: the system's temporary directory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for state in options.state or STATES:
        seconds = measure(state, options)
        line = {"state": state, "median_s": statistics.median(seconds), "seconds": seconds, "bound_s": BOUND_S}
        lines.append(line)
        if not options.json:
            spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
            print(f"{state:<8} {line['median_s']:.2f} s ({spread}; at most {BOUND_S:.0f} s are allowed)")
    if options.json:
        print(json.dumps({**machine(), "settings": vars(options), "recovery": lines}, indent=2, default=str))
    return int(any(line["median_s"] > BOUND_S for line in lines))


if __name__ == "__main__":
    sys.exit(main())
