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
from .members import Held, Member
from .offsets import Changes, GroupOffsets

RECORDS_PER_WRITE_MAX = 1_000  # of what need not be atomic


class _Batch:
    """One write on its way."""

    __slots__ = ("held", "offsets")

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.offsets: list[GroupOffsets] = []  # whose oldest changes under way are in it


class Surviving:
    """Numbers of writes: ``written <= number``."""

    def __init__(self) -> None:
        self.number = 0  # of the last write; moved by write
        self.written = 0  # all up to it survive; moved by on_written
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

    def reply(self, ticket: Hashable, reply: AnyReply, number: int, member: Member | None = None) -> list[Effect]:
        """Reply, once everything up to ``number`` survives. ``member``: whose session goes on when it is sent."""
        if number <= self.written:
            return [Reply(ticket, reply)]
        held = Held(ticket, reply, member)
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
        effects: list[Effect] = []
        while self.written < number:
            self.written += 1
            batch = self._under_way.pop(self.written)
            for offsets in batch.offsets:
                offsets.apply()
            for held in batch.held:
                if (member := held.member) is not None:
                    member.held.remove(held)
                    member.seen_ms = max(member.seen_ms, now_ms)
                effects.append(Reply(held.ticket, held.reply))
        return effects

    def waiting(self) -> list[Held]:
        """Return every reply that is held, the oldest first."""
        return [held for number in sorted(self._under_way) for held in self._under_way[number].held]


def refusal(kind: type[AnyReply], request_id: int, code: ErrorCode, detail: str) -> AnyReply:
    """Return a reply of that kind that says nothing but an error."""
    return kind(id=request_id, error=code, detail=detail)
