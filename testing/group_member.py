"""One member of a group in a process of its own, for those who measure and break groups.

    python -m callboard.testing.group_member SERVERS TOPIC GROUP [SETTING=VALUE …]

TOPIC may be a pattern, with "^" before it. It polls until it is told to end, and prints one JSON object a line, each
with ``at`` (ns of the monotonic clock, which all processes of a machine share). ``keys`` are [topic, partition]:

    {"event": "assigned" | "revoked" | "lost", "at": …, "partitions": […], "keys": […]}
    {"event": "first", "at": …, "partitions": […], "waited_ms": […]}   first records of partitions since they were
        assigned, and how long each had been there, by its timestamp
    {"event": "closing", "at": …}                      ``close`` is called now
    {"event": "polls", "at": …, "times": […]}          the answer to "polls": when polls returned records
    {"event": "error", "at": …, "error": …, "detail": …}   a poll raised; the member ends

Commands come on stdin, one a line: ``polls``; ``commit`` (what it has polled; {"event": "committed", "offsets":
[[topic, partition, offset], …], "error": its name or null, "detail": …}); ``hold`` (be busy with what was polled,
{"event": "holding"}: no poll until the next command); ``close`` (close the consumer, print {"event": "closed"},
end). The end of stdin is the end of the member, without a word to the group.
"""

from __future__ import annotations

import os
import signal
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
ANSWERS = ("polls", "closed", "committed", "holding")


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
        """Return what it owns, as far as it has said, of whatever topic."""
        return {key.partition for key in self.keys}

    @property
    def keys(self) -> set[TopicPartition]:
        """Return what it owns, as far as it has said."""
        owned: set[TopicPartition] = set()
        for event in list(self.events):
            keys = {TopicPartition(topic, partition) for topic, partition in event.get("keys", ())}
            if event["event"] == "assigned":
                owned |= keys
            elif event["event"] in ("revoked", "lost"):
                owned -= keys
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

    def begin_to_commit(self) -> None:
        """Have it commit what it has polled; it may be stopped just now."""
        self._command(b"commit\n")

    def committed(self) -> dict[str, Any]:
        """Return what came of ``begin_to_commit``: its ``offsets``, ``error`` (a name, or None) and ``detail``."""
        return self._wait_for("committed")

    def hold(self) -> None:
        """Have it be busy with what it has polled: it does not poll until the next command."""
        self._command(b"hold\n")
        self._wait_for("holding")

    def stop(self) -> int:
        """Stop it with SIGSTOP; return when (ns)."""
        at = time.monotonic_ns()
        self._process.send_signal(signal.SIGSTOP)
        return at

    def go_on(self) -> int:
        """Let it go on after ``stop``; return when (ns)."""
        at = time.monotonic_ns()
        self._process.send_signal(signal.SIGCONT)
        return at

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
            if event["event"] in ANSWERS:
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
    line = {
        "event": event,
        "at": time.monotonic_ns(),
        "partitions": numbers,
        "keys": [[*key] for key in sorted(partitions)],
        **more,
    }
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
    tells = _Tells()
    consumer: Consumer[Any, Any] = Consumer(bootstrap_servers=servers.split(","), group_id=group, **settings)
    if topic.startswith("^"):
        consumer.subscribe(pattern=topic[1:], listener=tells)
    else:
        consumer.subscribe([topic], listener=tells)
    try:
        _work(consumer, tells, commands)
    except CallboardError as error:
        _say("error", error=type(error).__name__, detail=str(error))
        return 1
    return 0


def _work(consumer: Consumer[Any, Any], tells: _Tells, commands: SimpleQueue[str]) -> None:
    """Poll, and do what is asked for, until that is to close."""
    times: list[int] = []
    offsets: dict[TopicPartition, int] = {}  # behind what was polled
    is_holding = False
    while True:
        if not is_holding:
            polled = consumer.poll(timeout_ms=POLL_MS)
            offsets.update({key: records[-1].offset + 1 for key, records in polled.items()})
            if polled:
                times.append(time.monotonic_ns())
            if begun := tells.silent & set(polled):
                tells.silent -= begun
                now_ms = time.time_ns() // 1_000_000
                _say("first", begun, waited_ms=[now_ms - polled[key][0].timestamp for key in sorted(begun)])
            if commands.empty():
                continue
        command = commands.get()
        is_holding = command == "hold"
        if command == "close":
            _say("closing")
            consumer.close()
            _say("closed")
            return
        if command == "hold":
            _say("holding")
        elif command == "commit":
            _commit(consumer, offsets)
            offsets = {}
        else:
            _say("polls", times=times)
            times = []


def _commit(consumer: Consumer[Any, Any], offsets: dict[TopicPartition, int]) -> None:
    name, detail = None, ""
    try:
        consumer.commit(dict(offsets))
    except CallboardError as error:
        name, detail = type(error).__name__, str(error)
    told = [[*key, offset] for key, offset in sorted(offsets.items())]
    _say("committed", offsets=told, error=name, detail=detail)


def _read_commands(commands: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        commands.put(line.strip())
    os._exit(0)  # nobody is there any more


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
