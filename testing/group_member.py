"""One member of a group in a process of its own, for those who measure and break groups.

    python -m callboard.testing.group_member SERVERS TOPIC GROUP [SETTING=VALUE …]

It polls until it is told to end, and prints one JSON object a line, each with ``at`` (ns of the monotonic clock, which
all processes of a machine share):

    {"event": "assigned" | "revoked" | "lost", "at": …, "partitions": […]}
    {"event": "first", "at": …, "partitions": […]}     first records of partitions since they were assigned
    {"event": "polls", "at": …, "times": […]}          the answer to "polls": when polls returned records

Commands come on stdin, one a line: ``polls``; ``close`` (close the consumer, print {"event": "closed"}, end). The end
of stdin is the end of the member, without a word to the group.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import orjson

from ..client.application import ConsumerRebalanceListener
from ..client.consumer import Consumer
from ..errors import CallboardError
from ..model import TopicPartition

POLL_MS = 20  # with nothing to read: then commands are looked at
PATIENCE_S = 60.0


class MemberProcess:
    """The other end: starts a member, listens, gives commands. ``events``: what it has printed, as it came."""

    def __init__(self, name: str, bootstrap_servers: Sequence[str], topic: str, group: str, **settings: Any) -> None:
        command = [sys.executable, "-m", "callboard.testing.group_member", ",".join(bootstrap_servers), topic, group]
        command += [f"{key}={value}" for key, value in settings.items()]
        self.name = name
        self.events: list[dict[str, Any]] = []
        self._news: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._listener = threading.Thread(target=self._listen, name=f"listens to {name}", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def partitions(self) -> set[int]:
        """Return what it owns, as far as it has said."""
        owned: set[int] = set()
        for event in list(self.events):
            if event["event"] == "assigned":
                owned |= set(event["partitions"])
            elif event["event"] in ("revoked", "lost"):
                owned -= set(event["partitions"])
        return owned

    def first_after(self, event: str, since_ns: int) -> dict[int, int]:
        """Return, of each partition named in such an event after ``since_ns``, when the first one was."""
        found: dict[int, int] = {}
        for each in list(self.events):
            if each["event"] == event and each["at"] >= since_ns:
                for partition in each["partitions"]:
                    found.setdefault(partition, each["at"])
        return found

    def polls(self) -> list[int]:
        """Return when its polls returned records, since this was last asked."""
        self._command(b"polls\n")
        return list(self._wait_for("polls")["times"])

    def close(self) -> int:
        """Have it close its consumer and end; return when that was done (ns)."""
        self._command(b"close\n")
        at = int(self._wait_for("closed")["at"])
        self._process.wait(PATIENCE_S)
        self._tidy()
        return at

    def kill(self) -> int:
        """Kill it with SIGKILL; return when (ns)."""
        at = time.monotonic_ns()
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._tidy()
        return at

    def __enter__(self) -> MemberProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self.kill()

    def _command(self, line: bytes) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _wait_for(self, name: str) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE_S
        while (left := until - time.monotonic()) > 0:
            try:
                event = self._news.get(timeout=left)
            except Empty:
                break
            if event["event"] == name:
                return event
        raise CallboardError(f"{self.name} did not answer {name!r} within {PATIENCE_S:.0f} s")

    def _listen(self) -> None:
        if self._process.stdout is None:
            return
        for line in self._process.stdout:
            event = orjson.loads(line)
            if event["event"] in ("polls", "closed"):
                self._news.put(event)
            else:
                self.events.append(event)

    def _tidy(self) -> None:
        self._listener.join(PATIENCE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


# -- the member's side -----------------------------------------------------------------------------


class _Tells(ConsumerRebalanceListener):
    """Says what happens to partitions, and which have not given a record yet."""

    def __init__(self) -> None:
        self.silent: set[TopicPartition] = set()

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self.silent -= set(revoked)
        _say("revoked", revoked)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.silent |= set(assigned)
        _say("assigned", assigned)

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self.silent -= set(lost)
        _say("lost", lost)


def _say(event: str, partitions: Collection[TopicPartition] = (), **more: Any) -> None:
    numbers = sorted(key.partition for key in partitions)
    line = {"event": event, "at": time.monotonic_ns(), "partitions": numbers, **more}
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


def main(arguments: list[str]) -> int:
    servers, topic, group, *rest = arguments
    settings: dict[str, Any] = {"auto_offset_reset": "earliest"}
    for item in rest:
        name, _, value = item.partition("=")
        settings[name] = orjson.loads(value) if value[:1].isdigit() or value in ("true", "false") else value
    commands: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read_commands, args=(commands,), daemon=True).start()
    tells, times = _Tells(), list[int]()
    consumer: Consumer[Any, Any] = Consumer(bootstrap_servers=servers.split(","), group_id=group, **settings)
    consumer.subscribe([topic], listener=tells)
    while True:
        polled = consumer.poll(timeout_ms=POLL_MS)
        if polled:
            times.append(time.monotonic_ns())
        if begun := tells.silent & set(polled):
            tells.silent -= begun
            _say("first", begun)
        if commands.empty():
            continue
        if commands.get() == "close":
            consumer.close()
            _say("closed")
            return 0
        _say("polls", times=times)
        times = []


def _read_commands(commands: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        commands.put(line.strip())
    os._exit(0)  # nobody is there any more


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
