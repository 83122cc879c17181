"""Load for clusters that are being broken: numbered records from one side, a reader on the other, a verdict at the end.

    load = Load(servers, "orders", partitions=6, rate=1_000)
    reader = Reader(servers, "orders", partitions=6)
    …                                     # break something
    assert verdict(load, servers, reader, partitions=6) == []    # named anomalies (``history``)

``Load`` sends at a steady rate, whatever happens: a record that waits for a new leader holds nobody up. It knows of
each record when it was sent and when it was acknowledged, so it can say when a partition took records again
(``Watch``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import gcd
from typing import Any

from ..client.consumer import Consumer
from ..client.producer import Producer
from ..errors import BrokerResponseError, CallboardError
from ..model import TopicPartition
from .history import Anomaly, History, Moved, Outcome, Polled, Send, anomalies

PAUSE_S = 0.002  # between two looks at how much is due
KEPT_BYTES = 128  # of a value: its name is in front, the rest is filler whose checksum somebody else has looked at
GOLDEN = 0.618  # of the way round: no other share keeps those that were visited last as far apart
FINAL_S = 120.0  # for what is under way when the load ends: longer than the producer's own patience


@dataclass(slots=True)
class _Sent:
    partition: int
    value: bytes
    invoked_ns: int
    completed_ns: int = 0  # 0: no result yet
    offset: int = -1
    error: BaseException | None = None


@dataclass
class Watch:
    """When each partition first acknowledged a record that was sent after ``since_ns``."""

    since_ns: int
    missing: set[int]
    acknowledged_ns: dict[int, int] = field(default_factory=dict)
    is_complete: threading.Event = field(default_factory=threading.Event)


class Load:
    """Sends ``rate`` records a second to the partitions in turn, from a thread of its own, until ``stop``.

    Neighbours do not follow each other: who reads some that lie side by side has records at a steady pace.
    """

    def __init__(
        self,
        bootstrap_servers: list[str],
        topic: str,
        *,
        partitions: int,
        rate: int,
        record_bytes: int = 100,
        name: str = "load",
        **settings: Any,
    ) -> None:
        self.topic, self.name = topic, name
        self.acknowledged = 0  # moved by the producer's thread only
        self._partitions, self._rate, self._record_bytes = partitions, rate, record_bytes
        self._sent: list[_Sent] = []
        self._watch: Watch | None = None
        self._lock = threading.Lock()  # of the watch: it is set here and fulfilled on the producer's thread
        self._stop = threading.Event()
        self._producer: Producer[Any, Any] = Producer(bootstrap_servers=bootstrap_servers, **settings)
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def watch(self, partitions: Iterable[int]) -> Watch:
        """Begin to watch, from now on, when these partitions acknowledge what is sent from now on."""
        with self._lock:
            self._watch = Watch(time.monotonic_ns(), set(partitions))
            return self._watch

    @property
    def errors(self) -> list[BaseException]:
        """What reached the application."""
        return [sent.error for sent in self._sent if sent.error is not None]

    def wait_for_progress(self, records: int, deadline_s: float = 60.0) -> None:
        """Return when so many more records have been acknowledged.

        Raises:
            CallboardError: not within ``deadline_s``.
        """
        target, until = self.acknowledged + records, time.monotonic() + deadline_s
        while self.acknowledged < target:
            if time.monotonic() > until:
                raise CallboardError(f"{self.name}: no {records} records acknowledged within {deadline_s:.0f} s")
            time.sleep(0.01)

    def stop(self) -> None:
        """Send no more, wait for what is under way. Harmless when it has been stopped."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            with suppress(CallboardError):  # the records say it themselves
                self._producer.flush(timeout=FINAL_S)
            self._producer.close()

    def abandon(self) -> None:
        """Stop at once: of what is under way nobody will know."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            with suppress(CallboardError):  # the records say it themselves
                self._producer.close(timeout=0)

    def sends(self) -> list[Send]:
        """Return what was sent, for the history."""
        return [
            Send(
                self.name,
                TopicPartition(self.topic, sent.partition),
                sent.value,
                _outcome(sent),
                sent.offset,
                sent.invoked_ns,
                sent.completed_ns,
            )
            for sent in self._sent
        ]

    def _run(self) -> None:
        begin, number = time.monotonic(), 0
        filler, step = b"." * self._record_bytes, _far_step(self._partitions)
        while not self._stop.wait(PAUSE_S):
            due = int((time.monotonic() - begin) * self._rate)
            while number < due:
                value = (b"%s-%d" % (self.name.encode(), number) + filler)[: max(self._record_bytes, 24)]
                sent = _Sent(number * step % self._partitions, value[:KEPT_BYTES], time.monotonic_ns())
                self._sent.append(sent)
                future = self._producer.send(self.topic, value, partition=sent.partition)
                future.add_both(self._on_result, sent)
                number += 1

    def _on_result(self, sent: _Sent, result: Any) -> None:
        """On the producer's thread."""
        if isinstance(result, BaseException):
            sent.error = result
        else:
            sent.offset = result.offset
            self.acknowledged += 1
        sent.completed_ns = time.monotonic_ns()
        watch = self._watch
        if sent.error is None and watch is not None and sent.invoked_ns >= watch.since_ns:
            with self._lock:
                if sent.partition in watch.missing:
                    watch.missing.discard(sent.partition)
                    watch.acknowledged_ns[sent.partition] = sent.completed_ns
                    if not watch.missing:
                        watch.is_complete.set()


class Reader:
    """Reads all partitions from their beginning, from a thread of its own, through everything that happens."""

    def __init__(self, bootstrap_servers: list[str], topic: str, *, partitions: int, name: str = "reader") -> None:
        self.name = name
        self.polled: list[Polled] = []
        self.errors: list[CallboardError] = []  # that reached the application
        self._stop = threading.Event()
        self._bootstrap_servers = bootstrap_servers
        self._keys = [TopicPartition(topic, number) for number in range(partitions)]
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        servers = self._bootstrap_servers
        consumer: Consumer[Any, Any] = Consumer(bootstrap_servers=servers, auto_offset_reset="earliest")
        with consumer:
            consumer.assign(self._keys)
            while not self._stop.is_set():
                try:
                    for partition, records in consumer.poll(timeout_ms=100).items():
                        self.polled += [
                            Polled(partition, record.offset, record.value[:KEPT_BYTES]) for record in records
                        ]
                except CallboardError as error:
                    self.errors.append(error)


def read_everything(bootstrap_servers: list[str], topic: str, *, partitions: int) -> list[Polled]:
    """Return every record of a topic, up to where its partitions end now."""
    keys = [TopicPartition(topic, number) for number in range(partitions)]
    polled: list[Polled] = []
    consumer: Consumer[Any, Any] = Consumer(bootstrap_servers=bootstrap_servers)
    with consumer:
        consumer.assign(keys)
        consumer.seek_to_beginning(*keys)
        ends = consumer.end_offsets(keys)
        while any(consumer.position(key) < end for key, end in ends.items()):
            for key, records in consumer.poll(timeout_ms=1_000, max_records=5_000).items():
                polled += [Polled(key, record.offset, record.value[:KEPT_BYTES]) for record in records]
    return polled


def verdict(
    load: Load,
    bootstrap_servers: list[str],
    *readers: Reader,
    partitions: int,
    sends: Iterable[Send] = (),
    polls: Mapping[str, Sequence[Polled | Moved]] | None = None,
) -> list[Anomaly]:
    """Stop the load, read everything anew, and return what must never happen and did.

    Args:
        sends, polls: of others than this load and these readers.
    """
    load.stop()
    history = History(sends=[*load.sends(), *sends], finals={"final"})
    for name, polled in (polls or {}).items():
        history.polls[name] += polled
    history.polls["final"] += read_everything(bootstrap_servers, load.topic, partitions=partitions)
    for reader in readers:
        reader.stop()
        history.polls[reader.name] += reader.polled
    return anomalies(history)


def _far_step(partitions: int) -> int:
    """Return a step that comes to every partition before it comes back, and to far ones first."""
    return next(step for step in range(int(partitions * GOLDEN) or 1, 2 * partitions) if gcd(step, partitions) == 1)


def _outcome(sent: _Sent) -> Outcome:
    if sent.error is None:
        return "ok" if sent.completed_ns else "info"
    is_certain = isinstance(sent.error, BrokerResponseError) and not sent.error.outcome_unknown
    return "fail" if is_certain else "info"
