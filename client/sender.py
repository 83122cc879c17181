"""Which batch goes to which broker in which request, and what comes of it. Pure: ``(state, event, now) → effects``.

The problem: many partitions, few connections, answers that come late, twice, or never. ``PartitionSequence`` keeps one
partition in order; this file decides over all of them.

Rules of this file:

1. A request goes to one broker and carries at most one batch of a partition; at most ``in_flight_max`` requests are
   unanswered per broker.
2. Every batch taken from the accumulator is settled exactly once: acknowledged, failed, or split into batches that are.
3. A batch is settled ``delivery_timeout_ms`` after its first record at the latest, whatever brokers do.
4. An answer that says "not here" refreshes the metadata: at once, then with backoff. A batch is sent again when the
   backoff has passed, or at once when newer metadata names another leader or epoch, or the leader's connection is
   back.
5. A broker that was stopped, or hangs, neither answers nor ends its connection. After ``SLOW_ANSWER_MS`` without an
   answer metadata are asked of others; an attempt that waits for so long at a broker that leads no more counts as
   lost (of unknown outcome) and is made again at the new leader. Its answer, if it still comes, counts for nothing.
6. What had been sent to a topic that was deleted and made anew fails; it is not slipped into the new one. What was
   never sent goes to the new one.
7. A failure says the truth of the batch, not of its last attempt alone: when an earlier one may have been appended, the
   outcome is unknown, whatever error ends it (``as_unknown``).

The accumulator's methods are called with its lock held (``with self.accumulator.lock``), for as short as can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from ..errors import (
    BrokerResponseError,
    CallboardError,
    CallboardTimeoutError,
    ConnectionFailedError,
    ConnectionLostError,
    ErrorCode,
    InternalError,
    UnknownTopicOrPartitionError,
    error_for_code,
    is_metadata_stale,
)
from ..transport.messages import ProduceEntryReply
from .accumulator import Accumulator, PartitionBuffer, failed_because
from .metadata import PartitionLeader
from .patience import ELECTION_BACKOFF_MS, LOOK_AGAIN_MS, SLOW_ANSWER_MS, DoubtBrokers
from .producer_batch import ProducerBatch
from .sequencing import PartitionSequence, Verdict

REQUEST_BYTES_MAX = 2 << 20  # of batches in one request, before compression, but for the last one: a broker begins to
# write when all of it has come, so larger ones leave it idle (of 8 MiB a seventh slower)
REQUEST_BATCHES_MAX = 1_000
TELL_WAITING_MS = 1_000  # how long a partition's batches are refused for what an election does not bring
ANSWER_GRACE_MS = 500  # a broker answers "timed out" by itself; the client waits a little longer than it


_SOMEBODY_MUST_ACT = frozenset(
    {ErrorCode.STORAGE_FULL, ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND}
)


class SenderSettings(NamedTuple):
    acks: int
    is_idempotent: bool
    in_flight_max: int
    linger_ms: int
    timeout_ms: int  # the broker's wait for the in-sync replicas
    delivery_timeout_ms: int
    retry_backoff_ms: int
    retry_backoff_max_ms: int
    retries_max: float


# -- effects: what the shell does ------------------------------------------------------------------


class SendProduce(NamedTuple):
    """Send these batches to a broker; report what comes back under ``request_id``, exactly once."""

    request_id: int
    broker_id: int
    parts: tuple[tuple[PartitionLeader, ProducerBatch], ...]
    ack_timeout_ms: int  # in the request
    timeout_ms: int  # for the answer


class Settle(NamedTuple):
    """The batch has its result."""

    batch: ProducerBatch
    base_offset: int
    error: CallboardError | None


class Split(NamedTuple):
    """The batch was replaced by smaller ones, record for record; its futures follow."""

    batch: ProducerBatch
    parts: tuple[ProducerBatch, ...]


class RefreshMetadata(NamedTuple):
    reason: str


class LeaderHint(NamedTuple):
    """A broker that does not lead has said who does."""

    topic_id: str
    partition: int
    leader: int
    leader_epoch: int


class TellWaiting(NamedTuple):
    """The batch has waited for a while for something that an operator may have to see to: room, replicas."""

    batch: ProducerBatch
    error: BrokerResponseError


class NeedProducerId(NamedTuple):
    """Ask for a producer id; answer with ``on_producer_id``."""


Effect = SendProduce | Settle | Split | RefreshMetadata | LeaderHint | TellWaiting | NeedProducerId | DoubtBrokers


class View(Protocol):
    """What the sender knows of the cluster."""

    def leader(self, topic: str, partition: int) -> PartitionLeader | None:
        """Return who leads, as far as is known; ``broker_id`` -1: nobody just now. None: no such partition is known."""

    def is_gone(self, topic: str, now_ms: int) -> bool:
        """Say whether the topic is known not to exist (for long enough to believe it)."""

    def is_connected(self, broker_id: int) -> bool: ...


class _Lane:
    """One partition with something to do."""

    __slots__ = ("buffer", "failed_at", "refused_since_ms", "sequence")

    def __init__(self, buffer: PartitionBuffer, sequence: PartitionSequence) -> None:
        self.buffer = buffer
        self.sequence = sequence
        self.failed_at: tuple[int, int] | None = None  # (leader, epoch) of the last attempt that was refused
        self.refused_since_ms: int | None = None  # for something that somebody may have to see to


class _Request(NamedTuple):
    broker_id: int
    sent_ms: int
    deadline_ms: int
    oldest_ms: int  # when its oldest batch was begun
    parts: tuple[tuple[PartitionLeader, ProducerBatch], ...]


class Sender:
    """The sending side of one producer."""

    def __init__(self, settings: SenderSettings, accumulator: Accumulator, view: View) -> None:
        self.settings = settings
        self.accumulator = accumulator
        self.view = view
        self.producer_id = -1
        self.producer_epoch = -1
        self.is_asking_for_id = False
        self.in_flight: dict[int, int] = {}  # unanswered requests by broker; <= in_flight_max
        self.requests: dict[int, _Request] = {}
        self.lanes: dict[tuple[str, int], _Lane] = {}
        self.active: dict[tuple[str, int], _Lane] = {}  # those with something waiting or unresolved
        # ⊆ active: not all that they have is under way. Every event looks at these; only some look at the others, of
        # which there may be a thousand, and which have nothing to do but to wait for an answer.
        self.pending: dict[tuple[str, int], _Lane] = {}
        self.retries = 0  # attempts that were refused and go again; for metrics
        self._last_request_id = 0

    # -- events ------------------------------------------------------------------------------------

    def on_woken(self, buffers: Iterable[PartitionBuffer]) -> None:
        """These partitions have new batches."""
        for buffer in buffers:
            key = (buffer.topic, buffer.partition)
            lane = self.lanes.get(key)
            if lane is None:
                sequence = PartitionSequence(
                    is_idempotent=self.settings.is_idempotent,
                    acks=self.settings.acks,
                    retries_max=self.settings.retries_max,
                )
                lane = self.lanes[key] = _Lane(buffer, sequence)
            self.active[key] = self.pending[key] = lane

    def on_producer_id(self, producer_id: int, producer_epoch: int) -> None:
        self.producer_id, self.producer_epoch = producer_id, producer_epoch
        self.is_asking_for_id = False

    def on_metadata(self, now_ms: int) -> list[Effect]:
        """The view has changed: fail what is gone, release what waited for another leader."""
        effects: list[Effect] = []
        for lane in list(self.active.values()):
            effects += self._on_lane_metadata(lane, now_ms)
        self.pending.update(self.active)
        return effects

    def on_connected(self, broker_id: int) -> None:
        """The broker can be reached (again): what waits for it need not wait for its backoff."""
        for lane in self.pending.values():
            leader = self.view.leader(lane.buffer.topic, lane.buffer.partition)
            if leader is not None and leader.broker_id == broker_id:
                lane.sequence.retry_at_ms = 0

    def on_reply(
        self,
        request_id: int,
        entries: Sequence[ProduceEntryReply],
        error: CallboardError | None,
        now_ms: int,
        jitter: float,
    ) -> list[Effect]:
        """A request has been answered, or has failed as a whole with ``error``. ``jitter`` in 0..1."""
        request = self.requests.pop(request_id, None)
        if request is None:
            return []
        self.in_flight[request.broker_id] -= 1
        by_partition = {(entry.topic_id, entry.partition): entry for entry in entries}
        effects: list[Effect] = []
        for leader, batch in request.parts:
            entry = by_partition.get((leader.topic_id, leader.partition))
            effects += self._on_part(request_id, request, leader, batch, entry, error, now_ms, jitter)
            key = (leader.topic, leader.partition)
            self._look_at(key, self.lanes[key])
        return effects

    def on_sent_without_reply(self, request_id: int, is_sent: bool, now_ms: int, jitter: float) -> list[Effect]:
        """With ``acks=0``: the request was handed to the connection, or could not be. That is all one will know."""
        request = self.requests.get(request_id)
        if request is None:
            return []
        if not is_sent:
            error = ConnectionFailedError(f"broker {request.broker_id} takes no more just now")
            return self.on_reply(request_id, [], error, now_ms, jitter)
        entries = [
            ProduceEntryReply(topic_id=leader.topic_id, partition=leader.partition) for leader, _ in request.parts
        ]
        return self.on_reply(request_id, entries, None, now_ms, jitter)

    def on_tick(self, now_ms: int) -> list[Effect]:
        """Time has passed: fail what is over its delivery timeout, doubt who does not answer."""
        effects: list[Effect] = []
        for lane in list(self.active.values()):
            effects += self._expire(lane, now_ms)
        self.pending.update(self.active)
        slow = {request.broker_id for request in self.requests.values() if request.sent_ms + SLOW_ANSWER_MS <= now_ms}
        return [*effects, DoubtBrokers(tuple(sorted(slow)))] if slow else effects

    def fail_everything(
        self, error: CallboardError, now_ms: int, if_sent: CallboardError | None = None
    ) -> list[Effect]:
        """The producer ends: whatever is left fails; ``if_sent``: of what was sent, and may be stored all the same."""
        effects: list[Effect] = []
        for lane in list(self.lanes.values()):
            effects += self._fail_lane(lane, error, now_ms, if_sent)
        self.pending.update(self.active)
        return effects

    # -- sending -----------------------------------------------------------------------------------

    def drain(self, now_ms: int) -> list[Effect]:
        """Return the requests that can be sent now."""
        effects: list[Effect] = []
        may_be_more = bool(self.pending)
        while may_be_more:
            requests, may_be_more = self._one_request_a_broker(now_ms)
            effects += requests
        if self._must_ask_for_id():
            self.is_asking_for_id = True
            effects.append(NeedProducerId())
        return effects

    def next_event_ms(self, now_ms: int) -> int | None:
        """Return when to call again (``on_tick``, then ``drain``) if nothing else happens; None: no need.

        It may be too early, never too late (by more than ``LOOK_AGAIN_MS``, for what is under way).
        """
        times = [time for lane in self.pending.values() if (time := self._lane_event_ms(lane, now_ms)) is not None]
        if self.requests:
            slow_at = next(iter(self.requests.values())).sent_ms + SLOW_ANSWER_MS  # they stand in the order of sending
            over_at = min(request.oldest_ms for request in self.requests.values()) + self.settings.delivery_timeout_ms
            times += [at if at > now_ms else now_ms + LOOK_AGAIN_MS for at in (slow_at, over_at)]
        return min(times, default=None)

    @property
    def is_idle(self) -> bool:
        """Say whether there is nothing under way and nothing waiting."""
        return not self.active

    def _one_request_a_broker(self, now_ms: int) -> tuple[list[SendProduce], bool]:
        """Return the next request of each broker that can have one, and whether another one might follow now."""
        parts: dict[int, list[tuple[PartitionLeader, ProducerBatch]]] = {}
        sizes: dict[int, int] = {}
        may_be_more = False
        for key, lane in list(self.pending.items()):
            leader = self.view.leader(*key)
            if leader is None or leader.broker_id < 0 or not self.view.is_connected(leader.broker_id):
                self._look_at(key, lane)
                continue
            broker = leader.broker_id
            if self.in_flight.get(broker, 0) >= self.settings.in_flight_max:
                continue
            if sizes.get(broker, 0) >= REQUEST_BYTES_MAX or len(parts.get(broker, ())) >= REQUEST_BATCHES_MAX:
                may_be_more = True
                continue
            batch = self._next_batch(lane, leader, now_ms)
            if batch is None:
                self._look_at(key, lane)
                continue
            parts.setdefault(broker, []).append((leader, batch))
            sizes[broker] = sizes.get(broker, 0) + batch.size
            may_be_more = may_be_more or bool(lane.buffer.waiting) or len(lane.sequence.unresolved) > 1
            if len(self.pending) > 1:
                self.pending[key] = self.pending.pop(key)  # to the end: the others come first next time
        requests = [self._request(broker, chosen, now_ms) for broker, chosen in parts.items()]
        return requests, may_be_more and bool(requests)

    def _next_batch(self, lane: _Lane, leader: PartitionLeader, now_ms: int) -> ProducerBatch | None:
        sequence, buffer = lane.sequence, lane.buffer
        if leader.topic_id != sequence.topic_id:
            if sequence.unresolved:
                return None  # on_metadata has not been told yet; it fails them
            sequence.on_topic_id(leader.topic_id)
        sequence.bump_if_known(now_ms)
        if sequence.needs_producer_id and self.producer_id >= 0:
            if self.producer_id == sequence.used_up_id:
                self.producer_id = -1  # another one is asked for
                return None
            sequence.adopt(self.producer_id, self.producer_epoch)
        retry = sequence.next_retry(now_ms)
        if retry is not None:
            return retry
        if not buffer.waiting or not sequence.may_take_new(now_ms):
            return None
        with self.accumulator.lock:
            if not self.accumulator.is_ready(buffer, now_ms, self.settings.linger_ms):
                return None
            batch = self.accumulator.take(buffer)
        sequence.admit(batch)
        return batch

    def _request(self, broker: int, parts: list[tuple[PartitionLeader, ProducerBatch]], now_ms: int) -> SendProduce:
        self._last_request_id += 1
        request_id = self._last_request_id
        for leader, batch in parts:
            key = (leader.topic, leader.partition)
            self.lanes[key].sequence.on_sent(batch, request_id)
            self._look_at(key, self.lanes[key])
        oldest = min(batch.created_ms for _, batch in parts)
        left = max(1, oldest + self.settings.delivery_timeout_ms - now_ms)
        ack_timeout = min(self.settings.timeout_ms, left)
        timeout = ack_timeout + ANSWER_GRACE_MS
        self.requests[request_id] = _Request(broker, now_ms, now_ms + timeout, oldest, tuple(parts))
        self.in_flight[broker] = self.in_flight.get(broker, 0) + 1
        return SendProduce(request_id, broker, tuple(parts), ack_timeout, timeout)

    def _must_ask_for_id(self) -> bool:
        needed = self.settings.is_idempotent and self.producer_id < 0 and bool(self.active)
        return needed and not self.is_asking_for_id

    # -- answers -----------------------------------------------------------------------------------

    def _on_part(
        self,
        request_id: int,
        request: _Request,
        leader: PartitionLeader,
        batch: ProducerBatch,
        entry: ProduceEntryReply | None,
        error: CallboardError | None,
        now_ms: int,
        jitter: float,
    ) -> list[Effect]:
        lane = self.lanes[leader.topic, leader.partition]
        if error is None and entry is None:
            error = InternalError(f"broker {request.broker_id} said nothing about {batch.topic_partition}")
        if error is None and entry is not None and entry.error:
            error = error_for_code(entry.error, entry.detail or str(batch.topic_partition))
            if entry.base_offset >= 0:  # appended, by a leader that was deposed before it could promise it
                error = error.as_unknown()
        if error is None:
            offset = entry.base_offset if entry is not None else -1
            verdict = lane.sequence.on_acked(batch, request_id)
        else:
            offset = -1
            verdict = lane.sequence.on_refused(batch, request_id, error, request.deadline_ms)
        effects = self._settle_verdict(lane, batch, verdict, offset, error, now_ms, jitter)
        if verdict is Verdict.STALE:
            return []  # of an attempt that was given up: it was made anew elsewhere
        if verdict is Verdict.RETRY:
            lane.failed_at = (leader.broker_id, leader.leader_epoch)
        if isinstance(error, BrokerResponseError) and is_metadata_stale(error.errno):
            if entry is not None and entry.leader >= 0:
                effects.append(LeaderHint(leader.topic_id, leader.partition, entry.leader, entry.leader_epoch))
            effects.append(RefreshMetadata(f"{batch.topic_partition}: {error.errno.name}"))
        elif error is not None and not isinstance(error, BrokerResponseError):
            effects.append(RefreshMetadata(f"broker {request.broker_id}: {error}"))
        return effects

    def _settle_verdict(
        self,
        lane: _Lane,
        batch: ProducerBatch,
        verdict: Verdict,
        offset: int,
        error: CallboardError | None,
        now_ms: int,
        jitter: float,
    ) -> list[Effect]:
        if verdict is Verdict.ACKED:
            lane.refused_since_ms = None
            return [Settle(batch, offset, None)]
        if verdict is Verdict.FAIL and error is not None:
            return [_failed(batch, error, now_ms)]
        if verdict is Verdict.SPLIT:
            parts = split(batch)
            lane.sequence.on_split(batch, parts)
            with self.accumulator.lock:
                for part in parts:
                    part.reserved = part.size
                    self.accumulator.used += part.size
                    self.accumulator.incomplete.add(part)
            return [Split(batch, tuple(parts))]
        if verdict is Verdict.RETRY:
            self.retries += 1
            lane.sequence.retry_at_ms = now_ms + self._backoff_ms(batch.attempts, jitter, error)
            if isinstance(error, BrokerResponseError) and error.errno in _SOMEBODY_MUST_ACT:
                if lane.refused_since_ms is None:
                    lane.refused_since_ms = now_ms
                elif now_ms - lane.refused_since_ms >= TELL_WAITING_MS:
                    return [TellWaiting(batch, error)]
        return []

    def _backoff_ms(self, attempts: int, jitter: float, error: CallboardError | None) -> int:
        """Doubles with each attempt up to the maximum; the upper half of it is chance. An election is soon over."""
        first = self.settings.retry_backoff_ms
        if not isinstance(error, BrokerResponseError) or is_metadata_stale(error.errno):
            first = min(first, ELECTION_BACKOFF_MS)
        full = min(self.settings.retry_backoff_max_ms, first << min(attempts - 1, 20))
        return max(1, round(full * (0.5 + 0.5 * jitter)))

    # -- metadata and time -------------------------------------------------------------------------

    def _on_lane_metadata(self, lane: _Lane, now_ms: int) -> list[Effect]:
        topic, partition = lane.buffer.topic, lane.buffer.partition
        leader = self.view.leader(topic, partition)
        if leader is None:
            if not self.view.is_gone(topic, now_ms):
                return []
            error = UnknownTopicOrPartitionError(f"{topic}-{partition}: the topic does not exist")
            return self._fail_lane(lane, error, now_ms)
        effects: list[Effect] = []
        if leader.topic_id != lane.sequence.topic_id:
            lost = lane.sequence.on_topic_id(leader.topic_id)
            error = UnknownTopicOrPartitionError(
                f"{topic}-{partition}: the topic was deleted and created anew; resend if it should go there"
            )
            effects = [_failed(batch, error, now_ms) for batch in lost]
        self._give_up_stuck(lane, leader, now_ms)
        if (
            lane.failed_at is not None
            and (leader.broker_id, leader.leader_epoch) != lane.failed_at
            and leader.broker_id >= 0
        ):
            lane.failed_at = None
            lane.sequence.retry_at_ms = 0
        return effects

    def _give_up_stuck(self, lane: _Lane, leader: PartitionLeader, now_ms: int) -> None:
        """Count attempts as lost that wait for a broker that leads no more (rule 5)."""
        if leader.broker_id < 0:
            return
        for batch in lane.sequence.unresolved:
            request = self.requests.get(batch.attempt_id)
            if request is None or request.sent_ms + SLOW_ANSWER_MS > now_ms:
                continue
            asked = next((asked for asked, part in request.parts if part is batch), leader)
            if asked.leader_epoch < leader.leader_epoch:
                error = ConnectionLostError(f"broker {request.broker_id} did not answer, and leads no more")
                lane.sequence.on_refused(batch, batch.attempt_id, error, request.deadline_ms)
                lane.sequence.retry_at_ms = 0
                self.retries += 1

    def _expire(self, lane: _Lane, now_ms: int) -> list[Effect]:
        created_before = now_ms - self.settings.delivery_timeout_ms
        effects: list[Effect] = []
        for batch in [batch for batch in lane.sequence.unresolved if batch.created_ms <= created_before]:
            lane.sequence.on_expired(batch)
            effects.append(Settle(batch, -1, self._timeout_error(batch, "no acknowledgement")))
        if lane.buffer.waiting and lane.buffer.waiting[0].created_ms <= created_before:
            with self.accumulator.lock:
                over = self.accumulator.drop_waiting(lane.buffer, lambda batch: batch.created_ms <= created_before)
            effects += [Settle(batch, -1, self._timeout_error(batch, "never sent")) for batch in over]
        return effects

    def _timeout_error(self, batch: ProducerBatch, what: str) -> CallboardError:
        seconds = self.settings.delivery_timeout_ms / 1000
        why = f"; last error: {batch.last_error}" if batch.last_error is not None else ""
        return failed_because(
            batch,
            CallboardTimeoutError(f"{batch.topic_partition}: {what} within {seconds:g} s (delivery_timeout_ms){why}"),
        )

    def _fail_lane(
        self, lane: _Lane, error: CallboardError, now_ms: int, if_sent: CallboardError | None = None
    ) -> list[Effect]:
        sent = lane.sequence.on_topic_id("")
        with self.accumulator.lock:
            waiting = self.accumulator.drop_waiting(lane.buffer, lambda _: True)
        failed = [(batch, if_sent or error) for batch in sent] + [(batch, error) for batch in waiting]
        return [_failed(batch, why, now_ms) for batch, why in failed]

    def _lane_event_ms(self, lane: _Lane, now_ms: int) -> int | None:
        sequence, waiting = lane.sequence, lane.buffer.waiting
        created = [batch.created_ms for batch in sequence.unresolved]
        if waiting:
            created.append(waiting[0].created_ms)
        if not created:
            return None
        times = [min(created) + self.settings.delivery_timeout_ms]
        if waiting or any(batch.attempt_id == 0 for batch in sequence.unresolved):
            times += [time for time in (sequence.retry_at_ms, sequence.bump_at_ms) if time > now_ms]
        if waiting and self.settings.linger_ms:
            times += [time for time in (waiting[0].created_ms + self.settings.linger_ms,) if time > now_ms]
        return min(times)

    def _look_at(self, key: tuple[str, int], lane: _Lane) -> None:
        """Note whether the partition has anything to do but to wait for answers, or anything at all."""
        if any(batch.attempt_id == 0 for batch in lane.sequence.unresolved):
            self.pending[key] = lane
            return
        with self.accumulator.lock:  # what comes from now on wakes it again
            if lane.buffer.waiting:
                self.pending[key] = lane
                return
            self.pending.pop(key, None)
            if not lane.sequence.unresolved:
                self.active.pop(key, None)


def _failed(batch: ProducerBatch, error: CallboardError, now_ms: int) -> Settle:
    """Return the batch's end by an error: chained to its last attempt's, and true of all of them (rule 7)."""
    why = error.as_unknown() if batch.may_be_stored(now_ms) else error
    return Settle(batch, -1, why if why is batch.last_error else failed_because(batch, why))


def split(batch: ProducerBatch) -> list[ProducerBatch]:
    """Return the batch's records in two sealed batches, in order."""
    half = batch.count // 2
    parts = []
    for start, end in ((0, half), (half, batch.count)):
        part = ProducerBatch(batch.topic, batch.partition, 0, batch.created_ms)
        part.values = batch.values[start:end]
        part.keys = batch.keys[start:end] if batch.keys is not None else None
        part.headers = batch.headers[start:end] if batch.headers is not None else None
        part.timestamps = batch.timestamps if isinstance(batch.timestamps, int) else batch.timestamps[start:end]
        part.size = max(1, batch.size * (end - start) // batch.count)
        part.attempts, part.last_error = batch.attempts, batch.last_error
        part.seal()
        parts.append(part)
    return parts
