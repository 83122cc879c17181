"""Requests to one broker as things were once: to whom it led then, under the epochs of then, however long it slept.

A client of Callboard gives a silent broker up and asks others. Whoever wants to know what a broker does that was
stopped, was deposed meanwhile and goes on with what had come in before, must not: a *straggler* keeps to its one
connection, sends while the broker stands still, and waits for what it says when it goes on.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ..client.admin import AdminClient
from ..client.io import Done, IoThread
from ..errors import CallboardError
from ..model import TopicPartition
from ..storage.batch import Columns, decode_batch, encode_batch, iter_batches
from ..transport import messages as m
from ..transport.addresses import choose_endpoint
from ..transport.seam import Connection, ConnectionState
from .history import Polled, Send

PATIENCE_MS = 60_000  # with an answer
READY_S = 10.0


class Led(NamedTuple):
    """A partition that the broker led, as it was then."""

    topic: str
    topic_id: str
    partition: int
    leader_epoch: int
    end_offset: int  # below which everything was committed


class Straggler:
    """One connection to one broker. ``close`` ends it."""

    def __init__(self, admin: AdminClient, broker_id: int, name: str = "straggler") -> None:
        """Raises ``CallboardError`` if the broker is not reached within ten seconds."""
        broker = next(one for one in admin.describe_cluster().brokers if one.id == broker_id)
        self.name = name
        self.replies: list[tuple[m.Reply, list[bytes]]] = []
        self.unanswered: list[CallboardError] = []
        self._sent = 0
        self._sends: list[Send] = []
        self.acknowledged: dict[int, int] = {m.ACKS_ALL: 0, 1: 0}  # records, by what was asked for
        self._io = IoThread(name, self)
        endpoint = choose_endpoint(broker.endpoints, broker.machine)
        connected: list[Connection] = []

        def connect(done: Done[None]) -> None:
            connected.append(self._io.transport.connect(endpoint, client_id=name, on_state=_ignore))
            done(None, None)

        self._io.ask(connect, READY_S, name)
        (self._connection,) = connected
        until = time.monotonic() + READY_S
        while not self._connection.is_ready:
            if time.monotonic() > until:
                raise CallboardError(f"{name}: broker {broker_id} was not reached within {READY_S:.0f} s")
            time.sleep(0.005)

    # -- asking ----------------------------------------------------------------------------------------

    def ask(self, message: m.Request, payload: tuple[bytes, ...] = (), first: int = -1) -> None:
        """Send one request; its answer comes into ``replies``, or the lack of one into ``unanswered``.

        Args:
            first: of a produce request, which of the sends its first entry is.
        """

        def on_reply(reply: m.Reply | CallboardError, frames: list[bytes]) -> None:
            if isinstance(reply, CallboardError):
                self.unanswered.append(reply)
                return
            if isinstance(reply, m.ProduceReply) and isinstance(message, m.ProduceRequest) and not reply.error:
                self._note(message, reply, first)
            self.replies.append((reply, [bytes(frame) for frame in frames]))

        self._sent += 1
        self._io.post(self._connection.request, message, on_reply, payload, PATIENCE_MS)

    def produce(self, led: list[Led], acks: int) -> None:
        """Send one record to each partition, without a producer's id: nobody will know it again."""
        entries, payload, first = [], list[bytes](), len(self._sends)
        for one in led:
            value = b"%s-%d-%d." % (self.name.encode(), self._sent, one.partition)
            frames = encode_batch(None, [value], int(time.time() * 1_000))
            entries.append(_produce_entry(one, len(frames)))
            payload += frames
            key = TopicPartition(one.topic, one.partition)
            self._sends.append(Send(f"{self.name}-{self._sent}", key, value, "info", invoked_ns=time.monotonic_ns()))
        self.ask(m.ProduceRequest(acks=acks, timeout_ms=2_000, entries=entries), tuple(payload), first)

    def fetch(self, led: list[Led]) -> None:
        """Ask as a consumer for what follows the committed records."""
        entries = [
            m.FetchEntry(
                topic_id=one.topic_id,
                partition=one.partition,
                leader_epoch=one.leader_epoch,
                fetch_offset=one.end_offset,
            )
            for one in led
        ]
        self.ask(m.FetchRequest(max_wait_ms=500, entries=entries))

    def wait(self, deadline_s: float = 2 * PATIENCE_MS / 1_000) -> None:
        """Return when everything has been answered, or will not be.

        Raises:
            CallboardError: not within ``deadline_s``.
        """
        until = time.monotonic() + deadline_s
        while len(self.replies) + len(self.unanswered) < self._sent:
            if time.monotonic() > until:
                raise CallboardError(f"{self.name}: not everything was answered within {deadline_s:.0f} s")
            time.sleep(0.01)

    # -- what came of it -------------------------------------------------------------------------------

    def sends(self) -> list[Send]:
        """Return what was sent, for the history. Who asked for ``acks=1`` was promised nothing: outcome unknown."""
        return list(self._sends)

    def polled(self, led: list[Led]) -> list[Polled]:
        """Return the records that fetches were answered with."""
        topics = {(one.topic_id, one.partition): one for one in led}
        found: list[Polled] = []
        for reply, payload in self.replies:
            if not isinstance(reply, m.FetchReply):
                continue
            at = 0
            for entry in reply.entries:
                data = b"".join(payload[at : at + entry.frames])
                at += entry.frames
                one = topics[entry.topic_id, entry.partition]
                for _, place in iter_batches(data) if data else ():
                    columns: Columns = decode_batch(data, place)
                    key = TopicPartition(one.topic, one.partition)
                    records = zip(columns.offsets, columns.values, strict=True)
                    found += [Polled(key, offset, value) for offset, value in records if offset >= one.end_offset]
        return found

    def _note(self, request: m.ProduceRequest, reply: m.ProduceReply, first: int) -> None:
        asked = [(entry.topic_id, entry.partition) for entry in request.entries]
        for entry in reply.entries:
            if not entry.error:
                self.acknowledged[request.acks] += 1
                if request.acks == m.ACKS_ALL:
                    place = first + asked.index((entry.topic_id, entry.partition))
                    self._sends[place] = self._sends[place]._replace(
                        outcome="ok", offset=entry.base_offset, completed_ns=time.monotonic_ns()
                    )

    # -- life ------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._io.stop()

    def on_fork(self) -> None:
        self._io.is_forked = True


def _produce_entry(led: Led, frames: int) -> m.ProduceEntry:
    return m.ProduceEntry(topic_id=led.topic_id, partition=led.partition, leader_epoch=led.leader_epoch, frames=frames)


def _ignore(_: ConnectionState) -> Any:
    """Its connections are none of anybody's business."""
