"""What each idempotent producer has written to one partition: how a retry is told from new records.

A batch bears its producer's id, the producer's epoch, and the sequence of its first record. Per producer the log
remembers the last five batches, because a client has at most five in flight: any of them may come again.

The rules, in order:

1. Not idempotent (id -1): always fresh.
2. An unknown producer begins at sequence 0. Anything else is refused: its past may have been written here and
   forgotten, and a retry must never be taken for new records.
3. An older epoch is refused; a newer one begins at sequence 0 again.
4. One of the last five batches: a duplicate, answered with the offsets it got the first time.
5. The next sequence: fresh. Sequences wrap at 2**31.
6. A sequence behind that: written once, too long ago to say where. A sequence ahead: a batch is missing.

Nothing here is stored apart from the log: a snapshot only spares reading it all again.

Expiry: an idle producer is forgotten when it has been idle for ``expiry_ms`` *and* nothing of it is left in the log.
Of those idle ones whose records are still there, only the ``IDLE_KEPT_MAX`` youngest are kept, or a log without
retention would remember every process that ever wrote to it. A request is never older than its deadline, which is
far shorter than the expiry, so no retry can come after that.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ..errors import ErrorCode, InvariantViolated
from .batch import SEQUENCE_MODULUS, BatchHeader
from .checkpoint import seal, unseal

BATCHES_KEPT = 5  # per producer; >= the client's limit of requests in flight
IDLE_KEPT_MAX = 10_000


class Fresh:
    """Not written yet: append it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Fresh()"


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Written before; where. ``timestamp`` is the batch's greatest."""

    base_offset: int
    last_offset: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Refused:
    code: ErrorCode
    detail: str


FRESH = Fresh()


class WrittenBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    base_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    timestamp: int


class ProducerState(msgspec.Struct, frozen=True, array_like=True):
    """Replaced, never changed: so a snapshot is a copy of the dictionary, and another thread may write it."""

    producer_id: int
    epoch: int
    batches: tuple[WrittenBatch, ...]  # 1 to BATCHES_KEPT, oldest first
    active_ms: int  # wall clock of the last append


class Snapshot(msgspec.Struct, frozen=True):
    """The producers as they were when the log ended at ``offset``."""

    offset: int
    producers: list[ProducerState]


class ProducerStates:
    """The producers of one log. Moved by ``record`` alone, after the append; read by ``check`` before it."""

    def __init__(self, expiry_ms: int = 24 * 3_600_000) -> None:
        self.expiry_ms = expiry_ms
        self.version = 0  # grows with every change; read by the checkpoint
        self._states: dict[int, ProducerState] = {}

    def __len__(self) -> int:
        return len(self._states)

    def check(self, header: BatchHeader) -> Fresh | Duplicate | Refused:
        """Say whether a batch may be appended; every batch accepted before has been recorded."""
        if header.producer_id < 0:
            return FRESH
        if header.base_sequence < 0 or header.producer_epoch < 0:
            return Refused(ErrorCode.INVALID_RECORD, f"producer {header.producer_id} without epoch or sequence")
        state = self._states.get(header.producer_id)
        if state is None:
            if header.base_sequence == 0:
                return FRESH
            detail = f"producer {header.producer_id} is not known here and begins at {header.base_sequence}"
            return Refused(ErrorCode.UNKNOWN_PRODUCER_ID, detail)
        if header.producer_epoch < state.epoch:
            detail = f"producer {header.producer_id} has epoch {state.epoch}, the batch {header.producer_epoch}"
            return Refused(ErrorCode.INVALID_PRODUCER_EPOCH, detail)
        if header.producer_epoch > state.epoch:
            if header.base_sequence == 0:
                return FRESH
            detail = f"epoch {header.producer_epoch} begins at sequence {header.base_sequence}"
            return Refused(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, detail)
        return self._check_sequence(header, state)

    def _check_sequence(self, header: BatchHeader, state: ProducerState) -> Fresh | Duplicate | Refused:
        for written in state.batches:
            if written.base_sequence == header.base_sequence and written.last_sequence == header.last_sequence:
                return Duplicate(written.base_offset, written.last_offset, written.timestamp)
        expected = (state.batches[-1].last_sequence + 1) % SEQUENCE_MODULUS
        if header.base_sequence == expected:
            return FRESH
        detail = f"producer {header.producer_id} sent sequence {header.base_sequence}, expected {expected}"
        ahead = (header.base_sequence - expected) % SEQUENCE_MODULUS
        if ahead < SEQUENCE_MODULUS // 2:
            return Refused(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, f"{detail}: a batch before it is missing")
        return Refused(ErrorCode.DUPLICATE_SEQUENCE_NUMBER, f"{detail}: written before, its offset is forgotten")

    def record(self, header: BatchHeader, now_ms: int) -> None:
        """Remember a batch that is in the log; it bears its offsets."""
        if header.producer_id < 0:
            return
        written = WrittenBatch(
            header.base_sequence,
            header.last_sequence,
            header.base_offset,
            header.last_offset,
            header.max_timestamp,
        )
        state = self._states.get(header.producer_id)
        if state is None or state.epoch != header.producer_epoch:
            batches: tuple[WrittenBatch, ...] = (written,)
        else:
            batches = (*state.batches[1 - BATCHES_KEPT :], written)
        self._states[header.producer_id] = ProducerState(header.producer_id, header.producer_epoch, batches, now_ms)
        self.version += 1

    def keep_below(self, state: ProducerState, offset: int) -> None:
        """Remember, of what was known before, the batches that end below ``offset``."""
        batches = tuple(written for written in state.batches if written.last_offset < offset)
        if batches:
            self._states[state.producer_id] = msgspec.structs.replace(state, batches=batches)
            self.version += 1

    def expire(self, now_ms: int, log_start_offset: int) -> None:
        """Forget producers that have been idle too long; see the head of this file."""
        idle = [state for state in self._states.values() if state.active_ms + self.expiry_ms <= now_ms]
        idle.sort(key=lambda state: state.active_ms)
        surplus = len(idle) - IDLE_KEPT_MAX
        for place, state in enumerate(idle):
            if state.batches[-1].last_offset < log_start_offset or place < surplus:
                del self._states[state.producer_id]
                self.version += 1

    # -- snapshots -----------------------------------------------------------------------------------

    def batch_offsets(self) -> frozenset[int]:
        """Return the base offsets of all batches that are remembered."""
        return frozenset(written.base_offset for state in self._states.values() for written in state.batches)

    def copy(self) -> dict[int, ProducerState]:
        """Return what ``encode_snapshot`` takes; cheap, and no longer touched by this object."""
        return dict(self._states)

    def snapshot(self, offset: int) -> bytes:
        """Return the file that ``restore`` takes; the log ends at ``offset``."""
        return encode_snapshot(offset, self._states)

    def restore(self, data: bytes) -> int | None:
        """Become what the file says; return its log end offset, or None (and stay empty) when it is damaged."""
        if self._states:
            raise InvariantViolated("producers are restored into an empty table")
        raw = unseal(data)
        if raw is None:
            return None
        try:
            snapshot = msgspec.json.decode(raw, type=Snapshot)
        except (msgspec.DecodeError, ValueError):
            return None
        if any(not state.batches for state in snapshot.producers):
            return None
        self._states = {state.producer_id: state for state in snapshot.producers}
        return snapshot.offset

    def clear(self) -> None:
        self._states = {}
        self.version += 1


def encode_snapshot(offset: int, states: dict[int, ProducerState]) -> bytes:
    return seal(msgspec.json.encode(Snapshot(offset, list(states.values()))))
