"""What is written, and who waits until it survives.

A decision changes the state at once, and its records go out with a number. A reply that reveals the decision is held
until the records with its number survive. When they do not, everything is thrown away and read again, and nobody was
told.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ...errors import ErrorCode, InvariantViolated
from ...transport.shapes import Reply as AnyReply
from .events import Effect, Record, Reply, Write
from .members import Complete, Held, Member
from .offsets import Changes, GroupOffsets
from .proof import NEVER_PROVEN_MS
from .records import PROOF

RECORDS_PER_WRITE_MAX = 1_000  # of what need not be atomic
SLOW_MS = 1_000  # an append that takes longer: whoever waits for it can do nothing about that


class _Batch:
    """One write on its way."""

    __slots__ = ("held", "is_proof", "offsets")

    def __init__(self) -> None:
        self.is_proof = False  # it says nothing
        self.held: list[Held] = []
        self.offsets: list[GroupOffsets] = []  # whose oldest changes under way are in it


class Surviving:
    """Numbers of writes: ``written <= number``."""

    def __init__(self) -> None:
        self.number = 0  # of the last write; moved by write
        self.written = 0  # all up to it survive; moved by on_written
        self.proven_ms = NEVER_PROVEN_MS  # when it was sure last that this coordinator is the one; only grows
        self.able_ms = NEVER_PROVEN_MS  # since when appends are taken, and soon, as far as is known
        self._is_refused = False  # the last one was not
        self._sent = 0  # written <= it <= number: the last that was handed to the log, at …
        self._sent_ms = NEVER_PROVEN_MS
        self._under_way: dict[int, _Batch] = {}  # by number, written < number; without gaps

    def write(self, records: list[Record]) -> Write:
        """Number these records, to survive together."""
        self.number += 1
        self._under_way[self.number] = _Batch()
        return Write(self.number, records)

    def write_offsets(self, records: list[Record], offsets: GroupOffsets, changes: Changes) -> Write:
        """Likewise; when they survive, the offsets change."""
        write = self.write(records)
        offsets.begin(changes)
        self._under_way[write.number].offsets.append(offsets)
        return write

    def write_some(self, records: Sequence[Record]) -> list[Effect]:
        """Number many records that need not survive together, some at a time, in their order."""
        return [
            self.write(list(records[at : at + RECORDS_PER_WRITE_MAX]))
            for at in range(0, len(records), RECORDS_PER_WRITE_MAX)
        ]

    def prove(self) -> tuple[int, list[Effect]]:
        """Return the number of a write that is still to be handed to the log, and what to do for it.

        Who waits for it waits for a proof that is younger than now.
        """
        effects: list[Effect] = []
        if self.number <= max(self._sent, self.written):
            effects.append(self.write([PROOF]))
            self._under_way[self.number].is_proof = True
        return self.number, effects

    def on_proven(self, at_ms: int) -> None:
        """This coordinator was the one at that time."""
        self.proven_ms = max(self.proven_ms, at_ms)

    def able_since_ms(self, now_ms: int) -> int:
        """Return since when appends are taken, and soon; now, if they are not."""
        is_slow = self.written < self._sent and now_ms - self._sent_ms > SLOW_MS
        return now_ms if self._is_refused or is_slow else self.able_ms

    def on_sent(self, number: int, now_ms: int) -> None:
        """Everything up to ``number`` is handed to the log now."""
        self._sent, self._sent_ms = number, now_ms

    def on_unproven(self, code: ErrorCode, detail: str) -> list[Effect] | None:
        """What was handed to the log is surely not there: refuse who waits for it, if it said nothing; else None."""
        batches = [self._under_way[number] for number in range(self.written + 1, self._sent + 1)]
        if not batches or not all(batch.is_proof for batch in batches):
            return None
        self._is_refused = True
        for batch in batches:
            for held in batch.held:
                held.reply = refusal(type(held.reply), held.reply.id, code, detail)
        return self._settle(self._sent, None)

    def reply(
        self,
        ticket: Hashable,
        reply: AnyReply,
        number: int,
        member: Member | None = None,
        complete: Complete | None = None,
    ) -> list[Effect]:
        """Reply, once everything up to ``number`` survives.

        Args:
            member: whose session goes on when it is sent.
            complete: adds what is known, and proven, when it has waited; to a reply that goes out at once nothing is.
        """
        if number <= self.written:
            return [Reply(ticket, reply)]
        held = Held(ticket, reply, member, complete)
        self._under_way[number].held.append(held)
        if member is not None:
            member.held.append(held)
        return []

    def on_written(self, number: int, now_ms: int) -> list[Effect]:
        """Everything up to ``number`` survives.

        Raises:
            InvariantViolated: there was no such write.
        """
        if number > self.number:
            raise InvariantViolated(f"write {number} survives, but the last one was {self.number}")
        if number <= self._sent:
            self.on_proven(self._sent_ms)
            if now_ms - self._sent_ms > SLOW_MS:
                self.able_ms = now_ms
        if self._is_refused:
            self._is_refused, self.able_ms = False, now_ms
        return self._settle(number, now_ms)

    def _settle(self, number: int, seen_ms: int | None) -> list[Effect]:
        """Answer who waits for what is up to ``number``. ``seen_ms``: members were heard until then."""
        effects: list[Effect] = []
        while self.written < number:
            self.written += 1
            batch = self._under_way.pop(self.written)
            for offsets in batch.offsets:
                offsets.apply()
            for held in batch.held:
                if (member := held.member) is not None:
                    member.held.remove(held)
                    if seen_ms is not None:
                        member.heard(seen_ms)
                effects.append(Reply(held.ticket, held.final()))
        return effects

    def waiting(self) -> list[Held]:
        """Return every reply that is held, the oldest first."""
        return [held for number in sorted(self._under_way) for held in self._under_way[number].held]


def refusal(kind: type[AnyReply], request_id: int, code: ErrorCode, detail: str) -> AnyReply:
    """Return a reply of that kind that says nothing but an error."""
    return kind(id=request_id, error=code, detail=detail)
