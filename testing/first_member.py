"""How soon the first member of a new group has records, counted from ``Consumer(…)``: in a process of its own.

    python -m callboard.testing.first_member SERVERS TOPIC COUNT

starts so many lone members, one after the other, each of a group that has never been, and prints a JSON list of
milliseconds. It has a process of its own because a service has: who measures is busy with the load.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import orjson

from ..client.consumer import Consumer
from ..errors import CallboardError

PATIENCE_S = 90.0  # of one member
POLL_MS = 1_000


def first_records_ms(bootstrap_servers: Sequence[str], topic: str, count: int) -> list[float]:
    """Start the process, and return what it has measured. The topic must have records, and must go on having new ones.

    Raises:
        CallboardError: a member had no records within 90 s, or an error ended it.
    """
    command = [sys.executable, "-m", "callboard.testing.first_member", ",".join(bootstrap_servers), topic, str(count)]
    ended = subprocess.run(command, capture_output=True, timeout=PATIENCE_S * (count + 1), check=False)
    if ended.returncode:
        raise CallboardError(f"a first member of a group failed: {ended.stderr.decode(errors='replace').strip()}")
    return [float(each) for each in orjson.loads(ended.stdout)]


def main(arguments: list[str]) -> int:
    servers, topic, count = arguments
    measured = []
    for number in range(int(count)):
        begun = time.perf_counter()
        consumer: Consumer[Any, Any] = Consumer(
            topic, bootstrap_servers=servers.split(","), group_id=f"first-{number}", auto_offset_reset="earliest"
        )
        with consumer:
            while not consumer.poll(timeout_ms=POLL_MS):
                if time.perf_counter() > begun + PATIENCE_S:
                    print(f"no records within {PATIENCE_S:.0f} s", file=sys.stderr)
                    return 1
            measured.append((time.perf_counter() - begun) * 1e3)
    print(orjson.dumps(measured).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
