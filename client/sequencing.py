"""Sequences of one partition: what may be sent next, and what an answer means. Pure.

The problem: up to five batches of a partition are under way, any of them may be lost, refused, or appended with the
answer lost. What the application sent must be in the log in order and once. The leader helps: it appends a batch only
if its sequence is the next one of its producer epoch, and answers one of the last five again with its first offset.

Rules of this file:

1. A batch gets (producer id, epoch, sequence) when it is first sent and keeps them for every retry: never two different
   batches under one sequence.
2. ``unresolved`` holds the sequenced batches without a result, by sequence; at most five (B14). Retries go out in that
   order, and nothing new goes out while one of them waits (B18).
3. When a sequence is given up (refused, expired), the ones behind it can never be "next": the partition takes a new
   producer epoch and numbers them from 0 again. But only when it is *known* that none of them was appended under
   the old epoch: no request with one is under way, none has an unknown outcome, and no lost request can still
   arrive (B15, KIP-360). Those of unknown outcome are sent again under the old epoch first; the leader's answer
   tells: appended, or out of order, which means it was not.
4. "Out of order" (or "unknown producer": the leader has nothing of ours yet) for a batch that was not next when it was
   sent says nothing about it: it waits for its turn. "Unknown producer" for the next one means that the leader has
   forgotten us, after a long silence: a new epoch; if it may have been there before that, it fails. "Out of order" for
   the next one means that the leader has lost what it had acknowledged: with ``acks=all`` a broken promise,
   which the application is told of by the failure of that batch; with ``acks=1`` what may happen, so the batch goes
   again under a new epoch.
5. Without a producer id one batch is under way at a time: all that can be done for order.

Epochs are counted per partition: a producer id belongs to one producer only, and a leader compares epochs per log.
"""

from __future__ import annotations

from enum import Enum

from ..errors import (
    BrokerResponseError,
    CallboardError,
    DuplicateSequenceNumberError,
    InvariantViolated,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumberError,
    UnknownProducerIdError,
)
from .config import IDEMPOTENT_IN_FLIGHT_MAX
from .producer_batch import ProducerBatch

SEQUENCE_MASK = (1 << 31) - 1  # sequences wrap at 2**31
PRODUCER_EPOCH_MAX = 32_767


class Verdict(Enum):
    """What becomes of a batch whose attempt ended."""

    ACKED = "acked"
    RETRY = "retry"
    FAIL = "fail"
    SPLIT = "split"  # too large together: send it in halves
    STALE = "stale"  # the answer of an attempt that was given up before: nothing to do


class PartitionSequence:
    """The state of one partition of one incarnation of a topic, for one producer."""

    def __init__(self, *, is_idempotent: bool, acks: int, retries_max: float) -> None:
        self.is_idempotent = is_idempotent
        self.acks = acks
        self.retries_max = retries_max
        self.topic_id = ""  # of the log the sequences belong to; moved only by on_topic_id
        self.producer_id = -1  # moved by adopt
        self.producer_epoch = -1
        self.used_up_id = -1  # the id whose last epoch was used up here
        self.next_sequence = 0  # of the next new batch, in this epoch
        self.unresolved: list[ProducerBatch] = []  # see rule 2; an element with attempt_id != 0 is under way
        self.must_bump = False  # see rule 3
        self.retry_at_ms = 0  # nothing is retried before
        self.unresolved_max = IDEMPOTENT_IN_FLIGHT_MAX if is_idempotent else 1

    # -- what may be sent --------------------------------------------------------------------------

    def adopt(self, producer_id: int, producer_epoch: int) -> None:
        """Number under this id from now on. Only when nothing is numbered under another."""
        if self.unresolved and self.producer_id >= 0:
            raise InvariantViolated(f"new producer id while {len(self.unresolved)} batches are under an old one")
        self.producer_id, self.producer_epoch, self.next_sequence = producer_id, producer_epoch, 0
        self._renumber()

    @property
    def needs_producer_id(self) -> bool:
        return self.is_idempotent and self.producer_id < 0

    def next_retry(self, now_ms: int) -> ProducerBatch | None:
        """Return the unresolved batch that is to be sent again now, if any."""
        if now_ms < self.retry_at_ms or self.needs_producer_id:
            return None
        if sum(1 for batch in self.unresolved if batch.attempt_id) >= self.unresolved_max:
            return None
        for batch in self.unresolved:
            if batch.attempt_id == 0 and (batch.is_unknown or not self.must_bump):
                return batch
        return None

    def may_take_new(self, now_ms: int) -> bool:
        """Say whether a batch that was never sent may follow now."""
        return (
            not self.must_bump
            and not self.needs_producer_id
            and len(self.unresolved) < self.unresolved_max
            and now_ms >= self.retry_at_ms
            and all(batch.attempt_id for batch in self.unresolved)
        )

    def admit(self, batch: ProducerBatch) -> None:
        """Number a new batch. The caller has asked ``may_take_new``, and sends it now."""
        self.unresolved.append(batch)
        self._number(batch)

    def on_sent(self, batch: ProducerBatch, attempt_id: int) -> None:
        batch.attempt_id = attempt_id
        batch.attempts += 1
        batch.was_next = batch is self.unresolved[0]

    @property
    def is_idle(self) -> bool:
        return not self.unresolved and not self.must_bump

    # -- what an answer means ----------------------------------------------------------------------

    def on_acked(self, batch: ProducerBatch, attempt_id: int) -> Verdict:
        """The leader has it (or had it already)."""
        if batch.is_done or batch.attempt_id != attempt_id:
            return Verdict.STALE
        self.unresolved.remove(batch)
        batch.attempt_id = 0
        self.retry_at_ms = 0
        return Verdict.ACKED

    def on_refused(
        self,
        batch: ProducerBatch,
        attempt_id: int,
        error: CallboardError,
        deadline_ms: int,
        *,
        is_appended: bool = False,
    ) -> Verdict:
        """The attempt ended with an error.

        Args:
            deadline_ms: after it no copy of the request is handled any more.
            is_appended: it stands in the log of whoever refused it, and may be committed by the next leader.
        """
        if batch.is_done or batch.attempt_id != attempt_id:
            return Verdict.STALE
        if isinstance(error, DuplicateSequenceNumberError):
            return self.on_acked(batch, attempt_id)
        batch.attempt_id = 0
        batch.last_error = error
        if isinstance(error, OutOfOrderSequenceNumberError):
            return self._on_out_of_order(batch)
        if isinstance(error, UnknownProducerIdError) and not (batch.was_next and batch.is_unknown):
            self.must_bump = self.must_bump or batch.was_next
            return Verdict.RETRY
        if error.outcome_unknown or is_appended:
            batch.is_unknown = True
            if not isinstance(error, BrokerResponseError):
                batch.lost_until_ms = max(batch.lost_until_ms, deadline_ms)
        if isinstance(error, MessageSizeTooLargeError) and batch.count > 1 and not batch.is_unknown:
            return Verdict.SPLIT
        if error.retriable and batch.attempts <= self.retries_max:
            return Verdict.RETRY
        self._give_up(batch)
        return Verdict.FAIL

    def on_expired(self, batch: ProducerBatch) -> None:
        """The batch's time is over, whatever its outcome; an answer that still comes is STALE."""
        batch.attempt_id = 0
        self._give_up(batch)

    def on_split(self, batch: ProducerBatch, parts: list[ProducerBatch]) -> None:
        """A batch that was too large is replaced, in its place, by smaller ones. They are numbered at the next
        epoch."""
        at = self.unresolved.index(batch)
        self.unresolved[at : at + 1] = parts
        if self.is_idempotent:
            self.must_bump = True

    def on_topic_id(self, topic_id: str) -> list[ProducerBatch]:
        """The topic was created anew: return what had been sent to the old one, to fail it. Sequences begin at 0.

        Under another epoch: the topic may have been gone from the metadata only, and its log know the old sequences.
        """
        sent, self.unresolved = self.unresolved, []
        for batch in sent:
            batch.attempt_id = 0
        self.topic_id = topic_id
        self.must_bump = False
        self.retry_at_ms = 0
        if self.next_sequence:
            self._begin_epoch()
        return sent

    def bump_if_known(self, now_ms: int) -> bool:
        """Take the next epoch if rule 3 allows it; say whether it did."""
        if not self.must_bump or now_ms < self.bump_at_ms:
            return False
        if any(batch.attempt_id or batch.is_unknown for batch in self.unresolved):
            return False
        self.must_bump = False
        self._begin_epoch()
        return True

    @property
    def bump_at_ms(self) -> int:
        """Until when a lost request of an unresolved batch may still be handled."""
        return max((batch.lost_until_ms for batch in self.unresolved), default=0)

    def _on_out_of_order(self, batch: ProducerBatch) -> Verdict:
        batch.is_unknown = False  # the leader has looked: it is not there
        if not batch.was_next or self.must_bump:
            return Verdict.RETRY
        if self.acks == 1 and self.is_idempotent:
            self.must_bump = True
            return Verdict.RETRY
        self._give_up(batch)
        return Verdict.FAIL

    def _give_up(self, batch: ProducerBatch) -> None:
        self.unresolved.remove(batch)
        if self.is_idempotent:
            self.must_bump = True

    def _begin_epoch(self) -> None:
        """Number from 0 again, under the next epoch; when there is none, ``adopt`` comes with another id."""
        self.next_sequence = 0
        if not self.is_idempotent:
            return
        if self.producer_epoch >= PRODUCER_EPOCH_MAX:
            self.used_up_id, self.producer_id, self.producer_epoch = self.producer_id, -1, -1
        else:
            self.producer_epoch += 1
            self._renumber()

    def _renumber(self) -> None:
        for batch in self.unresolved:
            self._number(batch)

    def _number(self, batch: ProducerBatch) -> None:
        batch.producer_id, batch.producer_epoch = self.producer_id, self.producer_epoch
        batch.base_sequence = self.next_sequence if self.is_idempotent else -1
        batch.frames = None
        self.next_sequence = (self.next_sequence + batch.count) & SEQUENCE_MASK
